"""The miniature's stages in 16 bits, computed by a processor: within what `verify` allows them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from omni_rt.bundle import Bundle
from omni_rt.export.engines.graph_files import prepare
from omni_rt.manifest import BaseType
from omni_rt.metrics import rel_l2
from omni_rt.targets import narrow_bound
from omni_rt.verify import flat, grouped, load, stage_inputs
from tests.calibration.small import quick_miniature

pytestmark = pytest.mark.slow

_TYPES = {"tensor(float16)": "float16", "tensor(float)": "float32", "tensor(int64)": "int64",
          "tensor(bool)": "bool"}  # fmt: skip
BF16, FP32 = ir.DataType.BFLOAT16, ir.DataType.FLOAT


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return quick_miniature()


@pytest.mark.parametrize(
    ("stage", "base"),
    [
        ("dit_step", "float16"),
        ("context", "float16"),
        ("synchformer", "float16"),
        ("vae_decoder", "float16"),
        ("vae_encoder", "float16"),
        ("thinker_cond", "bfloat16"),
        ("thinker_lm", "bfloat16"),
        ("audio_tower", "bfloat16"),
        ("vision_tower", "bfloat16"),
    ],
)
def test_16_bits_move_a_stage_by_less_than_its_bound(
    bundle: Bundle, stage: str, base: BaseType, tmp_path: Path
) -> None:
    bound = narrow_bound(base, stage, bundle.manifest.dims)
    assert bound is not None
    prepared = prepare(bundle, stage, tmp_path)
    assert prepared.base.base == base
    for link in [path for path in tmp_path.iterdir() if path.is_symlink()]:
        source = link.resolve()  # ONNX Runtime does not follow links
        link.unlink()
        shutil.copyfile(source, link)
    given = stage_inputs(bundle, stage, bundle.parity(stage))
    outputs = _run(prepared.path, given)
    wanted = load(bundle, stage, threads=1).run(**given)
    for names in grouped(outputs).values():
        error = rel_l2(flat(outputs, names).astype(np.float32), flat(wanted, names))
        assert 0 < error < bound[0]


def _run(path: Path, known: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    emulated = path.with_name("emulated.onnx")
    model = ir.load(path)
    _round_to_bf16(model.graph)
    ir.save(model, emulated)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(emulated), options, providers=["CPUExecutionProvider"])
    given = {i.name: np.asarray(known[i.name], _TYPES[i.type]) for i in session.get_inputs()}
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, given), strict=True))


def _round_to_bf16(graph: ir.Graph) -> None:
    """Every value in bf16 becomes fp32 rounded to bf16: ONNX Runtime has no such products."""
    for node in list(graph):
        for value in node.outputs:
            if value.dtype != BF16:
                continue
            users = list(value.uses())
            casts = [] if node.op_type == "Cast" else [_cast(value, BF16)]
            casts.append(_cast(casts[-1].outputs[0] if casts else value, FP32))
            if node.op_type != "Cast":
                value.dtype = FP32
            graph.insert_after(node, casts)
            for user in users:
                user.node.replace_input_with(user.idx, casts[-1].outputs[0])


def _cast(value: ir.Value, to: ir.DataType) -> ir.Node:
    node = ir.node("Cast", [value], {"to": to})
    node.outputs[0].dtype, node.outputs[0].name = to, f"{value.name}.{to.name}"
    return node
