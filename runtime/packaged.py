"""The bundle that comes with the package."""

from __future__ import annotations

from pathlib import Path

from omni_rt.errors import BundleError
from omni_rt.manifest import MANIFEST


def miniature() -> Path:
    """The directory of the miniature, a small trained bundle: `Session(omni_rt.miniature())`.

    Raises BundleError if this installation has none.
    """
    package = Path(__file__).resolve().parent
    # An editable installation has it where the repository has it.
    checkout = package.name == "runtime"
    folder = package.parent / "miniature/bundle" if checkout else package / "bundles/miniature"
    if not (folder / MANIFEST).is_file():
        raise BundleError(f"no miniature comes with this installation (at {folder}): give a bundle")
    return folder
