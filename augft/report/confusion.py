"""What is taken for what: per class, and the pairs that are confused most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from augft.report.interval import Score

MAX_HEAT_MAP_CLASSES = 20
NUM_PAIRS = 25


@dataclass(frozen=True)
class ClassRow:
    """One class of the test split."""

    name: str
    score: Score | None
    """Of its samples; None where it has none."""
    precision: float | None
    """Of the samples given this name, the share that bears it; None where there are none."""
    mostly_taken_for: str | None
    num_taken: int


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix with names."""

    classes: list[str]
    counts: npt.NDArray[np.int64]
    """int64 (C, C): rows are labels, columns predictions."""

    @property
    def fits_heat_map(self) -> bool:
        return len(self.classes) <= MAX_HEAT_MAP_CLASSES

    @property
    def majority(self) -> float:
        """What always naming the most frequent class would get."""
        return float(self.counts.sum(1).max() / self.counts.sum())

    def shares(self) -> npt.NDArray[np.float64]:
        """float64 (C, C): each row's counts over its sum, 0 for a class without samples."""
        sums = self.counts.sum(1, keepdims=True)
        shares: npt.NDArray[np.float64] = self.counts / np.maximum(sums, 1)
        return shares

    def rows(self) -> list[ClassRow]:
        """Per class, in the order of the labels."""
        wrong = self.counts - np.diag(np.diag(self.counts))
        rows = []
        for i, name in enumerate(self.classes):
            num, named, right = (
                int(self.counts[i].sum()),
                int(self.counts[:, i].sum()),
                int(self.counts[i, i]),
            )
            taken = int(wrong[i].argmax())
            rows.append(
                ClassRow(
                    name=name,
                    score=Score(right, num) if num else None,
                    precision=right / named if named else None,
                    mostly_taken_for=self.classes[taken] if wrong[i, taken] else None,
                    num_taken=int(wrong[i, taken]),
                )
            )
        return rows

    def pairs(self) -> list[tuple[str, str, int, float]]:
        """Label, prediction, how many, and what share of the label's samples; the most confused first."""
        wrong = self.counts - np.diag(np.diag(self.counts))
        order = np.argsort(-wrong, axis=None, kind="stable")[:NUM_PAIRS]
        shares = self.shares()
        return [
            (self.classes[i], self.classes[j], int(wrong[i, j]), float(shares[i, j]))
            for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True)
            if wrong[i, j]
        ]


def confusion_of(evaluation: dict[str, Any] | None) -> Confusion | None:
    """From evaluation.json; None where there is none, or none that adds up."""
    if evaluation is None:
        return None
    classes = [str(name) for name in evaluation.get("classes") or []]
    try:
        counts = np.array(evaluation.get("confusion"), np.int64)
    except (TypeError, ValueError):
        return None
    return Confusion(classes, counts) if counts.shape == (len(classes),) * 2 and counts.sum() > 0 else None
