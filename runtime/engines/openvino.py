"""OpenVINO: a second engine for x86 processors. Needs the extra `openvino`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from omni_rt.bundle import Bundle
from omni_rt.engines import Array
from omni_rt.engines.checks import check_arrays, check_buffers, one_line
from omni_rt.engines.processor import sums_8_bit_products_exactly
from omni_rt.errors import EngineError
from omni_rt.manifest import GraphSpec, TensorSpec

Precision = Literal["f32", "bf16"]

_TYPES = {"float32": "f32", "int64": "i64", "bool": "boolean"}


def load_engine(bundle: Bundle, stage: str, threads: int | None) -> OpenVinoEngine:
    """A stage of a bundle in OpenVINO. Raises BundleError or EngineError."""
    return OpenVinoEngine(bundle.graph_file(stage), bundle.graph(stage), threads=threads)


def settings(threads: int | None, precision: Precision = "f32") -> dict[str, object]:
    """Properties of the CPU plug-in: lowest latency, and nothing rounded that the graph does not.

    precision: of what the graph does not quantise.

    Kernels are not kept by shape: the thinker's cache grows by one with every token, and the
    plug-in would keep 2 MB of kernels for each (2026.4.1, the miniature); reuse gains nothing.
    """
    found: dict[str, object] = {
        "PERFORMANCE_HINT": "LATENCY",
        "EXECUTION_MODE_HINT": "ACCURACY",  # does not round the inputs of 4-bit weights to 8 bits
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads or 0,
        "CPU_RUNTIME_CACHE_CAPACITY": 0,
    }
    if not sums_8_bit_products_exactly():
        found["LP_TRANSFORMS_MODE"] = "NO"  # Q/DQ as written, in fp32: right, but not faster
    return found


class OpenVinoEngine:
    """A graph in OpenVINO on the CPU.

    All that the graph does not quantise is computed in fp32, whatever `spec.precision` says: bf16
    (`precision`) is faster where processors have it, but is 4e-3 off (spec QUANTISATION §3) and
    what it does to a quantised model over all steps has not been measured. fp64 is computed in
    fp32 too: of `signal` the log-mel, so that velocities are up to 1.7e-5 from the original's
    instead of 6.7e-6 (golden data, cfg 1), well within a bundle's bounds. 8-bit products are
    integer products only on processors that sum them exactly. fp8 is rounded by way of fp16: one
    value in 250 becomes its neighbour (5.9e-3 in relative L2, where fp8 itself is 2.5e-2 off).
    """

    def __init__(
        self, path: Path, spec: GraphSpec, *, threads: int | None, precision: Precision = "f32"
    ) -> None:
        """Load the graph. Raises EngineError if the file is no graph of this contract."""
        try:
            import openvino as ov

            core, properties = ov.Core(), settings(threads, precision)
            self._model = core.compile_model(core.read_model(path), "CPU", properties)
        except Exception as error:  # the library's errors share no base class
            raise EngineError(f"{path.name}: cannot be loaded: {_line(error)}") from error
        self._tensor, self._spec, self._name = ov.Tensor, spec, path.stem
        for nodes, ports, sizes_agree in (
            (self._model.inputs, spec.inputs, ov.PartialShape.__eq__),
            (self._model.outputs, spec.outputs, ov.PartialShape.compatible),  # inferred, not given
        ):
            found = [(n.names, n.element_type.to_string(), n.partial_shape) for n in nodes]
            wanted = [(p.name, _TYPES.get(p.dtype), ov.PartialShape(_sizes(p))) for p in ports]
            if len(found) != len(wanted) or not all(
                name in names and type_ == dtype and sizes_agree(have, sizes)
                for (names, type_, have), (name, dtype, sizes) in zip(found, wanted, strict=True)
            ):
                raise EngineError(f"{path.name}: its ports are not the manifest's: {found}"[:400])

    @property
    def precision(self) -> str:
        """What it computes in where nothing is quantised: "f32" if the processor lacks bf16."""
        return str(self._model.get_property("INFERENCE_PRECISION_HINT").to_string())

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        return self._spec.inputs

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        return self._spec.outputs

    def run(self, **inputs: Array) -> dict[str, Array]:
        """Run once; outputs by name. Every run has a request, and so outputs, of its own."""
        check_arrays(self._name, self.inputs, inputs)
        arrays = [
            np.require(inputs[port.name], requirements=["C", "W", "A"]) for port in self.inputs
        ]
        try:
            request = self._request(arrays, ())
            _infer(request)
            return {p.name: request.get_output_tensor(i).data for i, p in enumerate(self.outputs)}
        except Exception as error:
            raise EngineError(f"{self._name}: {_line(error)}") from error

    def bind(self, buffers: Mapping[str, Array]) -> OpenVinoBinding:
        """Fix every input and output to a C-contiguous, writable buffer, which is not copied."""
        check_buffers(self._name, (*self.inputs, *self.outputs), buffers)
        inputs, outputs = (
            [buffers[port.name] for port in ports] for ports in (self.inputs, self.outputs)
        )
        try:
            request = self._request(inputs, outputs)
        except Exception as error:
            raise EngineError(f"{self._name}: {_line(error)}") from error
        return OpenVinoBinding(request, self._name, inputs, outputs)

    def _request(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> Any:
        """A request from and into the memory of these arrays, which are to outlive it."""
        request = self._model.create_infer_request()
        for arrays, attach in (
            (inputs, request.set_input_tensor),
            (outputs, request.set_output_tensor),
        ):
            for index, array in enumerate(arrays):
                attach(index, self._tensor(array, shared_memory=True))
        return request


class OpenVinoBinding:
    """A request with fixed buffers."""

    def __init__(
        self, request: Any, name: str, inputs: Sequence[Array], outputs: Sequence[Array]
    ) -> None:
        self._request, self._name = request, name
        self._inputs, self._outputs = inputs, outputs  # kept alive as long as they are bound

    def enqueue(self) -> None:
        """Run the graph from and into the bound buffers."""
        try:
            _infer(self._request)
            made = [
                tuple(self._request.get_output_tensor(i).shape) for i in range(len(self._outputs))
            ]
        except Exception as error:
            raise EngineError(f"{self._name}: {_line(error)}") from error
        if made != [array.shape for array in self._outputs]:
            raise EngineError(f"{self._name}: outputs have the shapes {made}: not those bound")


def _infer(request: Any) -> None:
    """Run a request; other Python threads go on meanwhile."""
    request.start_async()
    request.wait()


def _sizes(port: TensorSpec) -> list[int]:
    """Sizes as OpenVINO writes them: -1 is any."""
    return [-1 if isinstance(size, str) else size for size in port.shape]


def _line(error: BaseException) -> str:
    """What OpenVINO says, without the source lines that the error came through."""
    lines = [line for line in str(error).splitlines() if not line.startswith("Exception from")]
    return one_line(ValueError(" ".join(lines)))
