"""Stages of a tiny bundle in a line of NumPy each, their gain taken from the bundle's provenance.

`context` divides the keys by what `dit_step` multiplies them with, if the bundle is folded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from omni_rt.bundle import Bundle
from omni_rt.engines import Array
from omni_rt.errors import BundleError
from omni_rt.manifest import Manifest, TensorSpec
from tests.runtime.tiny_bundle import DIMS, rewrite, write_tiny_bundle

Arrays = dict[str, Any]
_FOLD = 4.0


def transformer_bundle(
    directory: Path, *, gain: float = 1.0, folded: bool = False, **changes: Any
) -> Bundle:
    """A tiny bundle that `FakeEngines` can run, with parity data of every stage."""
    manifest = write_tiny_bundle(directory)
    for stage, arrays in reference_arrays().items():
        np.savez(directory / f"parity/{stage}.npz", **arrays)
    fold_id = "folded" if folded else "fold"
    changes = {
        "parity": {stage: f"parity/{stage}.npz" for stage in reference_arrays()},
        "graphs": {s: replace(g, fold_id=fold_id) for s, g in manifest.graphs.items()},
        "provenance": {"gain": gain, "fold": _FOLD if folded else 1.0},
        **changes,
    }
    manifest = rewrite(directory, manifest, **changes)
    return Bundle.open(directory)


def changed(bundle: Bundle, **changes: Any) -> Bundle:
    """The bundle with another manifest."""
    rewrite(bundle.directory, bundle.manifest, **changes)
    return Bundle.open(bundle.directory)


def reference_arrays() -> dict[str, Arrays]:
    """Inputs and outputs of every stage with gain 1, and a trajectory of two Euler steps."""
    stream = np.random.RandomState(1)

    def normal(*shape: int) -> Any:
        return stream.standard_normal(shape).astype(np.float32)

    shape = (DIMS.latent_channels, DIMS.latent_frames)
    context = {"hidden": normal(1, 2, 8), "transcript": normal(1, 3, 8)}
    context |= stage_outputs("context", context, gain=1.0, fold=1.0)
    step = {"x": normal(2, *shape), "t": np.float32([0.8, 0.4])}
    step |= {"prepend": np.repeat(normal(1, 5, 64), 2, axis=0)}
    step |= {"context_bias": np.zeros((1, 1, 1, 5), np.float32)}
    step |= stage_outputs("dit_step", {**step, **context}, gain=1.0, fold=1.0)
    decoder = {"latents": normal(1, *shape)}
    decoder |= stage_outputs("vae_decoder", decoder, gain=1.0, fold=1.0)
    x = start = normal(1, *shape)
    for t in (1.0, 0.5):
        inputs = {**step, **context, "x": np.repeat(x, 2, axis=0), "t": np.float32([t, t])}
        v = stage_outputs("dit_step", inputs, gain=1.0, fold=1.0)["v"]
        x = x - np.float32(0.5) * (v[1:] + np.float32(3) * (v[:1] - v[1:]))
    end = {"noise": start, "latents": x, "steps": np.int64(2), "cfg_scale": np.float64(3)}
    return {"context": context, "dit_step": step, "vae_decoder": decoder, "end_to_end": end}


def stage_outputs(stage: str, inputs: Mapping[str, Any], *, gain: float, fold: float) -> Arrays:
    if stage == "context":
        tokens = np.concatenate([inputs["hidden"], inputs["transcript"]], axis=1)  # [1, P, 8]
        wide = np.repeat(tokens, DIMS.head_width // 8, axis=2)[:, None]
        cache = np.repeat(wide, DIMS.heads, axis=1)
        return {"k_00": cache, "v_00": cache / np.float32(fold)}
    if stage == "dit_step":
        x, t, rows = inputs["x"], inputs["t"], len(inputs["v_00"])
        v = np.float32(gain) * x * (1 + t[:, None, None])
        v[:rows] += np.float32(fold) * inputs["v_00"].mean(axis=(1, 2, 3))[:, None, None]
        return {"v": v + inputs["prepend"].mean(axis=(1, 2))[:, None, None]}
    waveform = np.repeat(inputs["latents"][:, :2], DIMS.downsampling_ratio, axis=2)
    return {"waveform": np.float32(0.1) * waveform}


@dataclass
class FakeEngines:
    """A function that loads engines, and what was asked of them: "bundle stage", in order."""

    asked: list[str] = field(default_factory=list)
    broken: str | None = None  # a stage whose outputs are not finite

    def __call__(self, bundle: Bundle, stage: str, threads: int | None, /) -> FakeEngine:
        if stage not in ("context", "dit_step", "vae_decoder"):
            raise BundleError(f"no {stage}")
        return FakeEngine(bundle.manifest, stage, f"{bundle.directory.name} {stage}", self)


@dataclass
class FakeEngine:
    manifest: Manifest
    stage: str
    name: str
    engines: FakeEngines

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        return self.manifest.graphs[self.stage].inputs

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        return self.manifest.graphs[self.stage].outputs

    def run(self, **inputs: Array) -> dict[str, Array]:
        assert inputs.keys() == {port.name for port in self.inputs}
        found = stage_outputs(self.stage, inputs, **self.manifest.provenance)
        if self.engines.broken == self.stage:
            found = {name: value * np.float32("nan") for name, value in found.items()}
        return found

    def bind(self, buffers: Mapping[str, Array]) -> FakeBinding:
        return FakeBinding(self, buffers)


@dataclass
class FakeBinding:
    engine: FakeEngine
    buffers: Mapping[str, Any]

    def enqueue(self) -> None:
        self.engine.engines.asked.append(self.engine.name)
        names = [port.name for port in self.engine.inputs]
        self.buffers["v"][:] = self.engine.run(**{n: self.buffers[n] for n in names})["v"]
