"""Tolerances with their origins, and one assertion that uses them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

TOLERANCES: dict[str, Any] = json.loads(
    (Path(__file__).parent / "tolerances.json").read_text(encoding="utf-8")
)


def assert_close(value: Any, reference: Any, tolerance: str, *, extra: float = 0.0) -> None:
    """Largest absolute difference within the named tolerance (plus a stated `extra`)."""
    found = np.asarray(value, np.float64)
    wanted = np.asarray(reference, np.float64)
    assert found.shape == wanted.shape
    worst = float(np.abs(found - wanted).max())
    assert worst <= TOLERANCES[tolerance] + extra
