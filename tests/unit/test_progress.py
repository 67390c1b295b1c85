"""The record of a run: sums of each epoch, the chain of digests, the clock."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from augft.data.units import RankBatch, chain
from augft.train import progress as module
from augft.train.progress import LOSS_UNIT, Clock, EpochSums, Progress
from augft.train.ranks import Ranks

ONE = Ranks(0, 1, torch.device("cpu"))
ONE_LOSS = round(1 / LOSS_UNIT)


def batch(step: int, epochs: list[int], digest: int = 0) -> RankBatch:
    num = len(epochs)
    numbers = np.zeros(num, np.int64)
    return RankBatch(
        step, np.zeros((num, 2, 2, 3), np.uint8), np.zeros(num, np.int32), np.array(epochs, np.int64), numbers, numbers,
        digest,
    )  # fmt: skip


def add(sums: EpochSums, step: int, epochs: list[int], losses: list[float], correct: list[bool], digest: int) -> None:
    sums.add(batch(step, epochs, digest), torch.tensor(losses), torch.tensor(correct, dtype=torch.bool))


def test_sums_are_split_by_epoch() -> None:
    progress = Progress()
    sums = EpochSums(progress, ONE)
    add(sums, 0, [0, 0, 0], [1.0, 2.0, 4.0], [True, False, True], 1)
    add(sums, 1, [0, 1, 1], [8.0, 16.0, 32.0], [True, True, False], 2)
    add(sums, 2, [], [], [], 0)
    assert progress.sums == {}
    sums.reduce()
    assert progress.sums == {0: [15 * ONE_LOSS, 3, 4], 1: [48 * ONE_LOSS, 1, 2]}
    progress.cursor = 3
    assert sums.line(0) == {
        "step": 3, "epoch": 0, "split": "train", "loss": 15.0 / 4, "top1": 0.75, "num_samples": 4,
    }  # fmt: skip
    add(sums, 3, [1, 2], [64.0, 1.0], [False, False], 3)
    sums.reduce()
    assert progress.sums[0] == [15 * ONE_LOSS, 3, 4]
    assert progress.sums[1] == [112 * ONE_LOSS, 1, 3]
    assert progress.sums[2] == [ONE_LOSS, 0, 1]


def test_a_resumed_record_goes_on_to_the_same_bits() -> None:
    rng = np.random.default_rng(0)
    steps = [(k, [k // 3] * 5, rng.random(5).tolist(), (rng.random(5) > 0.5).tolist(), k * 77) for k in range(6)]
    undisturbed = Progress()
    sums = EpochSums(undisturbed, ONE)
    for step in steps:
        add(sums, *step)
    sums.reduce()
    before = Progress()
    sums = EpochSums(before, ONE)
    for step in steps[:4]:
        add(sums, *step)
        sums.reduce()
    resumed = Progress(sums=before.sums, stream_digest=before.stream_digest)
    sums = EpochSums(resumed, ONE)
    for step in steps[4:]:
        add(sums, *step)
        sums.reduce()
    assert resumed.sums == undisturbed.sums
    assert resumed.stream_digest == undisturbed.stream_digest != before.stream_digest


def test_sums_are_exact() -> None:
    progress = Progress()
    sums = EpochSums(progress, ONE)
    for step in range(1000):
        add(sums, step, [0], [2.0**19], [False], 0)
    add(sums, 1000, [0], [2.0**-24], [False], 0)
    sums.reduce()
    assert progress.sums[0][0] == 1000 * 2**19 * ONE_LOSS + 1


def test_a_loss_beyond_all_bounds_does_not_wrap() -> None:
    sums = EpochSums(Progress(), ONE)
    add(sums, 0, [0] * 1000, [1e30] * 1000, [False] * 1000, 0)
    sums.reduce()
    assert sums.line(0)["loss"] == pytest.approx(1e6)


def test_actors_needed_is_what_training_takes_over_what_an_actor_makes() -> None:
    progress = Progress(elapsed_s=110.0, data_wait_s=10.0, augment_s=30.0, num_timed=600)
    assert progress.augment_s_per_image == 0.05
    assert progress.actors_needed(6_000) == 3
    assert progress.actors_needed(6_001) == 4
    assert Progress(elapsed_s=110.0).actors_needed(6_000) is None


def test_the_digest_chains_in_pieces() -> None:
    steps = np.arange(10, dtype=np.uint64) * np.uint64(2**60 + 1)
    whole = chain("", steps)
    assert chain(chain(chain("", steps[:3]), steps[3:3]), steps[3:]) == whole
    assert len(whole) == 32
    assert chain("", steps[::-1]) != whole
    changed = steps.copy()
    changed[0] ^= np.uint64(1)
    assert chain("", changed) != whole
    assert chain("", steps[:0]) == ""
    # By hand: each sum in 8 bytes, little-endian, hashed onto the 16 bytes before it.
    first = hashlib.blake2b(b"\1" + bytes(7), digest_size=16).digest()
    second = hashlib.blake2b(first + b"\xff" * 8, digest_size=16).hexdigest()
    assert chain("", np.array([1, 2**64 - 1], np.uint64)) == second == "28c9272e5d5cb244781860a4786117e0"


def test_the_digest_does_not_depend_on_when_it_is_reduced() -> None:
    digests = [3, 2**64 - 1, 5]
    often, once = Progress(), Progress()
    for progress, every in ((often, True), (once, False)):
        sums = EpochSums(progress, ONE)
        for step, digest in enumerate(digests):
            add(sums, step, [0], [1.0], [True], digest)
            if every:
                sums.reduce()
        sums.reduce()
    assert often.stream_digest == once.stream_digest == chain("", np.array(digests, np.uint64))


def test_last_and_stall() -> None:
    lines = [{"split": "train", "step": 1}, {"split": "val", "step": 1}, {"split": "train", "step": 2}]
    progress = Progress(history=lines)
    assert progress.last("train") == {"split": "train", "step": 2}
    assert progress.last("test") is None
    assert progress.data_stall_fraction == 0.0
    progress.elapsed_s, progress.data_wait_s = 10.0, 2.5
    assert progress.data_stall_fraction == 0.25


def test_the_clock_times_steps_and_waits_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])

    def passes(seconds: float) -> None:
        now[0] += seconds

    progress = Progress(elapsed_s=50.0, data_wait_s=5.0)  # of a time before
    clock = Clock(progress, num_images=1000)
    with clock.waiting():
        passes(30)  # start-up
    passes(1)
    clock.stepped()
    assert (clock.first_batch_s, progress.elapsed_s, progress.data_wait_s) == (30.0, 51.0, 5.0)
    with clock.waiting():
        passes(2)
    passes(1)
    clock.stepped()
    assert (progress.elapsed_s, progress.data_wait_s) == (54.0, 7.0)
    assert clock.rate(1200) == pytest.approx(200 / 4)
    with clock.paused():
        passes(1000)  # validation
        assert clock.lap(1200) == {"images_per_s": pytest.approx(50.0), "data_wait_s": 2.0}
    passes(5)
    clock.stepped()
    assert progress.elapsed_s == 59.0
    assert clock.lap(1300) == {"images_per_s": pytest.approx(20.0), "data_wait_s": 0.0}
