"""Where the packaged bundle lies: in a wheel, and in a checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

import omni_rt
from omni_rt import packaged
from omni_rt.errors import BundleError


@pytest.mark.parametrize(
    ("package", "bundle"),
    [
        ("lib/omni_rt", "lib/omni_rt/bundles/miniature"),
        ("repository/runtime", "repository/miniature/bundle"),
    ],
)
def test_it_is_found_where_it_is_and_missed_where_it_is_not(
    package: str, bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / package).mkdir(parents=True)
    monkeypatch.setattr(packaged, "__file__", str(tmp_path / package / "packaged.py"))
    with pytest.raises(BundleError, match="no miniature comes with this installation"):
        omni_rt.miniature()
    (tmp_path / bundle).mkdir(parents=True)
    with pytest.raises(BundleError, match="give a bundle"):
        omni_rt.miniature()
    (tmp_path / bundle / "manifest.json").write_text("{}")
    assert omni_rt.miniature() == tmp_path / bundle
