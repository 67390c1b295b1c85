"""What a comparison shows: against scipy, by properties, and by simulated runs whose truth is known."""

from __future__ import annotations

import json
import math
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from augft.errors import ConfigError, DataError
from augft.experiment.statistics import (
    Difference,
    compare_classes,
    compare_means,
    compare_runs,
    rank_correlation,
)


def mean_squares(table: np.ndarray) -> tuple[float, float, float]:
    """Of seeds, pictures and the rest, entry by entry."""
    num_seeds, num_pictures = table.shape
    rows = [float(np.mean(table[s])) for s in range(num_seeds)]
    columns = [float(np.mean(table[:, i])) for i in range(num_pictures)]
    mean = float(np.mean(table))
    seeds = num_pictures * sum((row - mean) ** 2 for row in rows) / (num_seeds - 1)
    pictures = num_seeds * sum((column - mean) ** 2 for column in columns) / (num_pictures - 1)
    total = sum((value - mean) ** 2 for value in table.ravel())
    rest = total - seeds * (num_seeds - 1) - pictures * (num_pictures - 1)
    return seeds, pictures, rest / ((num_seeds - 1) * (num_pictures - 1))


def random_pair(seed: int, num_seeds: int, num_pictures: int, gain: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Two contenders of about 80 %, without anything shared but the pictures' difficulty."""
    rng = np.random.default_rng(seed)
    share = rng.beta(4, 1, num_pictures)
    ours = rng.random((num_seeds, num_pictures)) < share + gain
    return ours, rng.random((num_seeds, num_pictures)) < share


def simulate(
    rng: np.random.Generator, num_seeds: int, num_pictures: int, *, seeds: float, pictures: float, gain: float = 0.0
) -> tuple[np.ndarray, np.ndarray, float]:
    """Two contenders by the crossed model, and the true difference.

    A run is right where ability - difficulty + noise is above 0. A contender has its own deviation by the seed and by
    the picture, of standard deviations `seeds` and `pictures`; the difficulty is shared.
    """
    noise = 0.3
    difficulty = rng.normal(size=num_pictures)

    def contender(ability: float) -> np.ndarray:
        by_seed = seeds * rng.normal(size=(num_seeds, 1))
        by_picture = pictures * rng.normal(size=num_pictures)
        rest = noise * rng.normal(size=(num_seeds, num_pictures))
        return np.asarray(ability - difficulty + by_seed + by_picture + rest > 0)

    spread = math.sqrt(1 + noise**2 + seeds**2 + pictures**2)
    truth = stats.norm.cdf((1.3 + gain) / spread) - stats.norm.cdf(1.3 / spread)
    return contender(1.3 + gain), contender(1.3), float(truth)


def test_errors_and_interval_are_those_of_the_formula() -> None:
    ours, baseline = random_pair(0, 4, 60, gain=0.05)
    result = compare_runs(ours, baseline)
    seeds, pictures, rest = mean_squares(ours.astype(float) - baseline)
    assert result.difference == pytest.approx(ours.mean() - baseline.mean())
    assert result.se_seeds == pytest.approx(math.sqrt(max(seeds, rest) / 240))
    assert result.se_pictures == pytest.approx(math.sqrt(max(pictures - rest, 0) / 240))
    half = math.hypot(stats.t.ppf(0.975, 3) * result.se_seeds, stats.t.ppf(0.975, 59) * result.se_pictures)
    assert (result.low, result.high) == pytest.approx((result.difference - half, result.difference + half))
    assert result.df == 3


def test_is_the_paired_t_test_where_pictures_add_nothing() -> None:
    compared = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        ours = rng.random((5, 40)) < rng.uniform(0.5, 0.95, (5, 1))  # seeds differ, pictures do not
        baseline = rng.random((5, 40)) < rng.uniform(0.5, 0.9, (5, 1))
        squares = mean_squares(ours.astype(float) - baseline)
        if not squares[1] <= squares[2] <= squares[0]:
            continue
        compared += 1
        result = compare_runs(ours, baseline)
        oracle = stats.ttest_rel(ours.mean(1), baseline.mean(1))
        interval = oracle.confidence_interval(0.95)
        assert (result.low, result.high) == pytest.approx((interval.low, interval.high))
        one_sided = stats.ttest_rel(ours.mean(1), baseline.mean(1), alternative="less").pvalue
        assert result.probability_better == pytest.approx(one_sided, abs=1e-9)
    assert compared > 50


@pytest.mark.parametrize("num_comparisons", [1, 4])
def test_means_are_the_paired_t_test(num_comparisons: int) -> None:
    rng = np.random.default_rng(3)
    ours, baseline = rng.normal(0.82, 0.01, 6), rng.normal(0.8, 0.01, 6)
    result = compare_means(ours, baseline, num_comparisons=num_comparisons, confidence=0.9)
    oracle = stats.ttest_rel(ours, baseline)
    interval = oracle.confidence_interval(1 - 0.1 / num_comparisons)
    assert (result.low, result.high) == pytest.approx((interval.low, interval.high))
    assert 2 * (1 - result.probability_better) == pytest.approx(min(1, num_comparisons * oracle.pvalue), rel=1e-6)


def test_one_number_by_hand() -> None:
    # Differences 1, 2 and 3 points: mean 2, standard error 1 / sqrt(3), t(2) = 4.303 at 97.5 %.
    result = compare_means([0.81, 0.82, 0.83], [0.8, 0.8, 0.8])
    assert result.difference == pytest.approx(0.02)
    assert (result.low, result.high) == pytest.approx((-0.00484, 0.04484), abs=1e-5)
    # With 4 seeds: 3.182 / sqrt(4) = 1.59 < 2.
    assert (result.verdict, result.further_seeds) == ("cannot tell", 1)


tables = st.builds(
    random_pair,
    st.integers(0, 10**6),
    st.integers(2, 8),
    st.integers(2, 80),
    st.sampled_from([0.0, 0.02, 0.1, 0.3, -0.2]),
)


@settings(deadline=None)
@given(tables)
def test_swapping_mirrors(pair: tuple[np.ndarray, np.ndarray]) -> None:
    ours, baseline = pair
    there, back = compare_runs(ours, baseline), compare_runs(baseline, ours)
    assert back.difference == -there.difference
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))  # type: ignore[operator]
    assert back.probability_better == pytest.approx(1 - there.probability_better)
    mirrored = {"better": "worse", "worse": "better"}
    assert back.verdict == mirrored.get(there.verdict, there.verdict)
    assert back.further_seeds == there.further_seeds


@settings(deadline=None)
@given(tables, st.integers(1, 20), st.sampled_from([0.8, 0.95, 0.99]))
def test_verdict_interval_probability_and_outlook_agree(
    pair: tuple[np.ndarray, np.ndarray], num_comparisons: int, confidence: float
) -> None:
    result = compare_runs(*pair, num_comparisons=num_comparisons, confidence=confidence)
    assume(result.verdict != "the same")
    assert result.low is not None
    assert result.high is not None
    assert -1 <= result.low <= result.difference <= result.high <= 1
    tail = (1 - confidence) / 2
    expected = "better" if result.low > 0 else "worse" if result.high < 0 else "cannot tell"
    assert result.verdict == expected
    assert (result.verdict == "better") == (result.probability_better > 1 - tail)
    assert (result.verdict == "worse") == (result.probability_better < tail)
    assert (result.verdict != "cannot tell") == (result.further_seeds == 0)
    json.dumps(result.to_dict(), allow_nan=False)


@settings(deadline=None)
@given(tables, st.randoms(use_true_random=False))
def test_order_of_seeds_and_pictures_does_not_matter(pair: tuple[np.ndarray, np.ndarray], random: Any) -> None:
    ours, baseline = pair
    seeds, pictures = list(range(ours.shape[0])), list(range(ours.shape[1]))
    random.shuffle(seeds)
    random.shuffle(pictures)
    shuffled = compare_runs(ours[np.ix_(seeds, pictures)], baseline[np.ix_(seeds, pictures)])
    straight = compare_runs(list(ours), list(baseline))
    assert shuffled.verdict == straight.verdict
    assert shuffled.further_seeds == straight.further_seeds
    numbers = [(astuple(result)[:4], result.se_seeds, result.se_pictures) for result in (shuffled, straight)]
    assert numbers[0][0] == pytest.approx(numbers[1][0], abs=1e-9)
    assert numbers[0][1:] == pytest.approx(numbers[1][1:], abs=1e-7)


@settings(deadline=None)
@given(tables, st.integers(2, 30))
def test_more_comparisons_are_less_sure(pair: tuple[np.ndarray, np.ndarray], num_comparisons: int) -> None:
    alone, one_of_many = compare_runs(*pair), compare_runs(*pair, num_comparisons=num_comparisons)
    assume(alone.verdict != "the same")
    assert one_of_many.low < alone.low or one_of_many.low == alone.low == -1  # type: ignore[operator]
    assert one_of_many.high > alone.high or one_of_many.high == alone.high == 1  # type: ignore[operator]
    assert abs(one_of_many.probability_better - 0.5) <= abs(alone.probability_better - 0.5)


@settings(deadline=None)
@given(tables)
def test_never_surer_than_the_seeds_alone(pair: tuple[np.ndarray, np.ndarray]) -> None:
    result = compare_runs(*pair)
    assume(result.verdict != "the same")
    alone = (pair[0].astype(float) - pair[1]).mean(1).std(ddof=1) / math.sqrt(len(pair[0]))
    assert result.se_seeds >= alone - 1e-12  # type: ignore[operator]


def test_more_seeds_and_more_pictures_each_help_their_own_error() -> None:
    rng = np.random.default_rng(5)

    def errors(num_seeds: int, num_pictures: int) -> tuple[float, float]:
        results = [
            compare_runs(*simulate(rng, num_seeds, num_pictures, seeds=0.2, pictures=0.4)[:2]) for _ in range(40)
        ]
        return float(np.mean([r.se_seeds for r in results])), float(np.mean([r.se_pictures for r in results]))

    few, more_seeds, more_pictures = errors(5, 500), errors(20, 500), errors(5, 2000)
    assert more_seeds[0] == pytest.approx(few[0] / 2, rel=0.15)
    assert more_seeds[1] == pytest.approx(few[1], rel=0.15)
    assert more_pictures[1] == pytest.approx(few[1] / 2, rel=0.15)
    assert more_pictures[0] > 0.8 * few[0]


# ---------------------------------------------------------------------------------------------- is it right?

NUM_WORLDS = 500
LEAST_COVERED = 0.95 - 3 * math.sqrt(0.95 * 0.05 / NUM_WORLDS)


@pytest.mark.parametrize("num_seeds", [2, 3, 5, 10])
@pytest.mark.parametrize(
    ("seeds", "pictures", "gain"),
    [(0.15, 0.0, 0.0), (0.15, 0.3, 0.0), (0.0, 0.3, 0.0), (0.0, 0.0, 0.0), (0.15, 0.3, 0.2), (0.3, 0.0, 0.5)],
)
def test_intervals_hold_the_truth(num_seeds: int, seeds: float, pictures: float, gain: float) -> None:
    rng = np.random.default_rng(11)
    covered = 0
    for _ in range(NUM_WORLDS):
        ours, baseline, truth = simulate(rng, num_seeds, 359, seeds=seeds, pictures=pictures, gain=gain)
        result = compare_runs(ours, baseline)
        assert result.low is not None
        assert result.high is not None
        covered += result.low <= truth <= result.high
    assert covered / NUM_WORLDS >= LEAST_COVERED


@pytest.mark.parametrize("num_seeds", [3, 5, 10])
def test_intervals_of_pure_seed_noise_are_no_wider_than_needed(num_seeds: int) -> None:
    rng = np.random.default_rng(12)
    verdicts = []
    for _ in range(NUM_WORLDS):
        ours, baseline, _ = simulate(rng, num_seeds, 359, seeds=0.4, pictures=0.0)
        verdicts.append(compare_runs(ours, baseline).verdict)
    false = sum(verdict != "cannot tell" for verdict in verdicts) / NUM_WORLDS
    assert 0.02 <= false <= 1 - LEAST_COVERED


def test_a_real_difference_is_found() -> None:
    rng = np.random.default_rng(13)
    verdicts = []
    for _ in range(100):
        ours, baseline, truth = simulate(rng, 5, 359, seeds=0.1, pictures=0.1, gain=-0.5)
        assert truth < -0.1
        verdicts.append(compare_runs(ours, baseline).verdict)
    assert verdicts.count("worse") >= 95
    assert "better" not in verdicts


def test_satterthwaite_would_err_more() -> None:
    """Why the module has no single t: two seeds, where both parts of chance count."""
    rng = np.random.default_rng(14)
    single = ours_errs = 0
    for _ in range(NUM_WORLDS):
        ours, baseline, _ = simulate(rng, 2, 1500, seeds=0.15, pictures=0.5)
        result = compare_runs(ours, baseline)
        assert result.se_seeds is not None
        assert result.se_pictures is not None
        square = result.se_seeds**2 + result.se_pictures**2
        df = square**2 / (result.se_seeds**4 + result.se_pictures**4 / 1499)
        single += abs(result.difference) > stats.t.ppf(0.975, df) * math.sqrt(square)
        ours_errs += result.verdict != "cannot tell"
    assert single / NUM_WORLDS > 0.07
    assert ours_errs / NUM_WORLDS <= 0.05


def test_two_seeds_that_agree_by_luck_prove_nothing() -> None:
    ours, baseline = np.ones((2, 100), bool), np.ones((2, 100), bool)
    baseline[0, :3] = baseline[1, 3:6] = False  # both seeds: better by exactly three points, each on its own pictures
    result = compare_runs(ours, baseline)
    assert result.verdict == "cannot tell"
    assert result.low < 0 < result.difference  # type: ignore[operator]


# ------------------------------------------------------------------------------------------------- the outlook


def test_further_seeds_is_the_least_number_by_the_formula() -> None:
    found = 0
    for seed in range(60):
        result = compare_runs(*random_pair(seed, 4, 200, gain=0.02))
        if not result.further_seeds:
            continue
        found += 1

        def half(num_seeds: int, result: Difference = result) -> float:
            assert result.se_seeds is not None
            by_seeds = stats.t.ppf(0.975, num_seeds - 1) * result.se_seeds * math.sqrt(4 / num_seeds)
            return math.hypot(by_seeds, stats.t.ppf(0.975, 199) * result.se_pictures)

        assert half(4 + result.further_seeds) < abs(result.difference)
        assert half(3 + result.further_seeds) >= abs(result.difference)
    assert found > 10


def test_with_so_many_further_seeds_it_is_a_toss_up() -> None:
    """A world that is as it was estimated: about every second experiment of that length tells."""
    rng = np.random.default_rng(15)
    told = num = 0
    while num < 400:
        seen = rng.normal(1.0, 1.0, 5)
        result = compare_means(seen, np.zeros(5))
        if not result.further_seeds or result.further_seeds > 50:
            continue
        new = rng.normal(seen.mean(), seen.std(ddof=1), result.further_seeds)
        told += compare_means([*seen, *new], np.zeros(5 + len(new))).further_seeds == 0
        num += 1
    assert 0.35 < told / num < 0.7


def test_further_seeds_of_runs_come_true() -> None:
    rng = np.random.default_rng(16)
    world = {"seeds": 0.25, "pictures": 0.1, "gain": 0.2}
    totals = []
    while len(totals) < 60:
        ours, baseline, _ = simulate(rng, 6, 800, **world)
        if further := compare_runs(ours, baseline).further_seeds:
            totals.append(6 + further)
    typical = int(np.median(totals))
    told = [compare_runs(*simulate(rng, typical, 800, **world)[:2]).verdict == "better" for _ in range(100)]
    assert 0.3 < np.mean(told) < 0.9


def test_no_number_of_seeds_tells_where_pictures_are_too_few() -> None:
    ours, baseline = np.ones((5, 30), bool), np.ones((5, 30), bool)
    baseline[:, :2] = ours[:, 2] = False  # each seed: two pictures gained, one lost
    result = compare_runs(ours, baseline)
    assert (result.verdict, result.further_seeds) == ("cannot tell", None)
    assert result.se_pictures > result.se_seeds  # type: ignore[operator]
    assert "more test pictures" in result.text("a", "b")


# ------------------------------------------------------------------------------------------------------- edges


def test_identical_runs_are_the_same() -> None:
    ours, _ = random_pair(1, 3, 50)
    result = compare_runs(ours, ours.copy(), num_comparisons=3)
    assert result.to_dict() == {
        "difference": 0.0,
        "low": 0.0,
        "high": 0.0,
        "probability_better": 0.5,
        "verdict": "the same",
        "further_seeds": 0,
        "se_seeds": 0.0,
        "se_pictures": 0.0,
        "df": 2,
    }
    assert result.text("a", "b") == "a does the same as b: all runs are right on exactly the same pictures."


def test_same_accuracy_on_other_pictures_is_not_the_same() -> None:
    ours, baseline = np.ones((2, 100), bool), np.ones((2, 100), bool)
    ours[:, :3] = baseline[:, 3:6] = False
    result = compare_runs(ours, baseline)
    assert (result.difference, result.verdict, result.further_seeds) == (0.0, "cannot tell", None)
    assert result.probability_better == 0.5
    assert result.low < 0 < result.high  # type: ignore[operator]


@pytest.mark.parametrize("compare", ["runs", "means"])
def test_one_seed_cannot_tell(compare: str) -> None:
    ours, baseline = random_pair(2, 1, 200, gain=0.3)
    result = compare_runs(ours, baseline) if compare == "runs" else compare_means(ours.mean(1), baseline.mean(1))
    assert (result.low, result.high, result.further_seeds, result.se_seeds) == (None,) * 4
    assert (result.verdict, result.probability_better, result.df) == ("cannot tell", 0.5, 0)
    assert "one seed" in result.text("a", "b")


def test_all_right_against_all_wrong() -> None:
    assert compare_runs(np.ones((5, 30), bool), np.zeros((5, 30), bool)).verdict == "better"
    assert compare_runs(np.ones((2, 2), bool), np.zeros((2, 2), bool)).verdict == "cannot tell"
    assert compare_runs(np.ones((3, 1), bool), np.zeros((3, 1), bool)).low is None


def test_means_that_differ_by_the_same_in_each_seed_have_no_interval() -> None:
    for ours, baseline in (([0.82, 0.72], [0.81, 0.71]), ([0.8, 0.7], [0.8, 0.7])):
        result = compare_means(ours, baseline)
        assert (result.low, result.verdict) == (None, "cannot tell")
        assert "vary too little" in result.text("a", "b")


def test_classes_hold_together() -> None:
    rng = np.random.default_rng(6)
    labels = rng.integers(0, 3, 300)
    ours, baseline = random_pair(4, 5, 300)
    baseline[:, labels == 1] &= rng.random((5, int((labels == 1).sum()))) < 0.4
    results = compare_classes(ours, baseline, labels, 4, num_comparisons=2)
    assert results[3] is None  # a class without test pictures
    for number in range(3):
        members = labels == number
        assert results[number] == compare_runs(ours[:, members], baseline[:, members], num_comparisons=6)
    assert [result.verdict for result in results if result] == ["cannot tell", "better", "cannot tell"]


@pytest.mark.parametrize(
    ("difference", "expected"),
    [
        (
            Difference(0.012, 0.004, 0.02, 0.99, "better", 0, 0.003, 0.0, 4),
            "randaugment is better than none by 1.2 points (0.4 to 2.0).",
        ),
        (
            Difference(-0.012, -0.02, -0.0001, 0.01, "worse", 0, 0.003, 0.0, 4),
            "randaugment is worse than none by 1.2 points (0.01 to 2.0).",
        ),
        (
            Difference(0.003, -0.003, 0.009, 0.8, "cannot tell", 7, 0.003, 0.0, 4),
            "Cannot tell whether randaugment is better than none: between 0.3 points worse and 0.9 better; "
            "about 7 more seeds would tell if the difference is as large as it looks.",
        ),
        (
            Difference(0.003, -0.003, 0.009, 0.8, "cannot tell", 1, 0.003, 0.0, 4),
            "Cannot tell whether randaugment is better than none: between 0.3 points worse and 0.9 better; "
            "about 1 more seed would tell if the difference is as large as it looks.",
        ),
        (
            Difference(0.012, None, None, 0.5, "cannot tell", None, None, None, 0),
            "Cannot tell whether randaugment is better than none: one seed (1.2 points better) cannot tell it from "
            "chance; run several.",
        ),
    ],
)
def test_words(difference: Difference, expected: str) -> None:
    assert difference.text("randaugment", "none") == expected


@pytest.mark.parametrize(
    ("ours", "baseline", "options", "error", "words"),
    [
        (np.ones((2, 5), bool), np.ones((2, 6), bool), {}, DataError, "2 runs on 5 pictures with 2 runs on 6"),
        (np.ones((2, 5), bool), np.ones((3, 5), bool), {}, DataError, "same seeds"),
        ([np.ones(5, bool), np.ones(4, bool)], np.ones((2, 5), bool), {}, DataError, r"on \[4, 5\] pictures"),
        (np.ones((2, 0), bool), np.ones((2, 0), bool), {}, DataError, "at least one"),
        (np.ones((2, 5)), np.ones((2, 5)), {}, DataError, "not by float64"),
        ([], [], {}, ConfigError, "no seeds"),
        (np.ones((2, 5), bool), np.ones((2, 5), bool), {"num_comparisons": 0}, ConfigError, "num_comparisons 0"),
        (np.ones((2, 5), bool), np.ones((2, 5), bool), {"confidence": 95}, ConfigError, "confidence 95"),
    ],
)
def test_bad_runs_are_refused(
    ours: Any, baseline: Any, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        compare_runs(ours, baseline, **options)


def test_bad_means_and_labels_are_refused() -> None:
    with pytest.raises(DataError, match="2 runs with 3"):
        compare_means([0.1, 0.2], [0.1, 0.2, 0.3])
    with pytest.raises(DataError, match="finite"):
        compare_means([0.1, math.nan], [0.1, 0.2])
    with pytest.raises(ConfigError, match="no seeds"):
        compare_means([], [])
    table = np.ones((2, 5), bool)
    for labels in (np.zeros(4, int), np.full(5, 3), np.full(5, -1)):
        with pytest.raises(DataError, match="labels"):
            compare_classes(table, table, labels, 3)
    with pytest.raises(DataError, match="same seeds"):
        compare_classes(table, np.ones((3, 5), bool), np.zeros(5, int), 3)


# -------------------------------------------------------------------------------------------- rank correlation


def test_rank_correlation_is_spearmans() -> None:
    rng = np.random.default_rng(7)
    x = rng.normal(size=12)
    y = x + rng.normal(size=12)
    spearman, low, high = rank_correlation(x, y)
    assert spearman == pytest.approx(stats.spearmanr(x, y).statistic)
    half = 1.959964 * math.sqrt((1 + spearman**2 / 2) / 9)  # type: ignore[operator]
    assert low == pytest.approx(math.tanh(math.atanh(spearman) - half))  # type: ignore[arg-type]
    assert high == pytest.approx(math.tanh(math.atanh(spearman) + half))  # type: ignore[arg-type]
    assert rank_correlation(-x, y) == pytest.approx((-spearman, -high, -low))  # type: ignore[operator]


def test_rank_correlation_of_few_points() -> None:
    assert rank_correlation([1, 2, 3], [2, 4, 9]) == (pytest.approx(1.0), None, None)
    assert rank_correlation([1, 1, 1, 1], [2, 4, 9, 1]) == (None, None, None)
    assert rank_correlation([1], [2]) == (None, None, None)
    spearman, low, high = rank_correlation([1, 2, 3, 4], [1, 2, 3, 4])
    assert (spearman, high) == (pytest.approx(1.0), pytest.approx(1.0))
    assert low < 0  # type: ignore[operator]  # one in 24 orders of four is perfect by chance
    with pytest.raises(DataError, match="2 values with 3"):
        rank_correlation([1, 2], [1, 2, 3])


@settings(max_examples=30, deadline=None)
@given(st.integers(5, 20), st.sampled_from([0.0, 0.5, 0.8]), st.integers(0, 1000))
def test_rank_correlation_stays_in_range(n: int, strength: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    spearman, low, high = rank_correlation(x, strength * x + rng.normal(size=n))
    assert -1 <= low <= spearman <= high <= 1  # type: ignore[operator]


def test_rank_correlation_covers() -> None:
    rng = np.random.default_rng(8)
    truth = 6 / math.pi * math.asin(0.8 / 2)  # Spearman's of a normal pair with correlation 0.8
    pairs = rng.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], (500, 8))
    covered = 0
    for pair in pairs:
        _, low, high = rank_correlation(pair[:, 0], pair[:, 1])
        covered += low <= truth <= high  # type: ignore[operator]
    assert covered / 500 > 0.93
