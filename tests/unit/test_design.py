"""Which runs a comparison consists of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from augft.augment.policy import Policy
from augft.config import Job, load_job_text
from augft.errors import ConfigError, PolicyError
from augft.experiment.design import cells_of, contenders_of, trials


def job(*overrides: str) -> Job:
    return load_job_text("{data: {labels_per_class: 40}, train: {epochs: 70}}", "job.yaml", overrides)


def compared(policies: str, *overrides: str) -> dict[str, list[str]]:
    return contenders_of(job(f"compare.policies={policies}", *overrides))[0]


def test_trials_of_a_seed_differ_in_the_contender_alone() -> None:
    made = job("seed=3", "compare.policies=[none, digits, {mixup: {policy: digits, mixup_alpha: 0.2}}]")
    contenders, baseline = contenders_of(made)
    assert baseline == "none"
    planned = trials(made, contenders, [3, 4])
    assert [(trial.seed, trial.contender) for trial in planned] == [
        (seed, name) for seed in (3, 4) for name in ("none", "digits", "mixup")
    ]
    assert len({trial.folder for trial in planned}) == 6
    for trial in planned:
        assert trial.job.seed == trial.seed
        assert trial.job.model_copy(update={"augment": made.augment, "seed": 3, "run": made.run}) == made
    assert planned[2].job.augment.mixup_alpha == 0.2
    assert planned[2].job.augment.policy == "digits"


def test_a_policy_file_is_read_once(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"ops": ["rotate"], "fill": "edge"}))
    made = job(f"compare.policies=[none, {file}]")
    contenders, _ = contenders_of(made)
    file.unlink()
    *_, trial = trials(made, contenders, [0])
    assert trial.contender == "mine"
    policy = Policy.from_config(trial.job.augment.policy)
    assert [op.name for op in policy.ops] == ["rotate"]
    assert policy.fill == "edge"


def test_magnitudes_are_of_those_that_have_one() -> None:
    found = compared("[none, randaugment, trivialaugment]", "compare.magnitudes=[3, 12]")
    assert list(found) == ["none", "randaugment-m3", "randaugment-m12", "trivialaugment"]
    [override] = found["randaugment-m12"]
    policy = Policy.from_config(json.loads(override.removeprefix("augment.policy=")))
    assert policy.ops[-1].model_dump()["magnitude"] == 12
    assert policy.ops[:-1] == Policy.from_config("randaugment").ops[:-1]


def test_axes() -> None:
    assert [cell.key for cell in cells_of(job())] == [{}]
    cells = cells_of(job("compare.labels_per_class=[10, 40]", "compare.models=[resnet20, resnet32]"))
    assert [cell.key for cell in cells] == [
        {"model": model, "labels_per_class": num} for model in ("resnet20", "resnet32") for num in (10, 40)
    ]
    planned = trials(job(), {"none": [], "b": []}, [0], cells)
    assert len({trial.folder for trial in planned}) == 8
    assert planned[-1].job.model.name == "resnet32"
    assert planned[-1].job.data.labels_per_class == 40


def test_equal_steps_along_the_labels() -> None:
    cells = cells_of(job("compare.labels_per_class=[40, 400, 40000]", "compare.equal_steps=true"))
    planned = trials(job(), {"none": []}, [0], cells)
    assert [trial.job.train.epochs for trial in planned] == [70, 7, 1]
    with pytest.raises(ConfigError, match=r"compare\.equal_steps: set data\.labels_per_class"):
        cells_of(job("data.labels_per_class=null", "compare.labels_per_class=[40]", "compare.equal_steps=true"))


@pytest.mark.parametrize(
    ("policies", "more", "message"),
    [
        ("[none, none]", (), "none is there twice"),
        ("[none, {a/b: {policy: digits}}]", (), "'a/b' should have letters"),
        ("[none, {a: {policy: digits}, b: {}}]", (), "a contender is a policy or"),
        ("[none, digits]", ("compare.baseline=standard",), "'standard' is none of the contenders: none, digits"),
        ("[none, {a: {polcy: digits}}]", (), "polcy"),
        ("[none, randaugment]", ("compare.magnitudes=[31]",), "31 should be between 0 and 30"),
    ],
)
def test_what_is_wrong_is_said(policies: str, more: tuple[str, ...], message: str) -> None:
    made = job(f"compare.policies={policies}", *more)
    with pytest.raises(ConfigError) as caught:
        trials(made, contenders_of(made)[0], [0])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_policy_is_said() -> None:
    with pytest.raises(PolicyError, match="did you mean 'standard'"):
        compared("[none, {a: {policy: standart}}]")
