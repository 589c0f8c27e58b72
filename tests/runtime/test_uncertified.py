"""A bundle whose parity is not proved may run, and whoever runs it is told so once."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from omni_rt import BundleError, Session, UncertifiedWarning
from omni_rt.cli_options import open_session
from omni_rt.uncertified import unsaid

from .tiny_bundle import BAD, certificate_of, rewrite, write_tiny_bundle


@pytest.fixture
def failing(tmp_path: Path) -> Path:
    """A bundle in form, whose certificate fails."""
    manifest = write_tiny_bundle(tmp_path)
    certificate = certificate_of(manifest)
    rewrite(
        tmp_path,
        manifest,
        files=manifest.files,
        certificate=replace(certificate, stages={**certificate.stages, "context/y": BAD}),
    )
    return tmp_path


def test_a_session_warns_where_it_is_made(failing: Path) -> None:
    with pytest.raises(BundleError, match="certificate fails for context/y"):
        Session(failing)
    with pytest.warns(UncertifiedWarning, match="the certificate fails for context/y") as said:
        Session(failing, allow_uncertified=True).close()
    assert [one.filename for one in said] == [__file__]


def test_of_a_certified_bundle_there_is_nothing_to_say(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Session(tmp_path, allow_uncertified=True).close()


def test_what_measures_bundles_says_nothing(failing: Path) -> None:
    with warnings.catch_warnings(record=True) as said:
        with unsaid():
            Session(failing, allow_uncertified=True).close()
        assert not said


def test_a_command_says_it_once_in_its_own_way(
    failing: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings(record=True) as said:
        open_session(failing, uncertified=True).close()
    assert not said
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("context/y") == 1
    assert "warning: " in told
