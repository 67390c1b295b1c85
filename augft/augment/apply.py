"""A batch through a policy: draw, compose, sample once.

Drawing is apart from pixels: `draw_parameters` says what each sample gets, `render` makes it, and
`augment_batch` is the one after the other. So what training saw can be listed, told in words and made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from augft.augment import draw
from augft.augment.draw import Float64Array, IntArray
from augft.augment.ops import GeometryOp, Op, Size, compose, identity
from augft.augment.policy import Policy
from augft.errors import PolicyError

UInt8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class DrawnOp:
    """What one op does to each sample of a batch."""

    op: Op
    applied: npt.NDArray[np.bool_]
    """(N,): whether the sample gets the op."""
    values: Float64Array
    """(num_values, N): the drawn parameters in physical units; without effect where not applied."""


def augment_batch(
    images_u8: UInt8Array,
    policy: Policy,
    *,
    seed: int,
    epoch: int | IntArray,
    sample_ids: IntArray | Sequence[int],
    copy: int | IntArray = 0,
) -> UInt8Array:
    """Augment each picture as its own (seed, epoch, sample id, copy) says.

    A picture's result does not depend on the others in the batch, on their order or number. Samples that are
    only flipped or shifted by whole pixels, or left alone, are copied bit for bit.

    Args:
        images_u8: uint8 (N, H, W, 3); not changed.
        policy: what to do.
        seed: of the run.
        epoch: one for all, or int64 (N,).
        sample_ids: int64 (N,).
        copy: which of a sample's copies, one for all or int64 (N,).

    Returns:
        uint8 (N, H, W, 3), a new array.

    Raises:
        ValueError: a wrong shape or dtype, or an id, epoch or copy out of range.
        PolicyError: the policy moves pixels further than the kernel can follow.
    """
    ids = np.asarray(sample_ids)
    images = np.asarray(images_u8)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"images_u8 must be uint8 (N, H, W, 3), found {images.dtype} {images.shape}")
    if ids.ndim != 1 or len(ids) != len(images):
        raise ValueError(f"sample_ids must be ({len(images)},), one for each picture, found {ids.shape}")
    return render(images, policy, draw_parameters(policy, seed=seed, epoch=epoch, sample_ids=ids, copy=copy))


def draw_parameters(
    policy: Policy,
    *,
    seed: int,
    epoch: int | IntArray,
    sample_ids: IntArray | Sequence[int],
    copy: int | IntArray = 0,
) -> tuple[DrawnOp, ...]:
    """What each sample gets of each op of the policy, in the policy's order. Arguments as in `augment_batch`.

    The first number of an op's stream decides `p`, the following are its parameters.
    """
    from augft.augment import kernel  # not at the top: it loads the compiler

    ids = np.asarray(sample_ids, np.int64)
    for name, numbers in (("epoch", epoch), ("copy", copy)):
        if np.shape(numbers) not in ((), ids.shape):
            raise ValueError(f"{name} must be one number or {ids.shape}, found {np.shape(numbers)}")
    counter = draw.counter(epoch, ids, copy)
    drawn = []
    for op, stream in zip(policy.ops, policy.streams, strict=True):
        uniforms = kernel.uniform(draw.stream_key(seed, stream), counter, 1 + op.num_values)
        drawn.append(DrawnOp(op, uniforms[0] < op.p, op.values(uniforms[1:])))
    return tuple(drawn)


def render(images_u8: UInt8Array, policy: Policy, drawn: Sequence[DrawnOp]) -> UInt8Array:
    """The pictures that drawn parameters make: uint8 (N, H, W, 3) → uint8 (N, H, W, 3).

    Of the policy only sampling and fill are used here.
    """
    from augft.augment import kernel

    images = np.ascontiguousarray(images_u8)
    if not any(op.applied.any() for op in drawn):
        return images.copy()
    inverse = inverse_maps(drawn, Size(images.shape[1], images.shape[2]))
    try:
        return kernel.warp(images, inverse, fill=policy.fill, bilinear=policy.sampling == "bilinear")
    except ValueError as error:
        raise PolicyError(
            f"policy {policy.name!r} on pictures of {images.shape[2]}×{images.shape[1]}: {error}"
        ) from error


def inverse_maps(drawn: Sequence[DrawnOp], size: Size) -> Float64Array:
    """All geometry of each sample as one map, float64 (6, N), as `GeometryOp.inverse`; one op at least."""
    unmoved = identity(len(drawn[0].applied))
    total = unmoved
    for one in drawn:
        if isinstance(one.op, GeometryOp):
            total = compose(total, np.where(one.applied, one.op.inverse(one.values, size), unmoved))
    return total


def describe(drawn: Sequence[DrawnOp], index: int) -> list[str]:
    """What the sample at `index` of the batch gets, an entry an op: ["flip ↔", "rotate +7.3°"]."""
    return [one.op.label(one.values[:, index]) for one in drawn if one.applied[index]]
