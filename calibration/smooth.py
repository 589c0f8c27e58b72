"""SmoothQuant and AWQ: the factor of each channel that makes rounding hurt least, and its folding.

Of an activation with channel sizes a and its matrices' column sizes w, s = a^α / w^(1−α)
(SmoothQuant, arXiv:2211.10438, eq. 4), or a^α where only the matrices are rounded (AWQ,
arXiv:2306.00978, eq. 5).
α is searched: the one whose rounded product is nearest to the exact one on observed rows, of
matrices rounded to nearest. What is stored makes up for its errors besides (`rounding`), at a cost
that is paid once a matrix, not once for each α.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from omni_rt.calibration.formats import Format
from omni_rt.calibration.groups import Group
from omni_rt.calibration.ranges import LayerRange
from omni_rt.calibration.rounding import rounded_activation, rounded_matrix

_ALPHAS = (0.0, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0)
# The least size of a channel: dead ones have a factor too. SmoothQuant's own code has the same
# (`clamp(min=1e-5)` in mit-han-lab/smoothquant, smooth.py).
_LEAST = 1e-5
# What costs a pass over what is read is taken where the product is off by so much of what it is
# without.
_WORTH = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Smoothing:
    """What was chosen for a group."""

    group: Group
    factor: Tensor  # [K]: columns are multiplied by it, the activation's makers divided
    alpha: float | None  # None: nothing to fold into, or nothing gained
    largest: float  # absolute value of the activation, after the division
    rows: Tensor  # [n, K], a sample of the activation, before the division
    error: float  # relative L2 of products with these rows, of matrices rounded to nearest
    per_token: bool = False  # what the matrices read has a scale for each token
    centre: Tensor | None = None  # [K], after the division: rounded is what is read, less this
    moved: float = 0.0  # largest absolute value of what the matrices make of the centre
    weights_only: bool = False  # what the matrices read is not rounded, though its format does so
    refold: Tensor | float = 1.0  # [K], for columns of a stage that was folded by another factor

    @property
    def read(self) -> Tensor:
        """[n, K]: what the matrices are multiplied by, after the division and less the centre."""
        divided = self.rows / self.factor
        return divided if self.centre is None else divided - self.centre

    def rounding(self, format: Format) -> Format:
        """How the group is rounded in a stage of this format."""
        return format.weights_alone if self.weights_only else format

    def beside(self, folded: Smoothing) -> Smoothing:
        """This choice, to be tried in a stage that was folded by another one for the group."""
        return replace(self, refold=self.factor / folded.factor)


def smoothed(
    group: Group,
    seen: LayerRange,
    weights: Sequence[Tensor],
    format: Format,
    *,
    per_token: bool = True,
) -> Smoothing:
    """The best of several α for a group whose matrices are `weights` [N, K].

    Where what is read is rounded, it may be rounded less its centre, a vector [K]: what the
    matrices make of that is a constant, and added to their products exactly. It may also have
    scales per token, where the format and `per_token` allow them. Both cost a pass over what is
    read, so they must leave clearly less of its error.
    """
    centres = [torch.zeros(len(seen.channel_max))]
    if format.activation is not None:
        centres.append(_centre(seen, weights, format))
    tried = [
        smoothing
        for centre in centres
        for alpha, factor in _factors(group, seen, centre, weights, format)
        for smoothing in _tried(
            _Try(group, seen, centre, weights, format), alpha, factor, per_token=per_token
        )
    ]
    return _cheapest(tried)


def _cheapest(tried: Sequence[Smoothing]) -> Smoothing:
    """The best of the plainest kind, or of a dearer one that is worth it."""
    chosen: Smoothing | None = None
    for per_token, centred in ((False, False), (False, True), (True, False), (True, True)):
        own = [s for s in tried if s.per_token is per_token and (s.centre is not None) is centred]
        best = min(own, key=lambda s: s.error, default=None)
        if best is not None and (chosen is None or best.error < _WORTH * chosen.error):
            chosen = best
    assert chosen is not None
    return chosen


def _centre(seen: LayerRange, weights: Sequence[Tensor], format: Format) -> Tensor:
    """[K]: the mean of what is read, or the middle of its range, whichever leaves less error."""
    rows = torch.from_numpy(seen.rows)

    def error(centre: Tensor) -> float:
        largest = float(_sizes(seen, centre).max())
        lost = rounded_activation(rows - centre, largest, format) - (rows - centre)
        return sum(float((lost @ weight.T).square().sum()) for weight in weights)

    middle = (torch.from_numpy(seen.low) + torch.from_numpy(seen.high)) / 2
    return min(rows.mean(0) if len(rows) else middle, middle, key=error)


def _sizes(seen: LayerRange, centre: Tensor) -> Tensor:
    """[K]: how far each channel went from the centre."""
    if not centre.any():
        return torch.from_numpy(seen.channel_max)
    return torch.maximum(torch.from_numpy(seen.high) - centre, centre - torch.from_numpy(seen.low))


def _factors(
    group: Group, seen: LayerRange, centre: Tensor, weights: Sequence[Tensor], format: Format
) -> list[tuple[float | None, Tensor]]:
    """Every α with its factor [K], and none."""
    none: list[tuple[float | None, Tensor]] = [(None, torch.ones_like(centre))]
    if not group.divided:
        return none
    both = format.activation is not None
    sizes = _sizes(seen, centre) if both else torch.from_numpy(seen.rows).abs().mean(0)
    columns = torch.stack([weight.abs().amax(0) for weight in weights]).amax(0)
    return none + [(a, _factor(group, sizes, columns, a, both=both)) for a in _ALPHAS]


def _factor(group: Group, sizes: Tensor, columns: Tensor, alpha: float, *, both: bool) -> Tensor:
    """A factor per channel, of geometric mean 1."""
    sizes, columns = _tied(group, sizes).clamp(min=_LEAST), _tied(group, columns).clamp(min=_LEAST)
    factor = sizes**alpha / columns ** (1 - alpha) if both else sizes**alpha
    return factor / factor.log().mean().exp()


def _tied(group: Group, sizes: Tensor) -> Tensor:
    """The same size for channels that one row of the makers' matrix makes."""
    if group.shared_by == 1:
        return sizes
    heads = sizes.unflatten(0, (-1, group.shared_by, group.head_width))
    return heads.amax(1, keepdim=True).expand_as(heads).flatten()


@dataclass(frozen=True, slots=True)
class _Try:
    """What a factor is tried on."""

    group: Group
    seen: LayerRange
    centre: Tensor  # [K], before the division; zeros for none
    weights: Sequence[Tensor]
    format: Format


def _tried(on: _Try, alpha: float | None, factor: Tensor, *, per_token: bool) -> list[Smoothing]:
    """A factor with one scale for what is read and, where that is allowed, with one per token."""
    rows = torch.from_numpy(on.seen.rows)
    largest = float((_sizes(on.seen, on.centre) / factor).max())
    read = (rows - on.centre) / factor
    importance = read.square().mean(0)
    rounded = [
        rounded_matrix(weight * factor, on.format, importance=importance).dequantised()
        for weight in on.weights
    ]
    exact = [(rows - on.centre) @ weight.T for weight in on.weights]
    size = sum(float((rows @ weight.T).square().sum()) for weight in on.weights)
    found = []
    for each in (False, True) if per_token and on.format.offers_per_token else (False,):
        x = rounded_activation(read, largest, on.format, per_token=each)
        error = sum(
            float((x @ matrix.T - product).square().sum())
            for matrix, product in zip(rounded, exact, strict=True)
        )
        found.append(
            Smoothing(
                group=on.group,
                factor=factor,
                alpha=alpha,
                largest=largest,
                rows=rows,
                error=(error / max(size, 1e-30)) ** 0.5,
                per_token=each,
                centre=on.centre / factor if on.centre.any() else None,
                moved=max(float((weight @ on.centre).abs().max()) for weight in on.weights),
            )
        )
    return found


class Folds:
    """All factors of graphs that belong together, applied to their weights. Exact algebra."""

    def __init__(self, smoothings: Iterable[Smoothing]) -> None:
        self._columns: dict[str, Tensor] = {}
        self._rows: dict[str, Tensor] = {}
        for smoothing in smoothings:
            if smoothing.alpha is None:
                continue
            group = smoothing.group
            for matrix in group.matrices:
                self._columns[matrix] = smoothing.factor
            for maker in group.divided:
                self._rows[maker] = _maker_factor(group, smoothing.factor)

    @property
    def names(self) -> frozenset[str]:
        """Tensors that change."""
        return frozenset(self._columns.keys() | self._rows.keys())

    def factors(self) -> Iterator[tuple[str, Tensor]]:
        """All factors, by the tensor and axis that they change, in a stated order."""
        for axis, factors in (("columns", self._columns), ("rows", self._rows)):
            for name in sorted(factors):
                yield f"{name}/{axis}", factors[name]

    def folded(self, name: str, value: Tensor) -> Tensor:
        """A weight with its factors: a matrix [N, K], or a vector, also as [1, 1, N]."""
        columns, rows = self._columns.get(name), self._rows.get(name)
        if columns is not None:
            value = value * columns
        if rows is not None:
            is_vector = value.numel() == value.shape[-1]
            divided = value.reshape(-1).clone() if is_vector else value.clone()
            divided[: len(rows)] /= rows if is_vector else rows[:, None]
            value = divided.reshape(value.shape)
        return value


def _maker_factor(group: Group, factor: Tensor) -> Tensor:
    """The factor of the makers' rows: heads that share them have the same one."""
    if group.shared_by == 1:
        return factor
    return factor.unflatten(0, (-1, group.shared_by, group.head_width))[:, 0].flatten()


def by_matrix(smoothings: Iterable[Smoothing]) -> Mapping[str, Smoothing]:
    """Smoothings by each of their matrices."""
    return {matrix: s for s in smoothings for matrix in s.group.matrices}
