"""Numbers of the host, put on a device without waiting for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch


def upload(numbers: npt.NDArray[Any], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """A copy on a device.

    On a GPU it is enqueued, from page-locked memory: the copy of any other memory, and every tensor that is made of
    host numbers with `device=`, holds the host up.

    Args:
        numbers: of any layout, also read-only views, as Ray hands out; not kept.
        device: where to.
        dtype: what they become.
    """
    staged = torch.empty(numbers.shape, dtype=dtype, pin_memory=device.type == "cuda")
    np.copyto(staged.numpy(), numbers, casting="unsafe")
    return staged.to(device, non_blocking=True)
