"""Two models on the same pictures: where one alone is right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
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

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {**vars(self), "difference": self.difference}


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
