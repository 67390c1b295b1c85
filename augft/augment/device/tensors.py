"""Numbers of the host put on the device, and some pictures of a batch changed there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy.typing as npt
import torch

from augft.augment.draw import IntArray
from augft.upload import upload

__all__ = ["Tensor", "change_rows", "each", "means", "octets", "put", "store"]

Tensor = torch.Tensor


def put(numbers: npt.NDArray[Any], like: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers of the host, on the device of a tensor."""
    return upload(numbers, like.device, dtype)


def each(numbers: npt.NDArray[Any], like: Tensor, dtype: torch.dtype) -> Tensor:
    """A number a picture, (K, 1, 1, 1)."""
    return put(numbers, like, dtype)[:, None, None, None]


def change_rows(made: Tensor, rows: IntArray, change: Callable[..., Tensor], *arguments: Any) -> None:
    """Change some pictures, or all, in place."""
    chosen = made if len(rows) == len(made) else made.index_select(0, put(rows, made, torch.int64))
    store(made, rows, change(chosen, *arguments))


def store(made: Tensor, rows: IntArray, pictures: Tensor) -> None:
    """Put numbers in 0 to 255 where some pictures, or all, are."""
    if len(rows) == len(made):
        made.copy_(pictures)
    else:
        made.index_copy_(0, put(rows, made, torch.int64), pictures.to(torch.uint8))


def octets(x: Tensor) -> Tensor:
    """Held to 0 to 255, uint8; x is lost."""
    return x.clamp_(0, 255).to(torch.uint8)


def means(x: Tensor) -> Tensor:
    """Of each channel, rounded, int64 (K, 3): (K, 3, P) → (K, 3)."""
    num = x.shape[2]
    return (x.sum(2, dtype=torch.int64) + num // 2) // num
