"""JSON ↔ dataclasses: strict, and saying where it broke."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_rt import strict_json
from omni_rt.errors import BundleError


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    name: str
    size: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    kind: Literal["oak", "fir"]
    age: int
    alive: bool
    leaves: tuple[Leaf, ...]
    by_name: Mapping[str, Leaf]
    dims: tuple[int | str, ...] = ()
    anything: Any = None


RAW: dict[str, Any] = {
    "kind": "oak",
    "age": 3,
    "alive": True,
    "leaves": [{"name": "a", "size": 2}, {"name": "b"}],
    "by_name": {"a": {"name": "a", "size": 0.5}},
    "dims": [1, "rows"],
    "anything": {"x": [1, None]},
}


def test_what_is_parsed_has_the_types_of_its_class() -> None:
    tree = strict_json.parse(Tree, RAW, where="tree")
    assert tree == Tree(
        kind="oak",
        age=3,
        alive=True,
        leaves=(Leaf(name="a", size=2.0), Leaf(name="b")),
        by_name={"a": Leaf(name="a", size=0.5)},
        dims=(1, "rows"),
        anything={"x": [1, None]},
    )
    assert type(tree.leaves[0].size) is float


leaves = st.builds(
    Leaf,
    name=st.text(),
    size=st.none() | st.floats(allow_nan=False, allow_infinity=False),
)


@given(
    st.builds(
        Tree,
        kind=st.sampled_from(["oak", "fir"]),
        age=st.integers(),
        alive=st.booleans(),
        leaves=st.lists(leaves, max_size=3).map(tuple),
        by_name=st.dictionaries(st.text(), leaves, max_size=3),
        dims=st.lists(st.integers() | st.text(), max_size=3).map(tuple),
    )
)
def test_a_value_survives_json(tree: Tree) -> None:
    text = json.dumps(strict_json.to_json(tree))
    assert strict_json.parse(Tree, json.loads(text), where="tree") == tree


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"kind": "elm"}, r"tree\.kind: expected one of \['oak', 'fir'\], got 'elm'"),
        ({"kind": ["oak"]}, r"tree\.kind"),
        ({"age": 3.0}, r"tree\.age: expected int"),
        ({"age": True}, r"tree\.age: expected int, got True"),
        ({"age": None}, r"tree\.age"),
        ({"age": "3"}, r"tree\.age"),
        ({"alive": 1}, r"tree\.alive: expected bool"),
        ({"leaves": {}}, r"tree\.leaves: expected a list"),
        ({"leaves": [{"name": "a"}, {"name": 1}]}, r"tree\.leaves\[1\]\.name: expected str"),
        ({"leaves": [{"nmae": "a"}]}, r"tree\.leaves\[0\]: unknown key 'nmae', missing key 'name'"),
        ({"leaves": [3]}, r"tree\.leaves\[0\]: expected an object, got 3"),
        ({"by_name": []}, r"tree\.by_name: expected an object"),
        ({"by_name": {"q": {"name": None}}}, r"tree\.by_name\.q\.name"),
        (
            {"by_name": {"q": {"name": "q", "size": "big"}}},
            r"tree\.by_name\.q\.size: expected floa",
        ),
        ({"dims": [1, 2.5]}, r"tree\.dims\[1\]"),
        ({"dims": [True]}, r"tree\.dims\[0\]"),
        ({"extra": 1}, r"tree: unknown key 'extra'"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(change: dict[str, Any], place: str) -> None:
    with pytest.raises(BundleError, match=place):
        strict_json.parse(Tree, {**RAW, **change}, where="tree")


@pytest.mark.parametrize("key", ["kind", "age", "alive", "leaves", "by_name"])
def test_a_missing_key_is_named(key: str) -> None:
    raw = {k: v for k, v in RAW.items() if k != key}
    with pytest.raises(BundleError, match=f"tree: missing key '{key}'"):
        strict_json.parse(Tree, raw, where="tree")


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_float_is_finite(number: float) -> None:
    with pytest.raises(BundleError, match=r"leaf\.size"):
        strict_json.parse(Leaf, {"name": "a", "size": number}, where="leaf")


def test_an_integer_beyond_every_float_is_refused_as_one() -> None:
    with pytest.raises(BundleError, match=r"leaf\.size"):
        strict_json.parse(Leaf, {"name": "a", "size": 10**400}, where="leaf")


@pytest.mark.parametrize("raw", [None, [], "leaf", 3])
def test_only_an_object_is_a_dataclass(raw: object) -> None:
    with pytest.raises(BundleError, match="leaf: expected an object"):
        strict_json.parse(Leaf, raw, where="leaf")


def test_a_long_wrong_value_is_cut_in_the_message() -> None:
    with pytest.raises(BundleError) as caught:
        strict_json.parse(Tree, {**RAW, "age": "x" * 10_000}, where="tree")
    assert len(str(caught.value)) < 200
