"""Trained parts: their files, and the gate that a part must pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from omni_rt.errors import ExportError
from omni_rt.export.miniature.gate import Share, check_gate, vae_shares
from omni_rt.export.miniature.train_vae import new_vae
from omni_rt.export.miniature.weights import load_autoencoder, save_autoencoder


def test_a_part_is_written_and_read_in_the_official_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = new_vae()
    path = save_autoencoder(vae, tmp_path, {"command": "a test"})
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"command": "a test"}
        assert all(name.startswith("pretransform.model.") for name in file.keys())  # noqa: SIM118
    read = load_autoencoder(new_vae(), tmp_path)
    pairs = zip(read.state_dict().values(), vae.state_dict().values(), strict=True)
    assert all(torch.equal(a, b.bfloat16().float()) for a, b in pairs)


def test_no_file_and_a_file_of_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no trained part"):
        load_autoencoder(new_vae(), tmp_path)
    vae = new_vae()
    save_autoencoder(vae, tmp_path, {})
    del vae.encoder.layers[0]
    with pytest.raises(ExportError, match="another configuration"):
        load_autoencoder(vae, tmp_path)


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
def test_an_untrained_autoencoder_is_stopped_at_the_gate() -> None:
    torch.manual_seed(0)
    with pytest.raises(ExportError, match="below"):
        check_gate(vae_shares(new_vae().eval(), count=4))
