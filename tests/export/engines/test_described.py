"""A plan whose build log does not tell all is asked itself, by either library's calls."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from omni_rt.errors import ExportError
from omni_rt.export.engines.tensorrt import described

LISTED = {"Layers": [{"Name": "g", "Inputs": [{"Format/Datatype": "Int8"}]}]}


def library(*sizes: int, loads: bool = True) -> Any:
    inspector = SimpleNamespace(get_engine_information=lambda _: json.dumps(LISTED))
    engine = SimpleNamespace(
        num_optimization_profiles=len(sizes),
        create_engine_inspector=lambda: inspector,
        get_device_memory_size_for_profile_v2=lambda i: sizes[i],
    )
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda _: engine if loads else None)
    return SimpleNamespace(
        Runtime=lambda _: runtime, LayerInformationFormat=SimpleNamespace(JSON="json")
    )


ONE_PROFILE = ["Name: g, LayerType: gemm, Inputs: []", "Total Activation Memory: 30 bytes"]


@pytest.mark.parametrize("lines", [["Built."], ONE_PROFILE])
def test_every_profile_has_the_memory_of_its_own(lines: list[str]) -> None:
    found = described(library(10, 30), SimpleNamespace(lines=lines), b"plan", profiles=2)
    assert found.activation_bytes == (10, 30)
    assert found.layers[0].inputs == ("Int8",)
    assert found.weight_bytes == len(b"plan")


@pytest.mark.parametrize(
    ("lines", "says"),
    [([], "nothing of this engine is proved"), (ONE_PROFILE, "memory of 1 profiles of 2")],
)
def test_where_no_gpu_is_the_log_has_to_tell_all(lines: list[str], says: str) -> None:
    with pytest.raises(ExportError, match=says):
        described(library(loads=False), SimpleNamespace(lines=lines), b"plan", profiles=2)


def test_the_installed_tensorrt_rtx_has_the_calls() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: omni_rt[rtx]")
    assert hasattr(trt.ICudaEngine, "get_device_memory_size_for_profile_v2")
    assert not hasattr(trt.ICudaEngine, "device_memory_size")
    assert hasattr(trt.IRuntimeConfig, "create_runtime_cache")
