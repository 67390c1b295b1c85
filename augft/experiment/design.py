"""Which runs a comparison consists of: cells × contenders × seeds.

    cell        a task: the job at one point of the axes (labels a class, model)
    contender   what is compared within a cell: a name, and the overrides that make it
    trial       one run: a contender with a seed in a cell

The design is paired: within a cell, trials of the same seed have the same labelled pictures, split, initial head and
order, and share the draws of the ops that their policies have in common. All of that follows from the seed alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from augft.augment.automatic import RandAugment
from augft.augment.policy import PRESETS, Policy
from augft.config import Job
from augft.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass(frozen=True)
class Cell:
    """A task that contenders are compared on."""

    key: Mapping[str, Any] = field(default_factory=dict)
    """Axis → value, of the axes that vary."""
    overrides: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """In words; empty without axes."""
        words = {"labels_per_class": "{} labels a class", "model": "{}"}
        return ", ".join(words[axis].format(value) for axis, value in self.key.items())

    @property
    def folder(self) -> str:
        """As part of a path; empty without axes."""
        return "-".join(f"{axis.split('_')[0]}-{value}" for axis, value in self.key.items())


@dataclass(frozen=True)
class Trial:
    """One run of a comparison."""

    cell: Cell
    contender: str
    seed: int
    job: Job

    @property
    def folder(self) -> str:
        """Of its run directory, within the comparison's."""
        return "/".join(filter(None, ("runs", self.cell.folder, f"{self.contender}-seed-{self.seed}")))


def trials(
    job: Job, contenders: Mapping[str, Sequence[str]], seeds: Sequence[int], cells: Sequence[Cell] = (Cell(),)
) -> list[Trial]:
    """All trials, seed by seed: whenever they are stopped, what is done can be compared.

    Args:
        job: the task.
        contenders: name → overrides, as texts of the form `key.key=value`.
        seeds: distinct.
        cells: of the axes.

    Raises:
        ConfigError: an override is wrong, or a name is no folder's.
    """
    for name in contenders:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"compare.policies: the name {name!r} should have letters, digits, '.', '_', '+' and '-'")
    made = []
    for seed, cell, (name, overrides) in product(seeds, cells, contenders.items()):
        texts = [f"seed={seed}", "run.baseline=null", *cell.overrides, *overrides]
        made.append(Trial(cell, name, seed, job.replace(texts)))
    return made


def cells_of(job: Job) -> list[Cell]:
    """The points of a job's axes.

    Raises:
        ConfigError: equal steps are wanted, and not those of how many labels.
    """
    compare = job.compare
    axes: list[list[tuple[str, Any, tuple[str, ...]]]] = []
    if compare.models:
        axes.append([("model", name, (f"model.name={name}",)) for name in compare.models])
    if compare.labels_per_class:
        axes.append([("labels_per_class", num, _labels(job, num)) for num in compare.labels_per_class])
    return [
        Cell({axis: value for axis, value, _ in point}, tuple(text for *_, texts in point for text in texts))
        for point in product(*axes)
    ]


def _labels(job: Job, num: int) -> tuple[str, ...]:
    if not job.compare.equal_steps:
        return (f"data.labels_per_class={num}",)
    if job.data.labels_per_class is None:
        raise ConfigError("compare.equal_steps: set data.labels_per_class to the number that train.epochs is meant for")
    epochs = max(1, round(job.train.epochs * job.data.labels_per_class / num))
    return f"data.labels_per_class={num}", f"train.epochs={epochs}"


def contenders_of(job: Job) -> tuple[dict[str, list[str]], str]:
    """A job's contenders, and which of them is the baseline.

    Returns:
        Name → overrides, as `trials` takes them: a policy file is read here, so that no other machine has to; and the
        baseline's name.

    Raises:
        ConfigError: two have one name, or no contender has the baseline's.
        PolicyError: a policy is wrong.
    """
    found: dict[str, list[str]] = {}
    for entry in job.compare.policies:
        for name, overrides in _contender(entry, job.compare.magnitudes):
            if name in found:
                raise ConfigError(
                    f"compare.policies: {name} is there twice; give one another name, as in {{{name}-2: {{policy: …}}}}"
                )
            found[name] = overrides
    baseline = job.compare.baseline or next(iter(found))
    if baseline not in found:
        raise ConfigError(f"compare.baseline: {baseline!r} is none of the contenders: {', '.join(found)}")
    if len(found) < 2:
        raise ConfigError(f"compare.policies: only {baseline} is there; give at least two")
    return found, baseline


def _contender(
    entry: str | Mapping[str, Mapping[str, Any]], magnitudes: Sequence[float]
) -> list[tuple[str, list[str]]]:
    """A contender by name; or one for each magnitude, where its policy has one."""
    keys: dict[str, Any]
    if isinstance(entry, str):
        is_file = entry not in PRESETS and Path(entry).suffix in (".json", ".yaml", ".yml")
        name, keys = (Path(entry).stem if is_file else entry), {"policy": entry}
    elif len(entry) == 1:
        [(name, given)] = entry.items()
        keys = dict(given)
    else:
        raise ConfigError(f"compare.policies: a contender is a policy or {{name: {{keys of augment}}}}, not {entry}")
    policy = Policy.from_config(keys["policy"]) if "policy" in keys else None
    if policy is not None and not (isinstance(keys["policy"], str) and keys["policy"] in PRESETS):
        keys["policy"] = policy.to_config()
    if policy is None or not magnitudes or not _has_magnitude(policy):
        return [(name, _overrides(keys))]
    return [
        (f"{name}-m{magnitude:g}", _overrides({**keys, "policy": _with_magnitude(policy, magnitude).to_config()}))
        for magnitude in magnitudes
    ]


def _overrides(keys: Mapping[str, Any]) -> list[str]:
    return [f"augment.{key}={json.dumps(value)}" for key, value in keys.items()]


def _has_magnitude(policy: Policy) -> bool:
    return any(isinstance(op, RandAugment) for op in policy.ops)


def _with_magnitude(policy: Policy, magnitude: float) -> Policy:
    """The policy with its RandAugment at another magnitude.

    Raises:
        ConfigError: the magnitude is out of bounds.
    """
    if not 0 <= magnitude <= 30:
        raise ConfigError(f"compare.magnitudes: {magnitude:g} should be between 0 and 30")
    ops = tuple(
        op.model_copy(update={"magnitude": magnitude}) if isinstance(op, RandAugment) else op for op in policy.ops
    )
    return replace(policy, ops=ops, name=f"{policy.name}-m{magnitude:g}")
