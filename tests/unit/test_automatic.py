"""RandAugment, TrivialAugment, AutoAugment, AugMix: spaces are torchvision's, choices as likely as promised."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats
from torchvision.transforms import autoaugment as tv

from augft.augment import draw
from augft.augment.apply import draw_parameters, render
from augft.augment.auto_tables import LEARNED
from augft.augment.automatic import AUTO_OPS, SPACES, AugMix, AutoAugment, Choice, RandAugment, TrivialAugment
from augft.augment.drawn import Drawn, DrawnOp
from augft.augment.ops import OPS, Translate
from augft.augment.policy import Policy

UInt8Array = npt.NDArray[np.uint8]
Float64Array = npt.NDArray[np.float64]

IDS = np.arange(40_000)
HEIGHT, WIDTH = 62, 93


def pictures(num: int, height: int = 32, width: int = 32) -> UInt8Array:
    """Noise that no library's generator can change."""
    words = draw.words(0, "test/pictures", 0, np.arange(num * height * width), 0, 3)
    return np.ascontiguousarray((words >> 24).astype(np.uint8).T).reshape(num, height, width, 3)


def drawn_of(entry: Any, ids: npt.NDArray[np.int64] = IDS) -> Drawn:
    return draw_parameters(Policy.from_config([entry]), seed=11, epoch=0, sample_ids=ids)


# -- spaces ----------------------------------------------------------------------------------------

NAMES = {
    "Identity": "identity",
    "ShearX": "shear_x",
    "ShearY": "shear_y",
    "TranslateX": "translate_x",
    "TranslateY": "translate_y",
    "Rotate": "rotate",
    "Brightness": "brightness",
    "Color": "saturation",
    "Contrast": "contrast",
    "Sharpness": "sharpness",
    "Posterize": "posterize",
    "Solarize": "solarize",
    "AutoContrast": "autocontrast",
    "Equalize": "equalize",
    "Invert": "invert",
}


def in_torchvisions_units(choice: Choice, values: Float64Array) -> float | None:
    """The magnitude as torchvision counts it, of values float64 (num_values,)."""
    match choice.label:
        case "identity" | "autocontrast" | "equalize" | "invert":
            assert choice.op is None or len(values) == 0
            return None
        case "shear_x" | "shear_y":
            along, across = values if choice.label.endswith("x") else values[::-1]
            assert across == 0
            return math.tan(math.radians(along))  # a slope there, an angle here
        case "translate_x" | "translate_y":
            along, across = values if choice.label.endswith("x") else values[::-1]
            assert across == 0
            assert isinstance(choice.op, Translate)
            size = WIDTH if choice.label.endswith("x") else HEIGHT
            return float(along * size) if choice.op.unit == "fraction" else float(along)
        case "brightness" | "saturation" | "contrast" | "sharpness":
            return float(values[0] - 1)
        case _:
            return float(values[0])


REFERENCES: list[tuple[str, dict[str, Any], int]] = [
    ("rand_augment", tv.RandAugment()._augmentation_space(31, (HEIGHT, WIDTH)), 31),
    ("trivial_augment", tv.TrivialAugmentWide()._augmentation_space(31), 31),
    ("auto_augment", tv.AutoAugment()._augmentation_space(10, (HEIGHT, WIDTH)), 10),
    # Its magnitudes begin at 1 of 10, torchvision's bins at 0.
    ("aug_mix", tv.AugMix(all_ops=False)._augmentation_space(11, (HEIGHT, WIDTH)), 11),
]


@pytest.mark.parametrize(("name", "reference", "num_bins"), REFERENCES, ids=[name for name, _, _ in REFERENCES])
def test_spaces_are_torchvisions(name: str, reference: dict[str, Any], num_bins: int) -> None:
    space = {choice.label: choice for choice in SPACES[name]()}
    assert {NAMES[theirs] for theirs in reference} == set(space)
    assert len(SPACES[name]()) == len(space)
    for theirs, (magnitudes, signed) in reference.items():
        choice = space[NAMES[theirs]]
        assert choice.table.shape[:2] == (2, num_bins)
        for sign in (0, 1):
            found = [in_torchvisions_units(choice, choice.table[sign, level]) for level in range(num_bins)]
            if magnitudes.ndim == 0:
                assert found == [None] * num_bins or choice.op is None
                continue
            expected = magnitudes.double().numpy() * (-1 if signed and sign else 1)
            np.testing.assert_allclose(np.array(found, np.float64), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("learned_on", sorted(LEARNED))
def test_learned_pairs_are_torchvisions(learned_on: str) -> None:
    reference = tv.AutoAugment(tv.AutoAugmentPolicy(learned_on)).policies
    expected = tuple(tuple((NAMES[name], p, magnitude or 0) for name, p, magnitude in pair) for pair in reference)
    assert len(expected) == 25
    assert LEARNED[learned_on] == expected


def test_tables_hold_values_of_the_op_within_what_it_can_do() -> None:
    for space in SPACES.values():
        for choice in space():
            if choice.op is not None:
                assert OPS[choice.op.name] is type(choice.op)
                assert choice.table.shape[2] == choice.op.num_values
                assert choice.op.label(choice.table[1, -1])


# -- choices ---------------------------------------------------------------------------------------


def chosen(ops: tuple[DrawnOp, ...], space: str) -> tuple[npt.NDArray[np.str_], Float64Array]:
    """Of each sample with exactly one op at most: the choice's name and its values' sum."""
    labels = np.full(len(IDS), "identity", "<U12")
    values = np.zeros(len(IDS))
    tables = {choice.label: choice for choice in SPACES[space]()}
    for one in ops:
        names = [label for label, choice in tables.items() if choice.op == one.op]
        name = names[-1] if len(names) == 2 and one.values[1].any() else names[0]  # shears and shifts are of an axis
        assert (labels[one.rows] == "identity").all()
        labels[one.rows] = name
        values[one.rows] = one.values.sum(0)
    return labels, values


def test_rand_augment_takes_each_op_as_often_in_each_slot() -> None:
    drawn = drawn_of({"rand_augment": {"num_ops": 2, "magnitude": 9}})
    space = SPACES["rand_augment"]()
    numbers = []
    for slot in range(2):
        ops = drawn.ops[13 * slot : 13 * slot + 13]
        labels, _ = chosen(ops, "rand_augment")
        names, counts = np.unique(labels, return_counts=True)
        assert set(names) == {choice.label for choice in space}
        assert stats.chisquare(counts).pvalue > 0.001
        numbers.append(np.searchsorted(names, labels))
    table = np.zeros((14, 14))
    np.add.at(table, (numbers[0], numbers[1]), 1)
    assert stats.chi2_contingency(table).pvalue > 0.001  # the slots are independent


def test_rand_augments_magnitude_holds_for_all_and_signs_are_even() -> None:
    drawn = drawn_of({"rand_augment": {"num_ops": 1, "magnitude": 9}})
    labels, values = chosen(drawn.ops, "rand_augment")
    for choice in SPACES["rand_augment"]():
        if choice.op is None or not choice.op.num_values:
            continue
        ends = choice.table[:, 9].sum(1)
        mine = values[labels == choice.label]
        assert set(np.unique(mine)) == set(ends)
        if ends[0] != ends[1]:
            assert stats.binomtest(int((mine == ends[0]).sum()), len(mine), 0.5).pvalue > 0.001


@pytest.mark.parametrize(("magnitude", "level"), [(0, 0), (30, 30), (8.6, 9), (8.4, 8)])
def test_magnitudes_are_rounded(magnitude: float, level: int) -> None:
    drawn = drawn_of({"rand_augment": {"num_ops": 1, "magnitude": magnitude}})
    [rotate] = [one for one in drawn.ops if one.op.name == "rotate"]
    np.testing.assert_allclose(np.abs(rotate.values), level)


def test_trivial_augment_takes_each_op_and_magnitude_as_often() -> None:
    drawn = drawn_of("trivial_augment")
    labels, values = chosen(drawn.ops, "trivial_augment")
    names, counts = np.unique(labels, return_counts=True)
    assert set(names) == {choice.label for choice in SPACES["trivial_augment"]()}
    assert stats.chisquare(counts).pvalue > 0.001
    rotations = [values[labels == "rotate"], values[labels == "brightness"] - 1]
    for numbers, strongest in zip(rotations, (135, 0.99), strict=True):
        levels, counts = np.unique(np.rint(np.abs(numbers) / strongest * 30), return_counts=True)
        assert levels.tolist() == list(range(31))
        assert stats.chisquare(counts).pvalue > 0.001
        assert stats.binomtest(int((numbers > 0).sum()), int((numbers != 0).sum()), 0.5).pvalue > 0.001
    every_row = np.concatenate([one.rows for one in drawn.ops])
    assert len(np.unique(every_row)) == len(every_row)  # one op a sample


@pytest.mark.parametrize("learned_on", sorted(LEARNED))
def test_auto_augment_takes_each_pair_as_often_and_each_half_by_its_own_chance(learned_on: str) -> None:
    drawn = drawn_of({"auto_augment": {"learned_on": learned_on}})
    space = {choice.label: choice for choice in SPACES["auto_augment"]()}
    expected: Counter[tuple[str, float]] = Counter()
    for pair in LEARNED[learned_on]:
        for label, chance, level in pair:
            op, table = space[label].op, space[label].table
            assert op is not None
            values = np.abs(
                table[:, level] - (1 if op.name in ("brightness", "saturation", "contrast", "sharpness") else 0)
            )
            expected[op.name, round(float(values[0].sum()), 6)] += chance * len(IDS) / 25
    observed: Counter[tuple[str, float]] = Counter()
    for one in drawn.ops:
        middle = 1 if one.op.name in ("brightness", "saturation", "contrast", "sharpness") else 0
        strength = np.abs(one.values - middle).sum(0).round(6)
        for value, count in zip(*np.unique(strength, return_counts=True), strict=True):
            observed[one.op.name, float(value)] += int(count)
    assert set(observed) == {key for key, count in expected.items() if count}
    for key, count in observed.items():
        # Sums of binomials of small chances: normal, their deviation at most a Poisson's.
        assert abs(count - expected[key]) < 4.5 * math.sqrt(expected[key])
    per_sample = np.bincount(np.concatenate([one.rows for one in drawn.ops]), minlength=len(IDS))
    assert per_sample.max() == 2
    chances = [(first[1], second[1]) for first, second in LEARNED[learned_on]]
    both = np.mean([a * b for a, b in chances])
    assert stats.binomtest(int((per_sample == 2).sum()), len(IDS), both).pvalue > 0.001


def test_auto_augments_signs_are_even() -> None:
    drawn = drawn_of({"auto_augment": {"learned_on": "svhn"}})
    for name in ("shear", "rotate"):
        values = np.concatenate([one.values.sum(0) for one in drawn.ops if one.op.name == name])
        assert stats.binomtest(int((values > 0).sum()), len(values), 0.5).pvalue > 0.001


@pytest.mark.parametrize("name", ["rand_augment", "trivial_augment", "auto_augment"])
@pytest.mark.parametrize("p", [0.0, 0.3])
def test_p_is_the_share_of_samples_and_changes_nothing_else(name: str, p: float) -> None:
    images = pictures(300, 8, 8)
    ids = np.arange(300)
    outs = []
    for chance in (p, 1.0):
        policy = Policy.from_config([{name: {"p": chance}}])
        outs.append(render(images, policy, draw_parameters(policy, seed=1, epoch=0, sample_ids=ids)))
    same = (outs[0] == outs[1]).all((1, 2, 3))
    left_alone = (outs[0] == images).all((1, 2, 3))
    assert (same | left_alone).all()
    drawn = drawn_of({name: {"p": p}})
    touched = len(np.unique(np.concatenate([one.rows for one in drawn.ops] or [np.empty(0, int)])))
    all_touched = len(np.unique(np.concatenate([one.rows for one in drawn_of(name).ops])))
    if p == 0:
        assert touched == 0
    else:
        assert stats.binomtest(touched, all_touched, p).pvalue > 0.001


# -- AugMix ----------------------------------------------------------------------------------------


def mixed(**parameters: Any) -> Drawn:
    return drawn_of({"aug_mix": parameters})


@pytest.mark.parametrize("width", [1, 3, 5])
def test_augmix_weights_are_dirichlet_times_uniform(width: int) -> None:
    drawn = mixed(width=width)
    assert drawn.weights is not None
    assert drawn.weights.shape == (1 + width, len(IDS))
    assert len(drawn.chains) == width
    assert (drawn.weights >= 0).all()
    np.testing.assert_allclose(drawn.weights.sum(0), 1, atol=1e-12)
    assert stats.kstest(drawn.weights[0], stats.uniform.cdf).pvalue > 0.001
    shares = drawn.weights[1:] / (1 - drawn.weights[0])
    if width > 1:
        for share in shares:  # of a flat Dirichlet: Beta(1, width - 1)
            assert stats.kstest(share, stats.beta(1, width - 1).cdf).pvalue > 0.001
            assert stats.pearsonr(share, drawn.weights[0]).pvalue > 0.001
        expected = -1 / (width - 1)
        assert np.corrcoef(shares)[0, 1] == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("depth", [1, 3])
def test_augmix_chains_are_one_to_depth_ops_of_all_nine(depth: int) -> None:
    drawn = mixed(depth=depth, severity=3)
    for chain in drawn.chains:
        lengths = np.bincount(np.concatenate([one.rows for one in chain]), minlength=len(IDS))
        numbers, counts = np.unique(lengths, return_counts=True)
        assert numbers.tolist() == list(range(1, depth + 1))
        assert depth == 1 or stats.chisquare(counts).pvalue > 0.001
        per_op: Counter[str] = Counter()
        for one in chain:
            per_op[one.op.name] += len(one.rows)
        shares = np.array([2 if name in ("shear", "translate") else 1 for name in per_op])
        assert shares.sum() == 9
        total = sum(per_op.values())
        assert stats.chisquare(list(per_op.values()), shares / 9 * total).pvalue > 0.001


@pytest.mark.parametrize("severity", [1, 3, 10])
def test_augmix_magnitudes_are_one_to_severity(severity: int) -> None:
    drawn = mixed(severity=severity)
    rotations = np.concatenate([one.values[0] for chain in drawn.chains for one in chain if one.op.name == "rotate"])
    levels, counts = np.unique(np.abs(rotations) / 3, return_counts=True)
    np.testing.assert_allclose(levels, np.arange(1, severity + 1))
    assert severity == 1 or stats.chisquare(counts).pvalue > 0.001
    assert stats.binomtest(int((rotations > 0).sum()), len(rotations), 0.5).pvalue > 0.001


def test_augmix_chains_are_independent() -> None:
    drawn = mixed(depth=1)
    which = np.full((3, len(IDS)), -1)
    for number, chain in enumerate(drawn.chains):
        for kind, one in enumerate(chain):
            which[number, one.rows] = kind
    for other in (1, 2):
        table = np.zeros((9, 9))
        np.add.at(table, (which[0], which[other]), 1)
        assert stats.chi2_contingency(table).pvalue > 0.001


def test_augmix_is_the_mix_of_its_chains() -> None:
    """Of what stands before it, and of each chain after that, by the weights."""
    images = pictures(60)
    policy = Policy.from_config(["horizontal_flip", "rotate", "aug_mix"])
    drawn = draw_parameters(policy, seed=2, epoch=0, sample_ids=np.arange(60))
    assert drawn.weights is not None
    parts = [render(images, policy, Drawn(60, drawn.ops))]
    parts += [render(images, policy, Drawn(60, (*drawn.ops, *chain))) for chain in drawn.chains]
    expected = np.einsum("kn,kn...->n...", drawn.weights, np.stack(parts).astype(np.float64))
    got = render(images, policy, drawn)
    assert np.abs(got - expected).max() <= 0.52
    assert (got >= np.minimum.reduce(parts)).all()  # a picture between those it is mixed of
    assert (got <= np.maximum.reduce(parts)).all()
    assert (got != parts[0]).any((1, 2, 3)).mean() > 0.9


@pytest.mark.parametrize("p", [0.0, 0.4])
def test_augmix_leaves_the_others_as_they_were(p: float) -> None:
    images = pictures(200, 12, 12)
    ids = np.arange(200)
    outs = []
    for chance in (p, 1.0):
        policy = Policy.from_config(["horizontal_flip", {"aug_mix": {"p": chance}}])
        drawn = draw_parameters(policy, seed=4, epoch=0, sample_ids=ids)
        outs.append(render(images, policy, drawn))
    flip = Policy.from_config(["horizontal_flip"])
    plain = render(images, flip, draw_parameters(flip, seed=4, epoch=0, sample_ids=ids))
    whole, alone = ((outs[0] == other).all((1, 2, 3)) for other in (outs[1], plain))
    assert (whole | alone).all()
    drawn = mixed(p=p)
    assert drawn.weights is not None
    num = int((drawn.weights[0] < 1).sum())
    assert num == 0 if p == 0 else stats.binomtest(num, len(IDS), p).pvalue > 0.001


# -- in words --------------------------------------------------------------------------------------


def test_what_is_chosen_is_told_as_plain_ops() -> None:
    drawn = drawn_of("rand-m9-n2", np.arange(50))
    told = [drawn.describe(i) for i in range(50)]
    assert max(map(len, told)) == 2
    assert "rotate +9.0°" in {line for lines in told for line in lines}
    for i, lines in enumerate(told):
        assert len(lines) == sum(i in one.rows for one in drawn.ops)


def test_augmix_tells_each_chain_and_its_share() -> None:
    drawn = drawn_of({"aug_mix": {"p": 0.5}}, np.arange(50))
    assert drawn.weights is not None
    for i in range(50):
        lines = drawn.describe(i)
        if drawn.weights[0, i] == 1:
            assert lines == []
            continue
        assert len(lines) == 3
        for line, weight in zip(lines, drawn.weights[1:, i], strict=True):
            assert line.startswith(f"{weight:.0%} ")


def test_each_has_a_source_and_a_name() -> None:
    assert {op.name for op in (RandAugment, TrivialAugment, AutoAugment, AugMix)} == set(AUTO_OPS)
    for name, op in AUTO_OPS.items():
        assert op.name == op().label(np.empty(0)) == name
        assert "torchvision" in op.source
