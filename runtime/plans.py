"""Solver plans: tables of rows, one per evaluation of the velocity (spec SOLVERS §1).

A row at time t computes h = p·x + q·v, pushes it into a ring of three, and updates
x' = a·x + b0·h0 + b1·h1 + b2·h2 + c·z. Time runs from 1 (noise) to 0 (latents). Pure NumPy, fp64;
the C++ loop rounds the table to fp32 once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from omni_rt.errors import RequestError
from omni_rt.manifest import Precision

MAX_STEPS = 10_000
COLUMNS = ("t", "p", "q", "a", "b0", "b1", "b2", "c")

Grid = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One evaluation and its update."""

    t: float
    b: tuple[float, ...]  # newest first, at most three
    p: float = 0.0
    q: float = 1.0
    a: float = 1.0
    c: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The velocity that rows were made for, and how it came to them.

    "fitted": the rows were fitted to it. "student": it was distilled to the rows.
    """

    kind: Literal["fitted", "student"]
    digest: str  # of the files of its `dit_step`
    precision: Precision  # of its `dit_step`


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A named list of rows and where it starts."""

    name: str
    rows: tuple[Row, ...]
    grid: tuple[float, ...]  # σ = grid[0] down to 0
    method: str | None = None  # analytic plans can be rebuilt from this on another grid
    model: Model | None = None  # None: for any
    cfg_scale: float | None = None  # guidance that the rows were made for; None: any

    @property
    def steps(self) -> int:
        """How many steps in time: a name's number. Heun's take two rows each, but for the last."""
        return len(self.grid) - 1

    @property
    def evaluations(self) -> int:
        """How many times the velocity is computed (guidance counts one)."""
        return len(self.rows)

    @property
    def renoise_rows(self) -> int:
        """How many rows add fresh noise."""
        return sum(row.c != 0 for row in self.rows)

    def table(self) -> NDArray[np.float64]:
        """Rows as float64 [n, 8]: t, p, q, a, b0, b1, b2, c."""
        table = np.zeros((len(self.rows), len(COLUMNS)))
        for line, row in zip(table, self.rows, strict=True):
            line[:4] = row.t, row.p, row.q, row.a
            line[4 : 4 + len(row.b)] = row.b
            line[7] = row.c
        return table

    def starting_at(self, sigma: float) -> Plan:
        """The same plan on [σ, 0], for variations of a clip.

        Raises RequestError if the plan is fitted or distilled: its rows hold on its grid only.
        """
        if not (math.isfinite(sigma) and 0 < sigma <= 1):
            raise RequestError(f"a plan starts at 0 < σ ≤ 1, got {sigma}")
        if sigma == self.grid[0]:
            return self
        if self.method is None:
            raise RequestError(
                f"plan {self.name!r} starts at σ = {self.grid[0]:g} and cannot start at "
                f"σ = {sigma:.3g}: use an analytic plan such as euler-100 for variations"
            )
        scaled = np.array(self.grid) * (sigma / self.grid[0])
        return replace(_from_grid(self.method, scaled), name=self.name)


def _deltas(grid: Grid) -> list[float]:
    return [float(d) for d in np.diff(grid)]


def _euler(grid: Grid) -> Iterator[Row]:
    for t, delta in zip(grid, _deltas(grid), strict=False):
        yield Row(t=t, b=(delta,))


def integrate_lagrange(nodes: Sequence[float], start: float, end: float) -> tuple[float, ...]:
    """Weights w with ∫_start^end f ≈ Σ w_k f(nodes_k), exact for polynomials through the nodes."""
    powers = np.arange(len(nodes))
    moments = (end - start) ** (powers + 1) / (powers + 1)
    vandermonde = (np.asarray(nodes) - start)[None, :] ** powers[:, None]
    return tuple(float(w) for w in np.linalg.solve(vandermonde, moments))


def _adams_bashforth(order: int) -> Callable[[Grid], Iterator[Row]]:
    def rows(grid: Grid) -> Iterator[Row]:
        for n in range(len(grid) - 1):
            nodes = grid[max(0, n - order + 1) : n + 1][::-1]
            yield Row(t=grid[n], b=integrate_lagrange(list(nodes), grid[n], grid[n + 1]))

    return rows


def _abm2(grid: Grid) -> Iterator[Row]:
    """Predict, evaluate, correct: the correction of x_n rides on the step to x_{n+1}."""
    deltas = _deltas(grid)
    for n, (t, delta) in enumerate(zip(grid, deltas, strict=False)):
        if n == 0:
            yield Row(t=t, b=(delta,))
            continue
        before = deltas[n - 1]
        ratio = delta / before
        older = before / deltas[n - 2] if n > 1 else 0.0
        yield Row(
            t=t,
            b=(
                delta * (1 + ratio / 2) + before / 2,
                -delta * ratio / 2 - before * (1 + older) / 2,
                before * older / 2,
            ),
        )


def _heun(grid: Grid) -> Iterator[Row]:
    """Euler, then the trapezoid's correction; never evaluated at t = 0."""
    for t, after, delta in zip(grid, grid[1:], _deltas(grid), strict=False):
        yield Row(t=t, b=(delta,))
        if after > 0:
            yield Row(t=after, b=(delta / 2, -delta / 2))


def _dpmpp_2m(grid: Grid) -> Iterator[Row]:
    """DPM-Solver++ 2M in the data prediction h = x − t·v; first order where log-SNR is infinite."""
    for n, (t, after) in enumerate(pairwise(grid)):
        weight = 1 - after / t
        weights: tuple[float, ...] = (weight,)
        if n > 0 and grid[n - 1] < 1 and after > 0:
            ratio = (_log_snr(t) - _log_snr(grid[n - 1])) / (_log_snr(after) - _log_snr(t))
            weights = (weight * (1 + 1 / (2 * ratio)), -weight / (2 * ratio))
        yield Row(t=t, p=1.0, q=-t, a=after / t, b=weights)


def _log_snr(t: float) -> float:
    return math.log((1 - t) / t)


def _consistency(grid: Grid) -> Iterator[Row]:
    """Jump to the data, then noise it again to the next time (distilled models)."""
    for t, after in pairwise(grid):
        yield Row(t=t, a=1 - after, b=(-(1 - after) * t,), c=after)


METHODS: Mapping[str, Callable[[Grid], Iterator[Row]]] = {
    "euler": _euler,
    "ab2": _adams_bashforth(2),
    "ab3": _adams_bashforth(3),
    "abm2": _abm2,
    "heun": _heun,
    "dpmpp2m": _dpmpp_2m,
    "consistency": _consistency,
}


def uniform_grid(steps: int, *, shift: float = 1.0) -> Grid:
    """Times 1 … 0 in `steps` steps; `shift` s maps u to s·u/(1 + (s−1)·u): s > 1 lingers at noise.

    Raises RequestError for steps outside 1 … 10 000 or a shift outside 0.001 … 1000.
    """
    if not 1 <= steps <= MAX_STEPS:
        raise RequestError(f"steps must be 1 to {MAX_STEPS}, got {steps}")
    if not 1e-3 <= shift <= 1e3:
        raise RequestError(f"shift must lie between 0.001 and 1000, got {shift}")
    u = np.linspace(1.0, 0.0, steps + 1)
    times: Grid = shift * u / (1 + (shift - 1) * u)
    times[0] = 1.0  # what rounding makes of it would be taken for a finite log-SNR
    return times


def _from_grid(method: str, grid: Grid) -> Plan:
    rows = tuple(METHODS[method](grid))
    times = tuple(float(t) for t in grid)
    return Plan(name=f"{method}-{len(grid) - 1}", rows=rows, grid=times, method=method)


def make_plan(name: str, *, shift: float = 1.0, grid: Sequence[float] | None = None) -> Plan:
    """The analytic plan called `method-steps`, e.g. "euler-100", "ab3-25", "dpmpp2m-16".

    `grid` gives the times instead (1 or less, falling, ending in 0); its length must agree with
    the name. Raises RequestError for an unknown method or a bad step count, shift or grid.
    """
    if not isinstance(name, str):
        raise RequestError(f"a plan is named by a string, got {name!r}")
    method, _, count = name.rpartition("-")
    if method not in METHODS or not _is_integer(count):
        known = ", ".join(f"{m}-N" for m in METHODS)
        raise RequestError(f"unknown plan {name!r}: expected one of {known}")
    if grid is None:
        return _from_grid(method, uniform_grid(int(count), shift=shift))
    if shift != 1.0:
        raise RequestError("give either shift or grid, not both")
    try:
        times = np.asarray(grid, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise RequestError(f"a grid must be a list of numbers: {error}") from error
    check_grid(times)
    if len(times) - 1 != int(count):
        raise RequestError(
            f"plan {name!r} needs a grid of {int(count) + 1} times, got {len(times)}"
        )
    return _from_grid(method, times)


def _is_integer(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20


def check_grid(times: Grid) -> None:
    """Raise RequestError unless times fall strictly from at most 1 to 0."""
    falling = times.ndim == 1 and len(times) > 1 and bool(np.all(np.diff(times) < 0))
    if not (falling and 0 < times[0] <= 1 and times[-1] == 0):
        raise RequestError("a grid must fall strictly from at most 1 to exactly 0")
    if len(times) - 1 > MAX_STEPS:
        raise RequestError(f"steps must be 1 to {MAX_STEPS}, got {len(times) - 1}")
