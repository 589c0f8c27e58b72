"""Opening a bundle verifies it, and every refusal names the file or the stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from omni_rt.bundle import Bundle, graph_digest, sha256_of
from omni_rt.errors import BundleError
from omni_rt.manifest import MANIFEST, Manifest

from .tiny_bundle import (
    BAD,
    GOOD,
    PROMPTS,
    STAGES,
    certificate_of,
    graph_of,
    onnx_of,
    rewrite,
    write_tiny_bundle,
)

WEIGHTS = "graphs/dit_step.data"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "bundle"


@pytest.fixture
def manifest(directory: Path) -> Manifest:
    return write_tiny_bundle(directory)


def test_a_whole_bundle_opens_and_is_certified(directory: Path, manifest: Manifest) -> None:
    bundle = Bundle.open(str(directory))
    assert bundle.manifest == manifest
    bundle.require_certificate()


def test_progress_ends_at_the_bytes_of_all_files(directory: Path, manifest: Manifest) -> None:
    seen: list[tuple[int, int]] = []
    Bundle.open(directory, progress=lambda done, total: seen.append((done, total)))
    total = sum(spec.size_bytes for spec in manifest.files.values())
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_missing_file_is_named(directory: Path, manifest: Manifest) -> None:
    (directory / WEIGHTS).unlink()
    with pytest.raises(BundleError, match=rf"{WEIGHTS}: listed in the manifest but not there"):
        Bundle.open(directory)


def test_a_folder_in_place_of_a_file_is_named(directory: Path, manifest: Manifest) -> None:
    (directory / WEIGHTS).unlink()
    (directory / WEIGHTS).mkdir()
    with pytest.raises(BundleError, match=WEIGHTS):
        Bundle.open(directory)


@pytest.mark.parametrize("place", [0, 5, -1])
def test_one_changed_byte_is_noticed_and_named(
    directory: Path, manifest: Manifest, place: int
) -> None:
    content = bytearray((directory / WEIGHTS).read_bytes())
    content[place] ^= 1
    (directory / WEIGHTS).write_bytes(content)
    with pytest.raises(BundleError, match=rf"{WEIGHTS}: its sha256"):
        Bundle.open(directory)


@pytest.mark.parametrize("cut", [slice(0, -1), slice(0, 0)])
def test_a_truncated_file_is_named(directory: Path, manifest: Manifest, cut: slice) -> None:
    (directory / WEIGHTS).write_bytes((directory / WEIGHTS).read_bytes()[cut])
    with pytest.raises(BundleError, match=rf"{WEIGHTS}: .* bytes, expected .* truncated"):
        Bundle.open(directory)


def test_a_file_that_grew_is_named(directory: Path, manifest: Manifest) -> None:
    (directory / WEIGHTS).write_bytes((directory / WEIGHTS).read_bytes() + b"x")
    with pytest.raises(BundleError, match=WEIGHTS):
        Bundle.open(directory)


@pytest.mark.parametrize("absolute", [True, False])
def test_a_link_out_of_the_bundle_is_refused(
    directory: Path, manifest: Manifest, absolute: bool
) -> None:
    outside = directory.parent / "outside.data"
    (directory / WEIGHTS).rename(outside)
    (directory / WEIGHTS).symlink_to(outside if absolute else Path("../../outside.data"))
    with pytest.raises(BundleError, match=rf"{WEIGHTS}: a link out of the bundle"):
        Bundle.open(directory)


def test_a_linked_folder_out_of_the_bundle_is_refused(directory: Path, manifest: Manifest) -> None:
    (directory / "graphs").rename(directory.parent / "graphs")
    (directory / "graphs").symlink_to(directory.parent / "graphs")
    with pytest.raises(BundleError, match="a link out of the bundle"):
        Bundle.open(directory)


def test_a_link_within_the_bundle_is_fine(directory: Path, manifest: Manifest) -> None:
    (directory / WEIGHTS).rename(directory / "blob")
    (directory / WEIGHTS).symlink_to("../blob")
    Bundle.open(directory)


def test_a_bundle_reached_through_a_link_is_fine(directory: Path, manifest: Manifest) -> None:
    (directory.parent / "alias").symlink_to(directory)
    Bundle.open(directory.parent / "alias")


def test_a_link_to_itself_is_named(directory: Path, manifest: Manifest) -> None:
    (directory / WEIGHTS).unlink()
    (directory / WEIGHTS).symlink_to("dit_step.data")
    with pytest.raises(BundleError, match=WEIGHTS):
        Bundle.open(directory)


def test_context_and_dit_step_were_folded_alike(directory: Path, manifest: Manifest) -> None:
    graphs = {**manifest.graphs, "context": graph_of("context", fold_id="other")}
    rewrite(directory, manifest, graphs=graphs)
    with pytest.raises(BundleError, match=r"context and dit_step.*'other', 'fold'"):
        Bundle.open(directory)


def test_other_stages_may_be_folded_differently(directory: Path, manifest: Manifest) -> None:
    graphs = {**manifest.graphs, "vae_decoder": graph_of("vae_decoder", fold_id="other")}
    rewrite(directory, manifest, graphs=graphs)
    Bundle.open(directory).require_certificate()


def test_a_missing_certificate_is_refused(directory: Path, manifest: Manifest) -> None:
    rewrite(directory, manifest, certificate=None)
    with pytest.raises(BundleError, match=r"no parity certificate.*allow_uncertified"):
        Bundle.open(directory).require_certificate()


@pytest.mark.parametrize("field", ["stages", "end_to_end"])
def test_a_failing_certificate_names_what_fails(
    directory: Path, manifest: Manifest, field: str
) -> None:
    certificate = certificate_of(manifest)
    worse = replace(certificate, **{field: {**getattr(certificate, field), "dit_step/bad": BAD}})
    rewrite(directory, manifest, certificate=worse)
    with pytest.raises(BundleError, match="fails for dit_step/bad"):
        Bundle.open(directory).require_certificate()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("part", ["onnx", "data"])
def test_a_certificate_for_other_files_names_the_stage(
    directory: Path, manifest: Manifest, stage: str, part: str
) -> None:
    certificate = certificate_of(manifest)
    other = onnx_of(f"{stage}.data", f"{stage}.data") if part == "onnx" else b"requantised"
    (directory / f"graphs/{stage}.{part}").write_bytes(other)
    rewrite(directory, manifest, certificate=certificate)
    with pytest.raises(BundleError, match=f"did not measure this '{stage}' graph"):
        Bundle.open(directory).require_certificate()


def test_a_certificate_without_a_stages_files_names_it(directory: Path, manifest: Manifest) -> None:
    certificate = certificate_of(manifest)
    graphs = {s: d for s, d in certificate.graphs.items() if s != "vae_decoder"}
    rewrite(directory, manifest, certificate=replace(certificate, graphs=graphs))
    with pytest.raises(BundleError, match="vae_decoder"):
        Bundle.open(directory).require_certificate()


def test_a_certificate_without_a_stages_measurement_names_it(
    directory: Path, manifest: Manifest
) -> None:
    certificate = certificate_of(manifest)
    stages = {k: m for k, m in certificate.stages.items() if not k.startswith("vae_decoder")}
    rewrite(directory, manifest, certificate=replace(certificate, stages=stages))
    with pytest.raises(BundleError, match="says nothing of vae_decoder"):
        Bundle.open(directory).require_certificate()


def test_a_measurement_covers_its_own_stage_only(directory: Path, manifest: Manifest) -> None:
    certificate = certificate_of(manifest)
    stages = {k: m for k, m in certificate.stages.items() if not k.startswith("vae_decoder")}
    stages["vae_decoder_tail/y"] = GOOD
    rewrite(directory, manifest, certificate=replace(certificate, stages=stages))
    with pytest.raises(BundleError, match="vae_decoder"):
        Bundle.open(directory).require_certificate()


def test_an_absent_stage_is_named_with_those_there_are(directory: Path, manifest: Manifest) -> None:
    with pytest.raises(BundleError, match=r"no 'signal' stage.*context, dit_step, vae_decoder"):
        Bundle.open(directory).graph("signal")


def test_absent_text_files_are_named(directory: Path, manifest: Manifest) -> None:
    with pytest.raises(BundleError, match="no tokenizer"):
        _ = Bundle.open(directory).tokenizer_path


def test_a_bundle_hands_out_its_files(directory: Path, manifest: Manifest) -> None:
    bundle = Bundle.open(directory)
    assert bundle.prompts == PROMPTS
    assert bundle.vocabulary == {" ": 0, "a": 1, "b": 2}
    assert bundle.empty_transcript.shape == (1, 3, 8)
    assert np.array_equal(bundle.parity("context")["x"], np.arange(4.0))
    assert list(bundle.plan_files) == ["own-3"]
    plan = bundle.plan("own-3", cfg_scale=7)
    assert plan is not None
    assert plan.evaluations == 3
    assert bundle.plan("other", cfg_scale=7) is None


@pytest.mark.parametrize("content", ['["a"]', '{"a": 1}', "null"])
def test_prompts_are_an_object_of_strings(
    directory: Path, manifest: Manifest, content: str
) -> None:
    (directory / "text/prompts.json").write_text(content)
    rewrite(directory, manifest)
    with pytest.raises(BundleError, match=r"prompts\.json"):
        _ = Bundle.open(directory).prompts


def test_prompts_that_are_no_json_are_a_bundle_error(directory: Path, manifest: Manifest) -> None:
    (directory / "text/prompts.json").write_text("{")
    rewrite(directory, manifest)
    with pytest.raises(BundleError, match=r"prompts\.json"):
        _ = Bundle.open(directory).prompts


@pytest.mark.parametrize("broken", ["other array", "no archive"])
def test_constants_without_the_empty_transcript_are_a_bundle_error(
    directory: Path, manifest: Manifest, broken: str
) -> None:
    if broken == "other array":
        np.savez(directory / "constants.npz", other=np.ones(1))
    else:
        (directory / "constants.npz").write_bytes(b"nothing")
    rewrite(directory, manifest)
    with pytest.raises(BundleError, match=r"constants\.npz|empty_transcript"):
        _ = Bundle.open(directory).empty_transcript


def test_the_id_follows_the_manifest(directory: Path, manifest: Manifest) -> None:
    before = Bundle.open(directory).id
    assert before == sha256_of(directory / MANIFEST)[:16]
    rewrite(directory, manifest, name="other")
    assert Bundle.open(directory).id != before


def test_the_models_id_follows_what_decides_results_alone(
    directory: Path, manifest: Manifest
) -> None:
    before = Bundle.open(directory)
    assert before.id == Bundle.open(directory).id  # read now, before the manifest is another
    (directory / "plans/own-3.json").unlink()
    provenance = {"by": "another test"}
    rewrite(directory, manifest, plans={}, default_plan="euler-3", provenance=provenance)
    after = Bundle.open(directory)
    assert after.id != before.id
    assert after.model_id == before.model_id
    ids = [before.model_id]
    for path, content in (
        (WEIGHTS, b"other weights"),
        ("graphs/context.onnx", onnx_of("context.data", "context.data")),
        ("text/vocab.txt", b" \r\nb\r\na\r\n"),
    ):
        (directory / path).write_bytes(content)
        rewrite(directory, manifest, plans={}, default_plan="euler-3")
        ids.append(Bundle.open(directory).model_id)
    assert len({*ids}) == 4


def test_a_graphs_digest_follows_each_of_its_files(manifest: Manifest) -> None:
    graph = manifest.graphs["context"]
    before = graph_digest(graph, manifest.files)
    for path in (graph.path, *graph.data):
        changed = replace(manifest.files[path], sha256="0" * 64)
        assert graph_digest(graph, {**manifest.files, path: changed}) != before


def test_ports_must_be_those_of_the_contract(directory: Path, manifest: Manifest) -> None:
    graph = manifest.graphs["dit_step"]
    for changes in (
        {"inputs": graph.inputs[1:]},
        {"outputs": (replace(graph.outputs[0], name="w"),)},
        {"outputs": (replace(graph.outputs[0], dtype="banana"),)},
        {"outputs": (replace(graph.outputs[0], shape=("R", 4, 7)),)},
    ):
        graphs = {**manifest.graphs, "dit_step": replace(graph, **changes)}
        rewrite(directory, manifest, graphs=graphs)
        with pytest.raises(BundleError, match=r"dit_step: .* do not fit the sizes"):
            Bundle.open(directory)
    rewrite(directory, manifest, graphs={"dit": graph})
    with pytest.raises(BundleError, match="unknown stage 'dit'"):
        Bundle.open(directory)


def test_sizes_must_be_positive(directory: Path, manifest: Manifest) -> None:
    rewrite(directory, manifest, dims=replace(manifest.dims, heads=0, latent_frames=-5))
    with pytest.raises(BundleError, match=r"latent_frames.* must be positive"):
        Bundle.open(directory)


@pytest.mark.parametrize("location", ["other.data", "../weights.data", "/etc/passwd"])
def test_weights_come_from_listed_files_alone(
    directory: Path, manifest: Manifest, location: str
) -> None:
    (directory / "graphs/dit_step.onnx").write_bytes(onnx_of("dit_step.data", location))
    rewrite(directory, manifest)
    with pytest.raises(BundleError, match="takes weights from"):
        Bundle.open(directory)


def test_a_file_that_is_no_graph_is_named(directory: Path, manifest: Manifest) -> None:
    for content in (b"graph", b"\x3a\x7f", b"\xff" * 20):
        (directory / "graphs/context.onnx").write_bytes(content)
        rewrite(directory, manifest)
        with pytest.raises(BundleError, match=r"context\.onnx is no ONNX graph"):
            Bundle.open(directory)


def test_archives_that_grow_or_lie_are_refused(directory: Path, manifest: Manifest) -> None:
    np.savez_compressed(directory / "constants.npz", empty_transcript=np.zeros((1, 3, 8)))
    rewrite(directory, manifest)
    with pytest.raises(BundleError, match="compressed"):
        _ = Bundle.open(directory).empty_transcript
    np.savez(directory / "constants.npz", empty_transcript=np.full((1, 3, 8), np.nan, np.float32))
    rewrite(directory, manifest)
    with pytest.raises(BundleError, match="must be finite"):
        _ = Bundle.open(directory).empty_transcript


def test_prompts_are_all_there(directory: Path, manifest: Manifest) -> None:
    (directory / "text/prompts.json").write_text("{}")
    rewrite(directory, manifest)
    with pytest.raises(BundleError, match=r"lacks .*SYSTEM_T2A"):
        _ = Bundle.open(directory).prompts
