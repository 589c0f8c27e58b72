"""What a session takes of a GPU: told before anything is loaded, and refused if it cannot fit."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from omni_rt import Session
from omni_rt.engine_pool import Memory
from omni_rt.engines import tensorrt_stages
from omni_rt.engines.gpu import GpuMemory, StageNeeds
from omni_rt.errors import EngineError
from omni_rt.gpu_memory import GpuEstimate

from .engines.compiled import write_compiled_bundle
from .engines.fake_gpu import FakeDriver, FakeTensorRt
from .engines.test_tensorrt import TYPES, step

GB = 10**9
NEEDS = {
    "dit_step": StageNeeds(weights=3 * GB, least=GB // 10, most=GB // 2),
    "vae_decoder": StageNeeds(weights=GB),
    "context": StageNeeds(weights=GB // 2),
    "signal": StageNeeds(weights=GB // 2),
}


def estimate(free: float, memory: Memory = "resident") -> GpuEstimate:
    found = GpuMemory(name="GPU", free_bytes=round(free * GB), total_bytes=24 * GB, stages=NEEDS)
    return GpuEstimate.of(found, memory)


def test_resident_is_the_sum_and_staged_the_largest_phase() -> None:
    found = estimate(9)
    assert found.least == {"resident": 5.1 * GB, "staged": 3.1 * GB}
    assert found.most == {"resident": 5.5 * GB, "staged": 3.5 * GB}
    assert str(found) == (
        "GPU: resident takes an estimated 5.10 GB to 5.50 GB, 9.00 GB of 24.00 GB are free"
    )
    found.check()


def test_what_fits_with_small_batches_alone_is_not_refused_and_is_told() -> None:
    found = estimate(5.2)
    found.check()
    assert "the largest batches and contexts do not fit, smaller ones do" in str(found)


@pytest.mark.parametrize(
    ("free", "memory", "missing", "advice"),
    [
        (4.0, "resident", "1.10 GB are missing", r"memory='staged' fits \(3.50 GB\)"),
        (3.2, "resident", "1.90 GB are missing", r"'staged' fits with a small batch \(3.10 GB\)"),
        (3.0, "resident", "2.10 GB are missing", r"no mode fits \(staged needs 3.10 GB\)"),
        (3.0, "staged", "0.10 GB are missing|100.00 MB are missing", "no mode fits"),
    ],
)
def test_what_cannot_fit_is_refused_with_what_is_missing_and_what_would_fit(
    free: float, memory: Memory, missing: str, advice: str
) -> None:
    with pytest.raises(EngineError, match=f"({missing}).*{advice}"):
        estimate(free, memory).check()


@pytest.mark.usefixtures("home")
class TestSession:
    @pytest.fixture
    def library(self, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRt:
        driver = FakeDriver()
        made = FakeTensorRt(driver=driver, ports=TYPES, outputs=("v",), compute=step, profiles=4)
        monkeypatch.setattr(tensorrt_stages, "CudaDriver", lambda *, ordinal: driver)
        monkeypatch.setattr(tensorrt_stages, "library_named", lambda name: made.module())
        monkeypatch.setattr(
            "omni_rt.session.engine_loader", lambda engine: tensorrt_stages.load_rtx
        )
        return made

    def test_the_estimate_is_what_the_manifest_says(
        self, library: FakeTensorRt, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        write_compiled_bundle(tmp_path / "bundle")
        with caplog.at_level(logging.INFO, "omni_rt"):
            session = Session(tmp_path / "bundle", engine="tensorrt_rtx")
        found = session.gpu_estimate
        assert found is not None
        # Of three stages the weights; of the step, in two bytes: x, v [R, 4, 6], t [R], prepend
        # [R, 5, 64], bias [Q, P], keys and values [Q, 2, P, 32], for R = 1, Q = 1, P = 8 and
        # R = Q = 2, P = 16; and what the compiler says of either.
        least = 2 * (24 + 24 + 1 + 320 + 8 + 2 * 512) + 1000
        most = 2 * 2 * (24 + 24 + 1 + 320 + 16 + 2 * 1024) + 1000
        assert found.least == {"resident": 15000 + least, "staged": 5000 + least}
        assert found.most == {"resident": 15000 + most, "staged": 5000 + most}
        assert str(found) in caplog.text
        assert library.loaded == []

    def test_what_cannot_fit_is_refused_and_nothing_is_loaded(
        self, library: FakeTensorRt, tmp_path: Path
    ) -> None:
        write_compiled_bundle(tmp_path / "bundle")
        library.driver.free_bytes = 16_000
        with pytest.raises(EngineError, match=r"0.00 MB are missing: memory='staged' fits"):
            Session(tmp_path / "bundle", engine="tensorrt_rtx")
        assert library.loaded == []
        Session(tmp_path / "bundle", engine="tensorrt_rtx", memory="staged").close()

    def test_an_engine_of_the_processor_has_no_estimate(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_compiled_bundle(tmp_path / "bundle")
        with Session(tmp_path / "bundle", engine="onnxruntime") as session:
            assert session.gpu_estimate is None
