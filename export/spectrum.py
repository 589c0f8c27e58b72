"""A short-time Fourier transform of plain products, for use inside a graph.

In fp64: in fp32 the strong low bands drown the weak high ones, and the logarithm shows it. Against
fp64, the golden clip's log-mel is off by 1.3e-5 rms as a convolution with cosines, 7e-6 as any fp32
FFT; the latter still moves velocities by more than their tolerance. Spelled out, because ONNX's own
Fourier operators are not in every engine.
"""

from __future__ import annotations

from math import gcd

import torch
from torch import Tensor

from omni_rt.errors import ExportError

Complex = tuple[Tensor, Tensor]


def frames_of(signal: Tensor, *, count: int, size: int, hop: int) -> Tensor:
    """[samples] → [count, size], a frame every `hop` samples, from slices alone."""
    unit = gcd(size, hop)
    stride, width = hop // unit, size // unit
    rows = signal[: ((count - 1) * stride + width) * unit].reshape(-1, unit)
    span = (count - 1) * stride + 1
    return torch.cat([rows[i : i + span : stride] for i in range(width)], dim=1)


def fourier_tables(size: int) -> tuple[Tensor, Tensor, Tensor]:
    """What `rfft` multiplies by, in fp64, for size = A·B: [2A, A], [2, A, B], [2B, 2·(B/2 + 1)]."""
    b = 1 << (size.bit_length() - 1) // 2
    a = size // b
    first = torch.cat(_waves(a, torch.arange(a)[:, None] * torch.arange(a)))
    turns = torch.stack(_waves(size, torch.arange(a)[:, None] * torch.arange(b)))
    re, im = _waves(b, torch.arange(b)[:, None] * torch.arange(b // 2 + 1))
    return first, turns, torch.cat([torch.cat([re, im], dim=1), torch.cat([-im, re], dim=1)])


def _waves(size: int, turns: Tensor) -> Complex:
    """e^(−2πi·turns/size): cosines and negative sines, of angles within one turn."""
    angle = -2 * torch.pi * (turns % size).double() / size
    return angle.cos(), angle.sin()


def check_fft_size(size: int) -> None:
    """Raise ExportError unless `size` is a power of two."""
    if size < 4 or size & (size - 1):
        raise ExportError(f"config: n_fft must be a power of two, got {size}")


def rfft(frames: Tensor, tables: tuple[Tensor, Tensor, Tensor]) -> Complex:
    """Real and imaginary part [count, size/2+1] of the spectrum of each row [count, size].

    With sample B·i + j and frequency p + A·q, the transform over i, turns by p·j of `size`, and the
    transform over j (Bailey's four steps): two small products each, which every library has kernels
    for. Written out in additions (radix 4) TensorRT-RTX made one kernel of all of them, 250 MB of
    source. `tables` are `fourier_tables(size)`.
    """
    first, (cosine, sine), second = tables
    a, b = cosine.shape
    re, im = (first @ frames.reshape(-1, a, b)).chunk(2, dim=1)
    turned = torch.cat([re * cosine - im * sine, re * sine + im * cosine], dim=2)
    half = a * b // 2 + 1
    re, im = (
        part.transpose(1, 2).reshape(len(frames), -1)[:, :half]
        for part in (turned @ second).chunk(2, dim=2)
    )
    return re, im
