"""Exact metrics of a model on a split: each sample counts once, at any number of ranks."""

from __future__ import annotations

import base64
import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from augft.data.packed import PackedSplit
from augft.preprocess import Preprocess
from augft.train.loss import per_sample_loss
from augft.train.ranks import Ranks

IntArray = npt.NDArray[np.int64]
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
    confusion = np.zeros((num_classes, num_classes), np.int64)
    loss_sum = 0.0
    worst: list[Mistake] = []
    correct = np.zeros(len(sample_ids), np.int64)
    places = np.arange(len(sample_ids))[ranks.rank :: ranks.world_size]
    mine = sample_ids[ranks.rank :: ranks.world_size]
    for start in range(0, len(mine), batch_size):
        ids = mine[start : start + batch_size]
        images, labels = split.gather(ids)
        targets = torch.from_numpy(labels.astype(np.int64)).to(ranks.device)
        with torch.autocast(ranks.device.type, autocast_dtype, enabled=autocast_dtype is not None):
            logits = model(preprocess(images))
        losses = per_sample_loss(logits, targets)
        probability, predicted = logits.float().softmax(1).max(1)
        np.add.at(confusion, (labels, predicted.cpu().numpy()), 1)
        correct[places[start : start + batch_size]] = labels == predicted.cpu().numpy()
        loss_sum += float(losses.double().sum())
        rows = zip(
            ids.tolist(),
            labels.tolist(),
            predicted.tolist(),
            probability.tolist(),
            losses.tolist(),
            strict=True,
        )
        mistakes = (Mistake(*row) for row in rows if row[1] != row[2])
        worst = heapq.nlargest(NUM_WORST, [*worst, *mistakes], key=_badness)
        beat()
    [total] = ranks.sum([loss_sum])
    gathered = [mistake for part in ranks.gather(worst) for mistake in part]
    return Evaluation(
        confusion=ranks.sum_integers(confusion),
        loss_sum=total,
        worst=heapq.nlargest(NUM_WORST, gathered, key=_badness),
        correct=ranks.sum_integers(correct).astype(np.bool_),
    )


def _badness(mistake: Mistake) -> tuple[float, int]:
    return (mistake.loss, -mistake.sample_id)
