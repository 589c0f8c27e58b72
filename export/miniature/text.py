"""The miniature's own words: prompt templates, tokenizer, and the thinker's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omni_rt.export.miniature.config import HIDDEN_WIDTH
from omni_rt.export.miniature.data import vocabulary
from omni_rt.export.reference.thinker_config import MEDIA_TOKENS, ThinkerSizes
from omni_rt.manifest import SpecialIds
from omni_rt.preprocess.chat import STOP_TOKENS, Tokenizer

TEMPLATES: Mapping[str, str] = {
    "SYSTEM_T2A": "make this sound",
    "SYSTEM_T2M": "make this music",
    "SYSTEM_TTS": "say these words",
    "SYSTEM_V2A": "make the sound of this video",
    "SYSTEM_V2M": "make music for this video",
    "SYSTEM_EDITING": "edit this recording",
    "SYSTEM_UNDERSTANDING": "answer the question",
    "EDITING_ADD": "add {desc}",
    "EDITING_REMOVE": "remove {desc}",
    "EDITING_EXTRACT": "extract {desc}",
    "EDITING_STYLE": "turn {source} into {target}",
}

_SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    *(token for _, token in MEDIA_TOKENS.values()),
]
_MOST_TOKENS = 860


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What text and tokens mean to the thinker, and its sizes."""

    tokenizer: Tokenizer
    special: SpecialIds
    sizes: ThinkerSizes

    @classmethod
    def read(cls, path: Path) -> Words:
        """By a tokenizer that `write_tokenizer` wrote."""
        from tokenizers import Tokenizer as Reader

        tokens: dict[str, int] = Reader.from_file(str(path)).get_vocab()
        special = SpecialIds(
            **{name: tokens[token] for name, (_, token) in MEDIA_TOKENS.items()},
            stop=tuple(tokens[token] for token in STOP_TOKENS),
        )
        sizes = ThinkerSizes.from_config(thinker_config(tokens))
        return cls(tokenizer=Tokenizer(path), special=special, sizes=sizes)


def write_tokenizer(path: Path) -> dict[str, int]:
    """A byte-level tokenizer whose merges were learnt from the miniature's words; its vocabulary.

    Any text can be written in it; the words of captions, questions and answers are one token each.
    """
    from tokenizers import Tokenizer as Learner
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Learner(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=_MOST_TOKENS, initial_alphabet=alphabet, show_progress=False
    )
    words = [*vocabulary(), *" ".join(TEMPLATES.values()).split(), "system", "user", "assistant"]
    tokenizer.train_from_iterator([text for w in words for text in (w, " " + w)], trainer)
    tokenizer.add_special_tokens(_SPECIAL_TOKENS)
    tokenizer.save(str(path))
    found: dict[str, int] = tokenizer.get_vocab()
    return found


def thinker_config(tokens: Mapping[str, int]) -> dict[str, Any]:
    """`config.json` of the miniature's thinker, for this vocabulary."""
    text = {
        "vocab_size": len(tokens),
        "hidden_size": HIDDEN_WIDTH,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 4096,
        "rope_parameters": {
            "rope_theta": 1e6,
            "rope_type": "default",
            "mrope_section": [8, 12, 12],
        },
    }
    audio = {
        "num_mel_bins": 128,
        "d_model": 128,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 128,
        "n_window": 100,
        "output_dim": HIDDEN_WIDTH,
    }
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 1,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [1],
        "out_hidden_size": HIDDEN_WIDTH,
    }
    ids = {key: tokens[token] for key, token in MEDIA_TOKENS.values()}
    parts = {"text_config": text, "audio_config": audio, "vision_config": vision}
    thinker = {**parts, **ids, "tie_word_embeddings": True}
    return {"model_type": "qwen2_5_omni", "thinker_config": thinker}
