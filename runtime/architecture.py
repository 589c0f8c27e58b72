"""What costs follow from: the sizes of a model, how many weights each stage has, its autoencoder.

Counted from a bundle's graphs, or by the exporter from a configuration that was never exported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from omni_rt.bundle import Bundle
from omni_rt.contract import check_ports
from omni_rt.errors import BundleError
from omni_rt.external_data import stored_values
from omni_rt.manifest import Dims

_RESIDUAL_UNITS, _UNIT_TAPS = 3, 7 + 1  # of a level: convolutions of 7 taps and of one
_FIRST_TAPS, _LATENT_TAPS = 7, 3  # at the sound's end of either half; the encoder's last one


@dataclass(frozen=True, slots=True, kw_only=True)
class OobleckLevels:
    """One half of the autoencoder: channels of its levels from the sound inwards (UPSTREAM §6)."""

    audio_channels: int
    channels: tuple[int, ...]  # of n + 1 levels
    strides: tuple[int, ...]  # between them, n
    latent_channels: int  # of this half: the encoder's are mean and scale
    latent_taps: int

    @classmethod
    def from_config(cls, half: Mapping[str, Any], *, decodes: bool) -> OobleckLevels:
        """From `encoder.config` or `decoder.config` of the original's configuration.

        Raises KeyError, TypeError or ValueError for one that is none.
        """
        base = int(half["channels"])
        levels = cls(
            audio_channels=int(half["out_channels" if decodes else "in_channels"]),
            channels=(base, *(base * int(factor) for factor in half["c_mults"])),
            strides=tuple(int(stride) for stride in half["strides"]),
            latent_channels=int(half["latent_dim"]),
            latent_taps=_FIRST_TAPS if decodes else _LATENT_TAPS,
        )
        if len(levels.channels) != len(levels.strides) + 1 or min(levels.strides, default=0) < 1:
            raise ValueError(f"{levels.channels} channels, strides {levels.strides}")
        return levels

    def flops(self, samples: int) -> int:
        """Multiplications and additions for so many samples of sound."""
        length = samples
        macs = length * self.audio_channels * self.channels[0] * _FIRST_TAPS
        for (outer, inner), stride in zip(pairwise(self.channels), self.strides, strict=True):
            macs += length * _RESIDUAL_UNITS * _UNIT_TAPS * outer * outer
            length //= stride
            macs += length * outer * inner * 2 * stride
        return 2 * (macs + length * self.channels[-1] * self.latent_channels * self.latent_taps)

    def widest(self, samples: int) -> int:
        """Numbers in the largest tensor between two layers."""
        length, found = samples, samples * self.channels[0]
        for channels, stride in zip(self.channels[1:], self.strides, strict=True):
            found = max(found, length * channels // stride)
            length //= stride
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A model's sizes, and of every stage it has how many numbers its weights are."""

    name: str
    dims: Dims
    weights: Mapping[str, int]  # stage → numbers
    encoder: OobleckLevels
    decoder: OobleckLevels

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> Architecture:
        """Weights are counted in the graphs; the autoencoder is in the configuration kept with it.

        Raises BundleError if a graph cannot be read or has other ports than its sizes give, or if
        the configuration is missing.
        """
        manifest = bundle.manifest
        for stage, graph in manifest.graphs.items():
            check_ports(stage, graph, manifest.dims)
        encoder, decoder = autoencoder_levels(manifest.provenance.get("config"))
        return cls(
            name=manifest.name,
            dims=manifest.dims,
            weights={stage: stored_values(bundle.graph_file(stage)) for stage in manifest.graphs},
            encoder=encoder,
            decoder=decoder,
        )


def autoencoder_levels(config: Any) -> tuple[OobleckLevels, OobleckLevels]:
    """Encoder and decoder of the original's configuration. Raises BundleError if it is none."""
    try:
        vae = config["model"]["pretransform"]["config"]
        encoder, decoder = (
            OobleckLevels.from_config(vae[half]["config"], decodes=half == "decoder")
            for half in ("encoder", "decoder")
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"manifest.provenance.config tells no autoencoder ({error!r}): export the bundle again"
        ) from error
    return encoder, decoder
