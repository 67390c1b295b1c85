"""Calibration against scikit-learn's bins and PyTorch's optimizer; pairs of models against binomial sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import xlogy
from sklearn.calibration import calibration_curve

from augft.assess.calibrate import (
    bins_of_equal_mass,
    bins_of_equal_width,
    by_chance,
    calibration,
    expected_error,
    fit_temperature,
    interval,
)
from augft.assess.paired import Paired, mcnemar
from augft.errors import DataError


def answers(num: int, gap: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Confidences as of a fine-tuned model, and answers that are right less often by `gap`."""
    rng = np.random.default_rng(seed)
    confidence = np.clip(rng.beta(6, 1.2, num), 0.2, 0.9999)
    return confidence, rng.random(num) < confidence - gap


def logits_of(num: int, sharpness: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits `sharpness` times too large for how often the label is what they say."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((num, 6))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (p.cumsum(1) > rng.random((num, 1))).argmax(1)
    return (sharpness * logits).astype(np.float32), labels


@pytest.mark.parametrize(("strategy", "cut"), [("quantile", bins_of_equal_mass), ("uniform", bins_of_equal_width)])
def test_bins_are_scikit_learns(strategy: str, cut: object) -> None:
    # 1,501: every hundredth is an end of a quantile, without interpolation.
    confidence, correct = answers(1501, 0.07)
    assert callable(cut)
    bins = cut(confidence, correct)
    right, sure = calibration_curve(correct, confidence, n_bins=15, strategy=strategy)
    assert len(bins) == len(right)
    np.testing.assert_allclose([each.accuracy for each in bins], right, atol=1e-12)
    np.testing.assert_allclose([each.confidence for each in bins], sure, atol=1e-12)
    assert sum(each.num for each in bins) == 1501
    weights = np.array([each.num for each in bins]) / 1501
    assert expected_error(bins) == pytest.approx((weights * np.abs(right - sure)).sum(), abs=1e-12)


def test_few_and_equal_confidences() -> None:
    bins = bins_of_equal_mass(np.ones(7), np.array([True] * 5 + [False] * 2))
    assert [each.num for each in bins] == [1] * 7
    assert [each.accuracy for each in bins] == [1] * 5 + [0] * 2
    assert expected_error(bins_of_equal_width(np.ones(7), np.array([True] * 5 + [False] * 2))) == pytest.approx(2 / 7)


def bounds(num: int, gap: float, seed: int) -> tuple[float, float]:
    """The interval of `answers`."""
    confidence, correct = answers(num, gap, seed)
    chance = by_chance(confidence, seed=seed, num_draws=200)
    return interval(confidence, correct, chance, seed=seed, num_resamples=200)


def test_the_interval_covers() -> None:
    truth = 0.1
    found = [bounds(600, truth, seed) for seed in range(40)]
    assert sum(low <= truth <= high for low, high in found) >= 30
    assert sum(low > 0 for low, _ in found) >= 38
    assert np.mean([high - low for low, high in found]) < 0.1


def test_a_perfect_model_is_not_told_from_one() -> None:
    found = [bounds(600, 0.0, seed)[0] for seed in range(30)]
    assert sum(low == 0 for low in found) >= 24
    confidence, correct = answers(600, 0.0)
    chance = by_chance(confidence, seed=0, num_draws=200)
    errors = [expected_error(bins_of_equal_mass(*answers(600, 0.0, seed))) for seed in range(40)]
    assert np.mean(errors) < chance < 2 * np.mean(errors)
    assert len(correct) == 600


def test_resampling_is_keyed() -> None:
    sample = answers(300, 0.1)
    assert interval(*sample, 0.0, seed=1, num_resamples=50) == interval(*sample, 0.0, seed=1, num_resamples=50)
    assert interval(*sample, 0.0, seed=1, num_resamples=50) != interval(*sample, 0.0, seed=2, num_resamples=50)


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_temperature_is_that_of_least_loss(sharpness: float) -> None:
    logits, labels = logits_of(2000, sharpness)
    found = fit_temperature(logits, labels)
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], lr=0.5, max_iter=200, tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        scaled = torch.from_numpy(logits).double() / log_t.exp()
        loss = torch.nn.functional.cross_entropy(scaled, torch.from_numpy(labels))
        loss.backward()
        return loss

    optimizer.step(closure)
    assert found == pytest.approx(float(log_t.detach().exp()), rel=1e-4)
    assert found == pytest.approx(sharpness, rel=0.1)


@pytest.mark.parametrize(
    ("num", "wrong", "said"),
    [(29, 9, "named correctly, and it takes 30"), (200, 0, "200 are named correctly"), (200, 200, "0 are named")],
)
def test_no_temperature_of_pictures_that_do_not_tell_it(num: int, wrong: int, said: str) -> None:
    logits = np.tile(np.float32([3, 0, 0]), (num, 1))
    labels = np.zeros(num, np.int64)
    labels[:wrong] = 1
    with pytest.raises(DataError, match=said):
        fit_temperature(logits, labels)


def test_no_temperature_of_answers_that_tell_nothing() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 9, (400, 10)).astype(np.float32), np.repeat(np.arange(10), 40)
    with pytest.raises(DataError, match="the loss is least at no temperature in reach"):
        fit_temperature(logits, labels)
    logits[7, 3] = np.nan
    with pytest.raises(DataError, match="not all finite"):
        fit_temperature(logits, labels)


def test_scaling_mends_what_it_can() -> None:
    logits, labels = logits_of(3000, 3.0)
    fresh_logits, fresh_labels = logits_of(3000, 3.0, seed=1)
    temperature = fit_temperature(logits, labels)
    plain = calibration(fresh_logits, fresh_labels, temperature=1.0, seed=0)
    scaled = calibration(fresh_logits, fresh_labels, temperature=temperature, seed=0)
    assert plain.ece > 0.1 > 2 * scaled.ece
    assert plain.ece > plain.ece_by_chance
    assert scaled.loss < plain.loss
    p = torch.from_numpy(fresh_logits).double().div(temperature)
    expected = torch.nn.functional.cross_entropy(p, torch.from_numpy(fresh_labels))
    assert scaled.loss == pytest.approx(float(expected), rel=1e-6)
    assert sum(each.num * each.accuracy for each in plain.bins) == pytest.approx(
        (fresh_logits.argmax(1) == fresh_labels).sum()
    )


@pytest.mark.parametrize(("ours", "theirs"), [(6, 16), (0, 5), (9, 9), (40, 21)])
def test_mcnemar_is_the_binomial_sum(ours: int, theirs: int) -> None:
    both, neither = 30, 7
    a = np.repeat([True, True, False, False], [both, ours, theirs, neither])
    b = np.repeat([True, False, True, False], [both, ours, theirs, neither])
    found = mcnemar(a, b)
    odd = ours + theirs
    tail = sum(math.comb(odd, k) for k in range(min(ours, theirs) + 1)) / 2**odd
    assert found.p_value == pytest.approx(min(1.0, 2 * tail), rel=1e-12)
    assert (found.both, found.only_ours, found.only_theirs, found.neither) == (both, ours, theirs, neither)
    assert found.difference == pytest.approx(a.mean() - b.mean())


@pytest.mark.parametrize("table", [(36, 12, 2, 0), (300, 40, 21, 50), (0, 3, 0, 9), (20, 0, 5, 0)])
def test_the_interval_of_a_difference_is_where_the_likelihood_allows_it(table: tuple[int, ...]) -> None:
    """At its ends the score test of that difference, its nuisance by maximal likelihood on a grid, is at 5 %."""
    both, b, c, neither = table
    num = sum(table)
    found = Paired(*table, p_value=1.0)
    grid = np.linspace(0, 1, 400_001)
    for end in found.interval:
        if abs(end) == 1:
            continue
        q_c = grid[(grid + end >= 0) & (2 * grid + end <= 1)]
        q_b = q_c + end
        with np.errstate(divide="ignore", invalid="ignore"):
            likelihood = xlogy(b, q_b) + xlogy(c, q_c) + xlogy(both + neither, 1 - q_b - q_c)
        best = np.nanargmax(likelihood)
        variance = num * (q_b[best] + q_c[best] - end**2)
        assert abs(b - c - num * end) / math.sqrt(variance) == pytest.approx(1.95996, rel=2e-3)
    assert found.interval[0] < found.difference < found.interval[1]


def test_the_interval_of_a_difference_covers() -> None:
    rng = np.random.default_rng(0)
    shares = [0.7, 0.12, 0.06, 0.12]
    tables = rng.multinomial(60, shares, 400)
    held = [low <= 0.06 <= high for low, high in (Paired(*map(int, t), p_value=1.0).interval for t in tables)]
    assert 0.92 <= np.mean(held) <= 0.985


def test_no_difference_at_all_has_an_interval() -> None:
    low, high = Paired(20, 0, 0, 24, p_value=1.0).interval
    assert high == -low == pytest.approx(1.95996**2 / (44 + 1.95996**2), rel=1e-4)
    assert Paired(0, 5, 0, 0, p_value=1.0).interval[1] == 1


def test_equal_models_and_unequal_pictures() -> None:
    same = np.array([True, False, True])
    assert mcnemar(same, same).p_value == 1.0
    with pytest.raises(DataError, match="3 pictures with 2"):
        mcnemar(same, same[:2])
