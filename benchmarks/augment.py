"""Augmented pictures per second on one core: this project against its peers.

    python benchmarks/augment.py                          # 32 px and 224 px, all policies, about six minutes
    python benchmarks/augment.py --quick                  # about a minute and a half
    python benchmarks/augment.py --policy basic --size 32

Four policies:

    basic      horizontal and vertical flip, rotation by ±10°, crop with a padding of 4: the plain recipe for CIFAR
    crop       horizontal flip, resized crop, color jitter: the plain recipe for ImageNet
    rand       RandAugment, two ops of magnitude 9
    trivial    TrivialAugment

Each contender starts from uint8 pictures in memory and ends with what it hands to training (uint8 or float), all
conversions included. Rounds are interleaved, so a slow moment of the machine falls on all; figures are medians. Peers
that draw once for a whole batch do less than the others, and are marked.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
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
from augft.augment.policy import Policy

UInt8Array = npt.NDArray[np.uint8]

PIXELS_A_ROUND = 2_500 * 32 * 32
"""Of a fast contender; the others get fewer pictures."""

POLICIES = {
    "basic": Policy.from_config("basic"),
    "crop": Policy.from_config(["horizontal_flip", "resized_crop", "color_jitter"]),
    "rand": Policy.from_config("rand-m9-n2"),
    "trivial": Policy.from_config("trivial"),
}


@dataclass
class Contender:
    """A way to augment a batch of uint8 (N, H, W, 3)."""

    name: str
    run: Callable[[UInt8Array], Any]
    share: float
    """Of `PIXELS_A_ROUND` that it gets in a round."""
    one_draw: bool = False
    """Whether it draws once for a whole batch."""


def torchvision_pil(policy: str, size: int) -> Iterator[Contender]:
    pipeline = transforms.Compose([*_torchvision(transforms, policy, size), transforms.ToTensor()])
    yield Contender(
        "torchvision on PIL", lambda images: [pipeline(Image.fromarray(image)) for image in images], share=0.2
    )


def torchvision_v2(policy: str, size: int) -> Iterator[Contender]:
    pipeline = v2.Compose(_torchvision(v2, policy, size))

    def tensors(images: UInt8Array) -> torch.Tensor:
        return torch.from_numpy(images).permute(0, 3, 1, 2)

    yield Contender(
        "torchvision v2, per picture", lambda images: [pipeline(image) for image in tensors(images)], share=0.1
    )
    yield Contender("torchvision v2, per batch", lambda images: pipeline(tensors(images)), share=1, one_draw=True)


def _torchvision(module: Any, policy: str, size: int) -> list[Any]:
    if policy == "basic":
        return [
            module.RandomHorizontalFlip(),
            module.RandomVerticalFlip(),
            module.RandomRotation(10),
            module.RandomCrop(size, padding=4),
        ]
    if policy == "crop":
        return [
            module.RandomHorizontalFlip(),
            module.RandomResizedCrop(size, antialias=True),
            module.ColorJitter(0.4, 0.4, 0.4, 0.1),
        ]
    return [module.RandAugment(2, 9) if policy == "rand" else module.TrivialAugmentWide()]


def kornia(policy: str, size: int) -> Iterator[Contender]:
    k = importlib.import_module("kornia.augmentation")
    if policy == "rand":
        pipeline = k.AugmentationSequential(k.auto.RandAugment(n=2, m=9), data_keys=["input"])
    elif policy == "trivial":
        pipeline = k.AugmentationSequential(k.auto.TrivialAugment(), data_keys=["input"])
    elif policy == "crop":
        pipeline = k.AugmentationSequential(
            k.RandomHorizontalFlip(),
            k.RandomResizedCrop((size, size)),
            k.ColorJitter(0.4, 0.4, 0.4, 0.1, p=1.0),
            data_keys=["input"],
        )
    else:
        pipeline = k.AugmentationSequential(
            k.RandomHorizontalFlip(),
            k.RandomVerticalFlip(),
            k.RandomRotation(10.0, p=1.0),
            k.RandomCrop((size, size), padding=4),
            data_keys=["input"],
        )
    yield Contender(
        "kornia",
        lambda images: pipeline(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255),
        share=0.5,
        one_draw=policy in ("rand", "trivial"),  # which op is drawn for the batch
    )


def albumentations(policy: str, size: int) -> Iterator[Contender]:
    importlib.import_module("cv2").setNumThreads(0)
    a = importlib.import_module("albumentations")
    if policy == "basic":
        ops = [
            a.HorizontalFlip(p=0.5),
            a.VerticalFlip(p=0.5),
            a.Rotate((-10, 10), interpolation=0, p=1.0),
            a.Pad(padding=4, p=1.0),
            a.RandomCrop(size, size, p=1.0),
        ]
    elif policy == "crop":
        ops = [
            a.HorizontalFlip(p=0.5),
            a.RandomResizedCrop((size, size), p=1.0),
            a.ColorJitter((0.6, 1.4), (0.6, 1.4), (0.6, 1.4), (-0.1, 0.1), p=1.0),
        ]
    else:
        return
    pipeline = a.Compose(ops)
    yield Contender("AlbumentationsX", lambda images: [pipeline(image=image)["image"] for image in images], share=0.2)


def ours(policy: str, size: int) -> Iterator[Contender]:
    for sampling in ("nearest", "bilinear"):
        sampled = replace(POLICIES[policy], sampling=sampling)
        yield Contender(f"augft, {sampling}", _augft(sampled), share=1)


def _augft(policy: Policy) -> Callable[[UInt8Array], Any]:
    return lambda images: augment_batch(images, policy, seed=0, epoch=1, sample_ids=np.arange(len(images)))


PEERS = (torchvision_pil, torchvision_v2, kornia, albumentations)


def contenders(policy: str, size: int) -> list[Contender]:
    found = []
    for maker in (*PEERS, ours):
        try:
            found += list(maker(policy, size))
        except ImportError:
            print(f"{maker.__name__} is not installed and left out: pip install 'augft[bench]'")
    return found


def measure(entries: list[Contender], size: int, rounds: int) -> dict[str, float]:
    """Median images per second of each."""
    generator = np.random.default_rng(0)
    # Smooth and noisy at once, as pictures are: pure noise would be the best case for some and the worst for others.
    coarse = generator.integers(0, 256, (PIXELS_A_ROUND // (size * size) + 1, 8, 8, 3), dtype=np.uint8)
    images = coarse.repeat(size // 8, 1).repeat(size // 8, 2)
    images = (images // 2 + generator.integers(0, 128, images.shape, dtype=np.uint8)).astype(np.uint8)
    rates: dict[str, list[float]] = {entry.name: [] for entry in entries}
    for turn in range(rounds + 1):
        for entry in entries:
            batch = images[: max(8, int(entry.share * len(images)))]
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
    parser.add_argument("--size", type=int, nargs="+", default=[32, 224], help="side of a picture in pixels")
    parser.add_argument("--policy", nargs="+", default=list(POLICIES), choices=list(POLICIES))
    arguments = parser.parse_args()

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(f"{processor()}, one core; Python {platform.python_version()}, torch {torch.__version__}, ", end="")
    print(f"torchvision {torchvision.__version__}, NumPy {np.__version__}")
    for size in arguments.size:
        for policy in arguments.policy:
            entries = contenders(policy, size)
            rates = measure(entries, size, 3 if arguments.quick else 11)
            print(f"\n{policy + f', {size} px':30}{'images/s':>12}{'ratio':>9}")
            for entry in entries:
                rate = rates[entry.name]
                note = "one draw for the whole batch: not the same task" if entry.one_draw else ""
                print(f"{entry.name:30}{rate:12,.0f}{rate / rates[entries[0].name]:8.1f}×  {note}".rstrip(), flush=True)


if __name__ == "__main__":
    main()
