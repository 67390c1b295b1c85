"""The space of policies: a point says which policy it is, and the same question has the same answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from augft.augment.policy import ALL_OPS, PRESETS, Policy
from augft.config import Job, load_job_text
from augft.errors import ConfigError, PolicyError
from augft.experiment.budget import baselines_of, check_budget, trial_job
from augft.experiment.space import Chance, ChosenOp, Point, Space
from augft.experiment.strength import has_strength, parameters

shares = st.floats(0, 1)


def job(*overrides: str) -> Job:
    return load_job_text("", "the test's job", overrides)


def points(number: int = 200, *overrides: str) -> list[Point]:
    space = Space(job(*overrides))
    return [space.point(Chance(f"test/{i}")) for i in range(number)]


# ---- strength ------------------------------------------------------------------------------------------------------


@given(st.sampled_from(list(ALL_OPS)), shares)
def test_every_strength_of_every_op_is_a_policy(op: str, strength: float) -> None:
    [made] = Policy.from_config([{op: parameters(op, strength)}]).ops
    assert made.name == op
    assert bool(parameters(op, strength)) is has_strength(op)


@pytest.mark.parametrize("op", [op for op in ALL_OPS if has_strength(op)])
def test_more_strength_is_more(op: str) -> None:
    """Each parameter goes one way, and does go."""
    numbers = np.array([np.hstack(list(parameters(op, s).values())) for s in np.linspace(0.05, 1, 20)])
    steps = np.diff(numbers, axis=0)
    assert ((steps >= 0).all(axis=0) | (steps <= 0).all(axis=0)).all()
    assert (numbers[0] != numbers[-1]).any()


def test_a_strength_of_nearly_nothing_leaves_a_picture_nearly_as_it_is() -> None:
    from augft import augment_batch

    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    images = np.sort(images, axis=1)  # with neighbours alike, so that a small move is a small change
    mild = ["rotate", "translate", "shear", "brightness", "contrast", "saturation", "hue", "gamma", "elastic"]
    for op in mild:
        change = {}
        for strength in (0.05, 1.0):
            policy = Policy.from_config([{op: parameters(op, strength)}])
            made = augment_batch(images, policy, seed=0, epoch=0, sample_ids=np.arange(16))
            change[strength] = np.abs(made.astype(int) - images).mean()
        assert change[0.05] < 0.5 * change[1.0], (op, change)


# ---- points --------------------------------------------------------------------------------------------------------


def test_a_point_depends_on_its_key_alone() -> None:
    space = Space(job())
    first, again, other = (space.point(Chance(key)) for key in ("a", "a", "b"))
    assert first == again != other


def test_points_fill_the_space() -> None:
    found = points(400, "search.num_ops=[1, 3]")
    assert {len(point.ops) for point in found} == {1, 2, 3}
    ops = [op for point in found for op in point.ops]
    assert {op.name for op in ops} == set(job().search.ops)
    assert min(op.p for op in ops) < 0.15
    assert max(op.p for op in ops) > 0.95
    strengths = [op.strength for op in ops if has_strength(op.name)]
    assert min(strengths) < 0.1
    assert max(strengths) > 0.95
    assert abs(np.mean(strengths) - 0.525) < 0.05


def test_the_policy_begins_with_the_base_and_writes_itself_out() -> None:
    for name in ("standard", "basic", "none"):
        base = PRESETS[name]
        for point in points(30, f"search.base={name}"):
            policy = point.policy(base)
            assert policy.ops[: len(base.ops)] == base.ops
            assert len(policy.ops) > len(base.ops)
            assert (policy.sampling, policy.fill, policy.name) == (base.sampling, base.fill, "found")
            assert Policy.from_config(policy.to_config()) == policy
            assert Point.from_config(point.to_config()) == point


def test_an_op_chosen_twice_counts_once_and_aug_mix_is_last() -> None:
    twice = Point((ChosenOp("aug_mix", 1.0, 0.5), ChosenOp("hue", 0.5, 0.1), ChosenOp("hue", 0.7, 0.9)))
    policy = twice.policy(Policy())
    assert [op.name for op in policy.ops] == ["hue", "aug_mix"]
    assert policy.ops[0].p == 0.5


def test_what_else_is_searched_becomes_overrides() -> None:
    asked = ["select=[0.5, 1.0]", "copies=[1, 3]", "mixup_alpha=[0.0, 0.4]", "cutmix_alpha=[0.5, 1.0]"]
    texts = [f"search.{each}" for each in (*asked, "learning_rate=true")]
    whole = job(*texts)
    for point in points(50, *texts):
        made = whole.replace(point.overrides)
        assert 0.5 <= made.augment.select <= 1
        assert made.augment.copies in (1, 3)
        assert 0 <= made.augment.mixup_alpha <= 0.4
        assert 0.5 <= made.augment.cutmix_alpha <= 1
        lr = whole.train.optimizer.lr
        assert lr / 3.01 <= made.train.optimizer.lr <= 3.01 * lr
    words = Space(whole).words()
    assert any("augment.copies of 1, 3" in line for line in words)
    assert any("augment.select from 0.5 to 1" in line for line in words)
    assert not points(1)[0].overrides


def test_a_change_is_near_by() -> None:
    space = Space(job("search.num_ops=[3, 3]"))
    kept = total = 0
    for number in range(200):
        point = space.point(Chance(f"a/{number}"))
        changed = space.changed(point, Chance(f"b/{number}"))
        assert changed != point
        assert space.changed(point, Chance(f"b/{number}")) == changed
        for before, after in zip(point.ops, changed.ops, strict=True):
            total += 1
            if before.name == after.name:
                kept += 1
            assert 0.1 <= after.p <= 1
            assert 0.05 <= after.strength <= 1
        Policy.from_config(changed.policy(space.base).to_config())
    assert 0.65 < kept / total < 0.9


# ---- what is wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["search.ops=[rotat]"], "search.ops: unknown op 'rotat'; did you mean rotate?"),
        (["search.ops=[zzz]"], "search.ops: unknown op 'zzz'; the ops are horizontal_flip"),
        (["search.base=augmix"], "search.base augmix: ends with aug_mix"),
        (["search.algorithm=pbt", "search.copies=[2]"], "search.copies: pbt finds a policy file and nothing beside it"),
        (["search.algorithm=pbt", "search.learning_rate=true"], "search.learning_rate: pbt finds a policy file"),
    ],
)
def test_a_space_that_is_none(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Space(job(*overrides))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_base_names_the_nearest() -> None:
    with pytest.raises(PolicyError, match="did you mean 'standard'"):
        Space(job("search.base=standart"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["search.trials=4"], r"search\.trials 4: the 4 baselines are trials too.*set it above 4"),
        (["search.baselines=[none, none]"], r"search\.baselines: the name none is taken"),
        (["search.baselines=[found.json]"], "cannot read the policy file"),
        (["search.baselines=[standart]"], "did you mean 'standard'"),
        (["train.jsd_weight=12"], "train.jsd_weight wants each policy to end with aug_mix"),
        (["search.algorithm=pbt", "search.trials=5"], "leave a population of one; set it above 5"),
        (["search.algorithm=pbt", "search.sampler=optuna"], r"set search\.sampler=random"),
        (["search.algorithm=pbt", "search.epochs=3"], "its trials have the epochs of the task"),
        (["search.algorithm=pbt", "search.interval_epochs=10"], "nothing would ever change; lower it"),
        (["search.algorithm=pbt", "scale.num_workers=2"], "each member trains in one process"),
    ],
)
def test_a_budget_that_does_not_go_together(overrides: list[str], message: str) -> None:
    with pytest.raises((ConfigError, PolicyError), match=message) as caught:
        check_budget(job(*overrides))
    assert "\n" not in str(caught.value)


def test_the_trials_job_is_the_small_form() -> None:
    whole = job("search.epochs=3", "search.labels_per_class=7", "run.baseline=none", "train.epochs=9", "seed=4")
    small = trial_job(whole)
    assert (small.train.epochs, small.data.labels_per_class, small.seed) == (3, 7, 4)
    assert (small.run.baseline, small.run.trackers) == (None, [])
    same = trial_job(job("train.epochs=9", "data.labels_per_class=5"))
    assert (same.train.epochs, same.data.labels_per_class) == (9, 5)


def test_baselines_have_the_names_of_their_files(tmp_path: Any) -> None:
    (tmp_path / "mine.json").write_text(PRESETS["basic"].to_json())
    found = baselines_of(job(f"search.baselines=[none, {tmp_path / 'mine.json'}]"))
    assert found == {"none": PRESETS["none"], "mine": PRESETS["basic"]}
