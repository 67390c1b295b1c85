"""The number of actors in a run: as many as training needs, whatever Ray Data would take."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from augft.config import load_job_text
from augft.data.crew import IDLE_S
from augft.train.launch import train

pytestmark = pytest.mark.usefixtures("local_ray")

# Pictures that are dear to make and cheap to train on, or the other way round.
JOB = """
name: crew
data: {{source: digits, image_size: {size}}}
augment: {{policy: {policy}}}
model: {{name: resnet20, weights: none, input_size: 4}}
train: {{epochs: 10000, global_batch_size: 64, stop: {{time_s: {time_s}}}}}
scale: {{augment_actors: {actors}, unit_rows: 256}}
run: {{trackers: [], checkpoint_every_steps: 1000000}}
"""


@contextmanager
def _counted() -> Iterator[list[int]]:
    """How many actors there are, each second."""
    counts: list[int] = []
    ended = threading.Event()

    def count() -> None:
        while not ended.wait(1):
            titles = [" ".join(_cmdline(process)) for process in psutil.Process().children(recursive=True)]
            counts.append(sum("MapWorker(" in title for title in titles))

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield counts
    finally:
        ended.set()
        thread.join()


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_crew_that_is_too_small_grows(tmp_path: Path) -> None:
    job = load_job_text(JOB.format(size=192, policy="augmix", actors="[1, 2]", time_s=40), "the test's job")
    with _counted() as counts:
        run = train(job, run_dir=str(tmp_path / "run"))
    assert run.summary["actors_needed"] > 1, "the premise"
    assert max(counts) == 2


def test_a_crew_that_is_large_enough_does_not_grow(tmp_path: Path) -> None:
    job = load_job_text(JOB.format(size=8, policy="none", actors="[1, 3]", time_s=IDLE_S), "the test's job")
    with _counted() as counts:
        run = train(job, run_dir=str(tmp_path / "run"))
    assert run.summary["actors_needed"] == 1, "the premise"
    assert max(counts) == 1
