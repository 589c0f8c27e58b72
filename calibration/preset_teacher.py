"""What a bundle's presets are held to."""

from __future__ import annotations

from pathlib import Path

from omni_rt.bundle import Bundle
from omni_rt.compare import check_same_model
from omni_rt.errors import BundleError


def teacher_of(bundle: Bundle, directory: Path | None) -> Bundle:
    """What a bundle's presets are held to: itself, or a student's teacher.

    Raises BundleError for a bundle that cannot sample, a student without its teacher and a teacher
    that is none or is asked otherwise; RequestError for one of another model.
    """
    for stage in ("context", "signal", "dit_step", "vae_decoder"):
        bundle.graph(stage)
    if directory is None and not bundle.student_plans:
        return bundle
    if directory is None:
        raise BundleError("this bundle is a student: give its teacher's with --teacher")
    if not bundle.student_plans:
        raise BundleError("this bundle is no student: it is held to itself, without --teacher")
    teacher = Bundle.open(directory)
    if teacher.student_plans:
        raise BundleError(f"{directory} is a student itself: give the bundle that it learnt from")
    check_same_model(bundle, teacher)
    if ("thinker_cond" in bundle.manifest.graphs) != ("thinker_cond" in teacher.manifest.graphs):
        raise BundleError(
            "of student and teacher only one has thinker_cond: they would not be asked the same; "
            "export both with it, or both without"
        )
    return teacher
