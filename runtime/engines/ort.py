"""ONNX Runtime: the engine that runs everywhere, and on CUDA where its build for GPUs is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from omni_rt.bundle import Bundle
from omni_rt.engines import Array
from omni_rt.engines.checks import check_buffers, one_line
from omni_rt.engines.cuda_driver import CudaDriver
from omni_rt.engines.gpu import Gpu, GpuLoader, GpuMemory, weights_alone
from omni_rt.errors import EngineError
from omni_rt.manifest import GraphSpec, Precision, TensorSpec

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# Of a weight on a GPU: what is stored in 16 bits is computed with in fp32.
_GPU_BYTES: Mapping[Precision, float] = {
    **dict.fromkeys(get_args(Precision), 4.0),
    "int8": 1.0,
    "fp8": 1.0,
    "int4": 0.5,
}
_ORT_TYPES = {"float32": "tensor(float)", "int64": "tensor(int64)", "bool": "tensor(bool)"}


def load_engine(bundle: Bundle, stage: str, threads: int | None) -> OrtEngine:
    """A stage of a bundle in ONNX Runtime. Raises BundleError or EngineError."""
    return OrtEngine(bundle.graph_file(stage), bundle.graph(stage), threads=threads)


def _on_cuda(bundle: Bundle, stage: str, threads: int | None, gpu: Gpu) -> OrtEngine:
    """A stage in ONNX Runtime on a CUDA device; operators it lacks run on the processor.

    The registry asks `check_cuda` first: a graph never runs on the processor as a whole instead.
    Raises BundleError or EngineError.
    """
    path, spec = bundle.graph_file(stage), bundle.graph(stage)
    # TF32, which the provider takes for fp32 by default, has no more digits than fp16.
    options = {"device_id": str(gpu.ordinal), "use_tf32": "0"}
    return OrtEngine(path, spec, threads=threads, provider=CUDA, provider_options=options)


def _gpu_memory(bundle: Bundle, ordinal: int) -> GpuMemory:
    """Weights alone: the library does not say what it takes beside them."""
    driver = CudaDriver(ordinal=ordinal)
    driver.use()
    free, total = driver.memory_bytes()
    return GpuMemory(
        name=driver.name,
        free_bytes=free,
        total_bytes=total,
        stages=weights_alone(bundle, _GPU_BYTES),
    )


load_cuda_engine = GpuLoader(
    name="onnxruntime_cuda", load=_on_cuda, look=_gpu_memory, captures=False
)


def check_cuda() -> None:
    """Raise EngineError if the installed library was built without CUDA."""
    import onnxruntime as ort

    if CUDA not in ort.get_available_providers():
        raise EngineError(
            "engine 'onnxruntime_cuda': this onnxruntime was built without CUDA: "
            "pip install onnxruntime-gpu in its place"
        )


class OrtEngine:
    """A graph in an ONNX Runtime session, its inputs and outputs in the processor's memory.

    Inputs of matrices with 4-bit weights are rounded to 8 bits per block, its default: 5e-3 off.
    """

    def __init__(
        self,
        path: Path,
        spec: GraphSpec,
        *,
        threads: int | None,
        prepack: bool = True,
        provider: str = CPU,
        provider_options: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Load the graph. `prepack=False` keeps large weights on disk, mapped, at some speed.

        Raises EngineError if the file is no graph of this contract, or the provider cannot start.
        """
        try:
            import onnxruntime as ort

            ort.set_default_logger_severity(3)
            options = ort.SessionOptions()
            options.intra_op_num_threads = threads or 0
            options.log_severity_level = 3
            for key in session_entries(spec.precision, prepack=prepack):
                options.add_session_config_entry(key, "1")
            first = (provider, dict(provider_options)) if provider_options else provider
            providers = [first] if provider == CPU else [first, CPU]
            self._session = ort.InferenceSession(path, options, providers=providers)
        except Exception as error:  # the library's errors share no base class
            raise EngineError(f"{path.name}: cannot be loaded: {one_line(error)}") from error
        if provider not in self._session.get_providers():  # the library only logs it
            raise EngineError(f"{path.name}: {provider} cannot start here: see `omni-rt doctor`")
        self._spec, self._name = spec, path.stem
        for nodes, ports in (
            (self._session.get_inputs(), spec.inputs),
            (self._session.get_outputs(), spec.outputs),
        ):
            found = [(node.name, tuple(node.shape), node.type) for node in nodes]
            if found != [(p.name, p.shape, _ORT_TYPES.get(p.dtype)) for p in ports]:
                raise EngineError(f"{path.name}: its ports are not the manifest's: {found}"[:400])

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        return self._spec.inputs

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        return self._spec.outputs

    def run(self, **inputs: Array) -> dict[str, Array]:
        """Run once; outputs by name."""
        try:
            values = self._session.run(None, inputs)
        except Exception as error:
            raise EngineError(f"{self._name}: {one_line(error)}") from error
        return {port.name: value for port, value in zip(self.outputs, values, strict=True)}

    def bind(self, buffers: Mapping[str, Array]) -> OrtBinding:
        """Fix every input and output to a C-contiguous, writable buffer."""
        check_buffers(self._name, (*self.inputs, *self.outputs), buffers)
        binding = self._session.io_binding()
        for ports, attach in (
            (self.inputs, binding.bind_input),
            (self.outputs, binding.bind_output),
        ):
            for port in ports:
                array = buffers[port.name]
                attach(port.name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        return OrtBinding(self._session, binding, self._name, buffers)


class OrtBinding:
    """A session with fixed buffers."""

    def __init__(self, session: Any, binding: Any, name: str, buffers: Mapping[str, Array]) -> None:
        self._session, self._binding, self._name = session, binding, name
        self._buffers = dict(buffers)  # keeps them alive as long as their addresses are bound

    def enqueue(self) -> None:
        """Run the graph from and into the bound buffers."""
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:
            raise EngineError(f"{self._name}: {one_line(error)}") from error


def session_entries(precision: Precision, *, prepack: bool = True) -> list[str]:
    """Session entries to be switched on for a graph of this precision.

    x64quantprecision: processors with AVX2 or AVX-512 but no VNNI sum 8-bit products in 16 bits
    that saturate (12 % off on random weights); these sums are exact, and alike on every processor.
    qdq_matmulnbits_accuracy_level: 1 is fp32. Where weights alone are in 8 bits, what they are
    multiplied with would be rounded in blocks otherwise (5e-3 off), as it is with 4-bit weights.
    disable_quant_qdq: fp8 is computed as written; fused, it is refused (1.31).
    force_spinning_stop: threads of a stage that has run would spin for tens of milliseconds, on the
    cores of the next one (the miniature's eight steps took twice as long, its decoder 2.4 times).
    """
    entries = ["session.x64quantprecision", "session.force_spinning_stop"]
    if not prepack:
        entries.append("session.disable_prepacking")
    if precision == "int8":
        entries.append("session.qdq_matmulnbits_accuracy_level")
    if precision == "fp8":
        entries.append("session.disable_quant_qdq")
    return entries
