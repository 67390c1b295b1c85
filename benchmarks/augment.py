"""Augmented pictures per second on one core: this project against its peers, on the plain CIFAR recipe.

    python benchmarks/augment.py            # about two minutes
    python benchmarks/augment.py --quick    # about twenty seconds
    python benchmarks/augment.py --size 224

The recipe: horizontal flip 0.5, vertical flip 0.5, rotation by ±10°, crop with a padding of 4. Each contender
starts from uint8 pictures in memory and ends with what it hands to training (uint8 or float), all conversions
included. Rounds are interleaved, so a slow moment of the machine falls on all; figures are medians.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torchvision
from PIL import Image
from torchvision import transforms
from torchvision.transforms import v2

from augft.augment.apply import augment_batch
from augft.augment.policy import PRESETS, Policy

UInt8Array = npt.NDArray[np.uint8]


@dataclass
class Contender:
    """A way to augment a batch of uint8 (N, H, W, 3)."""

    name: str
    run: Callable[[UInt8Array], Any]
    num_images: int
    note: str = ""


def seed_pipeline(size: int) -> Contender:
    pipeline = transforms.Compose(
        [
            transforms.RandomHorizontalFlip(),
            transforms.RandomVerticalFlip(),
            transforms.RandomRotation(10),
            transforms.RandomCrop(size, padding=4),
            transforms.ToTensor(),
        ]
    )
    return Contender(
        "torchvision on PIL",
        lambda images: [pipeline(Image.fromarray(image)) for image in images],
        1000,
        "the baseline",
    )


def torchvision_v2(size: int) -> list[Contender]:
    pipeline = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.RandomRotation(10),
            v2.RandomCrop(size, padding=4),
        ]
    )

    def batch(images: UInt8Array) -> Any:
        return pipeline(torch.from_numpy(images).permute(0, 3, 1, 2))

    def each(images: UInt8Array) -> Any:
        return [pipeline(image) for image in torch.from_numpy(images).permute(0, 3, 1, 2)]

    return [
        Contender("torchvision v2, per picture", each, 500),
        Contender("torchvision v2, per batch", batch, 2500, "one draw for the whole batch: not the same task"),
    ]


def kornia(size: int) -> Contender:
    augmentation = importlib.import_module("kornia.augmentation")
    pipeline = augmentation.AugmentationSequential(
        augmentation.RandomHorizontalFlip(),
        augmentation.RandomVerticalFlip(),
        augmentation.RandomRotation(10.0, p=1.0),
        augmentation.RandomCrop((size, size), padding=4),
        data_keys=["input"],
    )
    return Contender(
        "kornia, bilinear",
        lambda images: pipeline(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255),
        2500,
    )


def albumentations(size: int) -> Contender:
    importlib.import_module("cv2").setNumThreads(0)
    a = importlib.import_module("albumentations")
    pipeline = a.Compose(
        [
            a.HorizontalFlip(p=0.5),
            a.VerticalFlip(p=0.5),
            a.Rotate((-10, 10), interpolation=0, p=1.0),
            a.Pad(padding=4, p=1.0),
            a.RandomCrop(size, size, p=1.0),
        ]
    )
    return Contender(
        "AlbumentationsX, nearest", lambda images: [pipeline(image=image)["image"] for image in images], 1000
    )


def ours(policy: Policy, name: str) -> Contender:
    ids = np.arange(2500)
    return Contender(
        name,
        lambda images: augment_batch(images, policy, seed=0, epoch=1, sample_ids=ids[: len(images)]),
        2500,
    )


def contenders(size: int) -> list[Contender]:
    basic = PRESETS["basic"]
    found = [seed_pipeline(size), *torchvision_v2(size)]
    for peer in (kornia, albumentations):
        try:
            found.append(peer(size))
        except ImportError:
            print(f"{peer.__name__} is not installed and left out: pip install 'augft[bench]'")
    return [
        *found,
        ours(Policy(basic.ops, "nearest"), "augft, nearest"),
        ours(Policy(basic.ops, "bilinear"), "augft, bilinear"),
        ours(PRESETS["standard"], "augft, flip and crop alone"),
    ]


def measure(entries: list[Contender], size: int, rounds: int) -> dict[str, float]:
    """Median images per second of each."""
    generator = np.random.default_rng(0)
    num = max(entry.num_images for entry in entries)
    images = generator.integers(0, 256, (num, size, size, 3), dtype=np.uint8)
    rates: dict[str, list[float]] = {entry.name: [] for entry in entries}
    for turn in range(rounds + 1):
        for entry in entries:
            batch = images[: entry.num_images]
            start = time.perf_counter()
            entry.run(batch)
            elapsed_s = time.perf_counter() - start
            if turn:  # the first round warms up
                rates[entry.name].append(len(batch) / elapsed_s)
    return {name: statistics.median(values) for name, values in rates.items()}


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--size", type=int, default=32, help="side of a picture in pixels")
    arguments = parser.parse_args()

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(f"{processor()}, one core; Python {platform.python_version()}, torch {torch.__version__}, ", end="")
    print(f"torchvision {torchvision.__version__}, NumPy {np.__version__}; pictures of {arguments.size} px")

    entries = contenders(arguments.size)
    if arguments.size > 64:
        for entry in entries:
            entry.num_images = max(16, entry.num_images // 20)
    rates = measure(entries, arguments.size, 5 if arguments.quick else 25)
    baseline = rates[entries[0].name]
    print(f"\n{'':30}{'images/s':>12}{'ratio':>9}")
    for entry in entries:
        rate = rates[entry.name]
        print(f"{entry.name:30}{rate:12,.0f}{rate / baseline:8.1f}×  {entry.note}".rstrip())


if __name__ == "__main__":
    main()
