"""Exact metrics of a model on a split: each sample counts once, at any number of ranks."""

from __future__ import annotations

import base64
import heapq
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from augft.data.packed import PackedSplit
from augft.preprocess import Preprocess
from augft.train.ahead import Ahead
from augft.train.loss import per_sample_loss
from augft.train.ranks import Ranks
from augft.upload import upload

IntArray = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]
UInt8Array = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]

NUM_WORST = 24


@dataclass(frozen=True)
class Mistake:
    """A sample that the model is wrong about."""

    sample_id: int
    label: int
    predicted: int
    probability: float
    """Of the predicted class."""
    loss: float


@dataclass(frozen=True)
class Evaluation:
    """What a model does on a set of samples."""

    confusion: IntArray
    """int64 (C, C): rows are labels, columns predictions; the entries add up to the number of samples."""
    loss_sum: float
    worst: list[Mistake]
    """The mistakes of highest loss, worst first."""
    correct: BoolArray
    """bool (M,): whether the label is the prediction, in the order that the samples were given."""

    @property
    def num_samples(self) -> int:
        return int(self.confusion.sum())

    @property
    def top1(self) -> float:
        """Share of the samples whose label is the prediction."""
        return float(np.trace(self.confusion) / self.num_samples)

    @property
    def loss(self) -> float:
        """Mean cross-entropy, without label smoothing, in nats."""
        return self.loss_sum / self.num_samples

    def to_dict(self, classes: list[str]) -> dict[str, Any]:
        """As plain data, for `evaluation.json`."""
        return {
            "num_samples": self.num_samples,
            "top1": self.top1,
            "loss": self.loss,
            "classes": classes,
            "confusion": self.confusion.tolist(),
            "worst": [vars(mistake) for mistake in self.worst],
            "correct": base64.b64encode(np.packbits(self.correct).tobytes()).decode(),
        }


def correct_from_dict(evaluation: dict[str, Any]) -> BoolArray:
    """`Evaluation.correct` from the content of `evaluation.json`."""
    bits = np.frombuffer(base64.b64decode(evaluation["correct"]), np.uint8)
    return np.unpackbits(bits, count=evaluation["num_samples"]).astype(np.bool_)


@torch.no_grad()
def evaluate(
    model: Callable[[torch.Tensor], torch.Tensor],
    preprocess: Preprocess,
    split: PackedSplit,
    sample_ids: IntArray,
    *,
    num_classes: int,
    batch_size: int,
    ranks: Ranks,
    autocast_dtype: torch.dtype | None = None,
    beat: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Evaluate a model in evaluation mode; all ranks call it, each with the same samples.

    What it finds stays on the device until the last batch.

    Args:
        model: float32 (N, 3, H, W) → logits (N, num_classes).
        preprocess: uint8 pictures → what the model takes.
        split: where the pictures are.
        sample_ids: int64 (M,): rank r takes every W-th, from the r-th on.
        num_classes: C.
        batch_size: pictures of a forward pass.
        ranks: who takes part.
        autocast_dtype: precision of the forward pass; None: float32.
        beat: called after each batch.
    """
    mine = sample_ids[ranks.rank :: ranks.world_size]

    def batches() -> Generator[tuple[UInt8Array, IntArray], None, None]:
        for start in range(0, len(mine), batch_size):
            images, labels = split.gather(mine[start : start + batch_size])
            yield images, labels.astype(np.int64)

    def send(batch: tuple[UInt8Array, IntArray]) -> tuple[torch.Tensor, torch.Tensor]:
        return preprocess.upload(batch[0]), upload(batch[1], ranks.device, torch.int64)

    loss_sum = torch.zeros(1, dtype=torch.float64, device=ranks.device)
    found = [torch.zeros((4, 0), dtype=torch.float64, device=ranks.device)]
    with closing(Ahead(batches(), send, ranks.device)) as ahead:
        for _, (pixels, labels) in ahead:
            with torch.autocast(ranks.device.type, autocast_dtype, enabled=autocast_dtype is not None):
                logits = model(preprocess.normalise(pixels))
            losses = per_sample_loss(logits, labels)
            probability, predicted = logits.float().softmax(1).max(1)
            loss_sum += losses.double().sum()
            found.append(torch.stack([column.double() for column in (labels, predicted, probability, losses)]))
            beat()
    [total] = ranks.sum([], loss_sum)
    label, guess, probabilities, sample_losses = torch.cat(found, 1).cpu().numpy()
    answers = _Answers(mine, label.astype(np.int64), guess.astype(np.int64), probabilities, sample_losses)
    correct = np.zeros(len(sample_ids), np.int64)
    correct[ranks.rank :: ranks.world_size] = answers.labels == answers.predicted
    gathered = [mistake for part in ranks.gather(answers.worst()) for mistake in part]
    return Evaluation(
        confusion=ranks.sum_integers(answers.confusion(num_classes)),
        loss_sum=total,
        worst=heapq.nlargest(NUM_WORST, gathered, key=_badness),
        correct=ranks.sum_integers(correct).astype(np.bool_),
    )


@dataclass(frozen=True)
class _Answers:
    """What a model says to a rank's samples; all (M,)."""

    sample_ids: IntArray
    labels: IntArray
    predicted: IntArray
    probability: Float64Array
    losses: Float64Array

    def confusion(self, num_classes: int) -> IntArray:
        counts = np.zeros((num_classes, num_classes), np.int64)
        np.add.at(counts, (self.labels, self.predicted), 1)
        return counts

    def worst(self) -> list[Mistake]:
        wrong = np.flatnonzero(self.labels != self.predicted)
        columns = (self.sample_ids, self.labels, self.predicted, self.probability, self.losses)
        rows = zip(*[column[wrong].tolist() for column in columns], strict=True)
        return heapq.nlargest(NUM_WORST, (Mistake(*row) for row in rows), key=_badness)


def _badness(mistake: Mistake) -> tuple[float, int]:
    return (mistake.loss, -mistake.sample_id)
