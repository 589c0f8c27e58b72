"""The engines of a small bundle, one library after the other."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from omni_rt.bundle import Bundle
from omni_rt.engines import Engine
from omni_rt.engines.registry import engine_loader

from .graphs import write_runnable_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_runnable_bundle(tmp_path_factory.mktemp("engines") / "bundle")


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def load(request: pytest.FixtureRequest, bundle: Bundle) -> Callable[..., Engine]:
    """A stage's engine, of the bundle or of another."""
    pytest.importorskip(request.param)
    loader = engine_loader(request.param)
    return lambda stage, other=bundle: loader(other, stage, 1)


@pytest.fixture(scope="module")
def step(load: Callable[..., Engine]) -> Engine:
    return load("dit_step")
