"""Run Audio-Omni bundles: `omni_rt.Session`. Importing this needs nothing but NumPy."""

from omni_rt.audio import Audio
from omni_rt.encode import Conditioning
from omni_rt.errors import (
    BundleError,
    Cancelled,
    EngineError,
    ExportError,
    OmniError,
    RequestError,
    UncertifiedWarning,
)
from omni_rt.packaged import miniature
from omni_rt.plans import Plan, make_plan
from omni_rt.session import Session
from omni_rt.tasks import (
    Add,
    Extract,
    Remove,
    Speech,
    StyleTransfer,
    TextToAudio,
    TextToMusic,
    TextToSpeech,
    VideoToAudio,
    VideoToMusic,
    VoiceConversion,
)
from omni_rt.understanding import Reply, Turn

__version__ = "0.1.0"

__all__ = [
    "Add",
    "Audio",
    "BundleError",
    "Cancelled",
    "Conditioning",
    "EngineError",
    "ExportError",
    "Extract",
    "OmniError",
    "Plan",
    "Remove",
    "Reply",
    "RequestError",
    "Session",
    "Speech",
    "StyleTransfer",
    "TextToAudio",
    "TextToMusic",
    "TextToSpeech",
    "Turn",
    "UncertifiedWarning",
    "VideoToAudio",
    "VideoToMusic",
    "VoiceConversion",
    "__version__",
    "make_plan",
    "miniature",
]
