"""Requests of all tasks, encoded once and followed by several plans at stated noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from omni_rt.calibration.case import Case
from omni_rt.calibration.trajectories import Trajectory, encoded, followed
from omni_rt.session import Session

Progress = Callable[[str], None]


class EncodedRequests:
    """Cases made ready once by a session, to be followed by any of its plans."""

    def __init__(self, session: Session, cases: Sequence[Case], progress: Progress) -> None:
        """Raises ExportError naming a case that an engine breaks down on."""
        progress(f"encoding {len(cases)} requests")
        self._given = [(case, encoded(session, case)) for case in cases]
        self._session, self._progress = session, progress
        self._found: dict[tuple[str, float, int], dict[str, Trajectory]] = {}

    def followed(
        self, plan: str, *, cfg_scale: float, seed_offset: int = 0
    ) -> dict[str, Trajectory]:
        """Every case from the noise of its seed + `seed_offset`, by name; each once, then kept.

        Raises ExportError as `trajectories.followed` does.
        """
        asked = (plan, cfg_scale, seed_offset)
        if asked not in self._found:
            self._progress(f"{plan} on {len(self._given)} requests")
            self._found[asked] = {
                case.name: followed(
                    self._session,
                    case,
                    given,
                    plan=plan,
                    cfg_scale=cfg_scale,
                    seed_offset=seed_offset,
                )
                for case, given in self._given
            }
        return self._found[asked]
