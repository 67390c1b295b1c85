"""What a comparison of policies shows, and how sure that is: over other seeds and over other test pictures.

Two contenders with the same seeds, tested on the same pictures, give a table D[s, i] = correct_ours - correct_baseline
of -1, 0 and 1. Its mean is the difference in accuracy. Chance has two parts in it: another seed (the labels drawn, the
split, the head, the order, the draws) and other test pictures. Both belong in the interval (Bouthillier et al.,
"Accounting for variance in machine learning benchmarks", 2021; Miller, "Adding error bars to evals", 2024).

The table is a two-way layout with crossed random effects, D = mean + seed + picture + rest. Of S seeds and n pictures
its mean squares are

    MS_seeds = n · var(row means),  MS_pictures = S · var(column means),  MS_rest = what is left / ((S - 1)(n - 1)).

A component of variance is never below 0, so the squared standard error of the mean is the sum of

    se_seeds²    = max(MS_seeds, MS_rest) / (S n)          the part that more seeds make smaller
    se_pictures² = max(MS_pictures - MS_rest, 0) / (S n)   the part that only more test pictures make smaller

which is var(row means) / S + var(column means) / n - MS_rest / (S n) where no component is cut off at 0. MS_rest counts
as 1 / (S n) at least, what one deviating entry gives: a table shows nothing finer. The interval of the difference is

    ± sqrt(t(S - 1)² · se_seeds² + t(n - 1)² · se_pictures²),   t(df): Student's quantile.

With K comparisons the quantile is that of 1 - alpha / 2K (Bonferroni; Dunn, 1961): all K intervals hold together, and a
verdict always agrees with the interval that is drawn, which it would not by Holm's steps.

Why no single t with Satterthwaite's degrees of freedom (as Hillis, 2007, has it for readers and cases): they are
estimated. With two or three seeds the seeds' variance is small by luck often enough, and a luckily narrow interval is
then also given many degrees of freedom; the tests show how often that errs. The price is an interval that is wide where
seeds are few and hardly matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

from augft.errors import ConfigError, DataError

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]

Verdict = Literal["better", "worse", "cannot tell", "the same"]

MOST_FURTHER_SEEDS = 1000
"""Nobody is told to run more."""

_LEAST_SPREAD = 1e-12  # of accuracies: below it is rounding
_LEAST_P = 1e-30  # below it, 0


@dataclass(frozen=True)
class Difference:
    """A contender's accuracy minus the baseline's, and how sure that is. Fractions of 1, not per cent."""

    difference: float
    low: float | None
    """Lower end of the simultaneous interval; None where there is none, as with one seed."""
    high: float | None
    probability_better: float
    """That the contender is better, before others are known, corrected for the number of comparisons: it passes
    1 - alpha/2 just where the verdict is `better`, alpha/2 where it is `worse`. 0.5 where nothing is known."""
    verdict: Verdict
    """`better` or `worse`: the interval excludes 0. `the same`: both are right on the same pictures in all runs."""
    further_seeds: int | None
    """How many more seeds until the interval would exclude 0, were difference and variances just as estimated: with
    that many it is a toss-up. 0: told already. None: no number up to 1,000, or there is no interval."""
    se_seeds: float | None
    """Standard error that more seeds make smaller."""
    se_pictures: float | None
    """Standard error that only more test pictures make smaller."""
    df: int
    """Degrees of freedom of `se_seeds`."""

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for `comparison.json`."""
        return dict(vars(self))

    def text(self, name: str, baseline: str) -> str:
        """In words, in percentage points.

        Args:
            name: what to call the contender.
            baseline: what to call what it is held against.
        """
        if self.verdict == "the same":
            return f"{name} does the same as {baseline}: all runs are right on exactly the same pictures."
        question = f"Cannot tell whether {name} is better than {baseline}"
        if self.low is None or self.high is None:
            way = "better" if self.difference > 0 else "worse"
            seen = f"{_points(self.difference)} points {way}" if self.difference else "no difference"
            if self.df < 1:
                return f"{question}: one seed ({seen}) cannot tell it from chance; run several."
            return f"{question}: {seen}, but the runs vary too little to tell it from chance."
        if self.verdict == "cannot tell":
            between = f"between {_points(self.low)} points worse and {_points(self.high)} better"
            return f"{question}: {between}; {self._remedy()}."
        near, far = sorted((self.low, self.high), key=abs)
        size = f"{_points(self.difference)} points ({_points(near)} to {_points(far)})"
        return f"{name} is {self.verdict} than {baseline} by {size}."

    def _remedy(self) -> str:
        if self.further_seeds is None:
            return "more seeds alone would not tell, it takes more test pictures, or they are as good as alike"
        seeds = "1 more seed" if self.further_seeds == 1 else f"{self.further_seeds} more seeds"
        return f"about {seeds} would tell if the difference is as large as it looks"


def compare_runs(
    ours: BoolArray | Sequence[BoolArray],
    baseline: BoolArray | Sequence[BoolArray],
    *,
    num_comparisons: int = 1,
    confidence: float = 0.95,
) -> Difference:
    """Compare two contenders over the same seeds and the same test pictures.

    Args:
        ours: bool (S, n): whether the run with seed s is right on picture i.
        baseline: bool (S, n), the same seeds and pictures in the same order.
        num_comparisons: how many intervals hold together with this confidence, this one among them.
        confidence: their common coverage, between 0 and 1.

    Raises:
        DataError: the two are not of the same seeds and pictures.
        ConfigError: no seeds, or `num_comparisons` or `confidence` out of range.
    """
    _check(num_comparisons, confidence)
    ours, baseline = _table(ours), _table(baseline)
    if ours.shape != baseline.shape:
        raise DataError(
            f"cannot compare {ours.shape[0]} runs on {ours.shape[1]} pictures with {baseline.shape[0]} runs on "
            f"{baseline.shape[1]}: both need the same seeds and the same test pictures"
        )
    num_seeds, num_pictures = ours.shape
    if np.array_equal(ours, baseline):
        return Difference(0.0, 0.0, 0.0, 0.5, "the same", 0, 0.0, 0.0, num_seeds - 1)
    table = ours.astype(np.float64) - baseline
    difference = float(table.mean())
    if num_seeds < 2 or num_pictures < 2:
        return _unknown(difference, num_seeds)
    seeds, pictures, rest = _mean_squares(table)
    rest = max(rest, 1.0 / table.size)
    return _judge(
        difference,
        se_seeds=math.sqrt(max(seeds, rest) / table.size),
        se_pictures=math.sqrt(max(pictures - rest, 0.0) / table.size),
        num_seeds=num_seeds,
        num_pictures=num_pictures,
        alpha=(1 - confidence) / num_comparisons,
        num_comparisons=num_comparisons,
    )


def compare_classes(
    ours: BoolArray | Sequence[BoolArray],
    baseline: BoolArray | Sequence[BoolArray],
    labels: npt.NDArray[np.integer[Any]],
    num_classes: int,
    *,
    num_comparisons: int = 1,
    confidence: float = 0.95,
) -> list[Difference | None]:
    """`compare_runs` on the pictures of each class; the intervals of all classes and comparisons hold together.

    Args:
        ours, baseline: bool (S, n).
        labels: int (n,): the pictures' classes, 0 to C - 1.
        num_classes: C.
        num_comparisons: as in `compare_runs`, not counting classes.
        confidence: common coverage.

    Returns:
        C differences; None for a class without test pictures.

    Raises:
        DataError, ConfigError: as `compare_runs`, or labels that do not go with the pictures.
    """
    ours, baseline = _table(ours), _table(baseline)
    labels = np.asarray(labels)
    if labels.shape != ours.shape[1:] or not 0 <= labels.min() <= labels.max() < num_classes:
        raise DataError(
            f"labels of shape {labels.shape} do not go with {ours.shape[1]} pictures of {num_classes} classes: "
            "give each picture a class from 0 on"
        )
    if ours.shape != baseline.shape:  # before columns are taken: only compare_runs says how they differ
        compare_runs(ours, baseline)
    members = [np.flatnonzero(labels == number) for number in range(num_classes)]
    together = num_comparisons * sum(bool(ids.size) for ids in members)
    return [
        compare_runs(ours[:, ids], baseline[:, ids], num_comparisons=together, confidence=confidence)
        if ids.size
        else None
        for ids in members
    ]


def compare_means(
    ours: FloatArray | Sequence[float],
    baseline: FloatArray | Sequence[float],
    *,
    num_comparisons: int = 1,
    confidence: float = 0.95,
) -> Difference:
    """Compare two contenders of which only each run's accuracy is known: the paired t interval over seeds.

    Right where each seed is judged on pictures of its own, as on a validation split drawn by the seed: the chance in
    the pictures is then within the chance in the seeds. Where the difference is the same in all seeds there is no
    interval: accuracies go in steps of 1/n, and a few seeds agree by luck too often. `the same` is never said here.

    Args:
        ours: (S,) accuracies, fractions of 1.
        baseline: (S,), of the same seeds in the same order.
        num_comparisons, confidence: as in `compare_runs`.

    Raises:
        DataError: not the same number of seeds, or an accuracy that is not finite.
        ConfigError: no seeds, or `num_comparisons` or `confidence` out of range.
    """
    _check(num_comparisons, confidence)
    left, right = np.asarray(ours, np.float64), np.asarray(baseline, np.float64)
    if left.ndim != 1 or left.shape != right.shape:
        raise DataError(f"cannot compare {left.size} runs with {right.size}: both need the same seeds")
    if not left.size:
        raise ConfigError("a comparison of no seeds: give at least one")
    if not np.isfinite([left, right]).all():
        raise DataError("cannot compare runs without a finite accuracy: a run has failed or was not judged")
    differences, num_seeds = left - right, left.size
    difference = float(differences.mean())
    spread = float(differences.std(ddof=1)) if num_seeds > 1 else 0.0
    if spread < _LEAST_SPREAD:
        return _unknown(difference, num_seeds)
    return _judge(
        difference,
        se_seeds=spread / math.sqrt(num_seeds),
        se_pictures=0.0,
        num_seeds=num_seeds,
        num_pictures=2,  # of no weight beside an error of 0
        alpha=(1 - confidence) / num_comparisons,
        num_comparisons=num_comparisons,
    )


def rank_correlation(
    x: Sequence[float], y: Sequence[float], confidence: float = 0.95
) -> tuple[float | None, float | None, float | None]:
    """Spearman's rank correlation and its interval by Fisher's z, with the variance of Bonett and Wright (2000).

    The interval is tanh(atanh(r) ± z sqrt((1 + r²/2) / (n - 3))). A perfect order would leave nothing open at any n, so
    there r counts half a swap of neighbours less.

    Args:
        x, y: n values each.
        confidence: of the interval.

    Returns:
        The correlation (None where all x or all y are equal, or n < 2); the ends (None for fewer than 4 points).

    Raises:
        DataError: not as many x as y, or one that is not finite.
    """
    left, right = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if left.ndim != 1 or left.shape != right.shape or not np.isfinite([left, right]).all():
        raise DataError(f"cannot correlate {left.size} values with {right.size}: give pairs of finite numbers")
    n = left.size
    if n < 2 or not np.ptp(left) or not np.ptp(right):
        return None, None, None
    spearman = min(1.0, max(-1.0, float(stats.spearmanr(left, right).statistic)))
    if n < 4:
        return spearman, None, None
    most = 1 - 6 / (n * (n * n - 1))
    inner = min(most, max(-most, spearman))
    half = stats.norm.isf((1 - confidence) / 2) * math.sqrt((1 + inner * inner / 2) / (n - 3))
    low, high = math.tanh(math.atanh(inner) - half), math.tanh(math.atanh(inner) + half)
    return spearman, min(low, spearman), max(high, spearman)


def _check(num_comparisons: int, confidence: float) -> None:
    if num_comparisons < 1:
        raise ConfigError(f"num_comparisons {num_comparisons}: a comparison is one of at least 1")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence {confidence}: give it between 0 and 1, as 0.95")


def _table(runs: BoolArray | Sequence[BoolArray]) -> BoolArray:
    """bool (S, n) of runs that are all on the same pictures."""
    rows = [np.asarray(run) for run in runs]
    if not rows:
        raise ConfigError("a comparison of no seeds: give at least one")
    sizes = sorted({row.size for row in rows})
    if len(sizes) > 1 or rows[0].ndim != 1 or not sizes[0]:
        raise DataError(f"cannot compare runs on {sizes} pictures: all need the same test pictures, at least one")
    table = np.stack(rows)
    if table.dtype != np.bool_:
        raise DataError(f"runs are compared by right or wrong, bool, not by {table.dtype}")
    return table


def _mean_squares(table: FloatArray) -> tuple[float, float, float]:
    """Of seeds, of pictures, and of the rest of a table (S, n), S and n at least 2."""
    num_seeds, num_pictures = table.shape
    mean, rows, columns = table.mean(), table.mean(1, keepdims=True), table.mean(0, keepdims=True)
    rest = float(np.square(table - rows - columns + mean).sum()) / ((num_seeds - 1) * (num_pictures - 1))
    return num_pictures * float(rows.var(ddof=1)), num_seeds * float(columns.var(ddof=1)), rest


def _unknown(difference: float, num_seeds: int) -> Difference:
    """No interval: there is nothing to see chance by."""
    return Difference(difference, None, None, 0.5, "cannot tell", None, None, None, num_seeds - 1)


def _judge(
    difference: float,
    *,
    se_seeds: float,
    se_pictures: float,
    num_seeds: int,
    num_pictures: int,
    alpha: float,
    num_comparisons: int,
) -> Difference:
    """Interval, probability, verdict and outlook from the two standard errors; `alpha` is of this one comparison."""

    def half_width(p: float) -> float:
        """Of the interval that leaves out p."""
        return math.hypot(
            _quantile(num_seeds - 1, p) * se_seeds,
            _quantile(num_pictures - 1, p) * se_pictures,
        )

    half = half_width(alpha)
    low, high = max(-1.0, difference - half), min(1.0, difference + half)
    verdict: Verdict = "better" if low > 0 else "worse" if high < 0 else "cannot tell"
    told = verdict != "cannot tell"
    doubt = min(1.0, num_comparisons * _two_sided(abs(difference), half_width)) / 2
    return Difference(
        difference=difference,
        low=low,
        high=high,
        probability_better=1 - doubt if difference > 0 else doubt,
        verdict=verdict,
        further_seeds=0 if told else _further_seeds(difference, se_seeds, se_pictures, num_seeds, num_pictures, alpha),
        se_seeds=se_seeds,
        se_pictures=se_pictures,
        df=num_seeds - 1,
    )


def _two_sided(size: float, half_width: Callable[[float], float]) -> float:
    """The p at which the interval just reaches 0: with one error only, that of Student's t test.

    Under a flat prior 1 - p/2 is then the posterior probability that the true difference has this one's sign. With both
    errors it nearly is: the posterior is Behrens and Fisher's, a sum of two t, and the interval comes close to its own.
    """
    if size == 0:
        return 1.0
    if half_width(_LEAST_P) <= size:
        return 0.0

    def excess(log_p: float) -> float:
        return half_width(math.exp(log_p)) - size

    return math.exp(optimize.brentq(excess, math.log(_LEAST_P), 0.0, xtol=1e-12, rtol=1e-13))


def _quantile(df: int, p: float) -> float:
    """What Student's t passes, to either side, with probability p."""
    return -float(special.stdtrit(df, p / 2))


def _further_seeds(
    difference: float, se_seeds: float, se_pictures: float, num_seeds: int, num_pictures: int, alpha: float
) -> int | None:
    """The fewest more seeds with which the interval would exclude 0; None: more than `MOST_FURTHER_SEEDS`."""
    seeds = num_seeds + np.arange(1, MOST_FURTHER_SEEDS + 1)
    of_seeds = -special.stdtrit(seeds - 1, alpha / 2) * se_seeds * np.sqrt(num_seeds / seeds)
    of_pictures = _quantile(num_pictures - 1, alpha) * se_pictures
    tells = np.hypot(of_seeds, of_pictures) < abs(difference)
    return int(tells.argmax()) + 1 if tells.any() else None


def _points(share: float) -> str:
    """Percentage points without their sign: one decimal, or one digit where that would read as zero."""
    size = abs(100 * share)
    return f"{size:.1g}" if 0 < size < 0.05 else f"{size:.1f}"
