"""The gate that a part must pass."""

from __future__ import annotations

import numpy as np
import pytest

from omni_rt.errors import ExportError
from omni_rt.export.miniature.fit_vae import fitted_vae
from omni_rt.export.miniature.gate import check_gate, vae_shares
from omni_rt.export.miniature.share import Share


def test_the_gate_names_what_is_below_it() -> None:
    good, bad = Share.of([True] * 20), Share.of([True] * 18 + [False] * 2)
    check_gate({"note": good})
    with pytest.raises(ExportError, match=r"below 0\.95.*chord 0\.900"):
        check_gate({"note": good, "chord": bad})


def test_an_interval_holds_its_share_and_narrows() -> None:
    stream = np.random.RandomState(0)
    few, many = (Share.of(list(stream.uniform(size=n) < 0.8)) for n in (20, 2000))
    for share in (few, many):
        assert share.low <= share.passed <= share.high
    assert many.high - many.low < (few.high - few.low) / 4
    assert Share.of([True] * 5) == Share(passed=1.0, low=1.0, high=1.0, count=5)


@pytest.mark.slow
def test_an_autoencoder_that_heard_two_sounds_is_stopped_at_the_gate() -> None:
    with pytest.raises(ExportError, match="below"):
        check_gate(vae_shares(fitted_vae(0, clips=2), count=4))
