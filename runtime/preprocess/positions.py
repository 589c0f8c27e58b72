"""Position ids of the thinker's tokens (spec THINKER §3.4)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def text_positions(length: int) -> NDArray[np.int64]:
    """[3, 1, length]: plain text counts up equally on the time, height and width axes."""
    return np.broadcast_to(np.arange(length, dtype=np.int64), (3, 1, length)).copy()
