"""The guidance that a model is best sampled with, which its configuration may tell by `guidance`.

Official configurations do not have the key: theirs is the 7 of upstream's interface (spec UPSTREAM,
`generate` and `edit`). Upstream's code ignores it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from omni_rt.errors import ExportError
from omni_rt.manifest import OFFICIAL_GUIDANCE

KEY = "guidance"


def guidance_of(raw: Mapping[str, Any]) -> float:
    """What a raw configuration says. Raises ExportError for what is no finite number."""
    found = raw.get(KEY, OFFICIAL_GUIDANCE)
    if type(found) not in (int, float) or not math.isfinite(found):
        raise ExportError(f"config: {KEY} must be a finite number, got {found!r:.80}")
    return float(found)
