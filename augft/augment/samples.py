"""Samples of a packed split through a policy: from stored pixels, or straight from picture files.

A picture file is decoded whole and moved once: the frame, which is its central square or the box of the first resized
crop, and all ops of the policy are one map from an output pixel to the whole picture. What an op moves into view from
beyond the frame is therefore picture and not fill, as far as there is picture.

Where the frame is the central square and nothing moves, or only by turns and mirroring that are exact, the picture is
the plain view, as a set of pixels stores it, bit for bit. Elsewhere it is decoded no larger than its map needs,
averaged by whole numbers, and then sampled by the kernel. Only one decoded picture is held at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil, floor, isfinite, sqrt

import numpy as np
import numpy.typing as npt
from PIL import Image

from augft.augment.apply import Composed, compose_drawn, finish_part, fixed_weights, render_parts, too_far
from augft.augment.draw import Float64Array, IntArray
from augft.augment.drawn import Drawn, DrawnOp
from augft.augment.ops import GeometryOp, ResizedCrop, Size, compose, identity
from augft.augment.ops.geometry import box
from augft.augment.ops.maps import affine, projective
from augft.augment.policy import Policy
from augft.data.encoded import EncodedPicture
from augft.data.packed import PackedSplit

UInt8Array = npt.NDArray[np.uint8]

_MARGIN = 2
"""Pixels around those that a map reaches: bilinear sampling reads one beyond, and positions are rounded."""

_HORIZON = 1e-3
"""Divisor of a projective map below which nothing is to be seen."""


def render_samples(split: PackedSplit, sample_ids: IntArray, policy: Policy, drawn: Drawn) -> UInt8Array:
    """The pictures that drawn parameters make of samples, uint8 (N, H, W, 3).

    Raises:
        DataError: a sample cannot be read.
        PolicyError: the policy moves pixels further than the kernel can follow.
    """
    out = np.empty((len(sample_ids), *split.image_shape), np.uint8)
    for _ in render_each(split, sample_ids, policy, drawn, out):
        pass
    return out


def render_each(
    split: PackedSplit, sample_ids: IntArray, policy: Policy, drawn: Drawn, out: UInt8Array
) -> Iterator[slice]:
    """As `render_samples`, into `out` and a part at a time.

    Args:
        split: where the samples are.
        sample_ids: int64 (N,).
        policy: its sampling and fill.
        drawn: what happens to each.
        out: uint8 (N, H, W, 3), C-contiguous.

    Yields:
        Which pictures of `out` are finished, part by part.
    """
    if split.dataset.manifest.encoded:
        return _render_files(split.pictures(sample_ids), policy, drawn, out)
    return render_parts(lambda first, end: split.gather(sample_ids[first:end])[0], policy, drawn, out)


def _render_files(pictures: Sequence[EncodedPicture], policy: Policy, drawn: Drawn, out: UInt8Array) -> Iterator[slice]:
    size = Size(out.shape[1], out.shape[2])
    sizes = np.array([(picture.height, picture.width) for picture in pictures], np.int64).reshape(-1, 2).T
    plans = compose_drawn(drawn, size)
    moves = [_Moves(plan, sizes, size, policy) for plan in plans]
    weights = None if drawn.weights is None else fixed_weights(drawn.weights)
    for row, picture in enumerate(pictures):
        decoded = _Decoded(picture)

        def move(chain: int, into: UInt8Array, row: int = row, decoded: _Decoded = decoded) -> None:
            moves[chain].apply(decoded, row, into)

        part = slice(row, row + 1)
        finish_part(move, plans, weights, part, policy, out[part])
        yield part


class _Decoded:
    """A picture, and what it was last decoded to: the chains of AugMix mostly want the same."""

    def __init__(self, picture: EncodedPicture) -> None:
        self.picture = picture
        self._shrink, self._image = 0.0, (Image.new("RGB", (1, 1)), 1)

    def rgb(self, shrink: float) -> tuple[Image.Image, int]:
        if shrink != self._shrink:
            self._shrink, self._image = shrink, self.picture.rgb(shrink)
        return self._image


class _Moves:
    """The geometry of a batch of picture files.

    Args:
        plan: of the ops, on pictures of the size that they come out at.
        sizes: int64 (2, N), height and width of the whole pictures.
        size: that they come out at.
        policy: its sampling and fill.
    """

    def __init__(self, plan: Composed, sizes: IntArray, size: Size, policy: Policy) -> None:
        self._plan, self._size, self._policy = plan, size, policy
        self._maps, central = whole_maps(plan.ops, sizes, size)
        self._exact = central & _turns(plan.maps_of(slice(0, sizes.shape[1])), size)

    def apply(self, decoded: _Decoded, row: int, out: UInt8Array) -> None:
        """Put a picture, moved, into uint8 (1, S, S, 3)."""
        from augft.augment import kernel  # not at the top: it loads the compiler

        part = slice(row, row + 1)
        displacement = self._plan.displacement(part)
        if displacement is not None and not len(displacement.rows):
            displacement = None
        bilinear = self._policy.sampling == "bilinear"
        if self._exact[row] and displacement is None:
            out[0] = decoded.picture.plain(self._size.width)
            if self._plan.moves:
                out[:] = kernel.warp(out, self._plan.maps_of(part), bilinear=bilinear)
            return
        maps = self._maps[:, part]
        whole = displacement is not None or self._policy.fill in ("mean", "reflect") or bool(maps[6:8].any())
        shrink = _shrink(maps, self._size)
        # Of projective maps, displacement and nearest sampling the kernel takes one sample for each pixel.
        image, divisor = decoded.rgb(shrink if bilinear and not whole else max(1.0, round(shrink)))
        centre = 0.5 / divisor - 0.5
        maps = compose(affine(1, a=1 / divisor, c=centre, e=1 / divisor, f=centre), maps)
        if not whole:
            image, maps = _cut(image, maps, self._size)
        try:
            kernel.warp(
                np.asarray(image)[None],
                maps,
                fill=self._policy.fill,
                bilinear=bilinear,
                out_size=(self._size.height, self._size.width),
                displacement=displacement,
                fine=True,
                out=out,
            )
        except ValueError as error:
            whole_size = Size(decoded.picture.height, decoded.picture.width)
            raise too_far(self._policy, whole_size, error) from error


def whole_maps(ops: Sequence[DrawnOp], sizes: IntArray, size: Size) -> tuple[Float64Array, npt.NDArray[np.bool_]]:
    """The frame and all geometry of each sample as one map of `ops/maps.py`, to positions in the whole picture.

    A sample's first resized crop is its frame: the box is drawn in the whole picture, and ops before it move that; ops
    after it move what it cut out. A sample without one is framed by its central square, before all ops.

    Args:
        ops: in the policy's order.
        sizes: int64 (2, N), height and width of the whole pictures.
        size: that they come out at.

    Returns:
        float64 (6, N) or (9, N); and whether the frame is the central square, (N,).
    """
    moving = [one for one in ops if isinstance(one.op, GeometryOp) and len(one.rows)]
    framed_by = np.full(sizes.shape[1], -1)
    for number, one in reversed(list(enumerate(moving))):
        if isinstance(one.op, ResizedCrop):
            framed_by[one.rows] = number
    central = framed_by < 0
    total = np.where(central, _central(sizes, size), identity(sizes.shape[1]))
    for number, one in enumerate(moving):
        assert isinstance(one.op, GeometryOp)
        by, (heights, widths) = framed_by[one.rows], sizes[:, one.rows]
        inverse = one.op.inverse(one.values, size)
        frames = by == number
        if isinstance(one.op, ResizedCrop):
            source = Size(heights[frames], widths[frames])
            inverse[:, frames] = one.op.framed(one.values[:, frames], source, size)
        for place in np.flatnonzero(by > number).tolist():
            own = Size(int(heights[place]), int(widths[place]))
            inverse[:, place] = one.op.inverse(one.values[:, [place]], own)[:, 0]
        if len(inverse) == 9:
            total = projective(total)
        total[:, one.rows] = compose(total[:, one.rows], inverse)
    return total, central


def _central(sizes: IntArray, size: Size) -> Float64Array:
    """Maps to the central squares."""
    side = sizes.min(0)
    top, left = (sizes - side) // 2
    return box(top, left, side, side, size)


def _turns(maps: Float64Array, size: Size) -> npt.NDArray[np.bool_]:
    """Which maps of the square only turn it by quarters and mirror it, to whole pixels and onto itself, (N,)."""
    a, b, c, d, e, f = maps[:6]
    last = size.width - 1
    whole = np.isin([a, b, d, e], (-1, 0, 1)).all(0) & (np.abs([a + d, b + e, a + b, d + e]) == 1).all(0)
    ends = np.stack([c, f, c + (a + b) * last, f + (d + e) * last])
    onto: npt.NDArray[np.bool_] = whole & np.isin(ends, (0, last)).all(0) & (projective(maps)[6:].T == (0, 0, 1)).all(1)
    return onto


def _shrink(maps: Float64Array, size: Size) -> float:
    """How many pixels of the source one of the output is, at least, along the side that shrinks less.

    Of a projective map in the middle and the corners, as far as they are before the horizon.
    """
    a, b, c, d, e, f, g, h, w = projective(maps)[:, 0].tolist()
    right, bottom = size.width - 1, size.height - 1
    corners = [(0, 0), (right, 0), (0, bottom), (right, bottom)] if g or h else []
    least = float("inf")
    for x, y in ((right / 2, bottom / 2), *corners):
        if (divisor := g * x + h * y + w) > _HORIZON:
            u, v = (a * x + b * y + c) / divisor, (d * x + e * y + f) / divisor
            across = (a - g * u) * (a - g * u) + (d - g * v) * (d - g * v)
            down = (b - h * u) * (b - h * u) + (e - h * v) * (e - h * v)
            least = min(least, sqrt(min(across, down)) / divisor)
    return least if isfinite(least) else 1.0


def _cut(image: Image.Image, maps: Float64Array, size: Size) -> tuple[Image.Image, Float64Array]:
    """The part of a picture that an affine map of it reaches, and the map to that: the same pixels for less work."""
    a, b, c, d, e, f = maps[:, 0].tolist()
    spans = []
    for x_step, y_step, at, length in ((a, b, c, image.width), (d, e, f, image.height)):
        ends = [at + x * x_step + y * y_step for x in (-0.5, size.width - 0.5) for y in (-0.5, size.height - 0.5)]
        low = min(max(floor(min(ends)) - _MARGIN, 0), length - 1)
        high = min(max(ceil(max(ends)) + _MARGIN + 1, low + 1), length)
        spans.append((low, high))
    (left, right), (top, bottom) = spans
    # The kernel reads four pixels at a time where it can.
    right = min(left + -(-(right - left) // 4) * 4, image.width)
    left = max(0, right - -(-(right - left) // 4) * 4)
    moved = maps.copy()
    moved[2] -= left
    moved[5] -= top
    return image.crop((left, top, right, bottom)), moved
