"""One affine resample of each picture on one core: ways to do it that the kernel was chosen from.

    python benchmarks/warp.py

Each way gets uint8 pictures and a map for each (a rotation by up to 15° with a shift), and gives uint8 pictures back.
Rounds are interleaved; figures are medians.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from augft.augment.kernel import warp
from augft.augment.ops import Rotate, Size

UInt8Array = npt.NDArray[np.uint8]
ROUNDS = 9


def ways(images: UInt8Array, maps: npt.NDArray[np.float64], bilinear: bool) -> dict[str, Callable[[], Any]]:
    num, size = len(images), images.shape[1]
    matrices = maps.T.reshape(num, 2, 3)
    flags = (cv2.INTER_LINEAR if bilinear else cv2.INTER_NEAREST) | cv2.WARP_INVERSE_MAP
    ys, xs = np.mgrid[:size, :size].astype(np.float32)
    resample = Image.Resampling.BILINEAR if bilinear else Image.Resampling.NEAREST
    # torch counts from -1 to 1 between the outer edges of a picture.
    theta = torch.from_numpy(matrices.copy()).float()
    theta[:, :, 2] = (theta[:, :, :2].sum(2) * (size - 1) + 2 * theta[:, :, 2] + 1) / size - 1

    def opencv_warp() -> list[Any]:
        return [cv2.warpAffine(image, matrix, (size, size), flags=flags) for image, matrix in zip(images, matrices)]  # noqa: B905

    def opencv_remap() -> list[Any]:
        done = []
        for image, ((a, b, c), (d, e, f)) in zip(images, matrices.astype(np.float32), strict=True):
            done.append(cv2.remap(image, a * xs + b * ys + c, d * xs + e * ys + f, flags & 1))
        return done

    def pillow() -> list[Any]:
        done = []
        for image, ((a, b, c), (d, e, f)) in zip(images, matrices, strict=True):
            # Pillow's pixels have their centres at a half.
            data = (a, b, c + 0.5 - (a + b) / 2, d, e, f + 0.5 - (d + e) / 2)
            done.append(
                np.asarray(Image.fromarray(image).transform((size, size), Image.Transform.AFFINE, data, resample))
            )
        return done

    def torch_grid() -> Any:
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
        grid = torch.nn.functional.affine_grid(theta, [num, 3, size, size], align_corners=False)
        mode = "bilinear" if bilinear else "nearest"
        sampled = torch.nn.functional.grid_sample(pixels, grid, mode, align_corners=False)
        return sampled.round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    return {
        "Numba kernel": lambda: warp(images, maps, bilinear=bilinear),
        "OpenCV warpAffine": opencv_warp,
        "OpenCV remap": opencv_remap,
        "Pillow transform": pillow,
        "torch grid_sample": torch_grid,
    }


def main() -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rng = np.random.default_rng(0)
    for size, num in ((32, 2000), (224, 60)):
        images = rng.integers(0, 256, (num, size, size, 3), dtype=np.uint8)
        maps = Rotate(degrees=15).inverse(rng.uniform(-15, 15, (1, num)), Size(size, size))
        maps[[2, 5]] += rng.uniform(-2, 2, (2, num))
        for bilinear in (False, True):
            contenders = ways(images, maps, bilinear)
            rates: dict[str, list[float]] = {name: [] for name in contenders}
            for turn in range(ROUNDS + 1):
                for name, run in contenders.items():
                    begin = time.perf_counter()
                    run()
                    if turn:  # the first round warms up
                        rates[name].append(num / (time.perf_counter() - begin))
            print(f"\n{size} px, {'bilinear' if bilinear else 'nearest'}")
            ceiling = statistics.median(rates["Numba kernel"])
            for name, figures in rates.items():
                middle = statistics.median(figures)
                print(f"{name:20}{middle:12,.0f} images/s  {middle / ceiling:6.2f} of the kernel")


if __name__ == "__main__":
    main()
