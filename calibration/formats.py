"""The number formats: how a matrix and the activation it reads are rounded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from omni_rt.manifest import Precision
from omni_rt.targets import PRECISIONS, StageFormat

_SCALE_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """Weights per output channel, or in blocks of input channels; activations per tensor, or not.

    Both are symmetric: a scale times an integer or an E4M3 number. per_token: whether an activation
    may have a scale for each token instead, found as it is computed, where that pays.
    """

    name: StageFormat
    activation: Literal["uint8", "int8", "fp8"] | None
    weight: Literal["int8", "fp8", "int4"]
    block: int | None = None  # input channels that share a scale
    opset: int = 20
    per_token: bool = False

    @property
    def precision(self) -> Precision:
        """What the manifest says of a graph in this format."""
        return PRECISIONS[self.name]

    @property
    def weights_alone(self) -> Format:
        """The same matrices in as many bits, with what they read as it is.

        8 bits are integers then: nothing is multiplied in E4M3, which has four bits less after the
        point near a channel's largest value.
        """
        weight = self.weight if self.weight == "int4" else "int8"
        return replace(self, activation=None, weight=weight)

    @property
    def offers_per_token(self) -> bool:
        """Whether activations are rounded, and may have a scale for each token."""
        return self.per_token and self.activation is not None

    @property
    def activation_limit(self) -> float:
        """The largest number an activation can be in units of its scale."""
        return 448.0 if self.activation == "fp8" else 127.0

    def stored_bytes(self, rows: int, columns: int) -> int:
        """What a matrix takes with its scales."""
        if self.block is None:
            return rows * columns + _SCALE_BYTES * rows
        return rows * columns // 2 + _SCALE_BYTES * (rows * columns // self.block)


FORMATS: Mapping[StageFormat, Format] = {
    # ONNX Runtime's fast kernel on a CPU takes unsigned activations (spec QUANTISATION §1, step 4)
    "uint8": Format(name="uint8", activation="uint8", weight="int8", per_token=True),
    "int8": Format(name="int8", activation="int8", weight="int8", per_token=True),
    "fp8": Format(name="fp8", activation="fp8", weight="fp8"),
    "w8": Format(name="w8", activation=None, weight="int8"),
    # 4-bit integers and blocks came with opset 21
    "int4": Format(name="int4", activation=None, weight="int4", block=64, opset=21),
    "int4-128": Format(name="int4-128", activation=None, weight="int4", block=128, opset=21),
}
