"""Plan files: what is written is read again, and what is wrong with one is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omni_rt import strict_json
from omni_rt.errors import BundleError
from omni_rt.plan_file import FitRecord, PlanFile, merged, plan_file, plan_text, read_plan_file
from omni_rt.plans import COLUMNS, MAX_STEPS, METHODS, Model, Plan, make_plan

MODEL = Model(kind="fitted", digest="abc", precision="int8")
FIT = FitRecord(
    engine="onnxruntime",
    fine="ab3-64",
    cases=("T2A/0",),
    inputs="digest",
    seed=0,
    residuals=(0.1, 0.2, 0.3),
    reference="euler-400",
    held_out=("Add/0",),
    spacing="uniform",
    error=0.01,
    spacings={"uniform": 0.01, "fitted": None},
    others={"abm2-3": 0.02},
)


def fitted(cfg_scale: float, *, model: Model = MODEL) -> Plan:
    """Rows that differ with the guidance."""
    rows = [replace(row, a=1 + cfg_scale / 100) for row in make_plan("ab3-3").rows]
    plan = make_plan("ab3-3")
    return replace(
        plan, name="ls3-3", method=None, rows=tuple(rows), model=model, cfg_scale=cfg_scale
    )


def written(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def read_again(file: PlanFile, folder: Path) -> PlanFile:
    (folder / "plan.json").write_text(plan_text(file), encoding="utf-8")
    return read_plan_file(folder / "plan.json")


@pytest.mark.parametrize("shift", [0.1, 1.7])
@pytest.mark.parametrize("method", METHODS)
def test_an_analytic_plan_survives_its_file(method: str, shift: float, tmp_path: Path) -> None:
    plan = make_plan(f"{method}-7", shift=shift)
    found = read_again(plan_file(plan), tmp_path).nearest(7.0)
    assert (found.name, found.method, found.grid) == (plan.name, plan.method, plan.grid)
    assert np.array_equal(found.table(), plan.table())
    assert np.array_equal(found.starting_at(0.5).table(), plan.starting_at(0.5).table())


def test_a_fitted_plan_survives_its_file_with_its_record(tmp_path: Path) -> None:
    file = plan_file(fitted(7.0), fit=FIT)
    found = read_again(file, tmp_path)
    assert found == file
    plan = found.nearest(7.0)
    assert (plan.model, plan.cfg_scale) == (MODEL, 7.0)
    assert np.array_equal(plan.table(), fitted(7.0).table())


@pytest.mark.parametrize(
    ("asked", "taken"), [(7.0, 7.0), (6.0, 7.0), (4.4, 4.0), (5.5, 4.0), (-3.0, 2.0), (90.0, 7.0)]
)
def test_the_nearest_guidance_is_taken(asked: float, taken: float) -> None:
    file = plan_file(fitted(4.0))
    for scale in (7.0, 2.0):
        file = merged(file, plan_file(fitted(scale)))
    assert file.guidance == (2.0, 4.0, 7.0)
    assert file.nearest(asked).cfg_scale == taken
    assert file.nearest(asked).rows[0].a == 1 + taken / 100


def test_merging_replaces_rows_for_the_same_guidance_alone() -> None:
    before = merged(plan_file(fitted(4.0)), plan_file(fitted(7.0), fit=FIT))
    found = merged(before, plan_file(fitted(7.0)))
    assert found.guidance == (4.0, 7.0)
    assert [table.fit for table in found.tables] == [None, None]


def test_an_analytic_plan_replaces_the_old_one() -> None:
    old, new = plan_file(make_plan("euler-3")), plan_file(make_plan("euler-3", shift=2.0))
    assert merged(old, new) == new


def test_nothing_is_merged_of_another_model() -> None:
    other = replace(MODEL, digest="other")
    found = merged(plan_file(fitted(4.0, model=other)), plan_file(fitted(7.0)))
    assert found == plan_file(fitted(7.0))


def changed(key: str, value: Any) -> dict[str, Any]:
    return {**strict_json.to_json(plan_file(make_plan("ab2-3"))), key: value}


def table_with(key: str, value: Any) -> dict[str, Any]:
    raw = changed("name", "ab2-3")
    raw["tables"][0][key] = value
    return raw


def fitted_with(key: str, value: Any) -> dict[str, Any]:
    return {**strict_json.to_json(plan_file(fitted(7.0))), key: value}


ROWS = make_plan("ab2-3").table()
TABLE = strict_json.to_json(plan_file(fitted(7.0)))["tables"][0]
STUDENT = {"kind": "student", "digest": "abc", "precision": "fp32"}


@pytest.mark.parametrize(
    "value",
    [
        [],
        None,
        "plan",
        {},
        {k: v for k, v in changed("name", "x").items() if k != "method"},
        changed("extra", 1),
        changed("name", "../plan"),
        changed("name", ""),
        changed("columns", list(COLUMNS[::-1])),
        changed("columns", None),
        changed("tables", []),
        changed("tables", {"0": 1}),
        changed("method", "rk4"),
        changed("method", ["ab2"]),
        changed("model", strict_json.to_json(MODEL)),
        table_with("rows", []),
        table_with("rows", ROWS[:, :7].tolist()),
        table_with("rows", ROWS.ravel().tolist()),
        table_with("rows", [*ROWS.tolist(), [1.0]]),
        table_with("rows", [[*ROWS[0, :7].tolist(), np.nan]]),
        table_with("rows", [[*ROWS[0, :7].tolist(), np.inf]]),
        table_with("rows", [["a"] * 8]),
        table_with("rows", [[0.0] * 8] * (2 * MAX_STEPS + 1)),
        table_with("grid", [1.0, 0.5]),
        table_with("grid", []),
        table_with("grid", "uniform"),
        table_with("grid", None),
        table_with("cfg_scale", 7.0),
        table_with("fit", {"cases": 3}),
        fitted_with("model", None),
        fitted_with("model", {**strict_json.to_json(MODEL), "precision": "int3"}),
        fitted_with("model", STUDENT),
        fitted_with("tables", [{**TABLE, "cfg_scale": None}]),
        fitted_with("tables", [TABLE, TABLE]),
        fitted_with("method", "ab3"),
    ],
)
def test_a_corrupted_plan_file_is_a_bundle_error_naming_it(value: Any, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"broken\.json"):
        read_plan_file(written(tmp_path / "broken.json", value))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{}", b"[1,", b"9" * 5000])
def test_a_plan_file_that_is_no_json_is_a_bundle_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"broken\.json"):
        read_plan_file(path)


def test_a_plan_file_nested_without_end_is_a_bundle_error(tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(b"[" * 200_000)
    with pytest.raises(BundleError, match=r"broken\.json"):
        read_plan_file(path)


def test_a_missing_plan_file_is_a_bundle_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"none\.json"):
        read_plan_file(tmp_path / "none.json")
