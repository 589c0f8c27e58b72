"""How far two arrays are apart: the numbers of certificates, `verify` and the parity tests."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from omni_rt.manifest import Measurement


def _float64(value: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(value, dtype=np.float64).ravel()


def _pair(
    value: ArrayLike, reference: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = _float64(value), _float64(reference)
    if a.size != b.size:
        raise ValueError(f"arrays of size {a.size} and {b.size} cannot be compared")
    return a, b


def rel_l2(value: ArrayLike, reference: ArrayLike) -> float:
    """‖value − reference‖ / ‖reference‖; infinite where only the reference is zero."""
    a, b = _pair(value, reference)
    error, size = float(np.linalg.norm(a - b)), float(np.linalg.norm(b))
    if error == 0:
        return 0.0
    return error / size if size > 0 and math.isfinite(error) else math.inf


def snr_db(value: ArrayLike, reference: ArrayLike) -> float:
    """20·log10(‖reference‖ / ‖value − reference‖); infinite for equal arrays."""
    error = rel_l2(value, reference)
    return math.inf if error == 0 else -20 * math.log10(error)


def cosine(value: ArrayLike, reference: ArrayLike) -> float:
    """Cosine of the angle between the two as vectors; 1 for two zeros."""
    a, b = _pair(value, reference)
    sizes = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / sizes if sizes > 0 else float(not a.any() and not b.any())


def max_abs(value: ArrayLike, reference: ArrayLike) -> float:
    """Largest absolute difference."""
    a, b = _pair(value, reference)
    return float(np.abs(a - b).max(initial=0.0))


def measure(
    value: ArrayLike, reference: ArrayLike, *, bound_rel_l2: float, origin: str
) -> Measurement:
    """Everything at once, beside the bound it has to meet.

    What is not finite, or compared with zero, counts as immeasurably far: the largest float,
    since JSON has no infinity.
    """
    found = rel_l2(value, reference)
    if not math.isfinite(found):
        far = float(np.finfo(np.float64).max)
        return Measurement(
            rel_l2=far,
            max_abs=far,
            cosine=0.0,
            snr_db=None,
            bound_rel_l2=bound_rel_l2,
            origin=origin,
        )
    snr = snr_db(value, reference)
    return Measurement(
        rel_l2=found,
        max_abs=max_abs(value, reference),
        cosine=cosine(value, reference),
        snr_db=snr if math.isfinite(snr) else None,
        bound_rel_l2=bound_rel_l2,
        origin=origin,
    )
