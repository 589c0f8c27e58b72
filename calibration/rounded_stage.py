"""A torch stage that rounds as its graph will: matrices, what they read, and attention in FP8."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from omni_rt.calibration.attention import ProductSizes
from omni_rt.calibration.formats import Format
from omni_rt.calibration.rounding import compensated_matrix, rounded_activation
from omni_rt.calibration.smooth import Smoothing
from omni_rt.export.graphs import Stage

_PRODUCTS = ("matmul", "__matmul__")  # `nn.Linear` calls neither


@contextmanager
def rounded(
    stage: Stage,
    smoothings: Sequence[Smoothing],
    format: Format,
    attentions: Mapping[str, ProductSizes] | None = None,
) -> Iterator[None]:
    """The folded stage with these groups, and the products of these attentions, rounded."""
    with ExitStack() as undo:
        for smoothing in smoothings:
            own = smoothing.rounding(format)
            for name in smoothing.group.matrices:
                layer = linear(stage, name)
                hook = layer.register_forward_pre_hook(_rounding(smoothing, own))
                undo.callback(hook.remove)
                undo.callback(setattr, layer.weight, "data", layer.weight.data)
                folded = layer.weight.data * smoothing.refold
                if smoothing.centre is not None:
                    hook = layer.register_forward_hook(_adding(folded @ smoothing.centre))
                    undo.callback(hook.remove)
                matrix = compensated_matrix(folded, own, smoothing.read)
                layer.weight.data = matrix.dequantised() / smoothing.refold
        for name, sizes in (attentions or {}).items():
            undo.enter_context(_rounded_attention(_module(stage, name), sizes, format))
        yield


def _rounding(
    smoothing: Smoothing, format: Format
) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    def hook(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = arguments[0] if smoothing.centre is None else arguments[0] - smoothing.centre
        read = rounded_activation(x, smoothing.largest, format, per_token=smoothing.per_token)
        return (read, *arguments[1:])

    return hook


def _adding(offset: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    """A hook that adds what a matrix makes of the centre, which it does not read."""
    return lambda _module, _arguments, out: out + offset


def linear(stage: Stage, name: str) -> nn.Linear:
    """The module whose weight has this official name."""
    found = _module(stage, name.removesuffix(".weight"))
    assert isinstance(found, nn.Linear), name
    return found


def _module(stage: Stage, name: str) -> nn.Module:
    for path, module in stage.module.named_modules():
        if path and stage.official_name(path) == name:
            return module
    raise AssertionError(name)


@contextmanager
def _rounded_attention(module: nn.Module, sizes: ProductSizes, format: Format) -> Iterator[None]:
    """A module whose forward has both products of its attention rounded."""
    exact = module.forward

    def forward(*arguments: Tensor) -> Any:
        with _Products(sizes, format):
            return exact(*arguments)

    module.forward = forward
    try:
        yield
    finally:
        del module.forward


class _Products(TorchFunctionMode):
    """Rounds both sides of each product of two activations, which come in the order of `sizes`."""

    def __init__(self, sizes: ProductSizes, format: Format) -> None:
        super().__init__()
        self._sizes, self._format = iter(sizes), format

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") in _PRODUCTS:
            pair = zip(args, next(self._sizes), strict=True)
            args = tuple(rounded_activation(x, largest, self._format) for x, largest in pair)
        return func(*args, **(kwargs or {}))
