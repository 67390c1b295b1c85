"""The record of a run: how far it is, what was measured, how long it took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np
import torch

from augft.data.units import RankBatch, chain
from augft.train.ranks import Ranks

LOSS_UNIT = 2.0**-24
"""What sums of losses are counted in: 6e-8, about what a float32 loss near 1 can tell."""
MAX_LOSS = 1e6
"""A larger one, or none, counts as this: so half a million of them still fit 64 bits."""


def in_units(losses: torch.Tensor) -> torch.Tensor:
    """Losses, float (M,), in whole `LOSS_UNIT`, int64 (M,): sums of them do not depend on their order."""
    return (losses.double().nan_to_num(MAX_LOSS).clamp(max=MAX_LOSS) / LOSS_UNIT).round().long()


@dataclass
class Progress:
    """All of a run's state but tensors: what metrics.jsonl and summary.json are written from."""

    cursor: int = 0
    """Steps done."""
    epoch: int = 0
    """Epochs done."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """The lines of metrics.jsonl."""
    sums: dict[int, list[int]] = field(default_factory=dict)
    """Epoch → loss sum in units of `LOSS_UNIT`, number correct, number of samples, of epochs begun and not ended."""
    stream_digest: str = ""
    best_step: int | None = None
    best_top1: float | None = None
    epochs_without_gain: int = 0
    elapsed_s: float = 0.0
    """Time in steps, over all resumes; validation and start-up are not in it."""
    data_wait_s: float = 0.0
    """The part of it that was spent waiting for pictures."""
    longest_wait_s: float = 0.0
    """The longest wait for a single batch, the first after a start left out."""
    augment_s: float = 0.0
    """Time that actors spent on the pictures of `num_timed`, over all actors."""
    num_timed: int = 0
    """Pictures whose making was timed; those of an actor's first unit are not, for it opens the data."""
    num_restarts: int = 0
    stop_reason: str | None = None
    stop_rules: dict[str, Any] | None = None
    """The rules that stopped it: with others, a resumed run goes on."""

    @property
    def data_stall_fraction(self) -> float:
        """Share of the steps' time that was spent waiting for pictures."""
        return self.data_wait_s / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def augment_s_per_image(self) -> float | None:
        """Seconds that one actor takes for a picture; None where no picture was timed."""
        return self.augment_s / self.num_timed if self.num_timed else None

    def actors_needed(self, num_images: int) -> int | None:
        """How many actors keep up with training, had it never waited; None where that is not known.

        Args:
            num_images: pictures of all steps so far.
        """
        training_s = self.elapsed_s - self.data_wait_s
        if self.augment_s_per_image is None or training_s <= 0:
            return None
        return ceil(self.augment_s_per_image * num_images / training_s)

    def last(self, split: str) -> dict[str, Any] | None:
        """The newest line of a split."""
        return next((line for line in reversed(self.history) if line["split"] == split), None)


class Clock:
    """Times the steps into a `Progress`; the wait for the first batch is start-up and is left out."""

    def __init__(self, progress: Progress, num_images: int) -> None:
        self._progress = progress
        self._mark = time.perf_counter()
        self._started = False
        self.first_batch_s = 0.0
        self._lap_elapsed_s = progress.elapsed_s
        self._lap_wait_s = progress.data_wait_s
        self._lap_images = num_images

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the wait for a batch."""
        begin = time.perf_counter()
        yield
        now = time.perf_counter()
        if self._started:
            self._progress.data_wait_s += now - begin
            self._progress.longest_wait_s = max(self._progress.longest_wait_s, now - begin)
        else:
            self.first_batch_s, self._mark, self._started = now - begin, now, True

    def stepped(self) -> None:
        """A step is done."""
        now = time.perf_counter()
        self._progress.elapsed_s += now - self._mark
        self._mark = now

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Around what is no part of training."""
        yield
        self._mark = time.perf_counter()

    def rate(self, num_images: int) -> float:
        """Images a second since the last lap, `num_images` being those of the run so far."""
        return (num_images - self._lap_images) / max(1e-9, self._progress.elapsed_s - self._lap_elapsed_s)

    def lap(self, num_images: int) -> dict[str, float]:
        """Speed and wait since the last lap; a new one begins."""
        spent = {
            "images_per_s": self.rate(num_images),
            "data_wait_s": self._progress.data_wait_s - self._lap_wait_s,
        }
        self._lap_elapsed_s, self._lap_wait_s = self._progress.elapsed_s, self._progress.data_wait_s
        self._lap_images = num_images
        return spent


class EpochSums:
    """Training loss and accuracy of each epoch, the digest of what was seen, and the time its pictures took.

    Sums stay on each rank and on its device; `reduce` adds them to the record. They are sums of integers, losses being
    rounded to `LOSS_UNIT`: the same wherever reductions fall, as in a run that was stopped and gone on with.
    """

    def __init__(self, progress: Progress, ranks: Ranks) -> None:
        self._progress = progress
        self._ranks = ranks
        self._sums: dict[int, torch.Tensor] = {}
        self._step_digests: list[int] = []
        self._augment_s, self._num_timed = 0.0, 0

    def add(self, batch: RankBatch, losses: torch.Tensor, correct: torch.Tensor) -> None:
        """Take up a step: losses float (M,), correct bool (M,); a step may hold items of several epochs."""
        self._step_digests.append(batch.digest)
        self._augment_s += batch.augment_s
        self._num_timed += batch.num_timed
        units = in_units(losses)
        rows = torch.stack([units, correct.long(), torch.ones_like(units)])
        # A rank's share is in plan order, so each epoch's items stand together.
        epochs, first = np.unique(batch.epochs, return_index=True)
        for epoch, part in zip(epochs.tolist(), torch.tensor_split(rows, first[1:].tolist(), dim=1), strict=False):
            begun = self._sums.get(epoch)
            self._sums[epoch] = part.sum(1) if begun is None else begun + part.sum(1)

    def reduce(self) -> None:
        """Add the sums of all ranks to the record, and chain the digests."""
        digests = self._ranks.sum_integers(np.array(self._step_digests, np.uint64))
        self._progress.stream_digest = chain(self._progress.stream_digest, digests)
        self._step_digests.clear()
        # A rank with few items may not have met an epoch that another has.
        epochs = sorted({epoch for part in self._ranks.gather(list(self._sums)) for epoch in part})
        for epoch in epochs:
            mine = self._sums.get(epoch)
            part = np.zeros(3, np.int64) if mine is None else mine.cpu().numpy()
            before = self._progress.sums.get(epoch, [0, 0, 0])
            self._progress.sums[epoch] = (self._ranks.sum_integers(part) + before).tolist()
        self._sums.clear()
        augment_s, num_timed = self._ranks.sum([self._augment_s, float(self._num_timed)])
        self._progress.augment_s += augment_s
        self._progress.num_timed += int(num_timed)
        self._augment_s, self._num_timed = 0.0, 0

    def line(self, epoch: int) -> dict[str, Any]:
        """What metrics.jsonl says of an epoch's training so far, after `reduce`."""
        loss, correct, count = self._progress.sums.get(epoch, [0, 0, 0])
        return {
            "step": self._progress.cursor,
            "epoch": epoch,
            "split": "train",
            "loss": loss * LOSS_UNIT / count,
            "top1": correct / count,
            "num_samples": count,
        }
