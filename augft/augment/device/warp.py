"""The one resample: `kernel.warp` in PyTorch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from augft.augment.device.tensors import Tensor, each, means, put, store
from augft.augment.draw import Float64Array, IntArray
from augft.augment.kernel import (
    BORDER,
    MAX_POSITION,
    RUN_PIXELS,
    Displacement,
    check_reach,
    fixed_lattices,
    fixed_maps,
    samples_each,
    spline_weights,
)
from augft.augment.policy import Fill

__all__ = ["warp"]


def warp(images: Tensor, inverse: Float64Array, fill: Fill, bilinear: bool, displaced: Displacement | None) -> Tensor:
    """`kernel.warp`, from (M, H, W, 3) to (M, 3, H, W)."""
    num, height, width, _ = images.shape
    check_reach(inverse, np.array([[0, height, width]]), (height, width))
    m = fixed_maps(inverse)
    general = (m[:, 6:8] != 0).any(1) | (fill == "reflect")
    if displaced is not None:
        general[displaced.rows] = True
    samples = samples_each(inverse, bilinear)
    whole = ((m[:, :6] & 0xFFFFFFFF) == 0).all(1) & (samples == 1).all(1)
    blend = bilinear & (general | ~whole)
    planes = _planes(images, fill, blend & ~general & _stays_inside(m, height, width))
    out = images.new_empty((num, 3, height, width))

    nearest, plain, rest = (np.flatnonzero(chosen) for chosen in (~blend & ~general, blend & ~general, general))
    if len(nearest):
        store(out, nearest, _sample(planes, nearest, *_positions(m[nearest], planes, False), False))
    if len(plain):
        store(out, plain, _average(planes, plain, m[plain], samples[plain]))
    if len(rest):
        lattices = None
        if displaced is not None:
            lattices = np.zeros((num, *fixed_lattices(displaced).shape[1:]), np.int32)
            lattices[displaced.rows] = fixed_lattices(displaced)
            lattices = lattices[rest]
        where = _general_positions(m[rest], lattices, planes, fill == "reflect", bilinear)
        store(out, rest, _sample(planes, rest, *where, bilinear))
    return out


def _planes(images: Tensor, fill: Fill, inside: npt.NDArray[np.bool_]) -> Tensor:
    """Pictures as 32-bit pixels with a border of fill, int32 (M, H + 4, W + 4); of their edges where it is not met."""
    num, height, width, _ = images.shape
    planes = images.new_zeros((num, height + 2 * BORDER, width + 2 * BORDER, 4))
    planes[:, BORDER:-BORDER, BORDER:-BORDER, :3] = images
    planes = planes.view(torch.int32)[..., 0]
    edges = fill in ("edge", "reflect")
    if fill == "mean":
        red, green, blue = means(images.flatten(1, 2).transpose(1, 2)).unbind(1)
        colour = (red | green << 8 | blue << 16).to(torch.int32)[:, None, None]
    elif not isinstance(fill, str):
        colour = planes.new_full((1, 1, 1), fill[0] | fill[1] << 8 | fill[2] << 16)
    keeps_edges = put(inside, images, torch.bool)[:, None, None] if inside.any() else None

    def lay(border: Tensor, edge: Tensor) -> None:
        border.copy_(edge if edges else colour if keeps_edges is None else torch.where(keeps_edges, edge, colour))

    middle = planes[:, BORDER:-BORDER]
    lay(middle[:, :, :BORDER], middle[:, :, BORDER : BORDER + 1])
    lay(middle[:, :, -BORDER:], middle[:, :, -BORDER - 1 : -BORDER])
    lay(planes[:, :BORDER], planes[:, BORDER : BORDER + 1])
    lay(planes[:, -BORDER:], planes[:, -BORDER - 1 : -BORDER])
    return planes


def _stays_inside(m: IntArray, height: int, width: int) -> npt.NDArray[np.bool_]:
    """`kernel._stays_inside` of each map."""
    half, tolerance = 1 << 31, 1 << 12
    inside = np.ones(len(m), np.bool_)
    for x in (-1, 2 * width - 1):
        for y in (-1, 2 * height - 1):
            u = (m[:, 0] * x + m[:, 1] * y) // 2 + m[:, 2]
            v = (m[:, 3] * x + m[:, 4] * y) // 2 + m[:, 5]
            inside &= np.minimum(u, v) >= -half - tolerance
            inside &= (u <= (width << 32) - half + tolerance) & (v <= (height << 32) - half + tolerance)
    return inside


def _positions(m: IntArray, planes: Tensor, blend: bool) -> tuple[Tensor, Tensor]:
    """Places in the planes under affine maps, int32 (K, H, W) in 2^-16 pixels: across and down.

    Each run of rows starts from the finer numbers, as the kernel's does.
    """
    height, width = planes.shape[1] - 2 * BORDER, planes.shape[2] - 2 * BORDER
    offset = (BORDER << 16) + (16 if blend else 32768)
    x = torch.arange(width, device=planes.device)
    y = torch.arange(height, device=planes.device)
    late = y % max(1, RUN_PIXELS // width)
    numbers = put(m, planes, torch.int64)
    places = []
    for row in (0, 3):
        right, down, start = numbers[:, row : row + 3, None].unbind(1)
        begin = (down * (y - late) + start + 32768 >> 16) + offset + late * (down + 32768 >> 16)
        along = x * (right + 32768 >> 16)
        places.append(begin.to(torch.int32)[:, :, None] + along.to(torch.int32)[:, None, :])
    return places[0], places[1]


def _average(planes: Tensor, rows: IntArray, m: IntArray, samples: IntArray) -> Tensor:
    """Blended samples of affine maps: one a pixel, or where a map shrinks the mean of several."""
    count = samples[:, 0] * samples[:, 1]
    total = _sample(planes, rows, *_positions(_shifted(m, samples, 0), planes, True), True)
    if count.max() == 1:
        return total
    for number in range(1, count.max()):
        more = np.flatnonzero(count > number)
        where = _positions(_shifted(m[more], samples[more], number), planes, True)
        total.index_add_(0, put(more, planes, torch.int64), _sample(planes, rows[more], *where, True))
    return total.mul_(each((65536 + count // 2) // count, planes, torch.int32)).add_(32768) >> 16


def _shifted(m: IntArray, samples: IntArray, number: int) -> IntArray:
    """Maps to the sub-sample of a number; they lie evenly over the output pixel's own square."""
    num_x, num_y = samples.T
    j, i = divmod(number, num_x)
    i, j = 2 * i + 1 - num_x, 2 * j + 1 - num_y
    shifted = m.copy()
    for row in (0, 3):
        shifted[:, row + 2] += m[:, row] * i // (2 * num_x) + m[:, row + 1] * j // (2 * num_y)
    return shifted


def _general_positions(
    m: IntArray, lattices: npt.NDArray[np.int32] | None, planes: Tensor, reflect: bool, blend: bool
) -> tuple[Tensor, Tensor]:
    """As `_positions`, under displacement and projective maps: `kernel._general_positions`."""
    height, width = planes.shape[1] - 2 * BORDER, planes.shape[2] - 2 * BORDER
    x = (torch.arange(width, device=planes.device) << 16).view(1, 1, -1)
    y = (torch.arange(height, device=planes.device) << 16).view(1, -1, 1)
    if lattices is not None:
        side = lattices.shape[-1]
        down, across = (spline_weights(length, side - 3) for length in (height, width))
        control = put(lattices, planes, torch.int64)  # (K, 2, side, side)
        moved = control.new_zeros((len(m), 2, height, side))
        for i in range(4):
            weight = put(down[:, 1 + i, None], planes, torch.int64)
            moved += control[:, :, put(down[:, 0] + i, planes, torch.int64)] * weight
        moved >>= 12
        shift = control.new_full((len(m), 2, height, width), 2048)
        for i in range(4):
            weight = put(across[:, 1 + i], planes, torch.int64)
            shift += moved[..., put(across[:, 0] + i, planes, torch.int64)] * weight
        shift >>= 12
        x, y = x + shift[:, 0], y + shift[:, 1]
    numbers = put(m, planes, torch.int64)[:, :, None, None]
    a, b, c, d, e, f, g, h, w = (numbers >> 8).unbind(1)
    far = MAX_POSITION << 16
    u, v = a * x + b * y + (c << 16), d * x + e * y + (f << 16)
    flat = (m[:, 6:8] == 0).all(1)
    if flat.all():
        u, v = u + (1 << 23) >> 24, v + (1 << 23) >> 24
    else:
        divisor = g * x + h * y + (w << 16) >> 16
        behind = divisor < 1 << 10
        divisor = divisor.clamp(min=1)
        is_flat = put(flat, planes, torch.bool)[:, None, None]
        u, v = (
            torch.where(is_flat, p + (1 << 23) >> 24, torch.where(behind, -far, p.div(divisor, rounding_mode="floor")))
            for p in (u, v)
        )
    places = []
    for place, length in ((u, width), (v, height)):
        place = place.clamp(-far, far)
        if reflect:
            period = (length - 1) << 17
            place = place % period if period else torch.zeros_like(place)
            place = torch.minimum(place, period - place)
        place += (BORDER << 16) + (16 if blend else 32768)
        places.append(place.to(torch.int32).expand(len(m), height, width))
    return places[0], places[1]


def _sample(planes: Tensor, rows: IntArray, u: Tensor, v: Tensor, blend: bool) -> Tensor:
    """Pixels at places in the planes of some pictures, int32 (K, 3, H, W)."""
    _, height, width = planes.shape
    low = 0 if blend else 1
    index = (v >> 16).clamp_(low, height - 2).mul_(width).add_((u >> 16).clamp_(low, width - 2))
    index += put(rows * (height * width), planes, torch.int32)[:, None, None]
    index, pixels = index.flatten(), planes.reshape(-1)
    out = planes.new_empty((len(rows), 3, *u.shape[1:]))
    if not blend:
        found = pixels.index_select(0, index).view(u.shape)
        for channel in range(3):
            torch.bitwise_and(found >> 8 * channel, 255, out=out[:, channel])
        return out
    x, y = (u >> 5).bitwise_and_(2047), (v >> 5).bitwise_and_(2047)
    w11 = x * y
    w01, w10 = (x << 11).sub_(w11), (y << 11).sub_(w11)
    w00 = (1 << 22) - w01 - w10 - w11
    four = [
        (pixels.index_select(0, index + place).view(u.shape), weight)
        for place, weight in ((0, w00), (1, w01), (width, w10), (width + 1, w11))
    ]
    for channel in range(3):
        total = out[:, channel].fill_(1 << 21)
        for found, weight in four:
            total.addcmul_((found >> 8 * channel).bitwise_and_(255), weight)
        total >>= 22
    return out
