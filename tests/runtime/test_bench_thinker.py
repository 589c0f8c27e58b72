"""What is timed of the thinker is what a session runs, so that compiled engines take it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from omni_rt.bench_thinker import RERUN_TOKENS, bench_thinker
from omni_rt.export.engines.profiles import Buckets, profiles_of
from omni_rt.manifest import Dims, TensorSpec, ThinkerDims
from tests.runtime.tiny_bundle import DIMS

THINKER = ThinkerDims(
    layers=1, kv_heads=1, head_width=2, vocabulary=9, max_positions=4096, mel_bands=128,
    chunk_frames=200, patch_px=14, temporal_patch=2, merge=2, window_px=112,
)  # fmt: skip
WHOLE = replace(DIMS, thinker=THINKER)


@dataclass
class Recorded:
    """A language model whose sizes are kept: new tokens and tokens held."""

    dims: Dims
    sizes: list[tuple[int, int]] = field(default_factory=list)

    @property
    def inputs(self) -> list[TensorSpec]:
        shape = ("batch", 1, "past", 2)
        return [TensorSpec(name=f"past_{n}_00", dtype="float32", shape=shape) for n in "kv"]

    def run(self, **given: Any) -> dict[str, Any]:
        new, held = given["inputs_embeds"].shape[1], given["past_k_00"].shape[2]
        assert given["attention_mask"].shape[1] == new + held
        assert given["position_ids"][0, 0].tolist() == list(range(held, held + new))
        self.sizes.append((new, held))
        made = np.zeros((1, 1, new + held, 2), np.float32)
        return {"present_k_00": made, "present_v_00": made}


def test_every_run_has_a_profile_of_compiled_engines() -> None:
    engine: Any = Recorded(WHOLE)
    found = bench_thinker(engine, WHOLE, runs=1)
    profiles = profiles_of("thinker_lm", WHOLE, Buckets())
    for new, held in engine.sizes:
        sizes = {"seq": new, "past": held, "total": new + held}
        assert any(all(p[n][0] <= sizes[n] <= p[n][2] for n in sizes) for p in profiles), sizes
    assert found.rerun_512.runs == 1


def test_512_tokens_are_run_in_slices_one_after_another() -> None:
    engine: Any = Recorded(WHOLE)
    bench_thinker(engine, WHOLE, runs=1)
    sizes = engine.sizes[-2:]  # the last run of the last row
    assert sum(new for new, _ in sizes) == RERUN_TOKENS
    assert sizes[1][1] == sizes[0][0]
