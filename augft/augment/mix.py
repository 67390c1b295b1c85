"""MixUp and CutMix of a micro-batch, on the device that trains.

    MixUp    Zhang et al., "mixup: beyond empirical risk minimization", ICLR 2018
    CutMix   Yun et al., "CutMix: regularization strategy to train strong classifiers", ICCV 2019

The draws are keyed as an image's augmentation is: how much an item is mixed, how, and where, is a function
of (seed, epoch, sample id, copy). The partner is the next item within a group of 8 consecutive positions of
the global step, the last one's being the first; the plan's order is random, so neighbours are random
partners, and no pixel has to cross ranks. Where a rank's share (or a micro-batch) ends inside a group, the
part of the group on each side closes on itself. So the mixed pixels are the same on any number of ranks
whose shares are multiples of 8; elsewhere those of the groups that are cut depend on where, and a part of
one item stays unmixed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import special

from augft.augment.draw import uniform
from augft.upload import upload

GROUP_SIZE = 8

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class MixDraws:
    """How each item is mixed; all float64, (N,).

    Args:
        lam: share of the item itself, in [0, 1].
        cutmix: 1 where a box is pasted, 0 where pixels are blended.
        centre_x, centre_y: of the box, in [0, 1) of width and height.
    """

    lam: npt.NDArray[np.float64]
    cutmix: npt.NDArray[np.bool_]
    centre_x: npt.NDArray[np.float64]
    centre_y: npt.NDArray[np.float64]


def draw_mix(
    seed: int,
    epoch: int | IntArray,
    sample_ids: IntArray,
    copy: int | IntArray,
    *,
    mixup_alpha: float,
    cutmix_alpha: float,
) -> MixDraws:
    """Keyed draws: lam from Beta(alpha, alpha); where both alphas are above 0, each item is one or the other
    evenly.

    Args:
        seed: of the run.
        epoch, copy: int64 (N,), or one for all.
        sample_ids: int64 (N,).
        mixup_alpha, cutmix_alpha: at least 0, one of them above.

    Raises:
        ValueError: both are 0.
    """
    if max(mixup_alpha, cutmix_alpha) <= 0:
        raise ValueError(f"one of mixup_alpha (={mixup_alpha}) and cutmix_alpha (={cutmix_alpha}) must be above 0")
    u_lam, u_kind, centre_x, centre_y = uniform(seed, "mix", epoch, sample_ids, copy, 4)
    share = 0.5 if min(mixup_alpha, cutmix_alpha) > 0 else float(cutmix_alpha > 0)
    cutmix = u_kind < share
    # The inverse distribution function makes one Beta number of one uniform number: keyed, no rejection.
    alpha = np.where(cutmix, cutmix_alpha, mixup_alpha)
    return MixDraws(special.betaincinv(alpha, alpha, u_lam), cutmix, centre_x, centre_y)


def partners(first_offset: int, num_items: int) -> IntArray:
    """Who each item is mixed with.

    Args:
        first_offset: place of the micro-batch's first item in the global step, from 0.
        num_items: items of the micro-batch, N; padding rows do not count.

    Returns:
        int64 (N,), indices into the micro-batch, a permutation of them.
    """
    index = np.arange(num_items)
    group = (first_offset + index) // GROUP_SIZE
    begin = np.maximum(group * GROUP_SIZE - first_offset, 0)
    end = np.minimum((group + 1) * GROUP_SIZE - first_offset, num_items)
    return np.where(index + 1 < end, index + 1, begin)


def mix(
    images: torch.Tensor, targets: torch.Tensor, num_classes: int, draws: MixDraws, partner: IntArray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix each item with its partner.

    Args:
        images: float (N, C, H, W).
        targets: int64 (N,), labels.
        num_classes: K.
        draws: of the N items.
        partner: int64 (N,), from `partners`.

    Returns:
        Images as they came, and float32 (N, K) targets: the shares of the two labels. Where a box is cut off
        at the picture's border or rounded to pixels, the share is of the pixels that are really there.
    """
    height, width = images.shape[-2:]
    left, right = _interval(draws.centre_x, draws.lam, width)
    top, bottom = _interval(draws.centre_y, draws.lam, height)
    kept = 1.0 - (right - left) * (bottom - top) / (height * width)
    lam = np.where(draws.cutmix, kept, draws.lam)

    def column(values: npt.NDArray[np.generic], dtype: torch.dtype) -> torch.Tensor:
        return upload(values, images.device, dtype)[:, None]

    other = column(partner, torch.int64)[:, 0]
    xs = torch.arange(width, device=images.device)
    ys = torch.arange(height, device=images.device)
    in_columns = (xs >= column(left, torch.int64)) & (xs < column(right, torch.int64))  # (N, W)
    in_rows = (ys >= column(top, torch.int64)) & (ys < column(bottom, torch.int64))  # (N, H)
    box = (in_rows[:, :, None] & in_columns[:, None, :])[:, None]  # (N, 1, H, W)
    theirs = images[other]
    lam_N1 = column(lam, torch.float32)
    blended = torch.lerp(theirs, images, lam_N1[:, :, None, None].to(images.dtype))
    pasted = torch.where(box, theirs, images)
    cutmix = column(draws.cutmix, torch.bool)
    mixed = torch.where(cutmix[:, :, None, None], pasted, blended)
    sure = one_hot(targets, num_classes)
    return mixed, torch.lerp(sure[other], sure, lam_N1)


def one_hot(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Labels int64 (N,) as distributions, float32 (N, num_classes); torch's own looks at them on the host."""
    return (labels[:, None] == torch.arange(num_classes, device=labels.device)).float()


def _interval(centre: npt.NDArray[np.float64], lam: npt.NDArray[np.float64], size: int) -> tuple[IntArray, IntArray]:
    """A side of the boxes in pixels, [begin, end): size * sqrt(1 - lam) long, less what a border cuts."""
    length = (size * np.sqrt(1.0 - lam)).astype(np.int64)
    middle = (centre * size).astype(np.int64)
    begin = np.clip(middle - length // 2, 0, size)
    end = np.clip(middle - length // 2 + length, 0, size)
    return begin, end
