"""What rounding changed, measured on cases that nothing was observed on, beside bounds.

A rounded bundle is held to three things: every graph is near the torch reference on real calls;
whole trajectories from equal noise end near where the unrounded model's end, in latents and in
sound; and, of a model whose tasks have right answers, results stay right (`behaviour.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from omni_rt import verify
from omni_rt.audio import Audio
from omni_rt.bundle import Bundle
from omni_rt.calibration.inputs import Case
from omni_rt.calibration.parity import write_parity
from omni_rt.calibration.recipes import Recipes
from omni_rt.calibration.recording import Recorder
from omni_rt.calibration.search import Sensitivity
from omni_rt.calibration.trajectories import Course, Trajectory, compared, run_case
from omni_rt.calibration.yardstick import FINER, Yardstick, finer_steps, summed_errors
from omni_rt.export.pack import list_files
from omni_rt.manifest import (
    Figure,
    Manifest,
    Rounding,
    VelocityError,
    read_manifest,
    write_manifest,
)
from omni_rt.metrics import rel_l2
from omni_rt.session import Session
from omni_rt.targets import Target, rounded_bound
from omni_rt.uncertified import unsaid

Progress = Callable[[str], None]

_CALLS = 16  # of a stage, for each case
# Near t = 0 the velocity is small beside what it is made from: there the miniature's FP8 step is at
# 1.1 times the bound. Ranges that were observed at other times are at 5.
_WORST_TIME = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Certification:
    """What is to be certified, against what, on what."""

    source: Bundle
    target: Target
    recipes: Recipes
    inputs: str  # digest of the set the ranges were observed on
    cases: Sequence[Case]
    steps: int
    course: Course
    sensitivities: Sequence[Sensitivity]  # of the search, if there was one


Pair = tuple[str, Audio, Audio]  # a case, its sound without rounding and with it


def certify(draft: Path, asked: Certification, progress: Progress) -> list[Pair]:
    """Write parity files and the certificate of the quantised bundle in `draft`.

    Returns sounds to look at beside it.
    """
    recorder = Recorder(
        asked.source, {s: r.folds for s, r in asked.recipes.by_stage.items()}, most=_CALLS
    )
    exact = _reference_run(asked, recorder, progress)
    yardstick = _yardstick(asked, recorder, exact, progress)
    parity = write_parity(draft, asked, recorder, exact, yardstick.bounds["latents"])
    manifest = read_manifest(draft)
    manifest = replace(manifest, parity=parity, files=list_files(draft))
    write_manifest(manifest, draft)
    rounded = _rounded_run(draft, asked, progress)
    velocity = _velocity_errors(draft, manifest, recorder)
    rounding = Rounding(
        target=asked.target.name,
        source=asked.source.id,
        source_model_id=asked.source.model_id,
        inputs=asked.inputs,
        high_precision=asked.recipes.kept,
        sensitivity={s.group: s.error for s in asked.sensitivities if s.error is not None},
        velocity=velocity,
        figures={
            **_figures(compared(rounded, exact), yardstick),
            **_largest_velocity_error(manifest, velocity),
            **_same_tokens(draft, manifest, recorder),
        },
        behaviour={},
        largest=asked.recipes.largest,
        weights_only=asked.recipes.weights_only,
        per_token=asked.recipes.per_token,
        centred=asked.recipes.centred,
        weights_sensitivity={
            s.group: s.weights_error for s in asked.sensitivities if s.weights_error is not None
        },
    )
    certificate = verify.certificate(
        Bundle(draft, manifest),
        reference=f"torch {torch.__version__}, fp32, folded as the graphs",
        tell=progress,
    )
    certificate = replace(certificate, rounding=rounding)
    write_manifest(replace(manifest, certificate=certificate), draft)
    return [(name, exact[name].audio, rounded[name].audio) for name in exact]


def _reference_run(
    asked: Certification, recorder: Recorder, progress: Progress
) -> dict[str, Trajectory]:
    """Every case through the folded torch stages, which remember their calls."""
    return recorder.trajectories(
        asked.cases,
        plan=asked.course.plan(asked.steps),
        cfg_scale=asked.course.cfg_scale,
        tell=lambda name: progress(f"reference: {name}"),
    )


def _yardstick(
    asked: Certification,
    recorder: Recorder,
    exact: Mapping[str, Trajectory],
    progress: Progress,
) -> Yardstick:
    """How far rounded trajectories may end: a student has no finer steps to be held to."""
    with unsaid(), Session(asked.source.directory, allow_uncertified=True) as session:
        if asked.course.own_plan is None:
            finer = _run(session, asked, FINER * asked.steps, progress, "finer steps")
            return finer_steps(exact, finer)
        calls = recorder.calls("dit_step")
        return summed_errors(session, exact, calls, target=asked.target)


def _rounded_run(draft: Path, asked: Certification, progress: Progress) -> dict[str, Trajectory]:
    with unsaid(), Session(draft, allow_uncertified=True) as session:
        return _run(session, asked, asked.steps, progress, "rounded")


def _run(
    session: Session,
    asked: Certification,
    steps: int,
    progress: Progress,
    what: str,
) -> dict[str, Trajectory]:
    found = {}
    for case in asked.cases:
        if case.request is None:
            continue
        progress(f"{what}: {case.name}")
        course = asked.course
        made = run_case(session, case, plan=course.plan(steps), cfg_scale=course.cfg_scale)
        if made is not None:
            found[case.name] = made
    return found


_UNITS = {"log_spectral_distance_db": "dB"}


def _figures(found: Mapping[str, float], yardstick: Yardstick) -> dict[str, Figure]:
    return {
        name: Figure(
            value=value,
            bound=yardstick.bounds[name],
            unit=_UNITS.get(name, ""),
            origin=yardstick.origins[name],
        )
        for name, value in found.items()
    }


def _velocity_errors(
    draft: Path, manifest: Manifest, recorder: Recorder
) -> tuple[VelocityError, ...]:
    """The rounded step at the reference's own states, by time."""
    bundle = Bundle(draft, manifest)
    engine = verify.load(bundle, "dit_step")
    ports = [port.name for port in engine.inputs]
    found: dict[float, list[float]] = {}
    for call in recorder.calls("dit_step"):
        inputs = {name: call.arrays[name] for name in ports}
        error = rel_l2(engine.run(**inputs)["v"], call.arrays["v"])
        found.setdefault(float(call.arrays["t"].flat[0]), []).append(error)
    return tuple(VelocityError(t=t, rel_l2=float(np.mean(found[t]))) for t in sorted(found))


def _largest_velocity_error(
    manifest: Manifest, velocity: Sequence[VelocityError]
) -> dict[str, Figure]:
    """The worst time: ranges that were observed at other times than these show here."""
    precision = manifest.graphs["dit_step"].precision
    found = rounded_bound(precision, "dit_step", manifest.dims)
    if found is None:
        return {}
    figure = Figure(
        value=max(error.rel_l2 for error in velocity),
        bound=_WORST_TIME * found[0],
        origin=f"{_WORST_TIME:g} times the bound of a step at any one time: {found[1]}",
    )
    return {"largest_velocity_error": figure}


def _same_tokens(draft: Path, manifest: Manifest, recorder: Recorder) -> dict[str, Figure]:
    """How often the rounded language model's next token is the exact one's, on the same words."""
    calls = recorder.calls("thinker_lm")
    if not calls:
        return {}
    engine = verify.load(Bundle(draft, manifest), "thinker_lm")
    ports = [port.name for port in engine.inputs]
    same = [
        engine.run(**{name: call.arrays[name] for name in ports})["logits"].argmax()
        == call.arrays["logits"].argmax()
        for call in calls
    ]
    origin = f"of {len(calls)} tokens of exact answers; one in twenty may be another wording"
    figure = Figure(value=float(np.mean(same)), bound=0.95, at_least=True, origin=origin)
    return {"same_next_token": figure}
