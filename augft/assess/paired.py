"""Two models on the same pictures: where one alone is right."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.stats import binomtest

from augft.errors import DataError

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Paired:
    """How often both are right, one alone, neither; and how likely as uneven a split is by chance."""

    both: int
    only_ours: int
    only_theirs: int
    neither: int
    p_value: float
    """McNemar's test (1947), exact and two-sided: of the pictures that one alone names rightly, each model would get
    half were they as good. 1 where there are none. It speaks of these two models, not of other seeds."""

    @property
    def num_samples(self) -> int:
        return self.both + self.only_ours + self.only_theirs + self.neither

    @property
    def difference(self) -> float:
        """Our share of right answers minus theirs."""
        return (self.only_ours - self.only_theirs) / self.num_samples

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % score interval of `difference` (Tango, Statistics in Medicine 1998): all differences that the
        pictures do not speak against, also for few pictures and where one count is 0. It is for other pictures, with
        these two models."""
        b, c, n = self.only_ours, self.only_theirs, self.num_samples
        z = NormalDist().inv_cdf(0.975)

        def excess(delta: float) -> float:
            distance = abs(b - c - n * delta)
            return distance - z * math.sqrt(max(0.0, _variance(b, c, n, delta)))

        # At the difference itself both may be 0, where no model alone is right.
        below, above = self.difference - 1e-9, self.difference + 1e-9
        low = brentq(excess, -1.0, below) if below > -1 else -1.0
        high = brentq(excess, above, 1.0) if above < 1 else 1.0
        return low, high

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {**vars(self), "difference": self.difference, "interval": list(self.interval)}


def mcnemar(ours: BoolArray, theirs: BoolArray) -> Paired:
    """Compare two models by where they are right, bool (M,) each, on the same pictures in the same order.

    Raises:
        DataError: the two are not of as many pictures.
    """
    if ours.shape != theirs.shape:
        raise DataError(f"cannot compare {len(ours)} pictures with {len(theirs)}: both models need the same ones")
    only_ours, only_theirs = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    odd = only_ours + only_theirs
    p_value = float(binomtest(only_ours, odd, 0.5).pvalue) if odd else 1.0
    return Paired(int((ours & theirs).sum()), only_ours, only_theirs, int((~ours & ~theirs).sum()), p_value)


def _variance(b: int, c: int, n: int, delta: float) -> float:
    """Of b - c, were the difference in truth delta, with the share of c that is then the likeliest (Tango's q21)."""
    a = 2 * n
    half = -b - c + (2 * n - b + c) * delta
    q = (math.sqrt(max(0.0, half**2 + 4 * a * c * delta * (1 - delta))) - half) / (2 * a)
    return n * (2 * q + delta * (1 - delta))
