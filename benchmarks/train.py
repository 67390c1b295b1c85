"""A local run against plain PyTorch: what Ray, the stream and the bookkeeping cost.

    python benchmarks/train.py                     # ResNet-18, 32 px, batches of 256, about four minutes on two cores
    python benchmarks/train.py --model resnet20 --turns 20

Three ways to train the same model, with the same precision, memory format, optimizer and threads:

    augft        `augft train`, the seed policy on random pictures, through Ray Data and Ray Train
    synthetic    plain PyTorch on one batch that lies ready in memory: no data, no augmentation, the ceiling
    document     the seed document's loop: torchvision transforms on each picture, a DataLoader with one worker

They take turns of a few seconds within one run: while another's turn is on, all processes of Ray are stopped
(SIGSTOP), so a slow minute of the machine falls on all three alike. A turn begins with two seconds that do not count:
after a rest caches are cold, and Ray's processes catch up. Figures are steps over the time of the turns; start-up and
validation are not in them. For augft the share of the time spent waiting for pictures, the longest single
wait against a step (several epochs' borders lie in a run), and the time from the command to the first finished step
are printed too, of an undisturbed run that comes first.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import torchvision
from PIL import Image
from stream import random_pictures
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from augft.config import load_job_text
from augft.display import Display
from augft.model import build_model
from augft.run import Run
from augft.train.launch import train
from augft.train.precision import fast_bf16
from augft.train.session import ray_session

NUM_WARM_STEPS = 32
SETTLING_S = 2.0
STEPS_AN_EPOCH = 16

JOB = """
name: benchmark
data: {{source: {packed}, val_fraction: 0}}
augment: {{policy: basic}}
model: {{name: {model}, weights: none}}
train: {{epochs: 1000, global_batch_size: {batch}, optimizer: {{lr: 0.01}}, stop: {stop}}}
run: {{trackers: [], checkpoint_every_steps: 100}}
"""


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """Pictures in memory, transformed one by one as the seed document does."""

    def __init__(self, num_pictures: int) -> None:
        self._pixels = np.random.default_rng(0).integers(0, 256, (num_pictures, 32, 32, 3), np.uint8)
        self._transform = transforms.Compose(
            [
                transforms.RandomHorizontalFlip(),
                transforms.RandomVerticalFlip(),
                transforms.RandomRotation(10),
                transforms.RandomCrop(32, padding=4),
                transforms.ToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._transform(Image.fromarray(self._pixels[index])), index % 10


class Plain:
    """A model and what a step of plain PyTorch does to it."""

    def __init__(self, name: str) -> None:
        self._bf16 = fast_bf16(torch.device("cpu"))
        self._layout = torch.channels_last if self._bf16 else torch.contiguous_format
        self._model = build_model(name, num_classes=10).module.to(memory_format=self._layout).train()
        self._optimizer = torch.optim.SGD(
            self._model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4
        )

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
            logits = self._model(images.contiguous(memory_format=self._layout))
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        self._optimizer.step()


def synthetic(arguments: argparse.Namespace) -> Iterator[None]:
    """A step on one batch that lies ready, again and again."""
    plain = Plain(arguments.model)
    images, labels = torch.randn(arguments.batch, 3, 32, 32), torch.randint(0, 10, (arguments.batch,))
    while True:
        yield plain.step(images, labels)


def document(arguments: argparse.Namespace) -> Iterator[None]:
    """The steps of the seed document's loop."""
    plain = Plain(arguments.model)
    loader = DataLoader(Pictures(50_000), batch_size=arguments.batch, shuffle=True, num_workers=1, drop_last=True)
    while True:
        for images, labels in loader:
            yield plain.step(images, labels)


class Steps(Display):
    """Counts the steps of a run that goes on elsewhere."""

    num_steps = 0

    def handle(self, event: dict[str, Any]) -> None:
        self.num_steps = max(self.num_steps, event.get("step", 0))


class Augft:
    """A run of augft that goes on in the background, and rests when it is told to."""

    def __init__(self, arguments: argparse.Namespace, packed: Path, run_dir: str) -> None:
        self._steps = Steps()
        turn_s = SETTLING_S + arguments.seconds
        run_s = 30 + 3.1 * (arguments.turns + 1) * turn_s  # of three that take turns, and one to warm up
        job = load_job_text(JOB.format(packed=packed, stop=f"{{time_s: {run_s}}}", **vars(arguments)), "benchmark")
        self._run = threading.Thread(
            target=train, args=(job,), kwargs={"run_dir": run_dir, "display": self._steps}, daemon=True
        )
        self._run.start()
        while self._steps.num_steps < NUM_WARM_STEPS:
            time.sleep(0.1)
        self._processes = psutil.Process().children(recursive=True)

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Within the block no process of it runs."""
        for process in self._processes:
            process.send_signal(signal.SIGSTOP)
        yield
        for process in self._processes:
            process.send_signal(signal.SIGCONT)

    def turn(self, seconds: float) -> int:
        """Let it run; how many steps it did, as it tells: about half a second late at both ends."""
        before = self._steps.num_steps
        time.sleep(seconds)
        return self._steps.num_steps - before

    def finish(self) -> None:
        """Until the run is over: a little after the last turn."""
        self._run.join()


def take_turns(arguments: argparse.Namespace, augft: Augft) -> dict[str, float]:
    """Images a second of each contender."""
    loops = {"synthetic": synthetic(arguments), "document": document(arguments)}
    steps = dict.fromkeys(["augft", *loops], 0)
    spent = dict.fromkeys(steps, 0.0)
    for number in range(arguments.turns + 1):
        if number == 1:  # the first turns warm up
            steps, spent = dict.fromkeys(steps, 0), dict.fromkeys(steps, 0.0)
        time.sleep(SETTLING_S)
        begin = time.perf_counter()
        steps["augft"] += augft.turn(arguments.seconds)
        spent["augft"] += time.perf_counter() - begin
        with augft.resting():
            for name, loop in loops.items():
                _run(loop, SETTLING_S)
                begin = time.perf_counter()
                steps[name] += _run(loop, arguments.seconds)
                spent[name] += time.perf_counter() - begin
    return {name: steps[name] * arguments.batch / spent[name] for name in steps}


def _run(loop: Iterator[None], seconds: float) -> int:
    """Steps of a loop for a while; how many."""
    end, num_steps = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        next(loop)
        num_steps += 1
    return num_steps


def undisturbed(arguments: argparse.Namespace, packed: Path, run_dir: str) -> Run:
    """A short run of short epochs, so that their borders are met."""
    stop = f"{{steps: {8 * STEPS_AN_EPOCH}}}"
    return train(load_job_text(JOB.format(packed=packed, stop=stop, **vars(arguments)), "benchmark"), run_dir=run_dir)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--turns", type=int, default=10, help="of each contender")
    parser.add_argument("--seconds", type=float, default=5.0, help="a turn's")
    arguments = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as folder:
        short = random_pictures(Path(folder, "short"), STEPS_AN_EPOCH * arguments.batch)
        summary = undisturbed(arguments, short, f"{folder}/undisturbed").summary
        packed = random_pictures(Path(folder, "long"), 50_000)
        with ray_session(None, num_cpus=4):
            augft = Augft(arguments, packed, f"{folder}/turns")
            rates = take_turns(arguments, augft)
            augft.finish()
    print(
        f"{arguments.model}, 32 px, {arguments.batch} a step, {arguments.turns} turns of {arguments.seconds:g} s each, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, torchvision {torchvision.__version__}, "
        f"{platform.machine()}"
    )
    for name, rate in rates.items():
        print(f"{name:<10} {rate:>8,.0f} images/s   augft is {rates['augft'] / rate:.2f} of it")
    wait = summary["longest_wait_s"] * summary["images_per_s"] / arguments.batch
    print(f"data stall {summary['data_stall_fraction']:.2%} of the steps' time; longest wait {wait:.2f} steps")
    print(f"first step finished {summary['first_step_s']:.1f} s after the command")


if __name__ == "__main__":
    main()
