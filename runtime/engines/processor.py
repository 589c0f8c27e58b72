"""What this machine's processor can do, as far as its operating system tells."""

from __future__ import annotations

from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_EXACT_INTEGER_SUMS = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"}


def processor_info() -> dict[str, str]:
    """The fields that Linux tells of a processor; empty elsewhere."""
    text = _CPUINFO.read_text(encoding="utf-8") if _CPUINFO.is_file() else ""
    lines = (line.split(":", 1) for line in text.replace("\t", "").splitlines() if ":" in line)
    return dict(lines)


def processor_flags(info: dict[str, str]) -> frozenset[str]:
    """Instruction sets among such fields, by Linux's names."""
    return frozenset((info.get("flags") or info.get("Features") or "").split())


def sums_8_bit_products_exactly() -> bool:
    """Whether products of 8-bit numbers are known to be summed in 32 bits.

    AVX2 and AVX-512 without VNNI add pairs of them in 16 bits (`vpmaddubsw`), which saturate.
    """
    return bool(_EXACT_INTEGER_SUMS & processor_flags(processor_info()))
