"""A bundle of a few bytes: right in form, with files that no engine could load."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from omni_rt.bundle import graph_digest, sha256_of
from omni_rt.contract import PORTS
from omni_rt.manifest import (
    MANIFEST,
    SCHEMA,
    Certificate,
    Dims,
    FileSpec,
    GraphSpec,
    Manifest,
    TextSpec,
    write_manifest,
)
from omni_rt.metrics import measure
from omni_rt.plan_file import plan_file, plan_text
from omni_rt.plans import make_plan
from omni_rt.preprocess.chat import TEMPLATES

STAGES = ("context", "dit_step", "vae_decoder")

DIMS = Dims(
    width=64,
    depth=1,
    heads=2,
    head_width=32,
    latent_channels=4,
    latent_frames=6,
    prepend_tokens=5,
    hidden_width=8,
    context_tokens=16,
    cond_width=8,
    transcript_ids=12,
    transcript_tokens=3,
    mel_frames=7,
    sync_rows=2,
    sync_width=3,
    sample_rate_hz=1000,
    audio_channels=2,
    downsampling_ratio=100,
    window_samples=500,
    clip_samples=600,
    thinker=None,
)

PROMPTS = {name: f"Words of {name}." for name in TEMPLATES}
GOOD = measure([1.0, 2.0], [1.0, 2.0], bound_rel_l2=1e-5, origin="test")
BAD = measure([1.0, 2.1], [1.0, 2.0], bound_rel_l2=1e-5, origin="test")


def graph_of(stage: str, *, fold_id: str = "fold") -> GraphSpec:
    return GraphSpec(
        path=f"graphs/{stage}.onnx",
        data=(f"graphs/{stage}.data",),
        precision="fp32",
        opset=18,
        fold_id=fold_id,
        inputs=PORTS[stage](DIMS).inputs,
        outputs=PORTS[stage](DIMS).outputs,
    )


def onnx_of(*locations: str) -> bytes:
    """The bytes of an ONNX graph whose weights lie in these files, as protocol buffers write it."""

    def field(number: int, content: bytes) -> bytes:
        assert len(content) < 128
        return bytes([number << 3 | 2, len(content)]) + content

    tensors = [
        field(5, field(13, field(1, b"location") + field(2, name.encode()))) for name in locations
    ]
    return field(7, b"".join(tensors))


def certificate_of(manifest: Manifest) -> Certificate:
    """A certificate that passes for every graph of the manifest."""
    return Certificate(
        reference="torch",
        library="onnxruntime",
        stages={f"{stage}/y": GOOD for stage in manifest.graphs},
        end_to_end={"dit_step/latents": GOOD},
        graphs={s: graph_digest(g, manifest.files) for s, g in manifest.graphs.items()},
    )


def write_tiny_bundle(directory: Path) -> Manifest:
    """A bundle with three graphs, text files, a plan and a passing certificate."""
    for folder in ("graphs", "text", "plans", "parity"):
        (directory / folder).mkdir(parents=True)
    graphs = {stage: graph_of(stage) for stage in STAGES}
    for stage in STAGES:
        (directory / f"graphs/{stage}.onnx").write_bytes(onnx_of(f"{stage}.data"))
        (directory / f"graphs/{stage}.data").write_bytes(b"weights of " + stage.encode())
    (directory / "text/prompts.json").write_text(json.dumps(PROMPTS))
    (directory / "text/vocab.txt").write_bytes(b" \r\na\r\nb\r\n")
    (directory / "plans/own-3.json").write_text(
        plan_text(plan_file(replace(make_plan("euler-3"), name="own-3")))
    )
    np.savez(directory / "constants.npz", empty_transcript=np.ones((1, 3, 8), np.float32))
    np.savez(directory / "parity/context.npz", x=np.arange(4.0))
    manifest = Manifest(
        schema=SCHEMA,
        name="tiny",
        dims=DIMS,
        graphs=graphs,
        engines={},
        text=TextSpec(
            tokenizer=None,
            prompts="text/prompts.json",
            vocabulary="text/vocab.txt",
            special_ids=None,
        ),
        constants="constants.npz",
        parity={"context": "parity/context.npz"},
        plans={"own-3": "plans/own-3.json"},
        default_plan="own-3",
        files={},
        weights_licence="none",
        provenance={"by": "a test"},
    )
    return rewrite(directory, manifest)


def rewrite(directory: Path, manifest: Manifest, **changes: Any) -> Manifest:
    """Write the manifest with `changes`, file hashes and certificate taken from what is there.

    A `certificate` or `files` among the changes is kept as it is given.
    """
    manifest = replace(manifest, **changes)
    if "files" not in changes:
        manifest = replace(manifest, files=listed(directory))
    if "certificate" not in changes:
        manifest = replace(manifest, certificate=certificate_of(manifest))
    write_manifest(manifest, directory)
    return manifest


def listed(directory: Path) -> dict[str, FileSpec]:
    """Size and hash of every file but the manifest."""
    paths = sorted(p for p in directory.rglob("*") if p.is_file() and p.name != MANIFEST)
    return {
        p.relative_to(directory).as_posix(): FileSpec(
            sha256=sha256_of(p), size_bytes=p.stat().st_size
        )
        for p in paths
    }
