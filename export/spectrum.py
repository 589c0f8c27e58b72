"""A short-time Fourier transform of plain additions and multiplications, for use inside a graph.

In fp64: in fp32 the strong low bands drown the weak high ones, and the logarithm shows it. Against
fp64, the golden clip's log-mel is off by 1.3e-5 rms as a convolution with cosines, 7e-6 as any fp32
FFT; the latter still moves velocities by more than their tolerance. Spelled out, because ONNX's own
Fourier operators are not in every engine; TensorRT-RTX parses and builds this.
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


def twiddles(size: int) -> Tensor:
    """e^(−2πi·k/size) for k < size, as fp64 [2, size]: cosines, negative sines."""
    angle = -2 * torch.pi * torch.arange(size, dtype=torch.float64) / size
    return torch.stack([angle.cos(), angle.sin()])


def check_fft_size(size: int) -> None:
    """Raise ExportError unless `size` is a power of two."""
    if size < 4 or size & (size - 1):
        raise ExportError(f"config: n_fft must be a power of two, got {size}")


def rfft(frames: Tensor, table: Tensor) -> Complex:
    """Real and imaginary part [count, size/2+1] of the spectrum of each row [count, size].

    Stockham's self-sorting FFT in radix 4, with one radix-2 stage where the size needs it;
    `table` is `twiddles(size)`.
    """
    count, size = frames.shape
    real = frames.reshape(count, size, 1)
    x: Complex = (real, real - real)  # zeros that no exporter stores as a constant
    remaining = size
    while remaining > 1:
        radix = 4 if remaining % 4 == 0 else 2
        step = size // remaining
        x = (_radix_4 if radix == 4 else _radix_2)(x, table, remaining, step)
        remaining //= radix
    half = size // 2 + 1
    return x[0].reshape(count, size)[:, :half], x[1].reshape(count, size)[:, :half]


def _radix_4(x: Complex, table: Tensor, size: int, step: int) -> Complex:
    a, b, c, d = zip(*(part.chunk(4, dim=1) for part in x), strict=True)
    even, odd = _add(a, c), _subtract(a, c)
    sum_, difference = _add(b, d), _subtract(b, d)
    turned = (difference[1], -difference[0])  # −i·(b − d)
    outputs = (
        _add(even, sum_),
        _twiddle(_add(odd, turned), table, size, step, power=1),
        _twiddle(_subtract(even, sum_), table, size, step, power=2),
        _twiddle(_subtract(odd, turned), table, size, step, power=3),
    )
    return _interleave(outputs)


def _radix_2(x: Complex, table: Tensor, size: int, step: int) -> Complex:
    a, b = zip(*(part.chunk(2, dim=1) for part in x), strict=True)
    return _interleave((_add(a, b), _twiddle(_subtract(a, b), table, size, step, power=1)))


def _twiddle(x: Complex, table: Tensor, size: int, step: int, *, power: int) -> Complex:
    """Times e^(−2πi·power·p/size) at row p."""
    stride = power * step
    cosine, sine = (part[: x[0].shape[1] * stride : stride, None] for part in table)
    return x[0] * cosine - x[1] * sine, x[0] * sine + x[1] * cosine


def _interleave(outputs: tuple[Complex, ...]) -> Complex:
    """[count, rows, s] each → [count, rows, outputs·s]."""
    re, im = zip(*outputs, strict=True)
    return torch.cat(re, dim=2), torch.cat(im, dim=2)


def _add(a: Complex, b: Complex) -> Complex:
    return a[0] + b[0], a[1] + b[1]


def _subtract(a: Complex, b: Complex) -> Complex:
    return a[0] - b[0], a[1] - b[1]
