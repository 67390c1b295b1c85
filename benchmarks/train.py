"""A local run against plain PyTorch: what Ray, the stream and the bookkeeping cost.

    python benchmarks/train.py                     # ResNet-18, 32 px, batches of 256, about five minutes on two cores
    python benchmarks/train.py --model resnet20 --rounds 5

Three ways to train the same model, with the same precision, memory format, optimizer and threads:

    augft        `augft train`, the seed policy on random pictures, through Ray Data and Ray Train
    synthetic    plain PyTorch on one batch that lies ready in memory: no data, no augmentation, the ceiling
    document     the seed document's loop: torchvision transforms on each picture, a DataLoader with one worker

Each round runs all three, one after the other; figures are medians of the rounds. Steps alone are timed, start-up and
validation are not. For augft the share of the time spent waiting for pictures, the longest single wait against a step
(several epochs' borders lie in a round), and the time from the command to the first finished step are printed too.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from stream import random_pictures
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from augft.config import Job, load_job_text
from augft.model import build_model
from augft.run import Run
from augft.train.launch import train
from augft.train.precision import fast_bf16

NUM_WARM_EPOCHS = 2
STEPS_AN_EPOCH = 16
NUM_WARM_STEPS = 5

JOB = """
name: benchmark
data: {{source: {packed}, val_fraction: 0}}
augment: {{policy: basic}}
model: {{name: {model}, weights: none}}
train: {{epochs: 1000, global_batch_size: {batch}, optimizer: {{lr: 0.01}}, stop: {{steps: {steps}}}}}
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


def synthetic(arguments: argparse.Namespace) -> float:
    """Images a second on one batch that lies ready."""
    plain = Plain(arguments.model)
    images, labels = torch.randn(arguments.batch, 3, 32, 32), torch.randint(0, 10, (arguments.batch,))
    for _ in range(NUM_WARM_STEPS):
        plain.step(images, labels)
    begin = time.perf_counter()
    for _ in range(arguments.steps):
        plain.step(images, labels)
    return arguments.steps * arguments.batch / (time.perf_counter() - begin)


def document(arguments: argparse.Namespace) -> float:
    """Images a second of the seed document's loop."""
    plain = Plain(arguments.model)
    loader = DataLoader(Pictures(50_000), batch_size=arguments.batch, shuffle=True, num_workers=1, drop_last=True)
    batches = iter(loader)
    for _ in range(NUM_WARM_STEPS):
        plain.step(*next(batches))
    begin = time.perf_counter()
    for _ in range(arguments.steps):
        plain.step(*next(batches))
    return arguments.steps * arguments.batch / (time.perf_counter() - begin)


def job(arguments: argparse.Namespace, packed: Path) -> Job:
    text = JOB.format(
        packed=packed,
        model=arguments.model,
        batch=arguments.batch,
        steps=arguments.steps + NUM_WARM_EPOCHS * STEPS_AN_EPOCH,
    )
    return load_job_text(text, "benchmark")


def _steady(run: Run) -> float:
    """Images a second after the first epochs: until then libraries choose their algorithms and buffers fill."""
    lines = [line for line in run.metrics if line["split"] == "train"][NUM_WARM_EPOCHS:]
    return float(sum(line["num_samples"] for line in lines) / sum(_seconds(line) for line in lines))


def _seconds(line: dict[str, Any]) -> float:
    return float(line["num_samples"] / line["images_per_s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=96, help="a round's")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    figures: dict[str, list[float]] = {"augft": [], "synthetic": [], "document": []}
    stalls, waits, starts = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        # Small epochs, so that their borders are met.
        packed = random_pictures(Path(folder), STEPS_AN_EPOCH * arguments.batch)
        for number in range(arguments.rounds):
            run = train(job(arguments, packed), run_dir=f"{folder}/run{number}")
            summary = run.summary
            figures["augft"].append(_steady(run))
            stalls.append(summary["data_stall_fraction"])
            waits.append(summary["longest_wait_s"] * summary["images_per_s"] / arguments.batch)
            starts.append(summary["first_step_s"])
            figures["synthetic"].append(synthetic(arguments))
            figures["document"].append(document(arguments))
    print(
        f"{arguments.model}, 32 px, {arguments.batch} a step, {arguments.rounds} rounds of {arguments.steps} steps, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, torchvision {torchvision.__version__}, "
        f"{platform.machine()}"
    )
    for name, rates in figures.items():
        ratio = statistics.median(a / r for a, r in zip(figures["augft"], rates, strict=True))
        print(f"{name:<10} {statistics.median(rates):>8,.0f} images/s   augft is {ratio:.2f} of it")
    print(f"data stall {statistics.median(stalls):.2%} of the steps' time; longest wait {max(waits):.2f} steps")
    print(f"first step finished {statistics.median(starts):.1f} s after the command")


if __name__ == "__main__":
    main()
