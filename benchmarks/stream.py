"""The stream against the raw kernel and the raw actor: what Ray Data delivers, over what could be made.

    python benchmarks/stream.py

One actor, 50,000 random pictures of 32 px, the seed policy (flips, rotation, padded crop). Rounds are interleaved in
one process run: the kernel alone on pictures in memory (`augment_batch`), the raw actor called in a loop (which also
plans, reads and digests), then the stream. The trainer of a rank is played by a loop that takes each step's batch and
sums one byte of each picture. Also printed: how much CPU Ray's scheduling takes while a slow
trainer (100 ms a step) holds the stream back.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from augft.augment.actor import Augmenter
from augft.augment.apply import augment_batch
from augft.augment.policy import Policy
from augft.data import stream
from augft.data.pack import pack
from augft.data.packed import open_packed
from augft.data.plan import Plan
from augft.train.session import ray_session

SIZE, CLASSES = 32, 10


def random_pictures(folder: Path, num_pictures: int, size: int = SIZE) -> Path:
    """A packed set of noise: what pictures show does not matter here, how many and how large does."""
    source = folder / "pictures"
    rng = np.random.default_rng(0)
    strip = rng.integers(0, 256, (num_pictures, size, size, 3), np.uint8)
    for label in range(CLASSES):
        (source / "train" / str(label)).mkdir(parents=True)
    for number, pixels in enumerate(strip):
        Image.fromarray(pixels).save(source / "train" / str(number % CLASSES) / f"{number:06d}.bmp")
    return pack(str(source), folder / "packed", image_size=size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packed", help="a packed data set of 32 px; random pictures without")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=100_000, help="a round's")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ray_session(None, num_cpus=4):
        packed = arguments.packed or str(random_pictures(Path(folder), 50_000))
        num_samples = open_packed(packed).split("train").num_rows
        kernel, raw, delivered = [], [], []
        for number in range(arguments.rounds):
            plan = Plan(num_samples, seed=number, epochs=20, global_batch_size=256)
            kwargs = {
                "packed": packed,
                "split": "train",
                "sample_ids": np.arange(num_samples),
                "plan": plan,
                "policy": Policy.from_config("basic"),
            }
            kernel.append(_kernel(packed, arguments.images))
            raw.append(_raw(Augmenter(**kwargs), arguments.images))
            pool = stream.Pool(Augmenter, kwargs, min_actors=1, max_actors=1, row_bytes=SIZE * SIZE * 3)
            delivered.append(_delivered(plan, pool, arguments.images))
        of_kernel, of_actor = (
            statistics.median(d / c for d, c in zip(delivered, ceiling, strict=True)) for ceiling in (kernel, raw)
        )
        print(f"raw kernel           {statistics.median(kernel):>10,.0f} images/s")
        print(f"raw actor            {statistics.median(raw):>10,.0f} images/s")
        print(f"stream, one actor    {statistics.median(delivered):>10,.0f} images/s", end="")
        print(f"   {of_kernel:.2f} of the kernel, {of_actor:.2f} of the actor")
        print(f"scheduling, held back by a slow trainer: {_scheduling(plan, pool):.0%} of a CPU")


def _kernel(packed: str, num_images: int) -> float:
    """Images a second of the kernel with its draws, on pictures that lie in memory."""
    unit = 32 * 256
    ids = np.arange(unit)
    images, _ = open_packed(packed).split("train").gather(ids)
    policy = Policy.from_config("basic")
    augment_batch(images, policy, seed=0, epoch=0, sample_ids=ids)
    begin = time.perf_counter()
    for epoch in range(num_images // unit):
        augment_batch(images, policy, seed=0, epoch=epoch, sample_ids=ids)
    return num_images // unit * unit / (time.perf_counter() - begin)


def _raw(actor: Augmenter, num_images: int) -> float:
    unit = 32 * 256
    actor({"position": np.arange(unit)})
    begin = time.perf_counter()
    for first in range(unit, unit + num_images, unit):
        actor({"position": np.arange(first, first + unit)})
    return num_images / (time.perf_counter() - begin)


def _delivered(plan: Plan, pool: stream.Pool, num_images: int) -> float:
    """Images a second, after a warm-up that empties what had been made ahead."""
    batches = stream.batches(plan, pool, cursor=0, rank=0, world_size=1, broadcast=lambda value: value)
    warm, seen, begin = 100_000, 0, 0.0
    for batch in batches:
        batch.images[:, 0, 0, 0].sum()
        seen += len(batch.labels)
        if not begin and seen >= warm:
            warm, begin = seen, time.perf_counter()
        if begin and seen >= warm + num_images:
            break
    spent = time.perf_counter() - begin
    batches.close()
    return (seen - warm) / spent


def _scheduling(plan: Plan, pool: stream.Pool, step_s: float = 0.1, num_steps: int = 150) -> float:
    batches = stream.batches(plan, pool, cursor=0, rank=0, world_size=1, broadcast=lambda value: value)
    for _ in range(50):
        next(batches)
        time.sleep(step_s)
    coordinator = max(
        (p for p in psutil.process_iter() if "SplitCoordinator" in " ".join(p.cmdline() or [])),
        key=psutil.Process.create_time,
    )
    begin, used = time.perf_counter(), sum(coordinator.cpu_times()[:2])
    for _ in range(num_steps):
        next(batches)
        time.sleep(step_s)
    share = (sum(coordinator.cpu_times()[:2]) - used) / (time.perf_counter() - begin)
    batches.close()
    return share


if __name__ == "__main__":
    main()
