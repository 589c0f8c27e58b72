"""The exported thinker, driven by the runtime's own code, against transformers' Qwen2.5-Omni.

Tiny random weights through the exporter; the cases of spec THINKER §7 and three videos with sound.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tokenizers
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import decoders, models, pre_tokenizers
from transformers import WhisperFeatureExtractor
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniThinkerConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import (
    Qwen2_5OmniThinkerForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from omni_rt import Audio, Session
from omni_rt.answering import Answerer, TokenChoice
from omni_rt.bundle import Bundle
from omni_rt.contract import PORTS
from omni_rt.encode import shorten
from omni_rt.engine_pool import EnginePool
from omni_rt.engines.ort import OrtEngine
from omni_rt.export.build import export_bundle
from omni_rt.export.checkpoint import LazyTensor, open_checkpoint, open_thinker_folder
from omni_rt.export.config import parse_config
from omni_rt.export.contract import THINKER, THINKER_STAGES, dims_of, thinker_stage
from omni_rt.export.graphs import OPSET, traced_bytes, write_graph
from omni_rt.export.random_checkpoint import sizes_for
from omni_rt.export.reference.thinker_config import MEDIA_TOKENS, ThinkerSizes
from omni_rt.export.reference.thinker_files import check_thinker
from omni_rt.export.sources import ExportOptions
from omni_rt.export.stage_weights import stage_weights
from omni_rt.export.standin import standin_config
from omni_rt.export.weight_file import WeightFile
from omni_rt.manifest import GraphSpec
from omni_rt.preprocess.positions import VideoTokens
from omni_rt.preprocess.whisper_mel import MAX_S, RATE_HZ, chunked, log_mel, token_count
from omni_rt.senses import Heard, Seen, Senses
from omni_rt.thinker import Item, Prompt, Thinker
from omni_rt.understanding import conversation_text
from tests.parity.tolerances import assert_close
from tests.runtime.preprocess.test_positions import SPECIAL, original_expansion

Original = Qwen2_5OmniThinkerForConditionalGeneration
Floats = np.ndarray

pytestmark = pytest.mark.slow

# Spec THINKER §7, fp32, largest absolute difference of values of about 0.6: its limit for towers
# and for what is computed in parts; for states and logits half of it, three times what it observed.
TOWERS, IN_PARTS = 2e-5, 2e-5
STATES = LOGITS = 1e-5
INTERPOLATION = 1e-6

NEW_TOKENS = 16
WIDTH, LAYERS, VOCABULARY = 64, 3, 512
AUDIO_WORDS = "<|audio_bos|><|AUDIO|><|audio_eos|>"
VIDEO_WORDS = "<|vision_bos|><|VIDEO|><|vision_eos|>"


# ---- the original, and a bundle made of it


@pytest.fixture(scope="module")
def original() -> Original:
    """Seeded random weights: matrices of deviation .08, norms about 1."""
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 128,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
    }
    audio = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2}
    audio |= {"encoder_ffn_dim": 64, "output_dim": WIDTH}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2}
    vision |= {"out_hidden_size": WIDTH, "fullatt_block_indexes": [1]}
    ids = {key: getattr(SPECIAL, name) for name, (key, _) in MEDIA_TOKENS.items()}
    model = Original(
        Qwen2_5OmniThinkerConfig(text_config=text, audio_config=audio, vision_config=vision, **ids)
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(0, 0.08, generator=generator)
            if weight.dim() == 1 and name.endswith("weight"):
                weight += 1
    return model.eval().requires_grad_(False)


def write_tokenizer(path: Path) -> None:
    """Bytes, then pairs of letters that no text becomes, then the special tokens from 500 on."""
    letters = "abcdefghijklmnop"
    words = [*sorted(pre_tokenizers.ByteLevel.alphabet())]
    words += [a + b for a in letters for b in letters][: SPECIAL.audio - len(words)]
    made = tokenizers.Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    media = [word for _, word in MEDIA_TOKENS.values()]
    made.add_special_tokens([*media, "<|im_start|>", "<|im_end|>", "<|endoftext|>"])
    made.save(str(path))


@pytest.fixture(scope="module")
def qwen(original: Original, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers saves it: configuration and weights by the Hub's names."""
    folder = tmp_path_factory.mktemp("qwen")
    original.save_pretrained(folder)
    write_tokenizer(folder / "tokenizer.json")
    return folder


@pytest.fixture(scope="module")
def exported(original: Original, qwen: Path, standin: Path, tmp_path_factory: Any) -> Path:
    """A bundle of the five graphs, from a checkpoint with the official names."""
    folder = tmp_path_factory.mktemp("thinker")
    conditioners = load_file(standin / "model.safetensors")
    tensors = {k: v for k, v in conditioners.items() if not k.startswith(THINKER)}
    tensors |= {THINKER + name: value for name, value in old_names(original).items()}
    save_file(tensors, folder / "model.safetensors")
    for name in ("config.json", "tokenizer.json"):
        (folder / "qwen").mkdir(exist_ok=True)
        shutil.copyfile(qwen / name, folder / "qwen" / name)
    return export_bundle(
        ExportOptions(
            config=standin / "config.json",
            checkpoint=folder / "model.safetensors",
            qwen=folder / "qwen",
            upstream=standin / "upstream",
            out=folder / "bundle",
            stages=THINKER_STAGES,
            workers=2,
        )
    )


def old_names(original: Original) -> dict[str, torch.Tensor]:
    """The weights by the names of transformers 5.3, which are the Hub's below `thinker.`."""
    renamed = {}
    for name, value in original.state_dict().items():
        old = name.replace("model.language_model.", "model.")
        for tower in ("audio_tower.", "visual."):
            old = old.replace("model." + tower, tower)
        renamed[old] = value.contiguous()
    return renamed


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """The runtime's parts on the exported bundle."""

    bundle: Bundle
    pool: EnginePool
    senses: Senses
    thinker: Thinker
    answerer: Answerer


@pytest.fixture(scope="module")
def runtime(exported: Path) -> Runtime:
    bundle = Bundle.open(exported)
    pool = EnginePool(bundle, threads=2, memory="resident")
    senses = Senses(bundle, pool)
    thinker = Thinker(bundle, pool, senses.cache)
    answerer = Answerer(bundle, pool, thinker)
    return Runtime(bundle=bundle, pool=pool, senses=senses, thinker=thinker, answerer=answerer)


# ---- the cases


@dataclass(frozen=True, kw_only=True)
class Video:
    """Frames of a size in patches; `sound` is how many mel frames its own track has."""

    grids: int
    rows: int
    columns: int
    sound: int | None = None

    @property
    def frames(self) -> np.ndarray:
        rng = np.random.default_rng([self.grids, self.rows])
        shape = (2 * self.grids, 14 * self.rows, 14 * self.columns, 3)
        return rng.integers(0, 256, shape, dtype=np.uint8)


EVEN = Video(grids=4, rows=24, columns=24)
CASES: Mapping[str, Sequence[Video | int]] = {  # videos, and recordings in mel frames
    "text": [],
    "video": [EVEN],
    "video of 25 grids": [Video(grids=25, rows=16, columns=16)],
    "video with ragged windows": [Video(grids=2, rows=18, columns=26)],
    "audio": [530],
    "three audios": [401, 1000, 37],
    "video and audio": [EVEN, 530],
    "sound as long as its video": [Video(grids=4, rows=8, columns=12, sound=400)],
    "sound shorter than its video": [Video(grids=7, rows=8, columns=8, sound=150)],
    "sound longer than its video": [Video(grids=2, rows=8, columns=8, sound=811), 90],
}


def recording(frames: int) -> Audio:
    """Noise that swells, of so many mel frames (the last one in part)."""
    samples = 160 * frames - 60
    noise = np.random.default_rng(frames).standard_normal(samples)
    swell = 0.05 + 0.05 * np.sin(np.arange(samples) / 900)
    return Audio((swell * noise).astype(np.float32)[None], RATE_HZ)


@dataclass(frozen=True, kw_only=True)
class Case:
    """The same request as the runtime and as the original take it, and the original's outputs."""

    items: Sequence[Item]
    prompt: Prompt
    inputs: Mapping[str, Any]
    outputs: Any


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, runtime: Runtime, original: Original) -> Case:
    media = CASES[request.param]
    items = [item_of(medium, runtime.senses) for medium in media]
    text = conversation_text("You hear and see.", (), "What goes on — 何?", items)
    inputs = original_inputs(runtime, text, media)
    return Case(
        items=items,
        prompt=runtime.thinker.prompt(text, items),
        inputs=inputs,
        outputs=original(**inputs, output_hidden_states=True),
    )


def item_of(medium: Video | int, senses: Senses) -> Item:
    """By the runtime; `as_they_are` keeps frames at the size they have."""
    if isinstance(medium, int):
        return senses.heard(recording(medium))
    sound = None if medium.sound is None else senses.heard(recording(medium.sound))
    return senses.seen(medium.frames, as_they_are=True, sound=sound)


def original_inputs(
    runtime: Runtime, text: str, media: Sequence[Video | int]
) -> dict[str, torch.Tensor]:
    """By the original's rules, but for the log-mel, which is compared elsewhere."""
    ids = runtime.thinker.tokenizer.encode(text)
    videos = [medium for medium in media if isinstance(medium, Video)]
    frames = [medium if isinstance(medium, int) else medium.sound for medium in media]
    inputs: dict[str, Any] = {"input_ids": torch.tensor([expanded(ids.tolist(), media)])}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if any(frames):
        mels = [log_mel(recording(count).samples[0]) for count in frames if count]
        inputs |= features(mels)
    if videos:
        inputs["pixel_values_videos"] = torch.cat([pixels(video.frames) for video in videos])
        inputs["video_grid_thw"] = torch.tensor([[v.grids, v.rows, v.columns] for v in videos])
        inputs["video_second_per_grid"] = torch.ones(len(videos))
    if any(video.sound for video in videos):
        inputs["use_audio_in_video"] = True
    return inputs


def expanded(ids: Sequence[int], media: Sequence[Video | int]) -> list[int]:
    """A token per row of the media; the tags around a video with sound are the processor's."""
    out, items = [], iter(media)
    for token in ids:
        if token not in (SPECIAL.audio, SPECIAL.video):
            out.append(token)
            continue
        medium = next(items)
        if isinstance(medium, int):
            out += [token] * int(((medium - 1) // 2 + 1 - 2) // 2 + 1)
        elif medium.sound is None:
            out += [token] * (medium.grids * medium.rows * medium.columns // 4)
        else:
            out += original_expansion(layout_of(medium), 1.0)
    return out


def layout_of(video: Video) -> VideoTokens:
    assert video.sound is not None
    return VideoTokens(
        grids=video.grids,
        rows=video.rows // 2,
        columns=video.columns // 2,
        sound=token_count(video.sound),
    )


def features(mels: Sequence[Floats]) -> dict[str, torch.Tensor]:
    """Log-mels [bands, L] side by side, filled with zeros on the right, and what is no filling."""
    longest = max(mel.shape[1] for mel in mels)
    lengths = torch.tensor([[mel.shape[1]] for mel in mels])
    filled = [np.pad(mel, ((0, 0), (0, longest - mel.shape[1]))) for mel in mels]
    return {
        "input_features": torch.from_numpy(np.stack(filled)),
        "feature_attention_mask": (torch.arange(longest)[None] < lengths).long(),
    }


def pixels(frames: np.ndarray) -> torch.Tensor:
    """[patches, values] by the original's processor of images, which repeats each in its grid."""
    processor = Qwen2VLImageProcessorPil(do_resize=False)
    patches = [
        processor([frame], return_tensors="pt")["pixel_values"].unflatten(1, (3, 2, 196))[:, :, 0]
        for frame in frames
    ]
    grids = [torch.stack(pair, dim=2) for pair in zip(patches[::2], patches[1::2], strict=True)]
    return torch.cat(grids).flatten(1)


def assert_within(found: Any, wanted: Any, bound: float, what: str = "") -> None:
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    assert found.shape == wanted.shape
    worst = float(np.abs(found - wanted).max(initial=0))
    assert worst <= bound, what


def run_lm(
    runtime: Runtime, embeds: Floats, positions: np.ndarray, past: Mapping[str, Floats]
) -> dict[str, Floats]:
    """New tokens after `past`: the graph's outputs."""
    total = past["past_k_00"].shape[2] + embeds.shape[1]
    return runtime.pool.get("thinker_lm").run(
        inputs_embeds=embeds,
        position_ids=positions[:, None],
        attention_mask=np.ones((1, total), np.int64),
        **past,
    )


def as_past(out: Mapping[str, Floats]) -> dict[str, Floats]:
    return {f"past{k[7:]}": value for k, value in out.items() if k.startswith("present")}


def no_past(bundle: Bundle) -> dict[str, Floats]:
    thinker = bundle.thinker_dims
    empty = np.zeros((1, thinker.kv_heads, 0, thinker.head_width), np.float32)
    return {f"past_{part}_{i:02d}": empty for i in range(thinker.layers) for part in "kv"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched(TokenChoice):
    """The greedy choice, and the logits that it saw."""

    logits: list[Floats] = field(default_factory=list)

    def pick(self, logits: Floats, stream: np.random.RandomState) -> int:
        self.logits.append(logits)
        return TokenChoice().pick(logits, stream)


# ---- one request, from its placeholders to its answer


def test_ids_and_positions(case: Case, original: Original) -> None:
    inputs = case.inputs
    mask = inputs.get("feature_attention_mask")
    positions, delta = original.get_rope_index(
        inputs["input_ids"],
        None,
        inputs.get("video_grid_thw"),
        inputs["attention_mask"],
        inputs.get("use_audio_in_video", False),
        None if mask is None else mask.sum(1),
        inputs.get("video_second_per_grid"),
    )
    assert np.array_equal(case.prompt.ids, inputs["input_ids"][0])
    assert np.array_equal(case.prompt.positions, positions[:, 0])
    assert case.prompt.delta == int(delta)


def test_towers(case: Case, original: Original) -> None:
    inputs = case.inputs
    seen = [item for item in case.items if isinstance(item, Seen)]
    sounds = [item if isinstance(item, Heard) else item.sound for item in case.items]
    heard = [sound for sound in sounds if sound is not None]
    if seen:
        wanted = original.get_video_features(
            inputs["pixel_values_videos"], inputs["video_grid_thw"]
        ).pooler_output
        assert_within(np.concatenate([s.embeds for s in seen]), torch.cat(wanted), TOWERS)
    if heard:
        wanted = original.get_audio_features(
            inputs["input_features"], inputs["feature_attention_mask"]
        ).last_hidden_state
        assert_within(np.concatenate([s.embeds for s in heard]), wanted, TOWERS)


def test_embeddings(case: Case, runtime: Runtime) -> None:
    assert_within(runtime.thinker.embeds(case.prompt), case.outputs.hidden_states[0], TOWERS)


def test_conditioning_states(case: Case, runtime: Runtime) -> None:
    found = runtime.thinker.hidden(case.prompt)
    assert_within(found, case.outputs.hidden_states[-2][0], STATES)


def test_logits_in_one_pass(case: Case, runtime: Runtime) -> None:
    embeds = runtime.thinker.embeds(case.prompt)
    out = run_lm(runtime, embeds, case.prompt.positions, no_past(runtime.bundle))
    assert_within(out["logits"], case.outputs.logits[:, -1:], LOGITS)


def test_greedy_answer(case: Case, runtime: Runtime, original: Original) -> None:
    """The runtime's loop, which takes long prompts in slices: its tokens, and all their logits."""
    wanted = original.generate(
        **case.inputs,
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    choice = Watched()
    runtime.answerer.forget()
    found = list(runtime.answerer.tokens(case.prompt, choice, seed=0, most=NEW_TOKENS))
    assert found == wanted.sequences[0, case.prompt.length :].tolist()
    assert len(found) == NEW_TOKENS
    assert_within(np.stack(choice.logits), torch.cat(wanted.logits), IN_PARTS)


def test_prefill_in_slices(case: Case, runtime: Runtime) -> None:
    """Logits and the whole cache, of slices that cut media in two."""
    prompt, thinker = case.prompt, runtime.thinker
    whole = run_lm(runtime, thinker.embeds(prompt), prompt.positions, no_past(runtime.bundle))
    past, out = no_past(runtime.bundle), {}
    for start in range(0, prompt.length, 40):
        part = slice(start, start + 40)
        embeds = thinker.embeds(prompt, part.start, part.stop)
        out = run_lm(runtime, embeds, prompt.positions[:, part], past)
        past = as_past(out)
    for name, wanted in whole.items():
        assert_within(out[name], wanted, IN_PARTS, name)


def test_decoding_equals_running_the_prefix_again(case: Case, runtime: Runtime) -> None:
    prompt, choice = case.prompt, Watched()
    runtime.answerer.forget()
    said = list(runtime.answerer.tokens(prompt, choice, seed=0, most=NEW_TOKENS))
    embeds = runtime.thinker.embeds(prompt)
    more = runtime.thinker.embedded(np.array(said))
    places = np.tile(prompt.length + prompt.delta + np.arange(len(said)), (3, 1))
    positions = np.concatenate([prompt.positions, places], axis=1)
    for count in (1, 7, NEW_TOKENS - 1):
        again = np.concatenate([embeds, more[:, :count]], axis=1)
        out = run_lm(runtime, again, positions[:, : again.shape[1]], no_past(runtime.bundle))
        assert_within(choice.logits[count], out["logits"][0, 0], IN_PARTS)


# ---- the towers' edges


@pytest.mark.parametrize("frames", [1, 2, 3, 37, 200, 201])
def test_short_recordings(frames: int, runtime: Runtime, original: Original) -> None:
    mel = log_mel(recording(frames).samples[0])
    _, tokens = original.model.audio_tower._get_feat_extract_output_lengths(torch.tensor(frames))
    assert token_count(frames) == int(tokens)
    wanted = original.get_audio_features(**features([mel])).last_hidden_state
    assert_within(audio_tower(runtime, *chunked(mel))[: token_count(frames)], wanted, TOWERS)


def audio_tower(runtime: Runtime, chunks: Floats, lengths: np.ndarray) -> Floats:
    out = runtime.pool.get("audio_tower").run(mel=chunks, lengths=lengths)["audio_embeds"]
    return out.reshape(-1, WIDTH)


def test_the_filling_of_a_chunk_is_zero_and_not_silence(runtime: Runtime) -> None:
    """Spec THINKER §2.1: the log floor in its place is heard."""
    mel = log_mel(recording(530).samples[0])
    chunks, lengths = chunked(mel)
    silent = chunks.copy()
    silent[-1, :, lengths[-1] :] = mel.min()
    tokens = token_count(530)
    right, wrong = audio_tower(runtime, chunks, lengths), audio_tower(runtime, silent, lengths)
    assert np.abs(right - wrong)[:tokens].max() > 50 * TOWERS


# ---- batches, parts of a bundle, and where weights come from


def test_rows_of_a_padded_batch(runtime: Runtime, original: Original) -> None:
    """Two prompts of unequal length, the shorter one filled on the left."""
    media: list[list[Video | int]] = [[], [530]]
    prompts, rows = [], []
    for own in media:
        items = [item_of(medium, runtime.senses) for medium in own]
        text = conversation_text("A", (), "B?", items)
        prompts.append(runtime.thinker.prompt(text, items))
        rows.append(original_inputs(runtime, text, own))
    length = max(prompt.length for prompt in prompts)
    embeds = np.zeros((2, length, WIDTH), np.float32)
    positions, mask = np.ones((3, 2, length), np.int64), np.zeros((2, length), np.int64)
    for row, prompt in enumerate(prompts):
        embeds[row, -prompt.length :] = runtime.thinker.embeds(prompt)[0]
        positions[:, row, -prompt.length :] = prompt.positions
        mask[row, -prompt.length :] = 1
    found = runtime.pool.get("thinker_cond").run(
        inputs_embeds=embeds, position_ids=positions, attention_mask=mask
    )["hidden"]
    ids = [F.pad(row["input_ids"][0], (length - row["input_ids"].shape[1], 0)) for row in rows]
    batch = {"input_ids": torch.stack(ids), "attention_mask": torch.from_numpy(mask)}
    wanted = original(**{**rows[1], **batch}, output_hidden_states=True).hidden_states[-2]
    for row, prompt in enumerate(prompts):
        valid = found[row, -prompt.length :]
        assert_within(valid, runtime.thinker.hidden(prompt), IN_PARTS)
        assert_within(valid, wanted[row, -prompt.length :], STATES)


def test_both_text_graphs_share_their_weights(exported: Path) -> None:
    graphs = exported / "graphs"
    places = {
        stage: {
            tensor.name: {entry.key: entry.value for entry in tensor.external_data}
            for tensor in onnx.load(
                graphs / f"{stage}.onnx", load_external_data=False
            ).graph.initializer
            if tensor.external_data
        }
        for stage in ("thinker_embed", "thinker_cond", "thinker_lm")
    }
    cond, lm = places["thinker_cond"], places["thinker_lm"]
    assert len(cond) > 12 * (LAYERS - 1)
    assert cond.items() <= lm.items()
    used = {**places["thinker_embed"], **lm}
    needed = sum(int(place["length"]) for place in used.values())
    assert needed <= (graphs / "thinker.data").stat().st_size <= needed + 4096 * len(used)
    alone = sum(int(place["length"]) for place in cond.values())
    assert alone > 4096 * len(used) // 2
    assert not list(graphs.glob("thinker_*.data"))


def test_old_and_new_names_are_the_same_tensors(
    original: Original, qwen: Path, tmp_path: Path
) -> None:
    """The Hub's names in two shards beside parts that are not used, 5.23's, and as it saves."""
    old = {f"thinker.{name}": value for name, value in old_names(original).items()}
    new = {f"thinker.{k}": v.contiguous() for k, v in original.state_dict().items()}
    assert not old.keys() & {k for k in new if "lm_head" not in k}
    others = {"talker.thinker_to_talker_proj.weight": torch.ones(2), "token2wav.x": torch.ones(1)}
    names = sorted(old)
    for folder, shards in {
        "old": [{k: old[k] for k in names[::2]}, {k: old[k] for k in names[1::2]} | others],
        "new": [new | others],
    }.items():
        (tmp_path / folder).mkdir()
        for i, shard in enumerate(shards):
            save_file(shard, tmp_path / folder / f"model-{i}.safetensors")
    sizes = ThinkerSizes.from_config(json.loads((qwen / "config.json").read_text()))
    for folder in (tmp_path / "old", tmp_path / "new", qwen):
        found = check_thinker(sizes, -2, open_thinker_folder(folder), THINKER_STAGES)
        assert len(found) == len(old) - 1  # the audio tower's unused table
        for name, tensor in found.items():
            assert torch.equal(tensor.float32(), old[f"thinker.{name}"]), (folder, name)


# ---- the whole session


@pytest.fixture(scope="module")
def opened(exported: Path) -> Iterator[Session]:
    with Session(exported, threads=2) as session:
        yield session


def test_understanding_is_the_originals_answer(
    opened: Session, original: Original, tmp_path: Path
) -> None:
    """A picture (which is seen four times) and a recording, by the original's own extractors."""
    frame = EVEN.frames[0]
    Image.fromarray(frame).save(tmp_path / "picture.png")
    clip = recording(530)
    reply = opened.understand(
        "What is it?", video=tmp_path / "picture.png", audio=clip, max_new_tokens=NEW_TOKENS
    )
    text = (
        f"<|im_start|>system\n{opened.bundle.prompts['SYSTEM_UNDERSTANDING']}<|im_end|>\n"
        f"<|im_start|>user\n{VIDEO_WORDS}{AUDIO_WORDS}What is it?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    tokenizer = tokenizers.Tokenizer.from_file(str(opened.bundle.tokenizer_path))
    ids = expanded(tokenizer.encode(text).ids, [Video(grids=2, rows=24, columns=24), 530])
    heard = WhisperFeatureExtractor(feature_size=128, chunk_length=MAX_S)(
        clip.samples[0], sampling_rate=RATE_HZ, return_attention_mask=True, return_tensors="pt"
    )
    wanted = original.generate(
        input_ids=torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
        pixel_values_videos=pixels(np.stack([frame] * 4)),
        video_grid_thw=torch.tensor([[2, 24, 24]]),
        video_second_per_grid=torch.ones(1),
        input_features=heard["input_features"],
        feature_attention_mask=heard["attention_mask"],
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
    )[0, len(ids) :].tolist()
    assert reply.prompt_tokens == len(ids)
    assert reply.tokens == NEW_TOKENS
    assert reply.text == tokenizer.decode(wanted)


# ---- what conditions the transformer


@pytest.mark.parametrize("rows", [2047, 2048, 2049, 3640])
def test_over_long_states_are_interpolated(rows: int) -> None:
    """Spec THINKER §4: those that fit stay as they are."""
    states = np.random.default_rng(rows).standard_normal((rows, 8)).astype(np.float32)
    wanted = torch.from_numpy(states)
    if rows > 2048:
        wanted = F.interpolate(wanted.T[None], size=2048, mode="linear")[0].T
    assert_within(shorten(states, 2048), wanted, INTERPOLATION)


def test_golden_states(golden: Path, tmp_path: Path) -> None:
    """The public code's thinker, by the official checkpoint's names, as graphs."""
    config = json.loads((golden / "thinker" / "thinker_config.json").read_text(encoding="utf-8"))
    checkpoint = open_checkpoint(golden / "thinker" / "thinker.ckpt")
    sizes = ThinkerSizes.from_config(config)
    tensors = check_thinker(sizes, -2, checkpoint.thinker)
    named = {THINKER + name: tensor for name, tensor in tensors.items()}
    embed, cond = (written(n, sizes, named, tmp_path) for n in ("thinker_embed", "thinker_cond"))
    states = np.load(golden / "thinker" / "golden.npz")
    ids = states["input_ids"]
    embeds = embed.run(input_ids=ids)["inputs_embeds"]
    assert_close(embeds, states["float32/hidden0"], "thinker")
    hidden = cond.run(
        inputs_embeds=embeds,
        position_ids=np.broadcast_to(np.arange(ids.shape[1]), (3, *ids.shape)),
        attention_mask=np.ones_like(ids),
    )["hidden"]
    assert_close(hidden, states["float32/hidden2"], "thinker")


def written(
    name: str, sizes: ThinkerSizes, tensors: Mapping[str, LazyTensor], folder: Path
) -> OrtEngine:
    """A stage's graph in a folder, loaded with the contract's ports."""
    model = sizes_for(parse_config(standin_config()), hidden_width=sizes.width)
    stage = thinker_stage(name, sizes, model)
    file = WeightFile(folder / f"{name}.data")
    write_graph(stage, traced_bytes(stage), stage_weights(stage, tensors), file=file, fold_id="x")
    file.close()
    ports = PORTS[name](dims_of(model, sizes))
    spec = GraphSpec(
        path=f"{name}.onnx",
        data=(file.path.name,),
        precision="fp32",
        opset=OPSET,
        fold_id="x",
        inputs=ports.inputs,
        outputs=ports.outputs,
    )
    return OrtEngine(folder / spec.path, spec, threads=2)
