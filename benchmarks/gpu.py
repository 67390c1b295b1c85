"""What training makes of a GPU: the options of a step one after the other, and a whole run against its ceiling.

    python benchmarks/gpu.py > gpu.md               # ResNet-18 at 32 px, ResNet-50 at 224 px
    python benchmarks/gpu.py --shapes resnet50:224:128
    python benchmarks/gpu.py --device cpu --quick   # the same code, small, to see that it works

Markdown comes on stdout, progress on stderr. A step is the loop's: forward, backward, the loss read back, update, on
pictures that lie ready in the host's memory as uint8. Each row has the options of the one above it and one more:

    fp32               contiguous tensors, copied from pageable memory when they are needed
    channels_last      `train.channels_last: true`
    bf16               `train.precision: bf16`
    copies ahead       from page-locked memory, on a stream of their own, while the step before is learnt from: always
    compile            `train.compile: true`
    device             `augment.where: device`: the pictures come as they are, and are augmented here

Rounds are interleaved; figures are medians. The share that waits is of the host, in the copy of the next batch. A
profile of some steps then counts what holds the host up: synchronisations of CUDA, and numbers that are read back (the
loss is one). Utilisation is nvidia-smi's, over some seconds of each row.

A run is `augft train` on packed random pictures, start-up and validation left out; its ceiling is the last step above
on one batch that lies ready on the device. They take turns.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stream import random_pictures
from torch.profiler import ProfilerActivity, profile

from augft.augment.actor import Augmenter
from augft.augment.policy import Policy
from augft.config import Job, load_job_text
from augft.data.packed import open_packed
from augft.data.units import RankBatch
from augft.display import Display
from augft.prepare import make_plan
from augft.train.ahead import Ahead
from augft.train.launch import train
from augft.train.learner import Learner, Sent
from augft.train.ranks import Ranks
from augft.train.session import ray_session

JOB = """
name: benchmark
data: {{source: {packed}, val_fraction: 0}}
augment: {{policy: {policy}}}
model: {{name: {model}, weights: none}}
train: {{epochs: 1000, global_batch_size: {batch}, optimizer: {{lr: 0.001}}, precision: fp32, channels_last: false}}
run: {{trackers: []}}
"""
OPTIONS = {
    "fp32": (),
    "channels_last": ("train.channels_last=true",),
    "bf16": ("train.precision=bf16",),
    "copies ahead": (),
    "compile": ("train.compile=true",),
    "device": ("augment.where=device",),
}
NUM_BATCHES = 4
"""Different ones, that a step meets in turn."""
SYNCHRONISATIONS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
READS = ("aten::_local_scalar_dense",)

Feed = Iterator[tuple[RankBatch, Sent]]


@dataclass(frozen=True)
class Shape:
    """What is trained: a model, the pictures' side in pixels, pictures of a step."""

    model: str
    pixels: int
    batch: int

    @classmethod
    def parse(cls, text: str) -> Shape:
        model, pixels, batch = text.split(":")
        return cls(model, int(pixels), int(batch))

    def job(self, packed: Path, policy: str, *overrides: str) -> Job:
        text = JOB.format(packed=packed, policy=policy, model=self.model, batch=self.batch)
        return load_job_text(text, "benchmark", overrides)


@dataclass
class Row:
    """A way to step, and what was measured of it."""

    step: Callable[[], float]
    """Does a step; returns how long it waited for its batch, in seconds."""
    images_per_s: list[float] = field(default_factory=list)
    wait: list[float] = field(default_factory=list)


def pageable(batches: Generator[RankBatch, None, None], device: torch.device) -> Feed:
    """Copies as one would write them down first."""
    for batch in batches:
        images, labels = torch.from_numpy(batch.images), torch.from_numpy(batch.labels.astype(np.int64))
        yield batch, (images.to(device), labels.to(device))


def endless(job: Job, packed: Path, policy: Policy) -> Generator[RankBatch, None, None]:
    """Some batches, again and again."""
    dataset = open_packed(packed)
    ids = np.arange(dataset.split("train").num_rows)
    plan = make_plan(job, len(ids))
    augmenter, made = Augmenter(str(packed), "train", ids, plan, policy), []
    for step in range(NUM_BATCHES):
        columns = augmenter.columns(np.arange(*plan.share(step, 0, 1)))
        names = ("image", "label", "epoch", "sample_id", "copy")
        made.append(RankBatch(step, *(columns[name] for name in names), digest=0))
    yield from cycle(made)


def stepper(learner: Learner, feed: Feed) -> Callable[[], float]:
    def step() -> float:
        begin = time.perf_counter()
        batch, sent = next(feed)
        waited_s = time.perf_counter() - begin
        losses, _ = learner.backward(batch, sent)
        losses.sum().item()
        learner.update(batch.step)
        return waited_s

    return step


def rows_of(shape: Shape, packed: Path, policy: str, options: tuple[str, ...], device: torch.device) -> dict[str, Row]:
    """A row for each option, with those before it switched on."""
    rows, overrides, made, dataset = {}, [], Policy.from_config(policy), open_packed(packed)
    for option in options:
        overrides += OPTIONS[option]
        job = shape.job(packed, policy, *overrides)
        on_device = job.augment.where == "device"
        plan = make_plan(job, dataset.split("train").num_rows)
        learner = Learner(job, dataset, plan, Ranks(0, 1, device), made if on_device else None)
        batches = endless(job, packed, Policy(name="none") if on_device else made)
        ahead = options.index(option) >= options.index("copies ahead")
        feed = Ahead(batches, learner.send, device) if ahead else pageable(batches, device)
        rows[option] = Row(stepper(learner, feed))
        print(f"{shape.model} {shape.pixels} px: first steps of {option}", file=sys.stderr, flush=True)
        for _ in range(3):  # compiles, and finds the quickest kernels
            rows[option].step()
    return rows


def measure(rows: dict[str, Row], shape: Shape, rounds: int, num_steps: int, device: torch.device) -> None:
    module = torch.get_device_module(device)
    for _ in range(rounds):
        for row in rows.values():
            row.step()  # the caches belong to this row again
            module.synchronize()
            begin = time.perf_counter()
            waited_s = sum(row.step() for _ in range(num_steps))
            module.synchronize()
            spent_s = time.perf_counter() - begin
            row.images_per_s.append(shape.batch * num_steps / spent_s)
            row.wait.append(waited_s / spent_s)


def counts(step: Callable[[], float], num_steps: int, device: torch.device) -> tuple[float, float]:
    """Synchronisations of CUDA and numbers read back, a step."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities) as found:
        for _ in range(num_steps):
            step()
    times = {event.key: event.count for event in found.key_averages()}
    synchronisations, reads = (sum(times.get(name, 0) for name in names) for names in (SYNCHRONISATIONS, READS))
    return synchronisations / num_steps, reads / num_steps


def utilisation(step: Callable[[], float], seconds: float, device: torch.device) -> str:
    """Percent of the time in which the GPU had work, by nvidia-smi; median of samples, the first of them left out."""
    if device.type != "cuda":
        return "–"
    ask = ["nvidia-smi", f"--id={device.index or 0}", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    try:
        watching = subprocess.Popen([*ask, "-lms", "200"], stdout=subprocess.PIPE, text=True)
    except OSError:
        return "–"
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        step()
    watching.terminate()
    samples = [float(line) for line in watching.communicate()[0].split() if line.strip().isdigit()][2:]
    return f"{statistics.median(samples):.0f} %" if samples else "–"


def whole_runs(shape: Shape, packed: Path, arguments: argparse.Namespace, device: torch.device) -> None:
    """`augft train` against its ceiling, in turns, as a table."""
    best = ["train.precision=bf16", "train.channels_last=true"]
    job = shape.job(packed, arguments.policy, *best)
    dataset = open_packed(packed)
    learner = Learner(job, dataset, make_plan(job, dataset.split("train").num_rows), Ranks(0, 1, device))
    batch = next(endless(job, packed, Policy(name="none")))
    sent = learner.send(batch)
    ceiling = Row(stepper(learner, cycle([(batch, sent)])))
    found: dict[str, list[dict[str, Any]]] = {where: [] for where in arguments.where}
    for turn in range(arguments.runs):
        measure({"": ceiling}, shape, 1, arguments.steps, device)
        for where in arguments.where:
            overrides = [*best, f"augment.where={where}", f"train.stop.steps={arguments.run_steps}"]
            with tempfile.TemporaryDirectory() as folder:
                made = train(shape.job(packed, arguments.policy, *overrides), run_dir=folder, display=Quiet())
                found[where].append(made.summary)
        print(f"{shape.model} {shape.pixels} px: run {turn + 1} of {arguments.runs}", file=sys.stderr, flush=True)
    most = statistics.median(ceiling.images_per_s)
    what = f"run of {arguments.run_steps} steps, bf16, channels_last"
    print(f"\n| {what} | images/s | of the ceiling | waits for pictures |")
    print("|---|--:|--:|--:|")
    print(f"| one batch that lies ready on the device | {most:,.0f} | 1.00 | – |")
    for where, summaries in found.items():
        rate, stall = (
            statistics.median(summary[key] for summary in summaries) for key in ("images_per_s", "data_stall_fraction")
        )
        print(f"| `augft train`, `augment.where: {where}` | {rate:,.0f} | {rate / most:.2f} | {stall:.1%} |")


class Quiet(Display):
    def say(self, text: str) -> None: ...

    def handle(self, event: dict[str, Any]) -> None: ...

    def count(self, what: str, done: int, total: int | None) -> None: ...


def table(shape: Shape, rows: dict[str, Row], arguments: argparse.Namespace, device: torch.device) -> None:
    print(f"\n## {shape.model}, {shape.pixels} px, {shape.batch} pictures a step, policy {arguments.policy}\n")
    print(
        "| | images/s | over the row above | over the first | waits for its batch | synchronisations | reads | busy |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    first = above = None
    for option, row in rows.items():
        rate = statistics.median(row.images_per_s)
        first, above = first or rate, above or rate
        synchronisations, reads = counts(row.step, min(5, arguments.steps), device)
        busy = utilisation(row.step, arguments.busy_s, device)
        wait = statistics.median(row.wait)
        print(
            f"| {'' if option == 'fp32' else '+ '}{option} | {rate:,.0f} | {rate / above:.2f} | {rate / first:.2f} | "
            f"{wait:.1%} | {synchronisations:g} | {reads:g} | {busy} |",
            flush=True,
        )
        above = rate


def machine(device: torch.device) -> str:
    """Name, driver and versions."""
    lines = [f"torch {torch.__version__}, CUDA {torch.version.cuda}, Python {platform.python_version()}"]
    lines.append(f"{platform.machine()}, {len(os.sched_getaffinity(0))} CPUs, {platform.platform()}")
    if device.type == "cuda":
        ask = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        try:
            told = subprocess.run(ask, capture_output=True, text=True, check=True).stdout
            lines[:0] = ["; ".join(", ".join(map(str.strip, row)) for row in csv.reader(io.StringIO(told)))]
        except (OSError, subprocess.CalledProcessError):
            lines[:0] = [f"{torch.cuda.get_device_name(device)}, driver unknown"]
    else:
        lines[:0] = ["**No GPU: these figures show that the benchmark runs, and nothing else.**"]
    return "\n\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shapes", nargs="+", type=Shape.parse, metavar="MODEL:PIXELS:BATCH")
    parser.add_argument("--policy", default="basic")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=30, help="a round's")
    parser.add_argument("--runs", type=int, default=3, help="whole runs of each kind")
    parser.add_argument("--run-steps", type=int, default=400, help="of a whole run")
    parser.add_argument("--busy-s", type=float, default=3.0, help="seconds that utilisation is watched")
    parser.add_argument("--where", nargs="+", default=["actors", "device"], help="of whole runs")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--quick", action="store_true", help="all of it, small: under two minutes")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.steps, arguments.runs, arguments.run_steps, arguments.busy_s = 2, 2, 1, 8, 1.0
        arguments.where = ["actors"]
    shapes = arguments.shapes or [Shape("resnet18", 32, 256), Shape("resnet50", 224, 128)]
    if arguments.quick and not arguments.shapes:
        shapes = [Shape("resnet20", 16, 32)]
    device = torch.device(arguments.device, 0) if arguments.device == "cuda" else torch.device(arguments.device)
    options = tuple(option for option in OPTIONS if option != "compile" or not arguments.no_compile)
    print(f"# Training on {arguments.device}\n\n{machine(device)}")
    with tempfile.TemporaryDirectory() as folder, ray_session(None, num_cpus=max(4, os.cpu_count() or 4)):
        for shape in shapes:
            num_pictures = max(NUM_BATCHES, min(32, 20_000 // shape.batch)) * shape.batch
            num_pictures = NUM_BATCHES * shape.batch if arguments.quick else num_pictures
            packed = random_pictures(Path(folder, f"{shape.pixels}"), num_pictures, shape.pixels)
            rows = rows_of(shape, packed, arguments.policy, options, device)
            measure(rows, shape, arguments.rounds, arguments.steps, device)
            table(shape, rows, arguments, device)
            whole_runs(shape, packed, arguments, device)


if __name__ == "__main__":
    main()
