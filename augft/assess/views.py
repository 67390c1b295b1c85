"""What is done to pictures before the model sees them: nothing, a corruption, a turn, a shift.

A view is a pure function of pictures and sample ids, uint8 to uint8, and pickles; it does not know of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from augft.assess.corrupt import corrupt
from augft.augment.apply import augment_batch
from augft.augment.draw import IntArray
from augft.augment.kernel import warp
from augft.augment.ops import OPS, GeometryOp, Size
from augft.augment.policy import Policy

UInt8Array = npt.NDArray[np.uint8]

ANGLES = (-90, -60, -45, -30, -20, -10, -5, 0, 5, 10, 20, 30, 45, 60, 90)
"""Degrees; positive is counter-clockwise."""
SHIFTS = (-25.0, -18.75, -12.5, -6.25, 0.0, 6.25, 12.5, 18.75, 25.0)
"""Per cent of the side; at 32 px: two pixels a step."""


class View(Protocol):
    """uint8 (N, H, W, 3) and sample ids int64 (N,) → uint8 (N, H, W, 3)."""

    def __call__(self, images_u8: UInt8Array, sample_ids: IntArray) -> UInt8Array: ...


@dataclass(frozen=True)
class AsTheyAre:
    """Pictures as they are."""

    def __call__(self, images_u8: UInt8Array, sample_ids: IntArray) -> UInt8Array:
        return images_u8


@dataclass(frozen=True)
class Corrupted:
    """One of `CORRUPTIONS` at a severity from 1 to 5."""

    name: str
    severity: int
    seed: int

    def __call__(self, images_u8: UInt8Array, sample_ids: IntArray) -> UInt8Array:
        return corrupt(images_u8, self.name, self.severity, seed=self.seed, sample_ids=sample_ids)


@dataclass(frozen=True)
class Moved:
    """All pictures by the same rotation (degrees) or shift (per cent of the side), with the kernel that augments.

    What comes in from outside mirrors the picture: black corners would be another corruption.
    """

    how: str
    """`rotation`, `shift_x` (positive: to the right) or `shift_y` (positive: down)."""
    amount: float

    def __call__(self, images_u8: UInt8Array, sample_ids: IntArray) -> UInt8Array:
        if not self.amount or not len(images_u8):
            return images_u8
        num, height, width, _ = images_u8.shape
        kind = OPS["rotate" if self.how == "rotation" else "translate"]
        assert issubclass(kind, GeometryOp)
        if self.how == "rotation":
            values = np.full((1, num), float(self.amount))
        else:
            values = np.zeros((2, num))
            values[0 if self.how == "shift_x" else 1] = self.amount / 100
        maps = kind().inverse(values, Size(height, width))
        return warp(np.ascontiguousarray(images_u8), maps, fill="reflect", bilinear=True)


@dataclass(frozen=True)
class Augmented:
    """A copy of each picture by a policy, of epoch 0."""

    policy: Policy
    copy: int
    seed: int

    def __call__(self, images_u8: UInt8Array, sample_ids: IntArray) -> UInt8Array:
        return augment_batch(images_u8, self.policy, seed=self.seed, epoch=0, sample_ids=sample_ids, copy=self.copy)
