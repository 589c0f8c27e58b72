"""Every error that omni_rt raises on purpose, so that an app needs one `except OmniError`, and its
warnings.

Messages say what was expected, what came, and what to do about it, on one line.
"""


class OmniError(Exception):
    """Base of all errors below."""


class BundleError(OmniError):
    """A bundle is missing, incomplete, damaged, uncertified or of another version."""


class RequestError(OmniError, ValueError):
    """The caller asked for something that cannot be done: a bad value, file or combination."""


class EngineError(OmniError):
    """A graph could not be loaded or failed while running."""


class OutOfMemoryError(EngineError):
    """The device has no room for what was asked; it may have, once other things are let go."""


class ExportError(OmniError):
    """A checkpoint, its configuration or its text files cannot be turned into a bundle."""


class UncertifiedWarning(UserWarning):
    """A bundle runs although its certificate is missing, does not match it or fails."""


class Cancelled(OmniError):  # noqa: N818  the design's name: not a fault
    """The request was cancelled by its caller; the session is ready for the next one."""
