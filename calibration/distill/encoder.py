"""What reads prompts, hears and sees for a model: a session on a bundle of the same checkpoint.

Given by the user, or exported here: only the stages that condition, none of the transformer's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from omni_rt.bundle import Bundle
from omni_rt.errors import ExportError
from omni_rt.export.build import export_bundle
from omni_rt.export.contract import MODEL_STAGES, SYNCHFORMER
from omni_rt.export.sources import ExportOptions

_STAGES = ("thinker_embed", "thinker_cond", "audio_tower", "vision_tower")
_ANSWERS = "thinker_lm"  # no question is asked


def encoder_bundle(
    given: Path | None, files: ExportOptions, *, sha256: str, tell: Callable[[str], None]
) -> Bundle:
    """The given bundle, or the one at `files.out`, which is exported if it is not there yet.

    Raises BundleError or ExportError if it was made from another checkpoint (than of this digest).
    """
    if given is None and not files.out.is_dir():
        if files.qwen is None:
            raise ExportError(
                "distill: nothing reads prompts: give --bundle, exported from this checkpoint, or "
                "--qwen DIR (and --upstream, --synchformer) to export what is needed"
            )
        chosen = (*_STAGES, SYNCHFORMER) if files.synchformer is not None else _STAGES
        export_bundle(replace(files, stages=chosen), progress=tell)
    bundle = Bundle.open(files.out if given is None else given)
    made_from = bundle.manifest.provenance.get("checkpoint", {}).get("sha256")
    if made_from != sha256:
        raise ExportError(f"distill: {bundle.directory} was made from another checkpoint")
    return bundle


def stages_of(bundle: Bundle) -> Collection[str]:
    """What decides which tasks are drawn: the encoder's stages and all of the model itself."""
    return sorted({*bundle.manifest.graphs, *MODEL_STAGES} - {_ANSWERS})
