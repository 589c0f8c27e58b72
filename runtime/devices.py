"""Peak figures of the GPUs that plans are made for: what their makers state, not what was measured.

Rates are dense (NVIDIA's headline figures assume half of the weights to be zero), in operations
per second, a multiply-add counting two. On GeForce cards fp16 and FP8 are stated for sums in fp32,
which is half the rate of sums in fp16 and what a network's products are summed in. Figures marked
*unchecked* were not compared with the document that is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from omni_rt.errors import RequestError
from omni_rt.targets import TARGETS, StageFormat

Arithmetic = Literal["fp16", "fp8", "int8"]  # bf16 has the rate of fp16 on all of them

# What the matrices of a stage are multiplied in, by how they are stored.
ARITHMETIC: Mapping[StageFormat | None, Arithmetic] = {
    None: "fp16",
    "w8": "fp16",
    "int4": "fp16",
    "int4-128": "fp16",
    "uint8": "int8",
    "int8": "int8",
    "fp8": "fp8",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A GPU: its memory, how fast it is read, and how fast matrices are multiplied."""

    name: str
    about: str
    target: str  # whose formats it runs, a name of `omni_rt.targets`
    memory_bytes: int
    bandwidth: float  # bytes per second
    peak: Mapping[Arithmetic, float]  # operations per second
    shared: bool = False  # the memory is the processor's as well

    @property
    def formats(self) -> Mapping[str, StageFormat]:
        """The format of each stage's matrices; stages that are not listed have 16 bits."""
        return TARGETS[self.target].formats


DEVICES: Mapping[str, Device] = {
    device.name: device
    for device in (
        # NVIDIA Ada GPU Architecture whitepaper, appendix A: GeForce RTX 4090, "FP32 accumulate".
        Device(
            name="rtx4090",
            about="GeForce RTX 4090, 24 GB, sm_89",
            target="rtx4090",
            memory_bytes=24 << 30,
            bandwidth=1008e9,
            peak={"fp16": 165.2e12, "fp8": 330.3e12, "int8": 660.6e12},
        ),
        # NVIDIA RTX Blackwell GPU Architecture whitepaper, appendix A: GeForce RTX 5090.
        # Unchecked: the rates.
        Device(
            name="rtx5090",
            about="GeForce RTX 5090, 32 GB, sm_120",
            target="rtx5090",
            memory_bytes=32 << 30,
            bandwidth=1792e9,
            peak={"fp16": 209.5e12, "fp8": 419e12, "int8": 838e12},
        ),
        # Jetson AGX Orin Series Technical Brief: GPU of 64 tensor cores at 1.3 GHz, 170 sparse
        # INT8 TOPS (the 275 of the name include the accelerators beside it); fp16 is half of INT8.
        # Unchecked: the bandwidth.
        Device(
            name="orin",
            about="Jetson AGX Orin 64 GB, sm_87, MAXN",
            target="orin",
            memory_bytes=64 << 30,
            bandwidth=204.8e9,
            peak={"fp16": 42.5e12, "int8": 85e12},
            shared=True,
        ),
        # Jetson Orin NX Series data sheet: 32 tensor cores at 918 MHz, before "Super" clocks; the
        # rate is AGX Orin's in proportion, 85 · 32/64 · 918/1300. Unchecked: clock and bandwidth.
        Device(
            name="orin-nx",
            about="Jetson Orin NX 16 GB, sm_87, without Super clocks",
            target="orin",
            memory_bytes=16 << 30,
            bandwidth=102.4e9,
            peak={"fp16": 15e12, "int8": 30e12},
            shared=True,
        ),
        # Jetson Orin Nano Series data sheet: 40 sparse INT8 TOPS, all of them the GPU's, and
        # 68 GB/s, before "Super" clocks.
        Device(
            name="orin-nano",
            about="Jetson Orin Nano 8 GB, sm_87, without Super clocks",
            target="orin",
            memory_bytes=8 << 30,
            bandwidth=68e9,
            peak={"fp16": 10e12, "int8": 20e12},
            shared=True,
        ),
        # NVIDIA H100 Tensor Core GPU data sheet, SXM; no target of its own: FP8 as on Ada.
        Device(
            name="h100",
            about="H100 SXM 80 GB, sm_90",
            target="rtx4090",
            memory_bytes=80 << 30,
            bandwidth=3.35e12,
            peak={"fp16": 989.4e12, "fp8": 1978.9e12, "int8": 1978.9e12},
        ),
        # NVIDIA H200 Tensor Core GPU data sheet, SXM; 141 decimal GB.
        Device(
            name="h200",
            about="H200 SXM 141 GB, sm_90",
            target="rtx4090",
            memory_bytes=141_000_000_000,
            bandwidth=4.8e12,
            peak={"fp16": 989.4e12, "fp8": 1978.9e12, "int8": 1978.9e12},
        ),
    )
}


def device_named(name: str) -> Device:
    """A device by name. Raises RequestError listing them all."""
    try:
        return DEVICES[name]
    except KeyError:
        known = ", ".join(DEVICES)
        raise RequestError(f"no peak figures of {name!r}: one of {known}") from None
