"""From JPEG files to augmented uint8 pictures at 224 px: an actor over an encoded set, against torchvision.

    python benchmarks/encoded.py             # about two minutes
    python benchmarks/encoded.py --quick     # a quarter of it
    python benchmarks/encoded.py --quality   # how near an actor's crops are to torchvision's of the same boxes
    python benchmarks/encoded.py --read      # what a node pays to lay down the set, and one of pixels
    python benchmarks/encoded.py --profile   # where an actor's time goes

Both do what torchvision's reference for ImageNet does up to the tensor of octets: decode, RandomResizedCrop,
RandomHorizontalFlip. torchvision has each file's bytes in memory, decodes with Pillow, and its pictures are stacked to
a batch; an actor reads a packed set, and computes the digest besides. One thread each, pictures for each second of
processor time. Rounds are interleaved, so a slow moment of the machine falls on both; the ratio is the median of the
rounds' ratios.

The pictures are parts of scikit-learn's two photographs (640 x 427), resampled to the size named and stored as JPEG of
quality 90: their content is real, their finest detail is not where they were enlarged.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import os
import pstats
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision import transforms

from augft.augment.actor import Augmenter
from augft.augment.apply import draw_parameters
from augft.augment.ops import Size
from augft.augment.policy import Policy
from augft.augment.samples import render_samples
from augft.data.pack import pack
from augft.data.packed import open_packed
from augft.data.plan import Plan

SIZE = 224
SIZES = ((500, 375), (1000, 750), (2000, 1500))
"""The first is the mean of ImageNet's."""
POLICIES = {
    "crop, flip": ["resized_crop", "horizontal_flip"],
    "crop, flip, rotate": ["resized_crop", "horizontal_flip", "rotate"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--quality", action="store_true", help="compare crops, and end")
    parser.add_argument("--read", action="store_true", help="lay down sets, and end")
    parser.add_argument("--profile", action="store_true", help="profile an actor at 500 x 375, and end")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["AUGFT_CACHE"] = f"{folder}/cache"
        if arguments.read:
            read(Path(folder))
            return
        print(f"{'pictures':>12}  {'policy':18}  {'augft':>9}  {'torchvision':>11}  ratio (of rounds, least to most)")
        for width, height in SIZES:
            root = Path(folder) / f"{width}"
            files = write_pictures(root / "source", width, height)
            packed = str(pack(str(root / "source"), root / "packed", image_size=SIZE, encoded=True))
            if arguments.quality:
                quality(packed, f"{width} x {height}")
                continue
            for name in POLICIES:
                contenders = {"augft": actor(packed, name, len(files)), "torchvision": reference(files, name)}
                if arguments.profile:
                    profile(contenders["augft"])
                    return
                report(f"{width} x {height}", name, contenders, len(files), 5 if arguments.quick else 21)


def write_pictures(root: Path, width: int, height: int, num: int = 48) -> list[bytes]:
    rng = np.random.default_rng(0)
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    contents = []
    for number in range(num):
        photograph = photographs[number % 2]
        # A part of two thirds or more, so that no two are the same.
        part = int(rng.integers(photograph.height * 2 // 3, photograph.height))
        box_width = min(photograph.width, part * width // height)
        left = int(rng.integers(0, photograph.width - box_width + 1))
        top = int(rng.integers(0, photograph.height - part + 1))
        picture = photograph.resize(
            (width, height), Image.Resampling.BICUBIC, (left, top, left + box_width, top + part)
        )
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=90)
        path = root / "ab"[number % 2] / f"{number:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.getvalue())
        contents.append(file.getvalue())
    return contents


def actor(packed: str, policy: str, num: int) -> Callable[[int], object]:
    plan = Plan(
        num,
        seed=0,
        epochs=10_000,
        global_batch_size=num,
        select=1.0,
        copies=1,
        keep_original=False,
        draws=0,
        windows=None,
    )
    augmenter = Augmenter(packed, "train", np.arange(num), plan, Policy.from_config(POLICIES[policy]))
    return lambda epoch: augmenter.columns(np.arange(epoch * num, (epoch + 1) * num))["image"]


def reference(files: list[bytes], policy: str) -> Callable[[int], object]:
    steps: list[Callable[..., object]] = [
        transforms.RandomResizedCrop(SIZE, antialias=True),
        transforms.RandomHorizontalFlip(),
    ]
    if "rotate" in policy:
        steps.append(transforms.RandomRotation(15, transforms.InterpolationMode.BILINEAR))
    pipeline = transforms.Compose([*steps, transforms.PILToTensor()])
    return lambda _: torch.stack([pipeline(Image.open(io.BytesIO(content)).convert("RGB")) for content in files])


def report(size: str, policy: str, contenders: dict[str, Callable[[int], object]], num: int, rounds: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for epoch in range(rounds + 1):
        for name, run in contenders.items():
            begin = time.process_time()
            run(epoch)
            if epoch:  # the first opens and compiles
                seconds[name].append(time.process_time() - begin)
    rates = [num / statistics.median(each) for each in seconds.values()]
    ratios = [theirs / ours for ours, theirs in zip(*seconds.values(), strict=True)]
    print(
        f"{size:>12}  {policy:18}  {rates[0]:7.0f}/s  {rates[1]:9.0f}/s  "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        flush=True,
    )


def quality(packed: str, size: str) -> None:
    """PSNR against the picture decoded in full, its box resized by Pillow as torchvision does."""
    split, policy = open_packed(packed).split("train"), Policy.from_config(["resized_crop"])
    ids = np.arange(split.num_rows)
    drawn = draw_parameters(policy, seed=0, epoch=0, sample_ids=ids)
    made = render_samples(split, ids, policy, drawn)
    rows: list[tuple[float, float]] = []
    for i, picture in enumerate(split.pictures(ids)):
        whole = Image.open(io.BytesIO(picture.content.tobytes())).convert("RGB")
        a, _, c, _, e, f = drawn.ops[0].op.framed(  # type: ignore[attr-defined]
            drawn.ops[0].values[:, [i]], Size(whole.height, whole.width), Size(SIZE, SIZE)
        )[:, 0]
        left, top = c - a / 2 + 0.5, f - e / 2 + 0.5
        box = tuple(np.rint([left, top, left + a * SIZE, top + e * SIZE]).tolist())
        bilinear, bicubic = (
            np.asarray(whole.resize((SIZE, SIZE), resampling, box)).astype(np.float64)
            for resampling in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
        )
        rows.append((psnr(made[i], bilinear), psnr(bicubic, bilinear)))
    ours, filters = np.array(rows).T
    print(
        f"{size:>12}  augft to torchvision {np.median(ours):.1f} dB, at worst {ours.min():.1f}; "
        f"Pillow's bicubic to its bilinear filter {np.median(filters):.1f}",
        flush=True,
    )


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(np.float64) - other) ** 2)))


def read(folder: Path, num: int = 600) -> None:
    """Processor time of a picture to pack it, and to read and check its shard."""
    files = write_pictures(folder / "source", *SIZES[0], num)
    print(f"{num} files of {SIZES[0]}, {np.mean([len(content) for content in files]):,.0f} bytes on average")
    for encoded in (True, False):
        begin = time.process_time()
        path = pack(str(folder / "source"), folder / f"{encoded}", image_size=SIZE, encoded=encoded)
        packing = time.process_time() - begin
        dataset = open_packed(path)
        shards = dataset.manifest.splits["train"].shards
        stored = sum(shard.num_bytes for shard in shards)
        seconds = []
        for round_ in range(5):
            os.environ["AUGFT_CACHE"] = f"{folder}/cold-{encoded}-{round_}"
            split = open_packed(path).split("train")
            begin = time.process_time()
            for first in split.first_ids:
                (split.pictures if encoded else split.gather)(np.array([first]))
            seconds.append(time.process_time() - begin)
        print(
            f"{'files' if encoded else 'pixels'}: packed in {1e3 * packing / num:.2f} ms a picture, "
            f"stored {stored / num:,.0f} bytes, laid down {split.num_bytes / num:,.0f} bytes "
            f"in {1e3 * statistics.median(seconds) / num:.3f} ms"
        )


def profile(run: Callable[[int], object]) -> None:
    run(0)
    profiler = cProfile.Profile()
    with profiler:
        for epoch in range(1, 9):
            run(epoch)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(18)


if __name__ == "__main__":
    main()
