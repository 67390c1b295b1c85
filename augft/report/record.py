"""What a run directory holds, as far as it can be read: a report is also for a run that broke off."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import yaml

from augft.augment.policy import Policy
from augft.errors import PolicyError, StorageError
from augft.model.files import WEIGHTS_FILE
from augft.report.interval import Score
from augft.report.lenient import mapping as lenient
from augft.run import (
    CONFIG,
    ENVIRONMENT,
    EVALUATION,
    EVALUATIONS,
    INCIDENTS,
    METRICS,
    POLICY,
    PREVIEW,
    SUMMARY,
    open_run,
)
from augft.storage import Storage


@dataclass(frozen=True)
class Record:
    """The files of a run, parsed; empty or None where one is not there."""

    uri: str
    config_text: str
    config: dict[str, Any]
    policy: Policy | None
    environment: dict[str, Any]
    metrics: list[dict[str, Any]]
    summary: dict[str, Any]
    evaluation: dict[str, Any] | None
    evaluations: dict[str, dict[str, Any]]
    """What `augft evaluate` has found of these weights, by name."""
    preview: bytes | None
    incidents: list[dict[str, Any]]
    """What befell the run, a mapping each, in order."""
    problems: list[str]
    """What is there and cannot be read, a sentence each."""

    @property
    def name(self) -> str:
        return str(self.config.get("name", "run"))

    @property
    def data(self) -> dict[str, Any]:
        """What environment.json says of the data set."""
        data = self.environment.get("data")
        return data if isinstance(data, dict) else {}

    @property
    def test(self) -> Score | None:
        return Score.of(self.summary.get("test_top1"), self.summary.get("test_num_samples"))

    @property
    def val(self) -> Score | None:
        """Of the weights that were kept; before the run's end, the best so far."""
        lines = [line for line in self.metrics if line.get("split") == "val"]
        kept = [line for line in lines if line.get("step") == self.summary.get("best_step")] or lines
        scores = [score for line in kept if (score := Score.of(line.get("top1"), line.get("num_samples")))]
        return max(scores, key=lambda score: score.top1, default=None)

    def section(self, *path: str) -> dict[str, Any]:
        """A section of the job, `section("train", "stop")`; empty where there is none."""
        found: Any = self.config
        for key in path:
            found = found.get(key) if isinstance(found, dict) else None
        return found if isinstance(found, dict) else {}

    def lines(self, split: str) -> list[dict[str, Any]]:
        """The lines of a split, one an epoch, the newest of each, in order."""
        newest = {line.get("epoch", 0): line for line in self.metrics if line.get("split") == split}
        return [newest[epoch] for epoch in sorted(newest)]

    def flat_config(self) -> dict[str, Any]:
        """`train.optimizer.lr` → 0.05 and so on."""
        return _flat(self.config)


def read_record(uri: str) -> Record:
    """Read a run directory.

    Raises:
        RunDirectoryError: there is no run.
    """
    storage = open_run(uri).storage
    problems: list[str] = []

    def read(name: str) -> bytes | None:
        if not storage.exists(name):
            return None
        try:
            return storage.read(name)
        except StorageError as error:
            problems.append(f"{error}.")
            return None

    def mapping(name: str) -> dict[str, Any] | None:
        text = read(name)
        if text is None:
            return None
        try:
            content = json.loads(text)
        except ValueError as error:
            problems.append(f"{name} cannot be read: {error}.")
            return None
        if not isinstance(content, dict):
            problems.append(f"{name} cannot be read: it holds no mapping.")
            return None
        return content

    config_text = (read(CONFIG) or b"").decode(errors="replace")
    try:
        config = yaml.safe_load(config_text)
    except yaml.YAMLError as error:
        problems.append(f"{CONFIG} cannot be read: {' '.join(str(error).split())}.")
        config = None

    policy = None
    if policy_config := mapping(POLICY):
        try:
            policy = Policy.from_config(policy_config)
        except PolicyError as error:
            problems.append(f"{POLICY} cannot be read: {error}.")

    def lines(name: str) -> list[dict[str, Any]]:
        found = []
        for number, line in enumerate((read(name) or b"").splitlines(), 1):
            try:
                content = json.loads(line)
                found.append(content) if isinstance(content, dict) else None
            except ValueError as error:
                problems.append(f"{name}, line {number}, cannot be read: {error}.")
        return found

    return Record(
        uri=storage.uri,
        config_text=config_text,
        config=config if isinstance(config, dict) else {},
        policy=policy,
        environment=mapping(ENVIRONMENT) or {},
        metrics=lines(METRICS),
        summary=mapping(SUMMARY) or {},
        evaluation=mapping(EVALUATION),
        evaluations=_of_these_weights(
            storage,
            {
                name.removesuffix(".json"): mapping(f"{EVALUATIONS}/{name}") or {}
                for name in storage.list(EVALUATIONS)
                if name.endswith(".json")
            },
            problems,
        ),
        preview=read(PREVIEW),
        incidents=lines(INCIDENTS),
        problems=problems,
    )


def _of_these_weights(
    storage: Storage, evaluations: dict[str, dict[str, Any]], problems: list[str]
) -> dict[str, dict[str, Any]]:
    """Those that are of the weights that the run has now; the others are told of."""
    if not evaluations or not storage.exists(WEIGHTS_FILE):
        return {}
    digest = hashlib.sha256(storage.read(WEIGHTS_FILE)).hexdigest()
    found = {name: each for name, each in evaluations.items() if lenient(each.get("model")).get("weights") == digest}
    problems += [
        f"{EVALUATIONS}/{name}.json is of other weights than the run has now: evaluate it again."
        for name in evaluations.keys() - found.keys()
    ]
    return found


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
