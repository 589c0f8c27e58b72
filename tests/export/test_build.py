"""Exporting, as a user does it: what goes wrong, and what is in the bundle when it goes right."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from safetensors.torch import load_file, save_file

from omni_rt import BundleError, ExportError, Session
from omni_rt.bundle import Bundle
from omni_rt.export.build import export_bundle
from omni_rt.export.checkpoint import open_checkpoint
from omni_rt.export.reference.from_bundle import from_bundle
from omni_rt.export.sources import ExportOptions

pytestmark = pytest.mark.slow


@pytest.fixture
def options(standin: Path, tmp_path: Path) -> ExportOptions:
    return ExportOptions(
        config=standin / "config.json",
        checkpoint=standin / "model.safetensors",
        qwen=standin / "qwen",
        upstream=standin / "upstream",
        out=tmp_path / "out" / "bundle",
    )


@pytest.fixture
def folder(options: ExportOptions) -> Path:
    options.out.parent.mkdir()
    return options.out.parent


def graph(bundle: Path, stage: str) -> ir.Model:
    return ir.load(bundle / "graphs" / f"{stage}.onnx")


def test_initialisers_have_official_names_and_values(standin: Path, standin_bundle: Path) -> None:
    official = open_checkpoint(standin / "model.safetensors").model
    rebuilt = from_bundle(Bundle.open(standin_bundle)).state_dict()
    assert rebuilt.keys() == official.keys()
    exact = [k for k in rebuilt if not k.endswith(("weight_g", "weight_v", "empty_audio_feat"))]
    assert all(torch.equal(rebuilt[k], official[k].float32()) for k in exact)


def test_every_projection_of_a_block_is_its_own_matmul(standin_bundle: Path) -> None:
    """A fused qkv would lose its quantisation silently (spec QUANTISATION §2)."""
    weights = {
        node.inputs[1].name.removeprefix("model.model.transformer.layers.")
        for node in graph(standin_bundle, "dit_step").graph
        if node.op_type == "MatMul" and node.inputs[1].name.startswith("model.model.transformer.l")
    }
    wanted = {"self_attn.to_q", "self_attn.to_k", "self_attn.to_v", "self_attn.to_out"}
    wanted |= {"cross_attn.to_q", "cross_attn.to_out", "ff.ff.0.proj", "ff.ff.2"}
    assert weights == {f"{i}.{name}.weight" for i in (0, 1) for name in wanted}


def test_matmul_biases_cannot_become_gemms(standin_bundle: Path) -> None:
    model = graph(standin_bundle, "dit_step")
    biases = [v for k, v in model.graph.initializers.items() if k.endswith("bias") and ".ff." in k]
    assert len(biases) == 4
    assert all(list(value.shape)[:2] == [1, 1] for value in biases)


def test_graphs_carry_no_paths_of_the_machine(standin_bundle: Path) -> None:
    for path in (standin_bundle / "graphs").glob("*.onnx"):
        content = path.read_bytes()
        assert b".py" not in content
        assert str(Path.cwd()).encode() not in content


def test_an_export_can_be_repeated_to_the_bit(
    options: ExportOptions, folder: Path, standin_bundle: Path
) -> None:
    again = export_bundle(replace(options, stages=("thinker_embed", "context"), workers=1))
    one, two = Bundle.open(standin_bundle).manifest, Bundle.open(again).manifest
    for path in ("graphs/thinker_embed.onnx", "graphs/context.onnx", "constants.npz"):
        if path != "graphs/context.onnx":  # its offsets depend on what shares its data file
            assert one.files[path] == two.files[path]
    assert one.graphs["context"].inputs == two.graphs["context"].inputs


def test_a_session_on_some_stages_offers_what_they_allow(
    options: ExportOptions, folder: Path
) -> None:
    directory = export_bundle(replace(options, stages=("vae_decoder",), upstream=None))
    assert [p.name for p in folder.iterdir()] == ["bundle"]
    with Session(directory) as session:
        assert session.decode(np.zeros((1, 16, 3))).shape == (1, 2, 3 * 2048)
        with pytest.raises(BundleError, match=r"no 'thinker_embed' stage \(it has vae_decoder\)"):
            session.generate("T2A", prompt="rain")


def with_weights(
    options: ExportOptions, change: Callable[[dict[str, torch.Tensor]], None]
) -> ExportOptions:
    weights = load_file(options.checkpoint)
    change(weights)
    path = options.out.parent.parent / "model.safetensors"
    save_file(weights, path)
    return replace(options, checkpoint=path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(
    value: float, options: ExportOptions, folder: Path
) -> None:
    name = "pretransform.model.decoder.layers.0.bias"

    def spoil(weights: dict[str, torch.Tensor]) -> None:
        weights[name][0] = value

    spoiled = with_weights(replace(options, stages=("vae_decoder",)), spoil)
    with pytest.raises(ExportError, match=name.replace(".", r"\.") + " holds NaN"):
        export_bundle(spoiled)
    assert list(folder.iterdir()) == []


def test_a_constant_that_is_not_finite_is_named(options: ExportOptions, folder: Path) -> None:
    def spoil(weights: dict[str, torch.Tensor]) -> None:
        weights["conditioner.conditioners.speech_prompt.empty_speech_feat"][0, 0, 0] = float("nan")

    spoiled = with_weights(replace(options, stages=("thinker_embed",)), spoil)
    with pytest.raises(ExportError, match=r"empty_speech_feat holds NaN"):
        export_bundle(spoiled)
    assert list(folder.iterdir()) == []


def test_nothing_in_the_current_folder_is_run(
    options: ExportOptions, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = tmp_path / "upstream"
    trap.mkdir()
    for name in ("onnxscript", "torch", "omni_rt"):
        (trap / f"{name}.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    monkeypatch.chdir(trap)
    export_bundle(replace(options, stages=("thinker_embed",), workers=2))
    assert not (tmp_path / "sprung").exists()


def test_a_worker_that_dies_is_one_error(
    options: ExportOptions, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("omni_rt.export.tracing._WORKER", "raise SystemExit(3)")
    with pytest.raises(ExportError, match="worker died"):
        export_bundle(replace(options, stages=("thinker_embed",), workers=2))
    assert list(folder.iterdir()) == []


def test_ctrl_c_leaves_nothing_half_written(options: ExportOptions, folder: Path) -> None:
    def press(what: str) -> None:
        if what.startswith("reference"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_bundle(replace(options, stages=("thinker_embed", "transcript")), progress=press)
    assert list(folder.iterdir()) == []


def test_a_disk_that_fills_up_leaves_nothing(
    options: ExportOptions, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("omni_rt.export.build.np.savez", full)
    with pytest.raises(ExportError, match="No space left"):
        export_bundle(replace(options, stages=("thinker_embed",)))
    assert list(folder.iterdir()) == []


def test_what_is_missing_is_said_with_the_option_that_gives_it(
    options: ExportOptions, folder: Path, tmp_path: Path
) -> None:
    cases = [
        (replace(options, qwen=None), "--qwen DIR"),
        (replace(options, upstream=None), "--upstream DIR or --prompts FILE"),
        (replace(options, qwen=tmp_path), "config.json"),
        (replace(options, config=tmp_path / "x.json"), "cannot read"),
        (replace(options, checkpoint=tmp_path / "x.ckpt"), "no file"),
        (replace(options, stages=("dit",)), "unknown stages"),
        (replace(options, stages=()), "unknown stages"),
        (replace(options, out=tmp_path / "no" / "bundle"), "no folder"),
    ]
    for wrong, message in cases:
        with pytest.raises(ExportError, match=message):
            export_bundle(wrong)
    assert list(folder.iterdir()) == []


def test_a_thinker_of_another_width_is_refused(
    options: ExportOptions, folder: Path, tmp_path: Path
) -> None:
    qwen = tmp_path / "qwen"
    shutil.copytree(options.qwen or Path(), qwen)
    config = json.loads((qwen / "config.json").read_text(encoding="utf-8"))
    config["thinker_config"]["text_config"] |= {"hidden_size": 32, "head_dim": 16}
    (qwen / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ExportError, match=r"thinker: the towers' outputs must be 32 wide"):
        export_bundle(replace(options, qwen=qwen))


def test_a_tokenizer_without_the_chat_tokens_is_refused(
    options: ExportOptions, folder: Path, tmp_path: Path
) -> None:
    qwen = tmp_path / "qwen"
    shutil.copytree(options.qwen or Path(), qwen)
    text = (qwen / "tokenizer.json").read_text(encoding="utf-8")
    (qwen / "tokenizer.json").write_text(text.replace("<|im_end|>", "<|im_fin|>"), "utf-8")
    with pytest.raises(ExportError, match=r"does not know <\|im_end\|>"):
        export_bundle(replace(options, qwen=qwen))
    (qwen / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ExportError, match="not a tokenizer"):
        export_bundle(replace(options, qwen=qwen))
