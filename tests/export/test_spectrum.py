from __future__ import annotations

import pytest
import torch

from omni_rt import ExportError
from omni_rt.export.contract import decoded_samples, window_samples
from omni_rt.export.spectrum import check_fft_size, fourier_tables, frames_of, rfft


@pytest.mark.parametrize("size", [4, 8, 16, 32, 512, 1024, 2048])
def test_rfft_is_the_fourier_transform(size: int) -> None:
    frames = torch.randn(3, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    re, im = rfft(frames, fourier_tables(size))
    wanted = torch.fft.rfft(frames)
    # fp64 rounding on values of about sqrt(size): two sums are as near as log2(size) stages
    bound = 1e-15 * size**0.5 * size.bit_length()
    assert (torch.complex(re, im) - wanted).abs().max() < bound


@pytest.mark.parametrize(("size", "hop"), [(16, 4), (16, 6), (8, 8), (8, 12), (5, 3)])
def test_frames_are_the_signals_windows(size: int, hop: int) -> None:
    signal = torch.arange(size + 9 * hop + 20.0)
    assert torch.equal(
        frames_of(signal, count=9, size=size, hop=hop), signal.unfold(0, size, hop)[:9]
    )


@pytest.mark.parametrize("size", [0, 2, 12, 1000])
def test_sizes_that_are_no_power_of_two_are_refused(size: int) -> None:
    with pytest.raises(ExportError, match="power of two"):
        check_fft_size(size)


def test_the_official_window_is_ten_seconds() -> None:
    assert window_samples(frames=1723, hop=256, rate_hz=44_100) == 441_000


@pytest.mark.parametrize(("frames", "hop"), [(1, 256), (7, 100), (51, 160), (1723, 256)])
def test_the_window_has_the_frames_it_was_chosen_for(frames: int, hop: int) -> None:
    samples = window_samples(frames=frames, hop=hop, rate_hz=44_100)
    assert samples // hop + 1 == frames


def test_an_odd_stride_loses_a_sample() -> None:
    assert decoded_samples(236, (2, 4, 4, 8, 8)) == 236 * 2048
    assert decoded_samples(10, (2, 3)) == (10 * 3 - 1) * 2
