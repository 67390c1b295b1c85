"""Filters and masks: those of `filters.py` and `masks.py` in PyTorch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from augft.augment import filters, masks
from augft.augment.device.tensors import Tensor, each, means, octets, put
from augft.augment.draw import PHILOX_MULTIPLIERS, PHILOX_ROUNDS, PHILOX_WEYL, Float64Array, IntArray, UInt64Array
from augft.augment.ops import Cutout, Erasing, FinishOp, GaussianBlur, GaussianNoise, GridMask, Jpeg, Sharpness, Size
from augft.augment.policy import Fill

__all__ = ["finish"]

_TO_YCC = np.array([[19595, 38470, 7471], [-11059, -21709, 32768], [32768, -27439, -5329]])
_YCC_HALVES = np.array([[32768 - (128 << 16)], [32767], [32767]])


def finish(x: Tensor, op: FinishOp, values: Float64Array, fill: Fill, keys: UInt64Array) -> Tensor:
    """What `op.apply` makes of pictures uint8 (K, 3, H, W)."""
    size = Size(x.shape[2], x.shape[3])
    if isinstance(op, Sharpness):
        return _sharpen(x, filters.sharpen_gains(values[0]))
    if isinstance(op, GaussianBlur):
        return _blur(x, *filters.blur_weights(values[0], *size))
    if isinstance(op, GaussianNoise):
        return _add_noise(x, filters.noise_scales(values[0]), keys)
    if isinstance(op, Jpeg):
        return _jpeg(x, values[0].astype(np.int64))
    colours = _fill_colours(x, fill)
    if isinstance(op, Erasing):
        noise = _noise(x, keys) if op.noise else colours
        return torch.where(_in_boxes(x, op.boxes(values, size)), noise, x)
    if isinstance(op, Cutout):
        return torch.where(_in_boxes(x, op.boxes(values, size)), colours, x)
    if isinstance(op, GridMask):
        return torch.where(_in_grid(x, *masks.grid_phases(*size, *op.grid(values, size))), colours, x)
    raise NotImplementedError(f"{op.name} has no pixels on the device")


def _fill_colours(x: Tensor, fill: Fill) -> Tensor:
    """`apply.fill_colours`, uint8 (K or 1, 3, 1, 1)."""
    colours = means(x.flatten(2)) if isinstance(fill, str) else put(np.array([fill]), x, torch.uint8)
    return colours.to(torch.uint8)[:, :, None, None]


def _sharpen(x: Tensor, gains: npt.NDArray[np.int32]) -> Tensor:
    out = x.clone()
    _, _, height, width = x.shape
    if min(height, width) > 2:
        values = x.to(torch.int32)
        rows = values[:, :, :-2] + values[:, :, 1:-1] + values[:, :, 2:]
        nine = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
        inner = values[:, :, 1:-1, 1:-1]
        change = (inner * 9 - nine).mul_(each(gains, x, torch.int32)).add_(32768) >> 16
        out[:, :, 1:-1, 1:-1] = octets(change.add_(inner))
    return out


def _blur(x: Tensor, radii: IntArray, weights: npt.NDArray[np.uint16]) -> Tensor:
    values = x.to(torch.int32) << 7
    for axis, half, shift in ((1, 1 << 15, 16), (0, 1 << 22, 23)):
        radius, dim, length = int(radii[axis].max()), 2 + axis, x.shape[2 + axis]
        around = np.abs(np.arange(-radius, length + radius))
        around = np.minimum(around, 2 * (length - 1) - around)  # reflected; no radius is longer than the picture
        wide = values.index_select(dim, put(around, x, torch.int64))
        values = torch.full_like(values, half)
        for tap in range(radius + 1):
            pair = wide.narrow(dim, radius - tap, length) + wide.narrow(dim, radius + tap, length)
            values.addcmul_(pair, each(weights[axis, :, tap].astype(np.int32), x, torch.int32))
        values >>= shift
    return values.to(torch.uint8)


def _philox(keys: UInt64Array, num_blocks: int, like: Tensor) -> Tensor:
    """Four words for each block, int64 (K, 4 · blocks): Philox4x32-10 at counter (block, 0, 0, 0).

    Products wrap to 64 bits as unsigned ones do; the sign is masked away.
    """
    low = 0xFFFFFFFF
    k0, k1 = (put(half.astype(np.int64)[:, None], like, torch.int64) for half in (keys & low, keys >> np.uint64(32)))
    c0 = torch.arange(num_blocks, device=like.device)[None].expand(len(keys), -1)
    c1 = c2 = c3 = torch.zeros_like(c0)
    for _ in range(PHILOX_ROUNDS):
        p0, p1 = c0 * PHILOX_MULTIPLIERS[0], c2 * PHILOX_MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> 32 & low) ^ c1 ^ k0, p1 & low, (p0 >> 32 & low) ^ c3 ^ k1, p0 & low
        k0, k1 = k0 + PHILOX_WEYL[0] & low, k1 + PHILOX_WEYL[1] & low
    return torch.stack([c0, c1, c2, c3], 2).flatten(1)


def _add_noise(x: Tensor, scales: npt.NDArray[np.int32], keys: UInt64Array) -> Tensor:
    """A value after the other, channels first: two values a word."""
    num = x[0].numel()
    words = _philox(keys, -(-num // 8), x)
    cells = torch.stack([words & 4095, words >> 20], 2).flatten(1)[:, :num]
    normals = put(filters.NORMAL, x, torch.int32).index_select(0, cells.flatten())
    change = normals.view(len(x), num).mul_(put(scales, x, torch.int32)[:, None]).add_(1 << 19) >> 20
    return octets(change.view(len(x), *x.shape[2:], 3).permute(0, 3, 1, 2) + x)


def _noise(x: Tensor, keys: UInt64Array) -> Tensor:
    """Bytes for each pixel, a word each: `masks.fill_boxes`."""
    num = x.shape[2] * x.shape[3]
    words = _philox(keys, -(-num // 4), x)[:, None, :num]
    shifts = put(np.array([0, 8, 16]), x, torch.int64)[:, None]
    return (words >> shifts & 255).to(torch.uint8).view(x.shape)


def _in_boxes(x: Tensor, boxes: IntArray) -> Tensor:
    """Whether a pixel is in its picture's box, bool (K, 1, H, W)."""
    top, bottom, left, right = (each(side, x, torch.int64) for side in boxes)
    row = torch.arange(x.shape[2], device=x.device).view(-1, 1)
    column = torch.arange(x.shape[3], device=x.device)
    return (row >= top) & (row < bottom) & ((column >= left) & (column < right))


def _in_grid(x: Tensor, phases: npt.NDArray[np.uint32], ends: IntArray) -> Tensor:
    """Whether a pixel is in a square of its picture's grid, bool (K, 1, H, W): `masks.grid_mask`."""
    a, b, d, e, u, v = (each(phase, x, torch.int64) for phase in phases.T.astype(np.int64))
    row = torch.arange(x.shape[2], device=x.device).view(-1, 1)
    column = torch.arange(x.shape[3], device=x.device)
    u, v = u + column * a + row * b & 0xFFFFFFFF, v + column * d + row * e & 0xFFFFFFFF
    return torch.maximum(u, v) < each(ends, x, torch.int64)


def _jpeg(x: Tensor, quality: IntArray) -> Tensor:
    """`filters.jpeg`. Its sums of integer products are products of matrices, exact in float64; so are its shifts."""
    num, _, height, width = x.shape
    steps = put(filters.QUANTISATION[0][quality - 1], x, torch.float64).view(num, 2, 1, 1, 8, 8)[:, [0, 1, 1]].mT
    cosines = put(filters.COSINES, x, torch.float64)

    def shifted(total: Tensor, half: int, bits: int) -> Tensor:
        return total.add_(half).mul_(0.5**bits).floor_()

    to_ycc = put(_TO_YCC, x, torch.float64)
    ycc = torch.matmul(to_ycc, x.flatten(2).to(torch.float64))
    ycc += put(_YCC_HALVES, x, torch.float64)
    ycc = ycc.mul_(0.5**16).floor_().view(x.shape)
    high, wide = -(-height // 8), -(-width // 8)
    down, across = (torch.arange(8 * n, device=x.device).clamp_(max=m - 1) for n, m in ((high, height), (wide, width)))
    ycc = ycc[:, :, down[:, None], across]
    blocks = ycc.view(num, 3, high, 8, wide, 8).transpose(3, 4).contiguous()
    levels = shifted(blocks @ cosines.T, 1 << 10, 11)  # along rows, then along columns
    levels = shifted(levels.mT.contiguous() @ cosines.T, 1 << 14, 15)
    multiples = levels.abs().add_(4 * steps).mul_(0.125).floor_().div_(steps).floor_().mul_(steps)
    levels = shifted(multiples.copysign_(levels) @ cosines, 1 << 10, 11)
    blocks = shifted(levels.mT.contiguous() @ cosines, 1 << 17, 18).clamp_(-128, 127)
    y, cb, cr = blocks.transpose(3, 4).reshape(num, 3, 8 * high, 8 * wide)[:, :, :height, :width].unbind(1)
    y = y + 128
    red = shifted(cr * 91881, 32768, 16)
    green = shifted(cb * -22554 - cr * 46802, 32768, 16)
    blue = shifted(cb * 116130, 32768, 16)
    return octets(torch.stack([y + red, y + green, y + blue], 1))
