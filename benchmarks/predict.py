"""Batch prediction: is memory flat, does a killed one end as it should, and what does Ray cost beside a plain loop?

Takes `cifar10-jpeg.tar.gz` (class folders of CIFAR-10 as JPEG files), of which it predicts 50,000, two of them damaged,
with a ResNet-20 that it trains for some seconds:

1. A part of them, in turn by `augft predict` and by a PyTorch `DataLoader` of as many processes with the model in the
   main one, each as often as --rounds says: pictures a second from the first to the last, as a ratio.
2. All of them, while the memory of the driver and of all its processes is looked at; killed with SIGKILL when half is
   done, and gone on with; then the rows are held against the files.

    python benchmarks/predict.py cifar10-jpeg.tar.gz --folder /tmp/predict
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tarfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from augft.display import Display
from augft.prediction.predict import predict
from augft.predictor import Predictor
from augft.saved import read_saved
from augft.train.placement import local_cpus


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("predict-benchmark"))
    parser.add_argument("--num", type=int, default=50_000, help="pictures in all")
    parser.add_argument("--part", type=int, default=12_288, help="pictures of a round")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    pictures, part = given.folder / "pictures", given.folder / "part"
    if not pictures.exists():
        unpack(given.archive, pictures, part, given.num, given.part)
    run = given.folder / "run"
    if not run.exists():
        train(given.archive, run)
    race(run, part, given.folder, given.rounds)
    disturbed(run, pictures, given.folder / "all.parquet")


def unpack(archive: Path, pictures: Path, part: Path, num: int, num_part: int) -> None:
    with tarfile.open(archive) as tar:
        members = (member for member in tar if member.isreg() and member.name.endswith(".jpg"))
        for number, member in enumerate(members):
            if number == num:
                break
            file = tar.extractfile(member)
            assert file is not None
            target = pictures / f"{number % 100:02d}" / f"{number:06d}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read())
            if number < num_part:
                (part / target.parent.name).mkdir(parents=True, exist_ok=True)
                os.link(target, part / target.parent.name / target.name)
    first, second = sorted(pictures.rglob("*.jpg"))[-2:]
    first.write_bytes(bytes(first.stat().st_size))
    second.write_bytes(b"")


def train(archive: Path, run: Path) -> None:
    keys = ("name=small", f"data.source={archive}", "data.labels_per_class=100", "data.image_size=32")
    keys += ("model.name=resnet20", "model.weights=bundled:resnet20-cifar10", "train.stop.steps=5", "run.trackers=[]")
    keys += ("model.stem=cifar", "run.baseline=null")
    command = [sys.executable, "-m", "augft.cli", "train", "--run-dir", str(run)]
    subprocess.run([*command, *(word for key in keys for word in ("--set", key))], check=True)


# ---- beside a DataLoader -----------------------------------------------------------------------------------


def race(run: Path, part: Path, folder: Path, rounds: int) -> None:
    ratios = []
    for _ in range(rounds):
        ours, ours_whole = by_augft(run, part, folder / "part.parquet")
        plain, plain_whole = by_loader(run, part)
        ratios.append(ours / plain)
        print(
            f"augft predict {ours:,.0f} pictures/s ({ours_whole:.1f} s with all around it), DataLoader {plain:,.0f} "
            f"({plain_whole:.1f} s): {ratios[-1]:.2f}",
            flush=True,
        )
    print(f"augft predict beside a DataLoader: {statistics.median(ratios):.2f} of its pictures a second (median)")


class Clock(Display):
    """Notes when how many are done."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[float, int]] = []

    def count(self, what: str, done: int, total: int | None) -> None:
        self.told.append((time.perf_counter(), done))


def by_augft(run: Path, part: Path, out: Path) -> tuple[float, float]:
    begin, clock = time.perf_counter(), Clock()
    predict(str(run), str(part), out, force=True, display=clock)
    (first_at, first), (last_at, last) = clock.told[0], clock.told[-1]
    return (last - first) / (last_at - first_at), time.perf_counter() - begin


class Files(Dataset):  # type: ignore[type-arg]
    """As anyone would write it."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(np.array(Image.open(self.paths[index]).convert("RGB")))


def by_loader(run: Path, part: Path) -> tuple[float, float]:
    begin = time.perf_counter()
    paths = sorted(part.rglob("*.jpg"))
    predictor = Predictor(read_saved(str(run)), torch.device("cpu"))
    torch.set_num_threads(local_cpus())
    made, first_at = [], 0.0
    # Spawned: a process that has had Ray in it has threads, and must not be forked.
    loader = DataLoader(Files(paths), batch_size=64, num_workers=local_cpus(), multiprocessing_context="spawn")
    for images in loader:
        made.append(predictor.probabilities(images.numpy()))
        first_at = first_at or time.perf_counter()
    now = time.perf_counter()
    return (len(paths) - len(made[0])) / (now - first_at), now - begin


# ---- memory, and a kill ------------------------------------------------------------------------------------


def disturbed(run: Path, pictures: Path, out: Path) -> None:
    command = [sys.executable, "-m", "augft.cli", "predict", str(run), str(pictures), "--out", str(out)]
    partial = Path(f"{out}.partial")
    num_units = -(-sum(1 for _ in pictures.rglob("*.jpg")) // 1024)
    for attempt in ("killed", "gone on with"):
        process = subprocess.Popen(command)
        memory = Memory(process.pid)
        if attempt == "killed":
            while len(list(partial.glob("part-*"))) < num_units // 2:
                assert process.poll() is None, "it ended before it could be killed"
                time.sleep(0.2)
            left = psutil.Process(process.pid).children(recursive=True)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            for each in left:  # they end by themselves too, in a while
                with suppress(psutil.NoSuchProcess):
                    each.kill()
            print(f"killed with {len(list(partial.glob('part-*')))} of {num_units} units done, no {out.name} there")
            assert not out.exists()
        else:
            assert process.wait() == 0
        memory.tell(attempt)
    names = sorted(str(path.relative_to(pictures)) for path in pictures.rglob("*.jpg"))
    found = pq.read_table(out)["path"].to_pylist()
    rejected = [json.loads(line) for line in out.with_name("all.rejected.jsonl").read_text().splitlines()]
    print(f"{len(found):,} rows, {len(set(found)):,} different; rejected: {rejected}")
    assert found == names[:-2], "rows are not the files in order"
    assert [row["path"] for row in rejected] == names[-2:]


class Memory:
    """Looks each second at the resident memory of a process, and of the processes below it."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._seen: list[tuple[float, float, float]] = []
        self._began_at = time.monotonic()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        with suppress(psutil.NoSuchProcess):
            while self._process.status() != psutil.STATUS_ZOMBIE:
                own = self._process.memory_info().rss
                actors = [rss(each) for each in self._process.children(recursive=True) if "_Actor" in name(each)]
                self._seen.append((time.monotonic() - self._began_at, own / 2**20, max(actors, default=0) / 2**20))
                time.sleep(1)

    def tell(self, what: str) -> None:
        self._thread.join()
        busy = [seen for seen in self._seen if seen[2]]
        print(f"{what}, after s: driver MiB, largest actor MiB")
        for at, own, actor in busy[:: max(1, len(busy) // 10)]:
            print(f"  {at:5.0f}: {own:6.0f} {actor:6.0f}")


def rss(process: psutil.Process) -> int:
    with suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0


def name(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


if __name__ == "__main__":
    main()
