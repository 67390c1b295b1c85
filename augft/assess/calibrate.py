"""Whether a model's probabilities mean what they say.

Of all pictures that a model names with confidence 0.8, four in five should be right. The expected calibration error is
the mean distance between confidence and accuracy, over bins of like confidence, weighted by their size. Here a bin has
as many pictures as any other (Naeini, Cooper and Hauskrecht, AAAI 2015; Nixon et al., 2019): a fine-tuned model is sure
of most pictures, and of fifteen bins of equal width (Guo et al., ICML 2017) one would hold most of them and many a
handful. The figure with bins of equal width is given beside it: it is the one that papers have.

Temperature scaling (Guo et al.) divides the logits by one number, fitted on pictures that neither train nor test; it
changes no prediction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from augft.augment.draw import Float64Array, IntArray, UInt64Array, words
from augft.errors import DataError

BoolArray = npt.NDArray[np.bool_]

NUM_BINS = 15
NUM_RESAMPLES = 1000
CONFIDENCE = 0.95
_TEMPERATURES = (0.02, 50.0)
_MIN_PICTURES = 30


@dataclass(frozen=True)
class Bin:
    """Pictures of like confidence."""

    num: int
    low: float
    """Least confidence."""
    high: float
    confidence: float
    """Mean."""
    accuracy: float

    @property
    def gap(self) -> float:
        """How far the model is too sure."""
        return self.confidence - self.accuracy


@dataclass(frozen=True)
class Calibration:
    """How well confidence matches accuracy, at one temperature."""

    temperature: float
    loss: float
    """Mean cross-entropy in nats."""
    ece: float
    """With bins of as many pictures each."""
    ece_interval: tuple[float, float]
    """95 %, by resampling pictures."""
    ece_by_chance: float
    """What a perfectly calibrated model of the same confidences stays below 95 times in 100."""
    ece_equal_width: float
    bins: tuple[Bin, ...]
    """Of as many pictures each."""

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {**vars(self), "ece_interval": list(self.ece_interval), "bins": [vars(each) for each in self.bins]}


def calibration(logits: npt.NDArray[np.float32], labels: IntArray, *, temperature: float, seed: int) -> Calibration:
    """Judge probabilities: logits float32 (M, C) over a temperature, labels int64 (M,); the seed keys resampling."""
    log_p = _log_probabilities(logits, temperature)
    confidence, correct = np.exp(log_p.max(1)), log_p.argmax(1) == labels
    chance = by_chance(confidence, seed=seed)
    equal_mass, equal_width = bins_of_equal_mass(confidence, correct), bins_of_equal_width(confidence, correct)
    return Calibration(
        temperature=temperature,
        loss=float(-log_p[np.arange(len(labels)), labels].mean()),
        ece=expected_error(equal_mass),
        ece_interval=interval(confidence, correct, chance, seed=seed),
        ece_by_chance=chance,
        ece_equal_width=expected_error(equal_width),
        bins=tuple(equal_mass),
    )


def bins_of_equal_mass(confidence: Float64Array, correct: BoolArray, num_bins: int = NUM_BINS) -> list[Bin]:
    """Sorted by confidence and cut into parts that differ by one picture at most; equal ones stay in their order."""
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split(order, min(num_bins, len(order)))
    return [_bin(confidence[part], correct[part]) for part in parts if len(part)]


def bins_of_equal_width(confidence: Float64Array, correct: BoolArray, num_bins: int = NUM_BINS) -> list[Bin]:
    """Each as much of the range from 0 to 1, its upper end included; those without a picture are left out."""
    number = np.clip(np.ceil(confidence * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    return [_bin(confidence[number == i], correct[number == i]) for i in range(num_bins) if (number == i).any()]


def expected_error(bins: list[Bin]) -> float:
    """Mean of |confidence - accuracy| over pictures."""
    return sum(each.num * abs(each.gap) for each in bins) / sum(each.num for each in bins)


def interval(
    confidence: Float64Array, correct: BoolArray, chance: float, *, seed: int, num_resamples: int = NUM_RESAMPLES
) -> tuple[float, float]:
    """95 % interval, about, of the expected calibration error: pictures drawn again, with replacement.

    The error is a sum of absolute values, so chance alone makes it larger, and in a resample larger still. The basic
    bootstrap (Davison and Hinkley, 1997, 2.4) mirrors the resamples at the estimate, which takes that off again. Where
    the estimate is none that a perfect model would not show (`chance`, of `by_chance`), the interval begins at 0.
    """
    sure, right, edges = _sorted(confidence, correct)
    num = len(sure)
    gaps = np.empty(num_resamples)
    for resample in range(num_resamples):
        chosen = (_words(seed, "evaluate/resample", resample, num) * np.uint64(num) >> np.uint64(32)).astype(np.int64)
        chosen.sort()
        gaps[resample] = np.abs(np.add.reduceat(sure[chosen] - right[chosen], edges)).sum() / num
    estimate = expected_error(bins_of_equal_mass(confidence, correct))
    least, most = np.quantile(gaps, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return 0.0 if estimate <= chance else max(0.0, 2 * estimate - float(most)), max(0.0, 2 * estimate - float(least))


def by_chance(confidence: Float64Array, *, seed: int, num_draws: int = NUM_RESAMPLES) -> float:
    """What a perfectly calibrated model of these confidences stays below 95 times in 100: bins are finite, and each
    strays from its mean (consistency resampling; Bröcker and Smith, 2007)."""
    sure, _, edges = _sorted(confidence, np.zeros(len(confidence), np.bool_))
    num = len(sure)
    gaps = np.empty(num_draws)
    for draw in range(num_draws):
        right = _words(seed, "evaluate/chance", draw, num) * 2.0**-32 < sure
        gaps[draw] = np.abs(np.add.reduceat(sure - right, edges)).sum() / num
    return float(np.quantile(gaps, CONFIDENCE))


def _sorted(confidence: Float64Array, correct: BoolArray) -> tuple[Float64Array, Float64Array, IntArray]:
    """Confidence and 1.0 for right, sorted by confidence, and where the bins begin."""
    order = np.argsort(confidence, kind="stable")
    sizes = [len(part) for part in np.array_split(order, min(NUM_BINS, len(order)))]
    return confidence[order], correct[order].astype(np.float64), np.cumsum([0, *sizes])[:-1]


def _words(seed: int, stream: str, number: int, num: int) -> UInt64Array:
    return words(seed, stream, 0, np.arange(-(-num // 4)), number, 4).T.ravel()[:num].astype(np.uint64)


def fit_temperature(logits: npt.NDArray[np.float32], labels: IntArray) -> float:
    """The temperature of least cross-entropy; that is convex in its inverse, so there is one.

    Raises:
        DataError: these pictures do not tell it: they are few, all of them or none are right, or it would lie beyond
            0.02 or 50.
    """
    rows, num_right = np.arange(len(labels)), int((logits.argmax(1) == labels).sum())
    told = f"of the {len(labels):,} validation pictures {num_right:,} are named correctly"
    if not np.isfinite(logits).all():
        raise DataError("no temperature can be fitted: the model's answers are not all finite")
    if len(labels) < _MIN_PICTURES or num_right in (0, len(labels)):
        raise DataError(
            f"no temperature can be fitted: {told}, and it takes {_MIN_PICTURES}, some of them right and some wrong; "
            "train with a larger data.val_fraction"
        )

    def loss(log_temperature: float) -> float:
        return float(-_log_probabilities(logits, math.exp(log_temperature))[rows, labels].mean())

    found = minimize_scalar(
        loss, bounds=[math.log(end) for end in _TEMPERATURES], method="bounded", options={"xatol": 1e-6}
    )
    temperature = float(math.exp(found.x))
    if not 1.01 * _TEMPERATURES[0] < temperature < _TEMPERATURES[1] / 1.01:
        raise DataError(f"no temperature can be fitted: {told}, and the loss is least at no temperature in reach")
    return temperature


def _log_probabilities(logits: npt.NDArray[np.float32], temperature: float) -> Float64Array:
    result: Float64Array = log_softmax(logits.astype(np.float64) / temperature, axis=1)
    return result


def _bin(confidence: Float64Array, correct: BoolArray) -> Bin:
    return Bin(
        len(confidence),
        float(confidence.min()),
        float(confidence.max()),
        float(confidence.mean()),
        float(correct.mean()),
    )
