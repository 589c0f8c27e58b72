"""What the page of a certificate says, and that it says all of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from omni_rt import Audio
from omni_rt.bundle import Bundle
from omni_rt.certificate_page import certificate_page
from omni_rt.manifest import Behaviour, Figure, Rounding, VelocityError
from tests.runtime.test_report_page import Parsed
from tests.runtime.tiny_bundle import BAD, certificate_of, rewrite, write_tiny_bundle


def figure(value: float, bound: float, *, at_least: bool = False) -> Figure:
    return Figure(value=value, bound=bound, at_least=at_least, unit="dB", origin="a law")


ROUNDING = Rounding(
    target="orin",
    source="abcd1234",
    inputs="feed5678",
    high_precision=("layers.0.<out>",),
    sensitivity={"layers.0.<out>": 0.012, "layers.1.out": 0.003},
    weights_only=("layers.1.out",),
    per_token=("layers.1.ff",),
    weights_sensitivity={"layers.0.<out>": 0.0077, "layers.2.out": 0.0011},
    largest={"dit_step": 32753.0, "context": 32752.0, "thinker_cond": 5e4},
    velocity=tuple(VelocityError(t=t, rel_l2=0.01 + t / 100) for t in (1.0, 0.5, 0.0)),
    figures={"lsd": figure(2.5, 3.0), "cosine": figure(0.99, 0.98, at_least=True)},
    behaviour={
        "note": Behaviour(count=400, reference=0.9, share=0.89, chance=0.1, drop=figure(1.5, 2.0))
    },
)


def test_everything_that_was_measured_is_said(tmp_path: Path) -> None:
    manifest = write_tiny_bundle(tmp_path)
    certificate = replace(certificate_of(manifest), rounding=ROUNDING)
    rewrite(tmp_path, manifest, certificate=certificate, files=manifest.files)
    clip = Audio(np.zeros((1, 500), np.float32), 1000)
    page = certificate_page(Bundle.open(tmp_path), [("rain <1>", clip, clip)])
    said = Parsed(page).words
    for words in (
        *("tiny", "certified:", "orin", "abcd1234", "feed5678", "layers.0.<out>", "rain <1>"),
        *("context/y", "dit_step/latents", "lsd", "≤ 3 dB", "≥ 0.98 dB", "a law", "test"),
        *("note", "400", "90.0", "89.0", "10.0", "1.50 dB", "fp32", "velocity"),
        *("layers.1.out", "1.20e-02", "high precision", "1.20 %"),
        *("layers.2.out", "7.70e-03", "0.77 %", "1 are stored rounded", "weights alone"),
    ):
        assert words in said, words
    assert "FAIL" not in page
    assert page.count("data:image/png") == 2


def test_a_stage_that_outgrows_fp16_is_named(tmp_path: Path) -> None:
    """More than half of its range; what the original ran in bf16 is so anyway."""
    manifest = write_tiny_bundle(tmp_path)
    certificate = replace(certificate_of(manifest), rounding=ROUNDING)
    rewrite(tmp_path, manifest, certificate=certificate, files=manifest.files)
    said = Parsed(certificate_page(Bundle.open(tmp_path))).words
    for words in ("3.275e+04", "65504", "Largest values"):
        assert words in said
    assert said.count("too large for fp16") == 1


def test_what_misses_its_bound_is_marked(tmp_path: Path) -> None:
    manifest = write_tiny_bundle(tmp_path)
    missed = replace(
        ROUNDING,
        figures={"lsd": figure(3.5, 3.0)},
        behaviour={"note": replace(ROUNDING.behaviour["note"], drop=figure(2.5, 2.0))},
    )
    whole = certificate_of(manifest)
    certificate = replace(whole, stages={**whole.stages, "context/z": BAD}, rounding=missed)
    rewrite(tmp_path, manifest, certificate=certificate, files=manifest.files)
    page = certificate_page(Bundle.open(tmp_path))
    assert page.count("FAIL") == 3
    assert "not certified:" in Parsed(page).words
    assert "fails for context/z, lsd, note" in Parsed(page).words


def test_a_bundle_without_or_with_another_certificate_says_so(tmp_path: Path) -> None:
    manifest = write_tiny_bundle(tmp_path)
    for certificate, words in (
        (None, "this bundle has no parity certificate."),
        (replace(certificate_of(manifest), graphs={}), "did not measure this 'context' graph."),
    ):
        rewrite(tmp_path, manifest, certificate=certificate, files=manifest.files)
        assert words in Parsed(certificate_page(Bundle.open(tmp_path))).words


def test_a_bundle_of_which_nothing_is_rounded_says_so(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path)
    said = Parsed(certificate_page(Bundle.open(tmp_path))).words
    assert "nothing is rounded" in said
    assert "Behaviour" not in said
