"""A run that was really trained, in seconds: for tests of what becomes of a run afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from augft.config import load_job_text
from augft.data.packed import open_packed
from augft.run import open_run
from augft.train.solo import run_alone

JOB = """
name: small
seed: 5
data: {source: digits, image_size: 16}
augment: {policy: digits}
model: {name: resnet20, weights: "bundled:resnet20-cifar10", input_size: 20}
train: {epochs: 1, global_batch_size: 64, optimizer: {lr: 0.05}}
run: {trackers: []}
"""


def train_small(folder: Path) -> Path:
    """The run directory of a digits classifier, 16x16 pixels stored, 20x20 seen."""
    run_alone(load_job_text(JOB, "the test's job"), str(folder))
    return folder


def pictures_of_the_test(run: Path, num: int) -> npt.NDArray[np.uint8]:
    """uint8 (num, 16, 16, 3): of the split `test`, evenly spread."""
    split = open_packed(open_run(run).environment["data"]["path"]).split("test")
    images, _ = split.gather(np.linspace(0, split.num_rows - 1, num).astype(np.int64))
    return images
