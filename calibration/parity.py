"""`parity/*.npz` of a quantised bundle: real calls, and what the exact stages made of them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from omni_rt.calibration.recording import Recorded, Recorder
from omni_rt.calibration.trajectories import Trajectory
from omni_rt.export.contract import SYNCHFORMER
from omni_rt.manifest import GraphSpec
from omni_rt.verify import BOUND, END_TO_END, ENLARGED, GRID, enlarged

if TYPE_CHECKING:
    from omni_rt.calibration.certificate import Certification

_MOST_BYTES = 2 << 20  # of a call that a bundle carries
# Not rounded, and as well measured by the unrounded bundle's small synthetic inputs.
_SYNTHETIC = ("vae_encoder", "vae_decoder")
_OF_ONE_CASE = ("context", "signal", "dit_step")  # the step takes the others' outputs
_ALIKE = (("grids",), ("chunks",))  # first axes of towers: one element measures as much as all


def write_parity(
    draft: Path,
    asked: Certification,
    recorder: Recorder,
    exact: Mapping[str, Trajectory],
    bound_latents: float,
) -> dict[str, str]:
    """Write what every stage is measured by, and one trajectory. Returns path by stage.

    bound_latents: how far (relative L2) the rounded trajectory may end from it.
    """
    folder, source = draft / "parity", asked.source
    folder.mkdir()
    written = {}
    case = chosen_case(recorder, exact)
    for stage, spec in source.manifest.graphs.items():
        call = None if stage in _SYNTHETIC else _call(recorder.calls(stage), stage, case)
        path = f"parity/{stage}.npz"
        if call is not None and stage == SYNCHFORMER:
            _save(draft / path, _small_pictures(recorder, call))
        elif call is not None:
            _save(draft / path, _arrays(call, spec, stage))
        elif stage in source.manifest.parity:
            shutil.copyfile(source.path(source.manifest.parity[stage]), draft / path)
        else:
            continue
        written[stage] = path
    written[END_TO_END] = f"parity/{END_TO_END}.npz"
    trajectory = exact[case]
    _save(
        draft / written[END_TO_END],
        {
            "noise": trajectory.noise[None],
            "latents": trajectory.latents[None],
            **_way(asked),
            BOUND: np.array(bound_latents),
        },
    )
    return written


def _way(asked: Certification) -> dict[str, NDArray[np.generic]]:
    """How noise became latents: Euler steps, guidance, and a student's own times."""
    course = asked.course
    way = {"cfg_scale": np.array(course.cfg_scale), "steps": np.array(asked.steps)}
    own = None if course.own_plan is None else asked.source.plan(course.own_plan, cfg_scale=1.0)
    return way if own is None else way | {"steps": np.array(own.steps), GRID: np.array(own.grid)}


def chosen_case(recorder: Recorder, exact: Mapping[str, Trajectory]) -> str:
    """The case whose context is the shortest: the file that carries it is the smallest.

    Of those that ran `signal`: what words alone prepend is computed once a session.
    """
    sizes = {call.case: call.size_bytes for call in recorder.calls("context")}
    heard = {call.case for call in recorder.calls("signal")}
    return min((name for name in exact if name in sizes.keys() & heard), key=lambda n: sizes[n])


def _call(calls: Sequence[Recorded], stage: str, case: str) -> Recorded | None:
    """The chosen case's call from the middle of the run, where one call needs another's results;
    else the smallest, unless that is large.
    """
    if stage in _OF_ONE_CASE:
        own = [call for call in calls if call.case == case]
        return own[len(own) // 2] if own else None
    smallest = min(calls, key=lambda call: call.size_bytes, default=None)
    if smallest is None or stage == SYNCHFORMER or smallest.size_bytes <= _MOST_BYTES:
        return smallest
    return None


def _small_pictures(recorder: Recorder, call: Recorded) -> Mapping[str, NDArray[np.generic]]:
    """The first segment in 28 × 28 pixels, which are enlarged eightfold when they are used."""
    frames = np.asarray(call.arrays["frames"][:1], np.float32)
    tiles = frames.reshape(*frames.shape[:-2], frames.shape[-2] // 8, 8, frames.shape[-1] // 8, 8)
    small = ((tiles.mean((-3, -1)) + 1) * 127.5).round().astype(np.uint8)
    made = recorder.run(SYNCHFORMER, frames=enlarged(small))
    return {"frames" + ENLARGED: small, **made}


def _arrays(call: Recorded, spec: GraphSpec, stage: str) -> dict[str, NDArray[np.generic]]:
    """A call by the graph's ports; a step's keys and values are `context`'s."""
    ports = [*spec.inputs, *spec.outputs]
    if stage == "dit_step":
        ports = [port for port in ports if port.name[:2] not in ("k_", "v_")]
    return {
        port.name: call.arrays[port.name][: 1 if port.shape[:1] in _ALIKE else None]
        for port in ports
    }


def _save(path: Path, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    np.savez(path, **arrays)  # type: ignore[arg-type]
