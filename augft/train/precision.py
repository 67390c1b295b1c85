"""Which number format a device is fast at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

_CUDA_AMPERE = (8, 0)
_CPU_BF16 = ("amx_bf16", "avx512_bf16")


def fast_bf16(device: torch.device) -> bool:
    """Whether bf16 autocast beats fp32 on a device: what `precision: auto` asks.

    CUDA from Ampere on; x86 with AMX tiles, or with the AVX-512 dot product of bf16 pairs, where training
    ResNets was measured to be 1.2 to 2.3 times as fast (`benchmarks/precision.py`). Anything else: no.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _CUDA_AMPERE
    if device.type == "cpu":
        return any(_cpu_capabilities().get(feature, False) for feature in _CPU_BF16)
    return False


def _cpu_capabilities() -> Mapping[str, Any]:
    """What PyTorch sees of the CPU; older releases have it under private names only."""
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities: Mapping[str, Any] = torch.cpu.get_capabilities()
        return capabilities
    probes = {"amx_bf16": "_is_amx_tile_supported", "avx512_bf16": "_is_avx512_bf16_supported"}
    return {feature: getattr(torch.cpu, probe, bool)() for feature, probe in probes.items()}
