"""`manifest.json`: the typed contract between what makes a bundle and what runs it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from omni_rt import strict_json
from omni_rt.errors import BundleError
from omni_rt.preset_record import PresetRecord
from omni_rt.whole_file import draft_of

SCHEMA = 2
MANIFEST = "manifest.json"
_MAX_MANIFEST_BYTES = 16 << 20

Precision = Literal["fp32", "bf16", "fp16", "int8", "fp8", "int4"]
BaseType = Literal["float32", "float16", "bfloat16"]  # of what a compiled graph does not round

OFFICIAL_GUIDANCE = 7.0  # default of the original's interface (spec UPSTREAM, generate and edit)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkerDims:
    """Sizes of the thinker and its two towers (spec THINKER §0)."""

    layers: int
    kv_heads: int
    head_width: int
    vocabulary: int
    max_positions: int  # tokens of its context
    mel_bands: int
    chunk_frames: int  # mel frames (10 ms each) of one chunk of the audio tower
    patch_px: int
    temporal_patch: int  # frames per grid
    merge: int  # merge × merge patches become one token
    window_px: int  # of the vision tower's local attention

    @property
    def patch_values(self) -> int:
        """Numbers in one patch: colours, frames, rows, columns."""
        return 3 * self.temporal_patch * self.patch_px**2


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialIds:
    """Token ids with a meaning (spec THINKER §3.1)."""

    audio: int
    image: int
    video: int
    audio_bos: int
    audio_eos: int
    vision_bos: int
    vision_eos: int
    stop: tuple[int, ...]  # an answer ends at any of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Dims:
    """Sizes of the model, as DESIGN's stage table names them."""

    width: int  # D
    depth: int
    heads: int  # H
    head_width: int  # d
    latent_channels: int  # C
    latent_frames: int  # L
    prepend_tokens: int  # N: sync tokens, then mel tokens
    hidden_width: int  # of the thinker's states
    context_tokens: int  # at most so many thinker states; more are interpolated
    cond_width: int  # of the conditioners' tokens
    transcript_ids: int  # T: characters the transcript graph takes
    transcript_tokens: int
    mel_frames: int
    sync_rows: int
    sync_width: int
    sample_rate_hz: int
    audio_channels: int
    downsampling_ratio: int  # samples per latent frame
    window_samples: int  # of the waveform that conditions
    clip_samples: int  # of the waveform that comes out
    thinker: ThinkerDims | None  # None: exported without it


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One input or output of a graph; strings are dynamic dimensions."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSpec:
    """One portable graph. Graphs with different `fold_id` do not belong together."""

    path: str
    data: tuple[str, ...]
    precision: Precision
    opset: int
    fold_id: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSpec:
    """Files and sizes of the text side; None where the bundle has no such part."""

    tokenizer: str | None
    prompts: str | None
    vocabulary: str | None
    special_ids: SpecialIds | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSpec:
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One comparison with the torch reference, and the bound it had to meet."""

    rel_l2: float
    max_abs: float
    cosine: float
    snr_db: float | None  # None: equal to the bit, or not comparable (see rel_l2)
    bound_rel_l2: float
    origin: str  # where the bound comes from

    @property
    def passed(self) -> bool:
        return self.rel_l2 <= self.bound_rel_l2


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number and the bound it had to meet."""

    value: float
    bound: float
    at_least: bool = False  # else at most
    unit: str = ""
    origin: str  # where the bound comes from

    @property
    def passed(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound


@dataclass(frozen=True, slots=True, kw_only=True)
class VelocityError:
    """How far the velocity is off at a time, at the reference's own states."""

    t: float
    rel_l2: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How often a kind of task came out right, in both bundles on the same examples and noise."""

    count: int
    reference: float  # share that is right without rounding
    share: float  # with it
    chance: float
    drop: Figure  # upper 95 % bootstrap bound of the paired drop, in points
    plan: str = ""  # that both were asked by; empty for answers, and where it was not kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """What a quantised bundle was made for and from, and what rounding changed end to end."""

    target: str
    source: str  # id of the unrounded bundle
    inputs: str  # digest of what the ranges were observed on
    high_precision: tuple[str, ...]  # matrices that stayed so, with those that read the same, and
    # attentions
    sensitivity: Mapping[str, float]  # of the step's groups, if searched: error of each alone
    velocity: tuple[VelocityError, ...]
    figures: Mapping[str, Figure]  # latents and sound after whole trajectories
    behaviour: Mapping[str, Behaviour]  # by kind of example; of the miniature alone
    largest: Mapping[str, float] = field(default_factory=dict)  # by stage: what its products read
    # and put out, as large as it was observed, folded; compilers choose 16-bit types by it
    weights_only: tuple[str, ...] = ()  # matrices that are rounded, but not what they read, with
    # those that read the same
    per_token: tuple[str, ...] = ()  # matrices that read activations with a scale for each token
    centred: tuple[str, ...] = ()  # matrices that read activations less a constant vector
    weights_sensitivity: Mapping[str, float] = field(default_factory=dict)  # of the step's groups,
    # if searched: error of each with its weights alone rounded
    source_model_id: str = ""  # of the unrounded bundle, which other plans or presets leave as it
    # is; empty if it was rounded before this was kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """Parity with the reference, tied by hash to the graphs that were measured."""

    reference: str
    library: str
    stages: Mapping[str, Measurement]  # "dit_step/v" → …
    end_to_end: Mapping[str, Measurement]
    graphs: Mapping[str, str]  # stage → digest of its files
    rounding: Rounding | None = None  # None: nothing was rounded

    def failed(self) -> tuple[str, ...]:
        """Names of what misses its bound."""
        measured: dict[str, Measurement | Figure] = {**self.stages, **self.end_to_end}
        if self.rounding is not None:
            measured |= self.rounding.figures
            measured |= {name: b.drop for name, b in self.rounding.behaviour.items()}
        return tuple(name for name, found in measured.items() if not found.passed)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileSpec:
    """Sizes that a compiled graph takes; of several, the first that fits is run."""

    sizes: Mapping[str, tuple[int, ...]]  # dynamic dimension → fewest, usual and most
    activation_bytes: int  # of the device's memory, while it runs


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """One graph compiled for a device: a plan, what it takes, and what was proved of it."""

    path: str
    graph: str  # digest of the graph's files
    base_type: BaseType
    profiles: tuple[ProfileSpec, ...]
    weight_bytes: int
    build_s: float
    build_peak_rss_bytes: int
    rounded_products: int  # all of which the compiler runs rounded, in every profile
    fused_attentions: int
    attentions: int
    signature: str  # HMAC-SHA256 over the plan and where it belongs, with a key of the builder's
    base_reason: str = ""  # why it is that type, where it is not the usual or nothing is known


@dataclass(frozen=True, slots=True, kw_only=True)
class OnDevice:
    """Compiled engines as they ran on a GPU, beside what the bundle's parity files hold."""

    device: str  # the GPU's name
    driver: str  # the newest CUDA that its driver runs, "12.6"
    stages: Mapping[str, Measurement]  # "dit_step/v" → …
    end_to_end: Mapping[str, Measurement]

    def failed(self) -> tuple[str, ...]:
        """Names of what misses its bound."""
        return tuple(n for n, m in {**self.stages, **self.end_to_end}.items() if not m.passed)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetEngines:
    """All that was compiled for one target, by one library."""

    library: str
    version: str
    compute_capability: str  # "8.9"
    stages: Mapping[str, EngineSpec]
    on_device: OnDevice | None = None  # None: compiled and proved, not measured

    @property
    def known(self) -> str:
        """What is known of them, in words."""
        found = self.on_device
        if found is None:
            return "compiled and proved, not run"
        if found.failed():
            return f"out of bounds on {found.device}: {', '.join(found.failed())}"
        return f"measured on {found.device}, CUDA {found.driver}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    schema: int
    name: str
    dims: Dims
    graphs: Mapping[str, GraphSpec]
    engines: Mapping[str, TargetEngines]  # by target; empty in a portable bundle
    text: TextSpec
    constants: str
    parity: Mapping[str, str]  # stage → npz of inputs and reference outputs
    plans: Mapping[str, str]  # plan name → file
    default_plan: str
    files: Mapping[str, FileSpec]
    weights_licence: str
    provenance: Mapping[str, Any]
    certificate: Certificate | None = field(default=None)
    default_guidance: float = field(default=OFFICIAL_GUIDANCE)  # 1 for a student
    presets: PresetRecord | None = None  # None: not measured
    left_out: tuple[str, ...] = ()  # files of graphs that this copy, packed for its engines, lacks

    @property
    def size_bytes(self) -> int:
        """Of all files that are there."""
        absent = set(self.left_out)
        return sum(f.size_bytes for path, f in self.files.items() if path not in absent)


def parse_manifest(raw: object) -> Manifest:
    """Type and check a manifest. Raises BundleError naming the key that is wrong."""
    if not isinstance(raw, Mapping) or type(raw.get("schema")) is not int:
        raise BundleError("manifest: no integer `schema`: this is no bundle of omni_rt")
    if raw["schema"] != SCHEMA:
        raise BundleError(
            f"manifest: schema {raw['schema']}, but this omni_rt reads {SCHEMA}: "
            + ("upgrade omni_rt" if raw["schema"] > SCHEMA else "export the bundle again")
        )
    manifest = strict_json.parse(Manifest, raw, where="manifest")
    _check_dims(manifest.dims)
    _check_paths(manifest)
    _check_profiles(manifest)
    _check_presets(manifest)
    return manifest


def _check_dims(dims: Dims) -> None:
    sizes = {f.name: getattr(dims, f.name) for f in fields(dims) if f.name != "thinker"}
    if dims.thinker is not None:
        sizes |= {f"thinker.{f.name}": getattr(dims.thinker, f.name) for f in fields(dims.thinker)}
    wrong = [name for name, value in sizes.items() if value < 1]
    if wrong:
        raise BundleError(f"manifest.dims: {', '.join(wrong)} must be positive")


def _check_paths(manifest: Manifest) -> None:
    text = manifest.text
    used = {*manifest.plans.values(), *manifest.parity.values(), manifest.constants}
    used |= {p for p in (text.tokenizer, text.prompts, text.vocabulary) if p is not None}
    for target in manifest.engines.values():
        used |= {engine.path for engine in target.stages.values()}
    graphs = {path for graph in manifest.graphs.values() for path in (graph.path, *graph.data)}
    needed = sorted(set(manifest.left_out) - (graphs - used))
    if needed:
        raise BundleError(f"manifest.left_out: no files of graphs alone: {', '.join(needed)}")
    used |= graphs
    for path in sorted(used | manifest.files.keys()):
        if not is_inside(path):
            raise BundleError(f"manifest: path {path!r} leaves the bundle")
    unlisted = sorted(used - manifest.files.keys())
    if unlisted:
        raise BundleError(f"manifest: files without a hash: {', '.join(unlisted)}")


def _check_profiles(manifest: Manifest) -> None:
    for target, engines in manifest.engines.items():
        for stage, engine in engines.stages.items():
            for profile in engine.profiles:
                for name, sizes in profile.sizes.items():
                    if len(sizes) != 3 or list(sizes) != sorted(sizes) or sizes[0] < 0:
                        raise BundleError(
                            f"manifest.engines.{target}.stages.{stage}: {name} must be fewest, "
                            f"usual and most, got {list(sizes)}"
                        )


def _check_presets(manifest: Manifest) -> None:
    measured = manifest.presets
    if measured is None:
        return
    if not measured.presets:
        raise BundleError("manifest.presets.presets: none were measured")
    for name, preset in measured.presets.items():
        lacking = sorted(preset.drops.keys() - measured.spread.points.keys())
        if lacking:
            raise BundleError(
                f"manifest.presets.presets.{name}: drops without a spread: {', '.join(lacking)}"
            )


def is_inside(path: str) -> bool:
    """Whether a POSIX path is relative, plain, and stays below its directory."""
    parts = PurePosixPath(path).parts
    plain = "\\" not in path and "\0" not in path and ":" not in path
    return plain and bool(parts) and not path.startswith("/") and ".." not in parts


def read_manifest(directory: Path) -> Manifest:
    """The manifest of the bundle in `directory`. Raises BundleError."""
    path = directory / MANIFEST
    try:
        if path.stat().st_size > _MAX_MANIFEST_BYTES:
            raise BundleError(f"manifest: {path} is too large to be one")
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(f"no bundle at {directory}: {MANIFEST}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"manifest: {path} is not JSON: {error}") from error
    return parse_manifest(raw)


def manifest_text(manifest: Manifest) -> str:
    """`manifest.json`, readable and with its keys in the dataclasses' order."""
    return json.dumps(strict_json.to_json(manifest), indent=1, ensure_ascii=False) + "\n"


def write_manifest(manifest: Manifest, directory: Path) -> None:
    """Write `manifest.json` into a new bundle."""
    (directory / MANIFEST).write_text(manifest_text(manifest), encoding="utf-8")


def replace_manifest(manifest: Manifest, directory: Path) -> None:
    """Put `manifest.json` in place of a bundle's own: whoever opens it finds one or the other.

    Raises RequestError for what the file system says.
    """
    with draft_of(directory / MANIFEST) as draft:
        draft.write_text(manifest_text(manifest), encoding="utf-8")
