"""The manifest: typed, and no path of it leaves the bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from omni_rt import strict_json
from omni_rt.errors import BundleError
from omni_rt.manifest import (
    MANIFEST,
    SCHEMA,
    is_inside,
    parse_manifest,
    read_manifest,
    write_manifest,
)

from .tiny_bundle import write_tiny_bundle


@pytest.fixture
def raw(tmp_path: Path) -> dict[str, Any]:
    """The JSON of a right manifest."""
    manifest: dict[str, Any] = strict_json.to_json(write_tiny_bundle(tmp_path / "made"))
    return manifest


def test_a_manifest_survives_its_file(tmp_path: Path) -> None:
    manifest = write_tiny_bundle(tmp_path / "bundle")
    assert read_manifest(tmp_path / "bundle") == manifest
    (tmp_path / "copy").mkdir()
    write_manifest(manifest, tmp_path / "copy")
    copy, original = (tmp_path / d / MANIFEST for d in ("copy", "bundle"))
    assert copy.read_bytes() == original.read_bytes()


def test_what_was_rounded_in_its_weights_alone_survives_and_may_be_absent(
    tmp_path: Path, raw: dict[str, Any]
) -> None:
    rounding: dict[str, Any] = {
        "target": "cpu",
        "source": "s",
        "inputs": "i",
        "high_precision": ["a"],
        "sensitivity": {"a": 0.5},
        "velocity": [],
        "figures": {},
        "behaviour": {},
    }
    raw["certificate"]["rounding"] = rounding
    before = parse_manifest(raw).certificate
    assert before is not None
    assert before.rounding is not None
    assert (before.rounding.weights_only, before.rounding.weights_sensitivity) == ((), {})
    rounding |= {"weights_only": ["b"], "weights_sensitivity": {"b": 0.25}}
    write_manifest(manifest := parse_manifest(raw), tmp_path)
    assert read_manifest(tmp_path) == manifest
    rounding["weights_only"] = "b"
    with pytest.raises(BundleError, match=r"rounding\.weights_only: expected a list, got 'b'"):
        parse_manifest(raw)


def test_an_unknown_key_is_named_with_its_place(raw: dict[str, Any]) -> None:
    raw["graphs"]["context"]["precison"] = "fp16"
    with pytest.raises(BundleError, match=r"manifest\.graphs\.context: unknown key 'precison'"):
        parse_manifest(raw)


def test_a_missing_key_is_named_with_its_place(raw: dict[str, Any]) -> None:
    del raw["dims"]["depth"]
    with pytest.raises(BundleError, match=r"manifest\.dims: missing key 'depth'"):
        parse_manifest(raw)


def test_an_unknown_precision_is_refused(raw: dict[str, Any]) -> None:
    raw["graphs"]["context"]["precision"] = "fp12"
    with pytest.raises(BundleError, match=r"manifest\.graphs\.context\.precision.*fp12"):
        parse_manifest(raw)


def test_a_certificate_may_be_absent(raw: dict[str, Any]) -> None:
    del raw["certificate"]
    assert parse_manifest(raw).certificate is None


def test_a_newer_schema_says_to_upgrade_whatever_else_it_holds() -> None:
    with pytest.raises(BundleError, match=f"schema {SCHEMA + 1}.*upgrade omni_rt"):
        parse_manifest({"schema": SCHEMA + 1, "new": "things"})


def test_an_older_schema_says_to_export_again() -> None:
    with pytest.raises(BundleError, match=f"schema {SCHEMA - 1}.*export the bundle again"):
        parse_manifest({"schema": SCHEMA - 1})


@pytest.mark.parametrize("value", [None, [], "x", 3, {}, {"schema": "1"}, {"schema": True}])
def test_what_has_no_integer_schema_is_no_bundle(value: object) -> None:
    with pytest.raises(BundleError, match="no bundle of omni_rt"):
        parse_manifest(value)


OUTSIDE = (
    "",
    ".",
    "..",
    "../x",
    "a/../../x",
    "a/..",
    "/etc/passwd",
    "//host/x",
    "C:/x",
    "C:x",
    "c:\\x",
    "..\\x",
    "a\\b",
    "\\\\host\\x",
    "a\0b",
)


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_path_out_of_the_bundle_is_not_inside(path: str) -> None:
    assert not is_inside(path)


@pytest.mark.parametrize("path", ["x", "a/b.onnx", "..x", "a/..b", ".hidden", "a b", "ü"])
def test_a_plain_path_is_inside(path: str) -> None:
    assert is_inside(path)


def put_plan(raw: dict[str, Any], path: str) -> None:
    raw["plans"]["own-3"] = path


def put_constants(raw: dict[str, Any], path: str) -> None:
    raw["constants"] = path


def put_parity(raw: dict[str, Any], path: str) -> None:
    raw["parity"]["context"] = path


def put_prompts(raw: dict[str, Any], path: str) -> None:
    raw["text"]["prompts"] = path


def put_vocabulary(raw: dict[str, Any], path: str) -> None:
    raw["text"]["vocabulary"] = path


def put_tokenizer(raw: dict[str, Any], path: str) -> None:
    raw["text"]["tokenizer"] = path


def put_graph(raw: dict[str, Any], path: str) -> None:
    raw["graphs"]["context"]["path"] = path


def put_data(raw: dict[str, Any], path: str) -> None:
    raw["graphs"]["context"]["data"] = [path]


def put_file(raw: dict[str, Any], path: str) -> None:
    raw["files"][path] = {"sha256": "0" * 64, "size_bytes": 1}


PLACES = (
    put_plan,
    put_constants,
    put_parity,
    put_prompts,
    put_vocabulary,
    put_tokenizer,
    put_graph,
    put_data,
)


@pytest.mark.parametrize("put", [*PLACES, put_file])
@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "C:/x", "a\\b"])
def test_no_path_of_a_manifest_leaves_the_bundle(raw: dict[str, Any], put: Any, path: str) -> None:
    put(raw, path)
    with pytest.raises(BundleError, match="leaves the bundle"):
        parse_manifest(raw)


@pytest.mark.parametrize("put", PLACES)
def test_every_used_file_has_a_hash(raw: dict[str, Any], put: Any) -> None:
    put(raw, "unlisted.bin")
    with pytest.raises(BundleError, match=r"files without a hash: unlisted\.bin"):
        parse_manifest(raw)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe\x00", b"[" * 200_000, b'{"schema": ' + b"9" * 9999 + b"}"]
)
def test_a_manifest_that_is_no_json_is_a_bundle_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match="not JSON"):
        read_manifest(tmp_path)


def test_a_huge_manifest_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / MANIFEST).open("wb") as file:
        file.truncate((16 << 20) + 1)  # sparse: takes no space
    with pytest.raises(BundleError, match="too large"):
        read_manifest(tmp_path)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(BundleError, match=f"no bundle at {folder}"):
            read_manifest(folder)


def test_a_manifest_is_a_file(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).mkdir()
    with pytest.raises(BundleError, match="no bundle"):
        read_manifest(tmp_path)


def test_a_manifest_is_readable_json(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "bundle")
    text = (tmp_path / "bundle" / MANIFEST).read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert list(json.loads(text))[:3] == ["schema", "name", "dims"]


def engines_with(path: str, sizes: list[int]) -> dict[str, Any]:
    engine = {
        "path": path, "graph": "0", "base_type": "float16", "weight_bytes": 1,
        "profiles": [{"sizes": {"P": sizes}, "activation_bytes": 1}], "build_s": 1.0,
        "build_peak_rss_bytes": 1, "rounded_products": 0, "fused_attentions": 0, "attentions": 0,
        "signature": "",
    }  # fmt: skip
    return {
        "rtx4090": {
            "library": "tensorrt_rtx", "version": "1", "compute_capability": "8.9",
            "stages": {"dit_step": engine},
        }
    }  # fmt: skip


@pytest.mark.parametrize("sizes", [[1, 2], [2, 1, 3], [-1, 0, 1]])
def test_an_engines_sizes_are_fewest_usual_and_most(raw: dict[str, Any], sizes: list[int]) -> None:
    raw["engines"] = engines_with(raw["constants"], [1, 2, 2])
    assert parse_manifest(raw).engines["rtx4090"].stages["dit_step"].profiles[0].sizes["P"][0] == 1
    raw["engines"] = engines_with(raw["constants"], sizes)
    with pytest.raises(BundleError, match=r"engines\.rtx4090\.stages\.dit_step: P must be fewest"):
        parse_manifest(raw)


@pytest.mark.parametrize("path", ["engines/step.plan", "../step.plan"])
def test_a_plan_is_a_listed_file_of_the_bundle(raw: dict[str, Any], path: str) -> None:
    raw["engines"] = engines_with(path, [1, 2, 2])
    with pytest.raises(BundleError, match=r"without a hash|leaves the bundle"):
        parse_manifest(raw)
