"""Plans by the real compiler, without a GPU: what is proved of them, signed, and refused."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
import pytest

from omni_rt import miniature
from omni_rt.bundle import Bundle
from omni_rt.calibration.random_step import write_random_step
from omni_rt.engines.engine_key import identity_of, is_signed
from omni_rt.engines.tensorrt_library import library_named
from omni_rt.errors import EngineError, ExportError, RequestError
from omni_rt.export.config import ModelConfig, parse_config
from omni_rt.export.engines.build_progress import Phases
from omni_rt.export.engines.bundle_engines import BuildOptions, build_engines
from omni_rt.export.engines.narrowing import narrow
from omni_rt.export.engines.patterns import expected_of
from omni_rt.export.engines.profiles import Buckets
from omni_rt.export.engines.proof import prove
from omni_rt.export.engines.tensorrt import builder_config, compile_graph
from omni_rt.export.standin import standin_config
from omni_rt.manifest import TargetEngines
from omni_rt.targets import target_named
from tests.calibration.small import quick_miniature

from .graphs import model_of, product

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: omni_rt[rtx]")
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("home")]

DEPTH = 2
# Ctrl-C as a terminal's programs have it, whatever the tests were started from.
MAIN = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from omni_rt.cli import main; main()"
)
FEW = Buckets(contexts=(64,), requests=1)


def small_config() -> ModelConfig:
    return replace(parse_config(standin_config()), depth=DEPTH)


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """A small step with random weights, by the target it is rounded for."""
    folder = tmp_path_factory.mktemp("steps")
    return {
        name: Bundle.open(write_random_step(folder / name, small_config(), target_named(name)))
        for name in ("rtx4090", "orin")
    }


def small_product(folder: Path) -> Path:
    """An 8-bit product as a file that can be compiled."""
    graph = product("int8")
    narrow(graph, "float16")
    ir.save(model_of(graph), folder / "g.onnx")
    return folder / "g.onnx"


def built(bundle: Bundle, out: Path, target: str, **changed: object) -> TargetEngines:
    options = BuildOptions(bundle=bundle.directory, out=out, target=target, buckets=FEW)
    build_engines(replace(options, **changed))  # type: ignore[arg-type]
    return Bundle.open(out).manifest.engines[target]


@pytest.mark.parametrize(
    ("target", "rounded", "changed"),
    [
        ("rtx4090", 12, {}),
        ("rtx5090", 12, {}),
        ("orin", 8, {"library": "tensorrt_rtx", "compute_capability": "8.6"}),
    ],
)
def test_every_rounded_product_of_the_step_is_proved_and_its_attentions_are_fused(
    step: dict[str, Bundle], target: str, rounded: int, changed: dict, tmp_path: Path
) -> None:
    """Of a block 8 matrices, and on FP8 both products of both attentions."""
    bundle = step["orin" if target == "orin" else "rtx4090"]
    engines = built(bundle, tmp_path / "built", target, **changed)
    spec = engines.stages["dit_step"]
    assert spec.rounded_products == rounded * DEPTH
    assert spec.fused_attentions == spec.attentions == 2 * DEPTH
    assert len(spec.profiles) == 2
    assert min(p.activation_bytes for p in spec.profiles) > 0
    assert spec.weight_bytes > 0
    assert spec.build_s > 0
    assert spec.build_peak_rss_bytes > 0
    plan = (tmp_path / "built" / spec.path).read_bytes()
    assert is_signed(spec.signature, plan, **identity_of(engines, "dit_step"))


def test_tables_and_4_bit_weights_are_built_from_a_rounded_bundle(tmp_path: Path) -> None:
    """The packaged miniature's, whose language model is rounded alike for every device."""
    packaged = Bundle.open(miniature())
    stages = ("thinker_embed", "thinker_lm")
    engines = built(packaged, tmp_path / "built", "rtx4090", stages=stages)
    thinker = packaged.thinker_dims
    assert engines.stages["thinker_lm"].rounded_products == 7 * thinker.layers + 1  # and the head
    assert engines.stages["thinker_embed"].weight_bytes < 2 * thinker.vocabulary * (
        packaged.manifest.dims.hidden_width
    )  # 8 bits and a scale for each row: in 16 bits it would be as much, in 32 twice that


def test_fp32_products_are_not_in_tf32() -> None:
    library = library_named("tensorrt_rtx")
    builder = library.Builder(library.Logger())
    assert builder.create_builder_config().get_flag(library.BuilderFlag.TF32)
    assert not builder_config(library, builder).get_flag(library.BuilderFlag.TF32)


STAGES = ("thinker_lm", "thinker_embed", "vae_decoder", "vae_encoder", "audio_tower",
          "vision_tower", "synchformer", "transcript", "context")  # fmt: skip


def test_every_other_stage_of_the_miniature_is_built_in_16_bits(tmp_path: Path) -> None:
    engines = built(quick_miniature(), tmp_path / "built", "rtx4090", stages=STAGES)
    assert tuple(engines.stages) == STAGES
    assert {s.base_type for s in engines.stages.values()} == {"float16", "bfloat16", "float32"}


def test_the_official_log_mel_is_a_small_plan(standin_bundle: Path, tmp_path: Path) -> None:
    """Kernels are kept as source and compiled on the card: one that was made of a whole Fourier
    transform took 250 MB."""
    engines = built(Bundle.open(standin_bundle), tmp_path / "built", "rtx4090", stages=("signal",))
    assert (tmp_path / "built" / engines.stages["signal"].path).stat().st_size < 10e6


@pytest.mark.parametrize(
    ("format", "capability", "weights_only"),
    [("fp8", "8.9", False), ("fp8", "12.0", False), ("int8", "8.6", False), ("int4", "8.9", True)]
    + [("int8", capability, True) for capability in ("8.6", "8.9", "12.0")],
)
def test_a_product_is_found_in_the_types_that_the_graph_gives_it(
    format: str, capability: str, weights_only: bool, tmp_path: Path
) -> None:
    graph = product(format, weights_only=weights_only)
    expected = expected_of(graph)
    narrow(graph, "float16")
    ir.save(model_of(graph), tmp_path / "g.onnx")
    plan = compile_graph(
        tmp_path / "g.onnx", {"x": ("n", 64)}, [{"n": (64, 64, 64)}, {"n": (1, 512, 512)}],
        library="tensorrt_rtx", compute_capability=capability,
    )  # fmt: skip
    assert len(plan.compiled.activation_bytes) == 2
    proof = prove("g", expected, plan.compiled.layers, profiles=2)
    assert proof.rounded_products == (0 if weights_only and format != "int4" else 1)


@pytest.mark.parametrize("block", [64, 128])
@pytest.mark.parametrize("capability", ["8.6", "8.9", "12.0"])
def test_4_bits_are_restored_in_the_product_in_blocks_of_either_size(
    block: int, capability: str, tmp_path: Path
) -> None:
    """Not where a matrix has one block only: the compiler restores that beforehand (1.7.1)."""
    graph = product("int4", width=2 * block, block=block)
    expected = expected_of(graph)
    narrow(graph, "bfloat16")
    ir.save(model_of(graph), tmp_path / "g.onnx")
    plan = compile_graph(
        tmp_path / "g.onnx", {"x": ("n", 2 * block)}, [{"n": (64, 64, 64)}],
        library="tensorrt_rtx", compute_capability=capability,
    )  # fmt: skip
    assert prove("g", expected, plan.compiled.layers, profiles=1).rounded_products == 1


def test_the_proof_fails_where_a_product_is_not_rounded(tmp_path: Path) -> None:
    """The plan of the unrounded graph, held against what the rounded one asks for."""
    rounded, plain = product("int8"), product("int4")
    for node in list(plain):
        if node.op_type == "DequantizeLinear":
            node.name = "restored"
    narrow(plain, "float16")
    ir.save(model_of(plain), tmp_path / "g.onnx")
    plan = compile_graph(
        tmp_path / "g.onnx", {"x": ("n", 64)}, [{"n": (64, 64, 64)}],
        library="tensorrt_rtx", compute_capability="8.6",
    )  # fmt: skip
    (wanted,) = expected_of(rounded).products
    (name,) = [n.name for n in plain if n.op_type == "MatMul"]
    asked = replace(expected_of(rounded), products=(replace(wanted, node=name),))
    with pytest.raises(ExportError, match=f"1 of 1 rounded products .*{name} became .*Int4"):
        prove("g", asked, plan.compiled.layers, profiles=1)


def test_a_device_without_the_format_and_one_that_is_not_offered_are_told(tmp_path: Path) -> None:
    graph = product("fp8")
    narrow(graph, "float16")
    ir.save(model_of(graph), tmp_path / "g.onnx")
    for capability, says in (("8.6", "g: tensorrt_rtx cannot build it: "), ("8.7", "not for SM87")):
        with pytest.raises(ExportError, match=says) as caught:
            compile_graph(
                tmp_path / "g.onnx", {"x": ("n", 64)}, [{"n": (64, 64, 64)}],
                library="tensorrt_rtx", compute_capability=capability,
            )  # fmt: skip
        assert "\n" not in str(caught.value)


def test_a_file_that_is_no_graph_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "g.onnx").write_bytes(b"no graph")
    with pytest.raises(ExportError, match="g: the parser refuses it") as caught:
        compile_graph(
            tmp_path / "g.onnx", {}, [{}], library="tensorrt_rtx", compute_capability="8.9"
        )
    assert "\n" not in str(caught.value)


def test_a_bundle_for_another_device_and_unknown_names_are_refused_before_any_work(
    step: dict[str, Bundle], tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=r"dit_step is rounded to fp8, for orin .* int8: omni-rt"):
        built(step["rtx4090"], tmp_path / "a", "orin", library="tensorrt_rtx")
    with pytest.raises(RequestError, match="no stages verse here"):
        built(step["rtx4090"], tmp_path / "a", "rtx4090", stages=("verse",))
    with pytest.raises(RequestError, match="target cpu: onnxruntime needs no compiled engines"):
        built(step["rtx4090"], tmp_path / "a", "cpu")
    with pytest.raises(EngineError, match="'tensorr' is no TensorRT"):
        built(step["rtx4090"], tmp_path / "a", "rtx4090", library="tensorr")
    with pytest.raises(EngineError, match=r"nowhere\.key"):
        built(step["rtx4090"], tmp_path / "a", "rtx4090", sign_key=tmp_path / "nowhere.key")
    with pytest.raises(RequestError, match="--timing-cache is of no use"):
        built(step["rtx4090"], tmp_path / "a", "rtx4090", timing_cache=tmp_path / "timings")
    assert not (tmp_path / "a").exists()


def test_a_failed_build_leaves_nothing_behind(step: dict[str, Bundle], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="dit_step: tensorrt_rtx cannot build it"):
        built(step["rtx4090"], tmp_path / "a", "rtx4090", compute_capability="8.6")
    assert [p.name for p in tmp_path.iterdir() if p.name != "config"] == []


def test_a_build_tells_how_far_it_is_and_ends_when_it_is_stopped(tmp_path: Path) -> None:
    graph, told = small_product(tmp_path), list[str]()
    clock = iter(range(10**6))
    phases = Phases(told.append, clock=lambda: float(next(clock)))  # a second passes at every look
    options: dict = {"library": "tensorrt_rtx", "compute_capability": "8.6", "phases": phases}
    compile_graph(graph, {"x": ("n", 64)}, [{"n": (64, 64, 64)}], **options)
    assert any(re.fullmatch(r"computing profile costs, \d+ of \d+", line) for line in told)
    phases.stop()
    with pytest.raises(ExportError, match="g: stopped while it was built"):
        compile_graph(graph, {"x": ("n", 64)}, [{"n": (64, 64, 64)}], **options)


def test_ctrl_c_ends_a_build_in_one_line_and_leaves_nothing(
    step: dict[str, Bundle], tmp_path: Path
) -> None:
    """It is sent to the whole group, as a terminal does, at moments before and in the compiler."""
    for i, wait in enumerate(("dit_step", "dit_step (1 of 1): ")):
        folder = tmp_path / str(i)
        folder.mkdir()
        output, terminal = os.openpty()  # how far it is is shown on a terminal alone
        with subprocess.Popen(
            [sys.executable, "-c", MAIN, "build", step["rtx4090"].directory, "--target",
             "rtx4090", "--out", folder / "built"],
            stderr=terminal, start_new_session=True,
        ) as process:  # fmt: skip
            os.close(terminal)
            seen = ""
            while wait not in seen:
                seen += os.read(output, 4096).decode()
            os.killpg(process.pid, signal.SIGINT)
            seen += rest_of(output)
        assert process.returncode == 130, seen
        assert "error: interrupted" in seen
        assert "Traceback" not in seen
        assert list(folder.iterdir()) == []


def rest_of(terminal: int) -> str:
    """What is still written, until nobody has the terminal any more."""
    text = b""
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # how Linux says so
            return text.decode()
        text += piece


@pytest.mark.filterwarnings("ignore:.*no-ops in TensorRT-RTX:DeprecationWarning")
def test_timings_are_kept_and_a_truncated_file_of_them_is_made_anew(tmp_path: Path) -> None:
    """TensorRT-RTX takes the calls and measures nothing; TensorRT needs a GPU to be asked."""
    graph = small_product(tmp_path)
    cache = tmp_path / "kept" / "timings"
    for _ in range(2):
        compile_graph(
            graph, {"x": ("n", 64)}, [{"n": (64, 64, 64)}],
            library="tensorrt_rtx", compute_capability="8.6", timing_cache=cache,
        )  # fmt: skip
        kept = cache.read_bytes()
        cache.write_bytes(kept[: len(kept) // 2])
    assert [path.name for path in cache.parent.iterdir()] == ["timings"]
