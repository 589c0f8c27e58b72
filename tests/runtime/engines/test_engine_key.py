"""Keys: this user's alone, never in a bundle; signatures cover a plan and where it belongs."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from omni_rt.engines import engine_key
from omni_rt.errors import EngineError

pytestmark = pytest.mark.usefixtures("home")

PLAN = b"a plan"
WHERE = {"stage": "dit_step", "graph": "0a", "version": "1.7"}


def test_the_own_key_is_made_once_for_this_user_alone() -> None:
    key = engine_key.own_key()
    assert engine_key.own_key() == key
    assert len(key) == 32
    path = engine_key.own_key_file()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no draft stays


def test_a_signature_is_of_the_plan_its_place_and_the_key() -> None:
    key = engine_key.own_key()
    signed = engine_key.signature(key, PLAN, **WHERE)
    assert engine_key.is_signed(signed, PLAN, **WHERE)
    assert not engine_key.is_signed(signed, PLAN + b"\0", **WHERE)
    for part in WHERE:
        assert not engine_key.is_signed(signed, PLAN, **{**WHERE, part: "other"})
    assert not engine_key.is_signed(engine_key.signature(bytes(32), PLAN, **WHERE), PLAN, **WHERE)
    assert not engine_key.is_signed("", PLAN, **WHERE)


def test_a_build_hosts_key_is_trusted_once_it_is_added(home: Path) -> None:
    host = home / "host.key"
    host.write_bytes(bytes(range(32)))
    host.chmod(0o600)
    signed = engine_key.signature(bytes(range(32)), PLAN, **WHERE)
    assert not engine_key.is_signed(signed, PLAN, **WHERE)
    kept = engine_key.trust(host)
    assert engine_key.trust(host) == kept
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert engine_key.is_signed(signed, PLAN, **WHERE)


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (bytes(32), 0o644, "open to others"),
        (bytes(32), 0o640, "open"),
        (b"short", 0o600, "5 bytes"),
    ],
)
def test_a_key_of_no_use_is_one_line(content: bytes, mode: int, says: str, home: Path) -> None:
    path = home / "bad.key"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(EngineError, match=says) as caught:
        engine_key.trust(path)
    assert "\n" not in str(caught.value)
    assert engine_key.trusted_keys() == []


def test_a_missing_key_and_a_folder_that_cannot_be_are_one_line(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EngineError, match="No such file"):
        engine_key.read_key(home / "nowhere.key")
    (home / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "file"))
    with pytest.raises(EngineError, match="cannot keep a key"):
        engine_key.own_key()
