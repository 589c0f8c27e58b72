"""Two runs on the same examples: what was lost, and how far chance may have hidden more."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from omni_rt import strict_json
from omni_rt.errors import RequestError
from omni_rt.export.miniature.paired import paired_drop, paired_drops, read_report
from omni_rt.export.miniature.report import Check, KindScores, ScoreReport, not_scored
from omni_rt.export.miniature.share import Share


def digits(share: float, count: int, *, seed: int = 0) -> str:
    drawn = np.random.RandomState(seed).rand(count) < share
    return "".join(str(int(one)) for one in drawn)


def scores(kind: str, each: str) -> KindScores:
    right: Sequence[bool] = [one == "1" for one in each]
    check = Check(share=Share.of(right), chance=0.1, each=each)
    return KindScores(kind=kind, status="scored", passed=check, checks={}, measures={}, seconds=1.0)


def report(*kinds: KindScores, seed: int = 5, count: int = 8) -> ScoreReport:
    return ScoreReport(
        bundle="id",
        name="miniature",
        plan="euler-100",
        cfg_scale=7.0,
        seed=seed,
        count=count,
        kinds=kinds,
    )


@pytest.mark.parametrize("each", ["1", "0", "0110", digits(0.7, 400)])
def test_equal_runs_have_lost_nothing_for_sure(each: str) -> None:
    drop = paired_drop(each, each)
    assert (drop.points, drop.upper) == (0, 0)


def test_all_lost_are_a_hundred_points_for_sure() -> None:
    assert (paired_drop("1" * 50, "0" * 50).points, paired_drop("1" * 50, "0" * 50).upper) == (
        100,
        100,
    )


def test_all_gained_are_minus_a_hundred_points() -> None:
    assert paired_drop("0" * 50, "1" * 50).points == -100
    assert paired_drop("0" * 50, "1" * 50).upper == -100


def test_points_are_the_difference_of_the_shares() -> None:
    reference, own = digits(0.8, 400), digits(0.75, 400, seed=1)
    share = {each: each.count("1") / 400 for each in (reference, own)}
    assert paired_drop(reference, own).points == pytest.approx(
        100 * (share[reference] - share[own])
    )
    assert paired_drop(own, reference).points == -paired_drop(reference, own).points


def test_as_many_lost_as_gained_are_no_points_but_no_certainty() -> None:
    drop = paired_drop("01" * 200, "10" * 200)
    assert drop.points == 0
    assert drop.upper == pytest.approx(100 * 1.645 / np.sqrt(400), rel=0.1)


def test_what_both_have_right_makes_it_certain() -> None:
    """Only the examples that differ count: unpaired, 400 would never be within 2 points."""
    reference = digits(0.7, 400)
    own = "".join(("0" if one == "1" else one) if i < 6 else one for i, one in enumerate(reference))
    lost = sum(a != b for a, b in zip(reference, own, strict=True))
    assert 0 < lost <= 6
    drop = paired_drop(reference, own)
    assert drop.points == pytest.approx(lost / 4)
    assert drop.points < drop.upper < 2.5


@pytest.mark.parametrize(("lost", "gained"), [(10, 0), (20, 10), (40, 40), (3, 1)])
def test_the_bound_is_that_of_a_normal_mean(lost: int, gained: int) -> None:
    count = 400
    reference = "1" * lost + "0" * gained + "1" * (count - lost - gained)
    own = "0" * lost + "1" * gained + "1" * (count - lost - gained)
    difference = np.array([int(a) - int(b) for a, b in zip(reference, own, strict=True)])
    wanted = 100 * (difference.mean() + 1.645 * difference.std() / np.sqrt(count))
    assert paired_drop(reference, own).upper == pytest.approx(wanted, abs=0.3)


def test_bounds_cover_what_they_say() -> None:
    """Of runs that truly lose 3 points, some 95 % have an upper bound above that."""
    covered = 0
    for seed in range(40):
        stream = np.random.RandomState(seed)
        change = stream.rand(300)
        reference = "".join("0" if c < 0.05 else "1" for c in change)  # gains 5 %
        own = "".join("0" if c > 0.92 else "1" for c in change)  # loses 8 %
        covered += paired_drop(reference, own).upper >= 3
    assert 34 <= covered <= 40


def test_the_same_seed_says_the_same() -> None:
    reference, own = digits(0.8, 100), digits(0.7, 100, seed=1)
    assert paired_drop(reference, own, seed=3) == paired_drop(reference, own, seed=3)


@pytest.mark.parametrize(("reference", "own"), [("11", "1"), ("", "1"), ("", "")])
def test_runs_of_other_lengths_cannot_be_paired(reference: str, own: str) -> None:
    with pytest.raises(RequestError, match="cannot be paired"):
        paired_drop(reference, own)


def test_kinds_that_both_scored_are_paired() -> None:
    reference = report(scores("T2A", "11"), scores("TTS", "10"), scores("VC", "11"))
    own = report(
        scores("TTS", "00"), scores("T2A", "11"), not_scored("VC", "failed", "why"),
        scores("V2A", "10"),
    )  # fmt: skip
    found = paired_drops(reference, own)
    assert list(found) == ["TTS", "T2A"]
    assert found["TTS"].points == 50
    assert found["T2A"].points == 0


@pytest.mark.parametrize("other", [{"seed": 6}, {"count": 9}])
def test_runs_on_other_examples_are_refused(other: dict[str, int]) -> None:
    name = next(iter(other))
    with pytest.raises(RequestError, match=f"scores of {name} .* are of other examples"):
        paired_drops(report(scores("T2A", "1")), report(scores("T2A", "1"), **other))


def test_a_written_report_is_read(tmp_path: Path) -> None:
    path, own = tmp_path / "scores.json", report(scores("T2A", "10"))
    path.write_text(json.dumps(strict_json.to_json(own)), encoding="utf-8")
    assert read_report(path) == own
    assert paired_drops(read_report(path), replace(own, bundle="another"))["T2A"].upper == 0


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"bundle": 3}', b"\xff\xfe", b"[" * 100_000, b"null"]
)
def test_another_file_is_an_error_of_ours(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "scores.json"
    path.write_bytes(content)
    with pytest.raises(RequestError, match="holds no scores"):
        read_report(path)


def test_a_file_that_is_not_there_is_an_error_of_ours(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(RequestError, match="holds no scores"):
            read_report(path)


@pytest.mark.parametrize("each", ["1x", "12", "²1"])
def test_marks_that_are_no_digits_of_a_run_are_refused(tmp_path: Path, each: str) -> None:
    """A report written by hand: neither a crash nor points beyond a hundred."""
    path = tmp_path / "scores.json"
    raw = strict_json.to_json(report(scores("T2A", "11")))
    raw["kinds"][0]["passed"]["each"] = each
    path.write_text(json.dumps(raw), encoding="utf-8")
    with pytest.raises(RequestError):
        paired_drops(read_report(path), report(scores("T2A", "11")))
