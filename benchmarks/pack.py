"""How many pictures a core packs in a second, by threads and on Ray, beside a plain loop over the same pictures.

    python benchmarks/pack.py
    python benchmarks/pack.py --source cifar10-jpeg.tar.gz --image-size 32
    python benchmarks/pack.py --list 1_000_000
    python benchmarks/pack.py --parquet

The plain loop is what one would write oneself: a pool of processes, a file each, Pillow to decode and resize it, arrays
of as many pictures as a shard has saved with `np.save`. It checks nothing, notes nothing, and has no digests, and no
Parquet. All take turns, `--rounds` times; medians are told. A core's rate is pictures by seconds of CPU that all
processes together took, so it says little of waiting, and is hardly touched by what else the machine does.

`--list` makes a folder of so many tiny pictures (hard links to a few) and tells what the driver takes to list it, to
cut it into jobs, and to know it again. `--parquet` tells what ways to encode pixels in Parquet cost, to write and to
read.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
from PIL import Image

from augft.data import shards
from augft.data.assemble import Options, rows_of_splits
from augft.data.pack import pack
from augft.data.pack_on_ray import Tasks
from augft.data.packed import open_packed
from augft.data.shards import rows_per_shard
from augft.data.sources import open_source, source_digest
from augft.data.work import Threads
from augft.train.session import ray_session

PICTURES_OF_IMAGENET = 1_281_167


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", help="class folders or an archive; else JPEGs of 500x375 that are made up")
    parser.add_argument("--pictures", type=int, default=2000, help="how many to make up")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--list", type=int, metavar="N")
    parser.add_argument("--parquet", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["AUGFT_CACHE"] = f"{folder}/cache"
        if arguments.list:
            _list(Path(folder, "many"), arguments.list)
            return
        if arguments.parquet:
            for size, num in ((32, 4096), (224, 320)):
                _encodings(size, num, arguments.rounds)
            return
        source = arguments.source or _made_up(Path(folder, "pictures"), arguments.pictures)
        _race(source, Path(folder), arguments.image_size, arguments.cores, arguments.rounds)


# ---- pictures a second -----------------------------------------------------------------------------------


def _race(source: str, folder: Path, image_size: int, cores: int, rounds: int) -> None:
    num_pictures = len(open_source(source).records)
    print(f"{num_pictures:,} pictures of {source} to {image_size} px, {cores} cores, {rounds} rounds")
    contenders: dict[str, Callable[[Path], None]] = {
        "plain loop": lambda out: _plain(source, out, image_size, cores),
        "augft pack": lambda out: _pack(source, out, image_size, num_threads=cores),
        "augft pack --on-bad skip": lambda out: _pack(source, out, image_size, num_threads=cores, on_bad="skip"),
        "augft pack --encoded": lambda out: _pack(source, out, image_size, num_threads=cores, encoded=True),
        f"augft pack --workers {cores}": lambda out: _pack(source, out, image_size, crew=Tasks(cores)),
    }
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    with ray_session(None, num_cpus=cores):
        _pack("digits", folder / "warm", 8, crew=Tasks(cores))  # processes have to be there, and to have imported
        for number in range(rounds):
            for name, run in contenders.items():
                out = folder / f"{number}-{len(took[name])}-{name.replace(' ', '-')}"
                with _clock(took[name]):
                    run(out)
    plain_s = statistics.median(cpu_s for _, cpu_s in took["plain loop"])
    for name, times in took.items():
        wall_s, cpu_s = (statistics.median(each) for each in zip(*times, strict=True))
        print(
            f"{name:<26} {num_pictures / wall_s:8,.0f} pictures/s, {num_pictures / cpu_s:7,.0f} a core "
            f"({plain_s / cpu_s:.2f} of the plain loop); 1.28 M on 32 cores, by arithmetic: "
            f"{PICTURES_OF_IMAGENET * cpu_s / num_pictures / 32 / 60:.1f} min"
        )
    manifests = [open_packed(path).manifest for path in folder.glob("*-augft-*")]
    if len({(manifest.encoded, manifest.digest) for manifest in manifests}) != 2:
        raise SystemExit("the sets differ")


def _pack(source: str, out: Path, image_size: int, **options: object) -> None:
    pack(source, out, image_size=image_size, **options)  # type: ignore[arg-type]


def _plain(source: str, out: Path, image_size: int, cores: int) -> None:
    """A shard's worth of files at a time to each process."""
    out.mkdir()
    rows = rows_per_shard((image_size, image_size, 3))
    with ProcessPoolExecutor(cores) as pool:
        if Path(source).is_dir():
            names = iter(sorted(map(str, Path(source).rglob("*.jp*g"))))
        else:  # read from front to back by this process
            names = (content for _, content in open_source(source).read())  # type: ignore[misc]
        batches = iter(lambda: list(itertools.islice(names, min(rows, 4096))), [])
        jobs = [pool.submit(_save, batch, out / f"{n}.npy", image_size) for n, batch in enumerate(batches)]
        for job in jobs:
            job.result()


def _save(pictures: list[str] | list[bytes], path: Path, image_size: int) -> None:
    np.save(path, np.stack([_resized(picture, image_size) for picture in pictures]))


def _resized(picture: str | bytes, size: int) -> np.ndarray:
    with Image.open(picture if isinstance(picture, str) else io.BytesIO(picture)) as image:
        image.draft("RGB", (2 * size, 2 * size))
        rgb = image.convert("RGB")
    side = min(rgb.size)
    left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
    box = (left, top, left + side, top + side)
    return np.asarray(rgb.resize((size, size), Image.Resampling.BILINEAR, box=box))


@contextmanager
def _clock(times: list[tuple[float, float]]) -> Iterator[None]:
    """Seconds by the clock, and of CPU of this process and all below it."""
    wall_s, cpu_s = time.perf_counter(), _cpu_s()
    yield
    times.append((time.perf_counter() - wall_s, _cpu_s() - cpu_s))


def _cpu_s() -> float:
    """Of this process, of those below it, and of those that these have seen end."""
    this, total = psutil.Process(), 0.0
    for process in (this, *this.children(recursive=True)):
        times = process.cpu_times()
        total += times.user + times.system
        if process == this:
            total += times.children_user + times.children_system
    return total


def _made_up(root: Path, num: int) -> str:
    rng = np.random.default_rng(0)
    for number in range(num):
        path = root / "train" / "abcd"[number % 4] / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (24, 32, 3), np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC), np.int16)
        grain = rng.normal(0, 6, smooth.shape).astype(np.int16)
        Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(path, quality=90)
    return str(root)


# ---- Parquet ---------------------------------------------------------------------------------------------

_SPLIT = {"use_dictionary": False, "use_byte_stream_split": ["image.list.element"]}
_ZSTD = {"compression": "zstd", "compression_level": 1}
_ENCODINGS: dict[str, dict[str, object]] = {
    "dictionary, Zstandard 1": {"use_dictionary": True, **_ZSTD},
    "byte-stream-split, Zstandard 1": {**_SPLIT, **_ZSTD},
    "byte-stream-split, LZ4": {**_SPLIT, "compression": "lz4"},
    "plain, Zstandard 1": {"use_dictionary": False, **_ZSTD},
}


def _encodings(size: int, num: int, rounds: int) -> None:
    """Shards of smooth pictures with grain, row group by row group."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (num, 6, 6, 3), np.uint8)
    smooth = [np.asarray(Image.fromarray(each).resize((size, size), Image.Resampling.BICUBIC), int) for each in coarse]
    pixels = np.clip(np.stack(smooth) + rng.normal(0, 2, (num, size, size, 3)), 0, 255).astype(np.uint8)
    took: dict[str, list[tuple[float, float, int]]] = {name: [] for name in _ENCODINGS}
    for _ in range(rounds):
        for name, options in _ENCODINGS.items():
            with _parquet_written(options):
                begin = time.process_time()
                content = shards.shard_parquet(0, np.zeros(num, np.int32), pixels)
                written = time.process_time()
            parquet = pq.ParquetFile(io.BytesIO(content))
            groups = [parquet.read_row_group(group, columns=["image"]) for group in range(parquet.num_row_groups)]
            flat = np.concatenate([group["image"].combine_chunks().storage.flatten().to_numpy() for group in groups])
            took[name].append((written - begin, time.process_time() - written, len(content)))
            if not np.array_equal(flat, pixels.reshape(-1)):
                raise SystemExit(f"{name}: other pixels were read")
    for name, times in took.items():
        write_s, read_s, num_bytes = (statistics.median(each) for each in zip(*times, strict=True))
        print(
            f"{size:3} px, {name:<30} a picture written in {write_s / num * 1e3:.3f} ms and read in "
            f"{read_s / num * 1e3:.3f} ms of CPU; {num_bytes / pixels.nbytes:.2f} of the pixels' bytes"
        )


@contextmanager
def _parquet_written(options: dict[str, object]) -> Iterator[None]:
    before, shards._PARQUET = shards._PARQUET, {**options, "write_statistics": False}
    try:
        yield
    finally:
        shards._PARQUET = before


# ---- a long list -----------------------------------------------------------------------------------------


def _list(root: Path, num: int) -> None:
    num_classes, at = min(1000, max(2, num // 100)), time.perf_counter()
    rng = np.random.default_rng(0)
    root.with_name("few").mkdir(parents=True)
    for number in range(num):
        few = root.with_name("few") / f"{number // 20_000}.jpg"  # a file takes no more links than 65,000
        if not few.exists():
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(few)
        label, name = divmod(number, -(-num // num_classes))
        path = root / "train" / f"n{label:08d}" / f"n{label:08d}_{name}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(few, path)
    source = str(root)

    def tell(what: str) -> None:
        nonlocal at
        now_bytes = psutil.Process().memory_info().rss
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        took_s, at = time.perf_counter() - at, time.perf_counter()
        print(f"{what}: {took_s:.1f} s; memory {now_bytes / 2**20:.0f} MiB, at most {peak_bytes / 2**20:.0f} MiB")

    tell(f"{num:,} pictures of {num_classes:,} classes were made")
    source_digest(source, Threads(os.cpu_count() or 1))
    tell("known by their content")
    opened = open_source(source)
    tell("listed")
    rows = rows_of_splits(source, opened, {}, Options(224, 0.02, 0, "fail", True, False))
    tell("split and shuffled")
    assert opened.pick is not None
    step, num_jobs = rows_per_shard((224, 224, 3)), 0
    for _, indices in rows.values():
        for first in range(0, len(indices), step):
            opened.pick(indices[first : first + step])
            num_jobs += 1
    tell(f"cut into {num_jobs:,} jobs")


if __name__ == "__main__":
    main()
