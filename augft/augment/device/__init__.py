"""The same pictures, made by PyTorch on the device that trains.

Draws, and what they compose to, are those of `apply.py`; pixels alone are made a second time here. They are made of
the kernels' own whole numbers, with the same fixed point and the same roundings, so this is no approximation: `render`
gives the bytes that `apply.render` gives, on every device whose integers, and whole numbers in float64, are exact.

Nothing loops over pictures and nothing is read back from the device: how often a picture is sampled, which border
it has, whose colours change is known from the draws, on the host, and only such numbers travel there. Within, pictures
are uint8 (N, 3, H, W), a channel after the other.
"""

from __future__ import annotations

import torch

from augft.augment.apply import Composed, compose_drawn, fixed_weights, too_far
from augft.augment.device.finish import finish
from augft.augment.device.recolour import recolour
from augft.augment.device.tensors import change_rows, each
from augft.augment.device.warp import warp
from augft.augment.drawn import Drawn
from augft.augment.ops import Size
from augft.augment.policy import Policy

__all__ = ["render"]

_PART_PIXELS = {"cpu": 2**17, "else": 2**22}
"""Pixels made at a time, by the type of the device: meanwhile about 100 bytes are in use for each."""

Tensor = torch.Tensor


def render(images_NHWC: Tensor, policy: Policy, drawn: Drawn) -> Tensor:
    """The pictures that drawn parameters make, as `apply.render` makes them.

    Args:
        images_NHWC: uint8 (N, H, W, 3) on any device; not changed.
        policy: its sampling and fill.
        drawn: what happens to each picture.

    Returns:
        uint8 (N, H, W, 3), on that device; a view of a new (N, 3, H, W).

    Raises:
        PolicyError: the policy moves pixels further than the kernel can follow.
    """
    num, height, width, _ = images_NHWC.shape
    plans = compose_drawn(drawn, Size(height, width))
    weights = None if drawn.weights is None else fixed_weights(drawn.weights)
    out = images_NHWC.new_empty((num, 3, height, width))
    step = max(1, _PART_PIXELS["cpu" if out.device.type == "cpu" else "else"] // max(1, height * width))
    for first in range(0, num if out.numel() else 0, step):
        part = slice(first, min(first + step, num))
        images = images_NHWC[part]
        made = _make(images, plans[0], part, policy)
        if weights is not None:
            total = 2**15 + made * each(weights[0, part], made, torch.int32)
            for chain, weight in zip(plans[1:], weights[1:], strict=True):
                total += _make(images, chain, part, policy) * each(weight[part], made, torch.int32)
            made = total >> 16
        out[part] = made
    return out.permute(0, 2, 3, 1)


def _make(images: Tensor, plan: Composed, part: slice, policy: Policy) -> Tensor:
    """uint8 (M, H, W, 3) → a new uint8 (M, 3, H, W)."""
    if plan.moves:
        maps, displacement = plan.maps_of(part), plan.displacement(part)
        try:
            made = warp(images, maps, policy.fill, policy.sampling == "bilinear", displacement)
        except ValueError as error:
            raise too_far(policy, Size(images.shape[1], images.shape[2]), error) from error
    else:
        made = images.permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format)
    recolour(made, *plan.colours(part))
    for op, rows, values, keys in plan.finish(part):
        change_rows(made, rows, finish, op, values, policy.fill, keys)
    return made
