"""Does a long run hold on to anything? Memory, open files and object store over many short epochs.

    python benchmarks/soak.py                 300 epochs of the digits
    python benchmarks/soak.py --epochs 50     a shorter look

Each process of the run is sampled while it trains. The first fifth of the samples is warm-up; told are the median
of the next fifth, that of the last, and what lies between them. Memory is what a process has for itself (unique set
size): pages of the object store that it maps are not its own, and are told apart.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
from collections import defaultdict
from statistics import median

import psutil
import ray
from rich.console import Console
from rich.table import Table

from augft.config import load_job_text
from augft.train.launch import train
from augft.train.session import ray_session

JOB = """
name: soak
data: {{source: digits, image_size: 8}}
augment: {{policy: digits, keep_original: true}}
model: {{name: resnet20, weights: none}}
train: {{epochs: {epochs}, global_batch_size: 256}}
scale: {{augment_actors: 1, unit_rows: 1024}}
run: {{checkpoint_every_steps: 50}}
"""
ROLES = {
    "ray::RayTrainWorker": "training worker",
    "ray::MapWorker": "augmentation actor",
    "ray::SplitCoordinator": "stream's coordinator",
    "ray::TrainController": "Ray Train's controller",
    "ray::_Listener": "listener",
    "raylet": "raylet",
    "gcs_server": "Ray's control store",
}
PERIOD_S = 2.0
MIB = 2**20


class Sampler(threading.Thread):
    """Samples this process and all below it: role → memory in MiB and open files, and the object store in MiB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.memory: dict[str, list[float]] = defaultdict(list)
        self.files: dict[str, list[float]] = defaultdict(list)
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(PERIOD_S):
            for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
                try:
                    role = _role(process)
                    if role is not None:
                        self.memory[role].append(process.memory_full_info().uss / MIB)
                        self.files[role].append(process.num_fds())
                except psutil.Error:
                    continue
            if ray.is_initialized():
                total, free = ray.cluster_resources(), ray.available_resources()
                used = total.get("object_store_memory", 0) - free.get("object_store_memory", 0)
                self.memory["object store"].append(used / MIB)


def _role(process: psutil.Process) -> str | None:
    if process.pid == psutil.Process().pid:
        return "driver"
    title = " ".join(process.cmdline())
    return next((role for start, role in ROLES.items() if start in title.split(" ")[0]), None)


def _change(samples: list[float]) -> tuple[float, float]:
    fifth = len(samples) // 5
    return median(samples[fifth : 2 * fifth]), median(samples[-fifth:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=300)
    epochs = parser.parse_args().epochs
    sampler = Sampler()
    with tempfile.TemporaryDirectory(prefix="soak", dir="/tmp") as folder, ray_session(None, num_cpus=3):
        sampler.start()
        run = train(load_job_text(JOB.format(epochs=epochs), "the soak job"), run_dir=f"{folder}/run")
        sampler.ended.set()
        sampler.join()
        steps = run.summary["steps"]
    table = Table(title=f"{epochs} epochs, {steps} steps: at first, at last, and the change a hundred epochs")
    for heading in ("process", "memory, MiB", "", "change", "open files", "", "change"):
        table.add_column(heading, justify="left" if heading == "process" else "right")
    between = 0.7 * epochs / 100  # from the middle of the second fifth to that of the last
    for role, samples in sampler.memory.items():
        if len(samples) < 10:
            continue
        cells = []
        for values in (samples, sampler.files.get(role)):
            if values is None:
                cells += ["", "", ""]
                continue
            first, last = _change(values)
            cells += [f"{first:,.1f}", f"{last:,.1f}", f"{(last - first) / between:+.2f}"]
        table.add_row(role, *cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
