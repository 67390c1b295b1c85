"""What the kernels that change pictures in place check before they do: compiled code tests no index."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from augft.augment.draw import IntArray

UInt8Array = npt.NDArray[np.uint8]


def octets_of(images_NHWC: UInt8Array, rows_K: IntArray) -> UInt8Array:
    """The batch as uint8 (N, H·W·3), the same memory.

    Raises:
        ValueError: it is no C-contiguous, writeable uint8 (N, H, W, 3), or a row is not in [0, N).
    """
    if images_NHWC.dtype != np.uint8 or images_NHWC.ndim != 4 or images_NHWC.shape[3] != 3:
        raise ValueError(f"images must be uint8 (N, H, W, 3), found {images_NHWC.dtype} {images_NHWC.shape}")
    if not (images_NHWC.flags.c_contiguous and images_NHWC.flags.writeable):
        raise ValueError("images must be C-contiguous and writeable: they are changed in place")
    if rows_K.ndim != 1 or rows_K.dtype.kind not in "iu":
        raise ValueError(f"rows must be integers (K,), found {rows_K.dtype} {rows_K.shape}")
    num = len(images_NHWC)
    if rows_K.size and not 0 <= rows_K.min() <= rows_K.max() < num:
        raise ValueError(f"rows must be in [0, {num}), found {rows_K.min()} to {rows_K.max()}")
    return images_NHWC.reshape(num, images_NHWC[:1].size)


def expect_shape(name: str, numbers: npt.NDArray[Any], *shape: int) -> None:
    """Raises ValueError where an array of parameters has another shape."""
    if numbers.shape != shape:
        raise ValueError(f"{name} must be {shape}, found {numbers.shape}")
