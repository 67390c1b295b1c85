"""How sure a share is: intervals for the number of samples that a model gets right."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The score interval of a share (Wilson, 1927): covers as it says also for few samples and shares near 1.

    Args:
        successes: 0 to n.
        n: trials, at least 1.
        confidence: nominal coverage, between 0 and 1.

    Returns:
        Lower and upper end, shares from 0 to 1.

    Raises:
        ValueError: an argument is out of range.
    """
    if n < 1 or not 0 <= successes <= n or not 0 < confidence < 1:
        raise ValueError(f"wilson({successes}, {n}, {confidence}) needs 0 <= successes <= n and n >= 1")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, shrink = successes / n, 1 + z * z / n
    middle = (share + z * z / (2 * n)) / shrink
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / shrink
    return (0.0 if successes == 0 else middle - half), (1.0 if successes == n else middle + half)


@dataclass(frozen=True)
class Score:
    """A model's count on a set of samples."""

    num_correct: int
    num_samples: int

    @classmethod
    def of(cls, top1: object, num_samples: object) -> Score | None:
        """From a recorded share and its number of samples; None where there is no such measurement."""
        if not isinstance(top1, int | float) or not math.isfinite(top1) or not isinstance(num_samples, int):
            return None
        return cls(round(top1 * num_samples), num_samples) if num_samples > 0 and 0 <= top1 <= 1 else None

    @property
    def top1(self) -> float:
        return self.num_correct / self.num_samples

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval."""
        return wilson(self.num_correct, self.num_samples)


def difference(a: Score, b: Score) -> tuple[float, float, float]:
    """a.top1 - b.top1 and its 95 % interval (Newcombe, 1998, method 10), for independent samples.

    Two models tested on the same samples mostly err on the same ones, so there this interval is rather wide.
    """
    (low_a, high_a), (low_b, high_b) = a.interval, b.interval
    middle = a.top1 - b.top1
    low = middle - math.hypot(a.top1 - low_a, high_b - b.top1)
    high = middle + math.hypot(high_a - a.top1, b.top1 - low_b)
    return middle, low, high
