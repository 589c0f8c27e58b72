"""The key that vouches for plans: a plan is executable code, so only this user's plans are loaded.

A plan's signature is an HMAC-SHA256 with a key of 32 bytes, which lies in a file of this user alone
and never in a bundle. Plans of a build host are trusted by adding the host's key.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import stat
from pathlib import Path

from omni_rt.errors import EngineError
from omni_rt.manifest import TargetEngines

KEY_BYTES = 32
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def config_folder() -> Path:
    """Where this user's settings lie: $XDG_CONFIG_HOME/omni_rt, or ~/.config/omni_rt."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "omni_rt"


def own_key_file() -> Path:
    """Where this user's own key lies, if there is one."""
    return config_folder() / "engine.key"


def own_key() -> bytes:
    """This user's key, made when it is first needed. Raises EngineError if it cannot be used."""
    path = own_key_file()
    if not path.exists():
        _write_key(path, secrets.token_bytes(KEY_BYTES))
    return read_key(path)


def read_key(path: Path) -> bytes:
    """The key in a file. Raises EngineError unless it has 32 bytes and is this user's alone."""
    try:
        facts = path.stat()
        key = path.read_bytes()
    except OSError as error:
        raise EngineError(f"key {path}: {error.strerror}") from error
    if facts.st_uid != os.getuid() or facts.st_mode & _OTHERS:
        raise EngineError(f"key {path} is open to others: chmod 600 {path}, as its owner")
    if len(key) != KEY_BYTES:
        raise EngineError(f"key {path}: {len(key)} bytes, expected {KEY_BYTES}: this is no key")
    return key


def trust(path: Path) -> Path:
    """Trust plans that were signed with a key: keep a copy of it. Returns where.

    Raises EngineError for a file that is no key, or open to others.
    """
    key = read_key(path)
    kept = config_folder() / "trusted" / f"{hashlib.sha256(key).hexdigest()[:16]}.key"
    if not kept.exists():
        _write_key(kept, key)
    return kept


def trusted_keys() -> list[bytes]:
    """This user's own key, if there is one, and those that were trusted since."""
    added = sorted((config_folder() / "trusted").glob("*.key"))
    return [read_key(path) for path in (own_key_file(), *added) if path.exists()]


def identity_of(engines: TargetEngines, stage: str) -> dict[str, str]:
    """What a plan's signature covers besides its bytes."""
    return {
        "stage": stage,
        "graph": engines.stages[stage].graph,
        "library": engines.library,
        "version": engines.version,
        "compute_capability": engines.compute_capability,
    }


def signature(key: bytes, plan: bytes, **identity: str) -> str:
    """The signature of a plan as what `identity` says: its stage, graph, library, device."""
    said = json.dumps(identity, sort_keys=True).encode()
    message = hashlib.sha256(said).digest() + hashlib.sha256(plan).digest()
    return hmac.new(key, message, hashlib.sha256).hexdigest()


def is_signed(claimed: str, plan: bytes, **identity: str) -> bool:
    """Whether a signature was made with a key that this user trusts."""
    return any(
        hmac.compare_digest(claimed.encode(), signature(key, plan, **identity).encode())
        for key in trusted_keys()
    )


def _write_key(path: Path, key: bytes) -> None:
    """Write a key for this user alone; one that is there by now is kept."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(key)
            os.link(draft, path)
        finally:
            draft.unlink()
    except FileExistsError:
        return
    except OSError as error:
        raise EngineError(f"cannot keep a key at {path}: {error.strerror}") from error
