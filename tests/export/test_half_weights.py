"""Weights in 16 bits: what is exact stays so to the bit, what is rounded is said and bounded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from omni_rt import ExportError, Session
from omni_rt.bundle import Bundle
from omni_rt.contract import Ports
from omni_rt.engines.ort import OrtEngine
from omni_rt.export.build import export_bundle
from omni_rt.export.checkpoint import LazyTensor, open_checkpoint
from omni_rt.export.graphs import OPSET, Stage, traced_bytes, write_graph
from omni_rt.export.half_weights import ROUNDING, SMALLEST, narrowed
from omni_rt.export.parity_files import round_weights
from omni_rt.export.reference.autoencoder import Conv, weight_norm
from omni_rt.export.reference.from_bundle import from_bundle
from omni_rt.export.sources import ExportOptions
from omni_rt.export.weight_file import WeightFile
from omni_rt.external_data import external_files, stored_bytes
from omni_rt.manifest import GraphSpec, TensorSpec
from omni_rt.verify import STAGE_BOUND, STAGE_ORIGIN, load, stage_inputs

ROUNDED = ("transcript", "context", "signal", "dit_step", "vae_decoder", "vae_encoder")
EXACT = ("thinker_embed", "thinker_cond")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def bits(value: Tensor) -> bytes:
    return value.reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(40, 40), (SMALLEST,), (8, 8, 16)])
def test_what_is_exact_in_16_bits_is_stored_so(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    value = noise(*shape).to(dtype).float()
    kept = narrowed(value, may_round=False)
    assert kept.dtype == dtype
    assert bits(kept.float()) == bits(value)


def test_the_extremes_of_bf16_are_exact() -> None:
    value = noise(64, 64).bfloat16().float()
    value[0, :4] = torch.tensor([1e38, -1e-38, 1e-45 * 2**20, -0.0]).bfloat16().float()
    kept = narrowed(value, may_round=True)
    assert kept.dtype == torch.bfloat16
    assert bits(kept.float()) == bits(value)


@pytest.mark.parametrize("where", [0, 517, 4095])
def test_one_value_that_is_not_exact_is_enough_not_to_be_bf16(where: int) -> None:
    value = noise(64, 64).bfloat16().float()
    value.view(-1)[where] = 1 + 2.0**-9
    assert narrowed(value, may_round=True).dtype == torch.float16
    value.view(-1)[where] = 1 + 2.0**-23
    assert narrowed(value, may_round=True).dtype == torch.float16
    assert narrowed(value, may_round=False) is value


def test_rounding_stays_within_its_bound_for_any_size_of_weight() -> None:
    for power in range(-30, 20):
        value = noise(64, 64, seed=power) * 2.0**power
        kept = narrowed(value, may_round=True)
        assert kept.dtype in (torch.float16, torch.float32)
        error = (kept.double() - value.double()).norm(dim=1)
        assert (error <= ROUNDING * value.double().norm(dim=1)).all()
    assert kept.dtype == torch.float32  # 2^19 is beyond fp16


@pytest.mark.parametrize("value", [65536.0, 1e5, -3e38])
def test_values_beyond_fp16_stay_fp32(value: float) -> None:
    weight = noise(64, 64)
    weight[3, 5] = value
    assert narrowed(weight, may_round=True) is weight


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("size", [1e-6, 1e-12, 1e-30])
def test_a_channel_that_fp16_would_flush_stays_fp32(axis: int, size: float) -> None:
    weight = noise(16, 16, 16)
    weight.select(axis, 7).mul_(size)
    assert narrowed(weight, may_round=True) is weight


def test_single_values_may_round_to_zero_and_channels_be_zero() -> None:
    weight = noise(64, 64)
    weight[0, 0], weight[5] = 1e-9, 0.0
    kept = narrowed(weight, may_round=True)
    assert kept.dtype == torch.float16
    assert kept[0, 0] == 0


def test_small_weights_vectors_and_fp64_are_left_alone() -> None:
    small = torch.ones(SMALLEST - 1)
    assert narrowed(small, may_round=True) is small
    for vector in (noise(5000), noise(1, 1, 5000), noise(5000, 1)):
        assert narrowed(vector, may_round=True) is vector
    table = torch.ones(64, 64, dtype=torch.float64)
    assert narrowed(table, may_round=True) is table


def test_the_reference_is_rounded_as_the_graphs_are() -> None:
    conv = Conv(32, 32, 3)
    conv.weight_v.data, conv.weight_g.data = noise(32, 32, 3), noise(32, 1, 1)
    conv.weight_g.data[4] = 0
    attention = nn.ModuleDict({"to_qkv": nn.Linear(64, 192), "plain": nn.Linear(64, 64)})
    attention["to_qkv"].weight.data = torch.cat([noise(64, 64), 1e6 * noise(128, 64)])
    exact, own = weight_norm(conv.weight_g, conv.weight_v), attention["to_qkv"].weight.data.clone()
    plain = attention["plain"].weight.data.clone()
    round_weights(nn.ModuleList([conv, attention]))
    found = weight_norm(conv.weight_g, conv.weight_v)
    assert torch.allclose(found, exact.half().float(), rtol=1e-6, atol=0)
    assert torch.equal(attention["to_qkv"].weight, torch.cat([own[:64].half().float(), own[64:]]))
    assert torch.equal(attention["plain"].weight, plain.half().float())


def test_only_what_is_worth_mapping_is_aligned_to_pages(tmp_path: Path) -> None:
    file = WeightFile(tmp_path / "w.data")
    sizes = (1, 4096, 65535, 65536, 100, 1 << 20)
    places = [file.add(torch.full((size,), 7, dtype=torch.uint8)) for size in sizes]
    again = file.add(torch.full((65536,), 7, dtype=torch.uint8))
    file.close()
    assert [p.length for p in places] == list(sizes)
    assert all(p.offset % (4096 if p.length >= 65536 else 64) == 0 for p in places)
    assert again == places[3]
    content = (tmp_path / "w.data").read_bytes()
    assert all(content[p.offset : p.offset + p.length] == b"\7" * p.length for p in places)
    assert len(content) == places[-1].offset + places[-1].length


class Sums(nn.Module):
    """A table that is looked up, one that is also a matrix, a matrix and a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.tied = nn.Embedding(50, 64), nn.Embedding(64, 64)
        self.out, self.conv = nn.Linear(64, 128), nn.Conv1d(128, 24, 3, padding=1)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = self.rows(ids)
        mixed = self.out(rows + self.tied(ids)).transpose(1, 2)
        return rows, rows @ self.tied.weight, self.conv(mixed)


PORTS = Ports(
    inputs=(TensorSpec(name="ids", dtype="int64", shape=("B", "S")),),
    outputs=(
        TensorSpec(name="rows", dtype="float32", shape=("B", "S", 64)),
        TensorSpec(name="scores", dtype="float32", shape=("B", "S", 64)),
        TensorSpec(name="sums", dtype="float32", shape=("B", 24, "S")),
    ),
)


@pytest.fixture(scope="module")
def traced() -> tuple[Stage, bytes]:
    stage = Stage(
        name="sums",
        module=Sums().eval().requires_grad_(False),
        ports=PORTS,
        official_names={},
        examples={"B": 2, "S": 5},
        data_file="sums.data",
    )
    return stage, traced_bytes(stage)


def graph_of(
    traced: tuple[Stage, bytes], folder: Path, weights: dict[str, Tensor], *, half: bool
) -> tuple[OrtEngine, dict[str, int], int]:
    stage, data = traced
    lazy = {
        name: LazyTensor(shape=tuple(value.shape), dtype="float32", load=value.clone)
        for name, value in weights.items()
    }
    folder.mkdir()
    file = WeightFile(folder / stage.data_file)
    rounded = write_graph(stage, data, lazy, file=file, fold_id="x", half=half)
    file.close()
    path = folder / "sums.onnx"
    spec = GraphSpec(
        path=path.name,
        data=(stage.data_file,),
        precision="fp32",
        opset=OPSET,
        fold_id="x",
        inputs=PORTS.inputs,
        outputs=PORTS.outputs,
    )
    return OrtEngine(path, spec, threads=1), stored_bytes(path), rounded


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_exact_weights_give_the_same_bits_in_half_the_bytes(
    dtype: torch.dtype, traced: tuple[Stage, bytes], tmp_path: Path
) -> None:
    shapes = {name: value.shape for name, value in traced[0].module.state_dict().items()}
    weights = {name: noise(*shape, seed=1).to(dtype).float() for name, shape in shapes.items()}
    whole, whole_bytes, _ = graph_of(traced, tmp_path / "fp32", weights, half=False)
    small, small_bytes, rounded = graph_of(traced, tmp_path / "half", weights, half=True)
    ids = np.random.RandomState(0).randint(0, 50, (3, 11))
    one, two = whole.run(ids=ids), small.run(ids=ids)
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)
    kind = "bf16" if dtype == torch.bfloat16 else "fp16"
    vectors = 4 * (128 + 24)
    assert small_bytes == {kind: (whole_bytes["fp32"] - vectors) // 2, "fp32": vectors}
    assert rounded == 0
    assert external_files(tmp_path / "half" / "sums.onnx") == {"sums.data"}


@pytest.mark.slow
def test_rounded_weights_are_counted_and_the_rest_keeps_its_bits(
    traced: tuple[Stage, bytes], tmp_path: Path
) -> None:
    weights = {name: noise(*v.shape) for name, v in traced[0].module.state_dict().items()}
    weights["rows.weight"] = weights["rows.weight"].bfloat16().float()
    weights["tied.weight"][0, 0] = 1e5
    engine, found, rounded = graph_of(traced, tmp_path / "half", weights, half=True)
    assert rounded == 2
    assert found == {
        "bf16": 2 * 50 * 64,
        "fp16": 2 * (64 * 128 + 128 * 24 * 3),
        "fp32": 4 * (64 * 64 + 128 + 24),
    }
    ids = np.arange(50)[None]
    assert torch.equal(torch.from_numpy(engine.run(ids=ids)["rows"][0]), weights["rows.weight"])


@pytest.fixture(scope="module")
def half_bundle(standin: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The stand-in in 16 bits: its thinker is bf16, the rest fp32."""
    options = ExportOptions(
        config=standin / "config.json",
        checkpoint=standin / "model.safetensors",
        qwen=standin / "qwen",
        upstream=standin / "upstream",
        out=tmp_path_factory.mktemp("half") / "bundle",
        stages=(*EXACT, *ROUNDED),
        workers=2,
        weights="half",
    )
    return Bundle.open(export_bundle(options))


@pytest.mark.slow
def test_the_certificate_tells_what_rounding_changes_and_nothing_else(half_bundle: Bundle) -> None:
    half_bundle.require_certificate()
    certificate = half_bundle.manifest.certificate
    assert certificate is not None
    for name, found in {**certificate.stages, **certificate.end_to_end}.items():
        if name.startswith(EXACT):
            assert (found.bound_rel_l2, found.origin) == (STAGE_BOUND, STAGE_ORIGIN)
        else:
            assert 1e-4 < found.rel_l2 < found.bound_rel_l2 < 1e-2
            assert "rounding weights to fp16" in found.origin


@pytest.mark.slow
def test_stages_of_a_bf16_checkpoint_are_the_same_to_the_bit(
    half_bundle: Bundle, standin_bundle: Path
) -> None:
    whole = Bundle.open(standin_bundle)
    for stage in EXACT:
        inputs = stage_inputs(whole, stage, whole.parity(stage))
        one, two = (load(b, stage, threads=1).run(**inputs) for b in (whole, half_bundle))
        assert all(one[name].tobytes() == two[name].tobytes() for name in one)
        paths = (b.path(b.graph(stage).path) for b in (whole, half_bundle))
        sizes = [sum(stored_bytes(path).values()) for path in paths]
        assert 0.5 <= sizes[1] / sizes[0] < 0.52
    assert half_bundle.manifest.provenance["weights"] == "half"


@pytest.mark.slow
def test_tables_that_are_computed_are_not_rounded(half_bundle: Bundle) -> None:
    found = stored_bytes(half_bundle.path(half_bundle.graph("signal").path))
    filterbank, window = 4 * 513 * 100, 4 * 1024
    assert found["fp32"] > filterbank + window
    assert found["fp64"] > 0


@pytest.mark.slow
def test_the_reference_can_be_rebuilt_from_16_bits(half_bundle: Bundle, standin: Path) -> None:
    official = open_checkpoint(standin / "model.safetensors").model
    for name, value in from_bundle(half_bundle).state_dict().items():
        if not name.endswith(("weight_g", "weight_v", "empty_audio_feat")):
            wanted = official[name].float32()
            assert value.dtype == torch.float32
            assert torch.allclose(value, wanted, rtol=ROUNDING, atol=2.0**-25)


@pytest.mark.slow
def test_a_session_runs_on_16_bits(half_bundle: Bundle, session: Session) -> None:
    latents = np.random.RandomState(0).standard_normal((1, 16, 3))
    with Session(half_bundle.directory) as small:
        one, two = session.decode(latents), small.decode(latents)
    assert 0 < np.linalg.norm(one - two) < 1e-2 * np.linalg.norm(one)


def test_an_unknown_storage_is_one_error(tmp_path: Path) -> None:
    options = ExportOptions(config=tmp_path, checkpoint=tmp_path, out=tmp_path / "out")
    with pytest.raises(ExportError, match="weights must be fp32 or half, got 'int8'"):
        export_bundle(replace(options, weights="int8"))
    assert list(tmp_path.iterdir()) == []
