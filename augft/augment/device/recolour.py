"""The colour pass: `recolour.recolour` in PyTorch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from augft.augment.device.tensors import Tensor, change_rows, octets, put
from augft.augment.draw import Float64Array, IntArray
from augft.augment.ops.colour import Kind
from augft.augment.recolour import EXP2, LARGEST_OFFSET, LOG2, fixed_arguments

UInt8Array = npt.NDArray[np.uint8]

__all__ = ["recolour"]


def recolour(made: Tensor, rows: IntArray, kinds: UInt8Array, arguments: Float64Array) -> None:
    """`recolour.recolour`, step by step: a table of a table is the table of both."""
    fixed = fixed_arguments(kinds, arguments) if len(rows) else np.empty((0, 0, 21), np.int64)
    for step in range(kinds.shape[1]):
        for kind in np.unique(kinds[:, step]):
            here = np.flatnonzero(kinds[:, step] == kind)
            argument = fixed[here, step]
            if kind == Kind.LINEAR:
                change_rows(made, rows[here], _linear, argument)
            elif kind:
                change_rows(made, rows[here], _look_up, kind, argument[:, 0])


def _linear(x: Tensor, argument: IntArray) -> Tensor:
    values = x.to(torch.int32)
    matrix = put(argument[:, :9], x, torch.int32).view(-1, 3, 3, 1, 1)
    offset = put(argument[:, 18:] + (1 << 15), x, torch.int64)
    if argument[:, 9:18].any():
        sums = x.sum((2, 3), dtype=torch.int64)
        weighed = (put(argument[:, 9:18], x, torch.int64).view(-1, 3, 3) * sums[:, None]).sum(2)
        offset += weighed.div(x.shape[2] * x.shape[3], rounding_mode="floor")
    total = offset.clamp(-LARGEST_OFFSET, LARGEST_OFFSET).to(torch.int32)[:, :, None, None].expand(values.shape)
    if argument[:, [1, 2, 3, 5, 6, 7]].any():
        for channel in range(3):
            total = total.addcmul(values[:, channel : channel + 1], matrix[:, :, channel])
    else:
        total = total.addcmul(values, matrix.flatten(1, 2)[:, ::4])
    return octets(total >> 16)


def _table(x: Tensor, kind: int, argument: IntArray) -> Tensor:
    """What each of 256 values becomes, uint8 (K, 3 or 1, 256)."""
    if kind >= Kind.AUTOCONTRAST:
        return _stretched(x) if kind == Kind.AUTOCONTRAST else _flattened(x)
    value = np.arange(256)
    if kind == Kind.GAMMA:
        table = _gamma(argument)
    elif kind == Kind.POSTERIZE:
        table = value & (255 << (8 - (argument[:, None] >> 16)))
    else:
        table = np.where(value < argument[:, None] >> 16, value, 255 - value)
    return put(table.astype(np.uint8)[:, None], x, torch.uint8)


def _gamma(exponent: IntArray) -> IntArray:
    power = -((exponent[:, None] * LOG2) >> 16)
    place, between = (power & 0xFFFFFF) >> 12, power & 4095
    level = EXP2[place]
    level = level - (((level - EXP2[np.minimum(place + 1, 4096)]) * between) >> 12)
    table: IntArray = ((level >> np.minimum(power >> 24, 40)) + (1 << 19)) >> 20
    table[:, 0] = 0
    return table


def _stretched(x: Tensor) -> Tensor:
    low, high = (extreme.to(torch.int64)[:, :, None] for extreme in x.flatten(2).aminmax(dim=2))
    varies = high > low
    scale = torch.where(varies, (255 << 32) // (high - low).clamp(min=1) + 1, 1 << 32)
    value = torch.arange(256, device=x.device) - torch.where(varies, low, 0)
    return octets(value * scale + (1 << 31) >> 32)


def _flattened(x: Tensor) -> Tensor:
    index = x.flatten(2).to(torch.int64)
    counts = index.new_zeros((*index.shape[:2], 256)).scatter_add_(2, index, torch.ones_like(index))
    last = counts.gather(2, index.amax(2, keepdim=True))
    size = (index.shape[2] - last) // 255
    step = (counts.cumsum(2) - counts + size // 2) // size.clamp(min=1)
    return octets(torch.where(size == 0, torch.arange(256, device=x.device), step))


def _look_up(x: Tensor, kind: int, argument: IntArray) -> Tensor:
    return _table(x, kind, argument).expand(-1, 3, -1).gather(2, x.flatten(2).to(torch.int64)).view(x.shape)
