"""Finished runs → the content of comparison.json: means, paired differences, what was chosen, and words."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import groupby
from statistics import mean, stdev
from typing import Any

import numpy as np

from augft import __version__
from augft.config import Job
from augft.data.packed import PackedDataset
from augft.evaluate import correct_from_dict
from augft.experiment.design import Trial
from augft.experiment.statistics import Difference, compare_classes, compare_means, compare_runs
from augft.prepare import prepare_packed
from augft.report.preview import strip_png
from augft.run import EVALUATION, Run

VERSION = 1


def judge(
    job: Job, tasks: Mapping[str, Trial], dataset: PackedDataset, *, baseline: str, folder: str
) -> dict[str, Any]:
    """Judge a comparison whose runs are all finished.

    Args:
        job: the task; `job.compare.confidence` is that of all intervals of a cell together.
        tasks: run directory → trial.
        dataset: what the runs were tested on.
        baseline: the contender that the others are held against.
        folder: of the comparison, below which the run directories are.

    Returns:
        The content of comparison.json.
    """
    judged_on = "test" if dataset.has("test") else "val"
    by_cell = [list(group) for _, group in groupby(_ordered(tasks), key=lambda item: item[1].cell)]
    return {
        "version": VERSION,
        "kind": "comparison",
        "name": job.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "augft": __version__,
        "baseline": baseline,
        "seeds": list(dict.fromkeys(trial.seed for trial in tasks.values())),
        "confidence": job.compare.confidence,
        "judged_on": judged_on,
        "num_comparisons": len({trial.contender for trial in tasks.values()}) - 1,
        "cells": [_cell(job, dict(group), dataset, baseline, judged_on, folder) for group in by_cell],
    }


def _ordered(tasks: Mapping[str, Trial]) -> list[tuple[str, Trial]]:
    """Cell by cell, in the order that they were asked for."""
    cells = list(dict.fromkeys(trial.cell.folder for trial in tasks.values()))
    return sorted(tasks.items(), key=lambda item: cells.index(item[1].cell.folder))


def _cell(
    job: Job, tasks: Mapping[str, Trial], dataset: PackedDataset, baseline: str, judged_on: str, folder: str
) -> dict[str, Any]:
    names = list(dict.fromkeys(trial.contender for trial in tasks.values()))
    contenders = {
        name: _Contender(
            name,
            {trial.seed: (uri, Run(uri)) for uri, trial in tasks.items() if trial.contender == name},
            next(trial.job for trial in tasks.values() if trial.contender == name),
            judged_on,
        )
        for name in names
    }
    base = contenders[baseline]
    policies = []
    for contender in contenders.values():
        policy = contender.describe(dataset, folder)
        policy["time_ratio"] = policy["train_s"] / mean(base.train_s) if mean(base.train_s) else None
        policy["versus"], policy["per_class"] = None, []
        if contender is not base:
            found = contender.versus(base, num_comparisons=len(names) - 1, confidence=job.compare.confidence)
            policy["versus"] = {**found.to_dict(), "text": found.text(contender.name, baseline)}
            if judged_on == "test":
                policy["per_class"] = _per_class(contender, base, dataset, len(names) - 1, job.compare.confidence)
        policies.append(policy)
    scored = {policy["name"]: policy["val_top1"] for policy in policies if policy["val_top1"] is not None}
    chosen = max(scored, key=scored.__getitem__) if len(scored) == len(policies) else None
    trial = next(iter(tasks.values()))
    return {
        "key": dict(trial.cell.key),
        "title": trial.cell.title,
        "classes": list(dataset.manifest.classes),
        "num_pictures": len(base.correct[0]) if judged_on == "test" else base.num_val,
        "policies": policies,
        "chosen": chosen,
        "chosen_by": "val" if chosen is not None else None,
        "text": paragraph(policies, baseline, chosen, judged_on, len(base.runs)),
    }


class _Contender:
    """The runs of a contender in a cell, by seed."""

    def __init__(self, name: str, runs: Mapping[int, tuple[str, Run]], job: Job, judged_on: str) -> None:
        self.name, self.job, self._judged_on = name, job, judged_on
        self.runs = dict(sorted(runs.items()))
        self.summaries = [run.summary for _, run in self.runs.values()]
        self.metrics = [run.metrics for _, run in self.runs.values()]
        self.train_s = [summary["train_s"] for summary in self.summaries]
        self.correct = []
        if judged_on == "test":
            evaluations = [json.loads(run.storage.read(EVALUATION)) for _, run in self.runs.values()]
            self.correct = [correct_from_dict(evaluation) for evaluation in evaluations]

    @property
    def top1(self) -> list[float]:
        return [summary[f"{self._judged_on}_top1"] for summary in self.summaries]

    @property
    def num_val(self) -> int:
        return int(next(line["num_samples"] for line in self.metrics[0] if line["split"] == "val"))

    def versus(self, base: _Contender, *, num_comparisons: int, confidence: float) -> Difference:
        if self._judged_on == "test":
            return compare_runs(
                np.array(self.correct),
                np.array(base.correct),
                num_comparisons=num_comparisons,
                confidence=confidence,
            )
        # Each seed has other validation pictures.
        return compare_means(
            np.array(self.top1), np.array(base.top1), num_comparisons=num_comparisons, confidence=confidence
        )

    def describe(self, dataset: PackedDataset, folder: str) -> dict[str, Any]:
        prepared = prepare_packed(self.job, dataset.path)
        val = [summary["val_top1"] for summary in self.summaries]
        return {
            "name": self.name,
            "words": str(prepared.policy),
            "policy": prepared.policy.to_config(),
            "runs": [
                {
                    "seed": seed,
                    "uri": uri.removeprefix(folder).lstrip("/"),
                    "top1": top1,
                    **{
                        key: summary.get(key)
                        for key in (
                            "val_top1",
                            "train_s",
                            "images_per_s",
                            "data_stall_fraction",
                            "steps",
                            "stop_reason",
                            "stream_digest",
                        )
                    },
                }
                for (seed, (uri, _)), summary, top1 in zip(self.runs.items(), self.summaries, self.top1, strict=True)
            ],
            "top1": mean(self.top1),
            "top1_spread": stdev(self.top1) if len(self.top1) > 1 else None,
            "val_top1": None if None in val else mean(val),
            "train_s": mean(self.train_s),
            "curves": self._curves(),
            "preview": "data:image/png;base64," + base64.b64encode(strip_png(prepared)).decode(),
        }

    def _curves(self) -> dict[str, Any]:
        """Of the epochs that all seeds have."""

        def of(split: str, key: str) -> list[list[float]]:
            lines = [{line["epoch"] + 1: line[key] for line in each if line["split"] == split} for each in self.metrics]
            return [[line[epoch] for epoch in epochs if epoch in line] for line in lines]

        trained = [{line["epoch"] + 1 for line in each if line["split"] == "train"} for each in self.metrics]
        epochs = sorted(set.intersection(*trained))
        return {"epoch": epochs, "val_top1": of("val", "top1"), "train_loss": of("train", "loss")}


def _per_class(
    contender: _Contender, base: _Contender, dataset: PackedDataset, num_comparisons: int, confidence: float
) -> list[dict[str, Any]]:
    classes = list(dataset.manifest.classes)
    found = compare_classes(
        np.array(contender.correct),
        np.array(base.correct),
        dataset.split("test").labels,
        len(classes),
        num_comparisons=num_comparisons,
        confidence=confidence,
    )
    return [
        {"class": name, "difference": one.difference, "low": one.low, "high": one.high}
        for name, one in zip(classes, found, strict=True)
        if one is not None
    ]


def paragraph(policies: list[dict[str, Any]], baseline: str, chosen: str | None, judged_on: str, num_seeds: int) -> str:
    """A cell's result for somebody who decides and does not compute."""
    by_name = {policy["name"]: policy for policy in policies}
    kinds: dict[str, list[str]] = {}
    for policy in policies:
        if policy["versus"]:
            kinds.setdefault(policy["versus"]["verdict"], []).append(policy["name"])
    base = by_name[baseline]
    seeds = f"{num_seeds} seed{'s' if num_seeds > 1 else ''}"
    parts = [
        f"Over {seeds} the baseline {baseline} names {100 * base['top1']:.1f} % of the {judged_on} pictures right."
    ]
    if "better" in kinds:
        told = [f"{name} ({_points(by_name[name]['versus'])})" for name in kinds["better"]]
        parts.append(f"Better than it: {_list(told)}.")
    if "worse" in kinds:
        told = [f"{name} ({_points(by_name[name]['versus'])})" for name in kinds["worse"]]
        parts.append(f"Worse: {_list(told)}.")
    if "cannot tell" in kinds:
        parts.append(f"Of {_list(kinds['cannot tell'])} these runs cannot tell whether it helps or hurts.")
    if "the same" in kinds:
        parts.append(f"{_list(kinds['the same'])} did exactly the same.")
    if chosen is not None and judged_on == "test":
        top1 = 100 * by_name[chosen]["top1"]
        parts.append(f"By validation, which chooses, {chosen} comes first; tested once, it names {top1:.1f} % right.")
        verdict = (by_name[chosen]["versus"] or {}).get("verdict")
        if verdict == "cannot tell":
            parts.append(f"That it beats {baseline} is not shown.")
    return " ".join(parts)


def _points(versus: Mapping[str, Any]) -> str:
    text = f"{100 * versus['difference']:+.1f} points"
    if versus["low"] is not None:
        text += f", {100 * versus['low']:+.1f} to {100 * versus['high']:+.1f}"
    return text.replace("-", "−")


def _list(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
