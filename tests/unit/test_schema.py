"""The JSON schema of job files: it takes what `load_job` takes, and names every op and parameter."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from augft.augment.auto_tables import LEARNED
from augft.augment.automatic import familiar
from augft.augment.policy import ALL_OPS, PRESETS, Policy
from augft.config import Job
from augft.errors import PolicyError
from augft.schema import FAMILIAR, job_schema, op_schema

JOBS = Path(__file__).parents[2] / "jobs"
SCHEMA = job_schema()
VALIDATOR = Draft202012Validator(SCHEMA)


def taken(policy: Any) -> bool:
    """Whether the schema takes a job with this policy; held against what reading it says."""
    valid = VALIDATOR.is_valid({"augment": {"policy": policy}})
    try:
        Policy.from_config(policy)
    except PolicyError:
        assert not valid or isinstance(policy, str), policy
    else:
        assert valid, policy
    return valid


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    references = re.findall(r"'\$ref': '#/\$defs/([^']+)'", repr(SCHEMA))
    assert set(references) <= set(SCHEMA["$defs"])
    assert set(SCHEMA["properties"]) == set(Job.model_fields)
    assert SCHEMA["additionalProperties"] is False


def test_every_key_of_a_job_is_described() -> None:
    for name, section in {"": SCHEMA, **SCHEMA["$defs"]}.items():
        if name and not name.endswith("Config"):
            continue
        for key, entry in section["properties"].items():
            assert "$ref" in entry or entry.get("description"), f"{name}.{key}"
    assert SCHEMA["$defs"]["TrainConfig"]["properties"]["epochs"]["default"] == 10


@pytest.mark.parametrize("name", ALL_OPS)
def test_every_op_with_all_its_parameters(name: str) -> None:
    schema = op_schema(ALL_OPS[name])
    defaults = ALL_OPS[name]().model_dump(mode="json")
    assert set(schema["properties"]) == set(defaults)
    for key, entry in schema["properties"].items():
        assert entry["default"] == defaults[key]
        assert entry["description"]
    assert schema["description"]
    assert taken([name])
    assert taken([{name: None}])
    assert taken([{name: defaults}])
    assert taken([{name: {"p": 0.25}}])
    assert taken([{name: {"p": {"schedule": [[0, 0.1], [1, 0.9]]}}}])
    assert not taken([{name: {"p": 1.25}}])
    assert not taken([{name: {"strenght": 1}}])
    assert not taken([{name: 3}])


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.yaml")), ids=lambda path: path.stem)
def test_it_takes_the_jobs_of_the_project(path: Path) -> None:
    VALIDATOR.validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def test_it_takes_the_resolved_job() -> None:
    VALIDATOR.validate(Job().to_dict())
    for preset in PRESETS:
        policy = PRESETS[preset].to_config()["ops"]
        VALIDATOR.validate(Job().to_dict() | {"augment": {"policy": policy}, "run": {"baseline": preset}})


@pytest.mark.parametrize(
    "policy",
    [
        "augmix",
        "rand-m9-n2",
        "augmix-m3-w3-d3",
        ["trivial"],
        ["horizontal_flip", {"rotate": {"degrees": {"schedule": [[0, 5], [0.5, 10], [1, 30]]}}}],
        [{"brightness": {"factor": 1.2}}],
        [{"brightness": {"factor": [0.8, 1.2]}}],
        [{"scale": {"factor": {"schedule": [[0, [1, 1]], [1, [0.5, 2]]]}}}],
        [{"crop": {"padding": {"schedule": [[0, 0], [1, 8]]}}}],
        [{"erasing": {"noise": False}}],
        [{"auto_augment": {"learned_on": "svhn"}}],
        [],
        {"ops": ["rotate"], "sampling": "nearest", "fill": "reflect"},
        {"version": 1, "ops": [], "fill": [1, 2, 3], "phases": [{"from_epoch": 3, "ops": [{"rotate": {"p": 0.5}}]}]},
    ],
    ids=str,
)
def test_it_takes(policy: Any) -> None:
    assert taken(policy)


@pytest.mark.parametrize(
    "policy",
    [
        "standart",
        "rand-9",
        ["rotat"],
        [{"rotat": {}}],
        [{"rotate": {"degree": 5}}],
        [{"rotate": {"degrees": -5}}],
        [{"rotate": {"degrees": "15"}}],
        [{"rotate": {"degrees": {"schedule": []}}}],
        [{"rotate": {"degrees": {"schedule": [[0, [5, 10]]]}}}],
        [{"rotate": {"degrees": {"schedule": [[2, 5]]}}}],
        [{"rotate": {"degrees": 5}, "crop": {"padding": 4}}],
        [{"brightness": {"factor": 11}}],
        [{"brightness": {"factor": [0.8, 11]}}],
        [{"brightness": {"factor": [0.8, 1, 1.2]}}],
        [{"crop": {"padding": 2.5}}],
        [{"elastic": {"cells": {"schedule": [[0, 2], [1, 4]]}}}],
        [{"erasing": {"noise": 1}}],
        [{"auto_augment": {"learned_on": "mnist"}}],
        {"rotate": {}},
        {"version": 2, "ops": []},
        {"name": "x"},
        {"ops": ["rotat"]},
        {"ops": [], "phases": [{"from_epoch": 3}]},
    ],
    ids=str,
)
def test_it_refuses(policy: Any) -> None:
    assert not VALIDATOR.is_valid({"augment": {"policy": policy}})
    with pytest.raises(PolicyError):
        Policy.from_config(policy)


def test_a_policy_file_is_taken_by_its_ending() -> None:
    for name in ("policy.json", "runs/a/policy.yaml", "p.yml"):
        VALIDATOR.validate({"augment": {"policy": name}, "run": {"baseline": name}})


@pytest.mark.parametrize(
    "name", ["trivial", "rand", "rand-m9", "rand-n3-m1", "augmix", "augmix-d1", "rand-m9-", "auto"]
)
def test_short_names_are_those_that_are_read(name: str) -> None:
    try:
        read = familiar(name) is not None
    except ValueError:
        read = False
    assert read == any(re.fullmatch(pattern, name) for pattern in FAMILIAR.values())


def test_every_learned_table_has_a_short_name() -> None:
    for name in LEARNED:
        assert familiar(f"auto-{name}") is not None
        assert re.fullmatch(FAMILIAR["auto"], f"auto-{name}")
