"""What a search came to: the content of search.json and summary.json, and what to tell people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np

from augft import __version__
from augft.augment.policy import Policy
from augft.config import Job
from augft.evaluate import correct_from_dict
from augft.experiment.ledger import Ledger, Trial
from augft.experiment.population import Population
from augft.experiment.space import Space
from augft.experiment.statistics import compare_means, compare_runs, rank_correlation
from augft.run import EVALUATION, POLICY
from augft.storage import Storage

VERSION = 1

FOUND = "found"
"""What the chosen policy is called in the race."""


def outcome(
    job: Job,
    small: Job,
    space: Space,
    ledger: Ledger,
    chosen: Trial,
    population: Population | None,
    race: dict[str, Any] | None,
    fought: list[dict[str, Any]],
    checks: Mapping[str, float],
) -> dict[str, Any]:
    """The content of search.json.

    Args:
        job: the whole task.
        small: that of the trials.
        space: that was searched.
        ledger: of the trials.
        chosen: one of them.
        population: pbt's.
        race: the comparison with the baselines.
        fought: the race's `duels`.
        checks: further trials → val_top1 on the whole task.
    """
    proxy = None if race is None else _proxy(ledger, chosen, race, checks, job.compare.confidence)
    schedule, lineage = _history(chosen, population, small.train.epochs)
    if race is not None:
        for policy in race["cells"][0]["policies"]:
            for run in policy["runs"]:
                run["uri"] = f"race/{run['uri']}"
    return {
        "version": VERSION,
        "kind": "search",
        "name": job.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "augft": __version__,
        "algorithm": job.search.algorithm,
        "sampler": job.search.sampler,
        "space": space.words(),
        "budget": {
            "trials": len(ledger.trials),
            "epochs": small.train.epochs,
            "labels_per_class": small.data.labels_per_class,
            "wall_s": ledger.wall_s,
        },
        "trials": [_trial(trial) for trial in ledger.trials],
        "proxy": proxy,
        "chosen": {
            "trial": chosen.id,
            "name": "found",
            "words": chosen.words,
            "policy": chosen.policy,
            "policy_file": POLICY,
            "overrides": chosen.overrides,
            "val_top1": chosen.val_top1,
        },
        "schedule": schedule,
        "lineage": lineage,
        "race": race,
        "duels": fought,
        "text": _text(job, small, ledger, chosen, race, fought, proxy),
    }


def summary(search: Mapping[str, Any]) -> dict[str, Any]:
    """The content of summary.json."""
    return {
        "kind": "search",
        "chosen": search["chosen"]["words"],
        "overrides": search["chosen"]["overrides"],
        "val_top1": search["chosen"]["val_top1"],
        "trials": search["budget"]["trials"],
        "verdicts": {duel["against"]: duel["verdict"] for duel in search["duels"]},
        "text": search["text"],
        "wall_s": search["budget"]["wall_s"],
    }


def duels(job: Job, race: Mapping[str, Any], folder: str) -> list[dict[str, Any]]:
    """What was found minus each baseline, over the same pictures and seeds; the intervals hold together.

    Args:
        job: the whole task; `job.compare.confidence` is that of all intervals together.
        race: the comparison, with relative URIs of its runs.
        folder: of the comparison.
    """
    [cell] = race["cells"]
    runs = {policy["name"]: policy["runs"] for policy in cell["policies"]}
    against = [name for name in runs if name != FOUND]
    confidence = job.compare.confidence
    fought = []
    for name in against:
        if race["judged_on"] == "test":
            ours, theirs = (
                np.array([_correct(f"{folder}/{run['uri']}") for run in runs[each]]) for each in (FOUND, name)
            )
            found = compare_runs(ours, theirs, num_comparisons=len(against), confidence=confidence)
        else:  # each seed has other validation pictures
            mine, other = ([run["top1"] for run in runs[each]] for each in (FOUND, name))
            found = compare_means(mine, other, num_comparisons=len(against), confidence=confidence)
        text = found.text("the found policy", name)
        fought.append({"against": name, **found.to_dict(), "text": text[0].upper() + text[1:]})
    return fought


def _correct(run_uri: str) -> Any:
    return correct_from_dict(json.loads(Storage(run_uri).read(EVALUATION)))


def _proxy(
    ledger: Ledger, chosen: Trial, race: Mapping[str, Any], checks: Mapping[str, float], confidence: float
) -> dict[str, Any]:
    """Whether the small task ranks policies as the whole one does, by validation on both."""
    trials = {trial.name: trial for trial in ledger.trials if trial.name is not None} | {"found": chosen}
    full = {policy["name"]: policy["val_top1"] for policy in race["cells"][0]["policies"]}
    ranked = [(name, trials[name], score) for name, score in full.items() if name in trials]
    ranked += [(f"trial {key}", ledger[key], score) for key, score in checks.items()]
    ranked = [(name, trial, score) for name, trial, score in ranked if trial.history and score is not None]
    points = [{"name": name, "proxy": trial.val_top1, "full": score} for name, trial, score in ranked]
    spearman, low, high = rank_correlation(
        [point["proxy"] for point in points], [point["full"] for point in points], confidence
    )
    return {
        "num_policies": len(points),
        "stopped_early": sum(trial.status == "stopped early" for _, trial, _ in ranked),
        "spearman": spearman,
        "low": low,
        "high": high,
        "points": points,
    }


def _history(
    chosen: Trial, population: Population | None, epochs: int
) -> tuple[list[dict[str, Any]] | None, list[dict[str, Any]] | None]:
    """What was in force when, and whose weights the chosen trial had."""
    if population is None:
        return None, None
    policy = Policy.from_config(chosen.policy)
    starts = [0, *(epoch for epoch, _ in policy.phases)]
    schedule = [{"from_epoch": epoch, "words": str(policy.at(epoch))} for epoch in starts]
    member = next(member for member in population.members if member.trial == chosen.id)
    ends = [*member.lineage, ("", epochs)]
    lineage = [
        {"trial": trial, "from_epoch": epoch, "to_epoch": until} for (trial, epoch), (_, until) in pairwise(ends)
    ]
    return schedule, lineage


def _trial(trial: Trial) -> dict[str, Any]:
    keys = ("id", "name", "status", "words", "policy", "overrides", "history", "val_top1", "train_s", "error")
    return {key: getattr(trial, key) for key in keys}


def _text(
    job: Job,
    small: Job,
    ledger: Ledger,
    chosen: Trial,
    race: Mapping[str, Any] | None,
    fought: list[dict[str, Any]],
    proxy: Mapping[str, Any] | None,
) -> str:
    num_baselines = sum(trial.name is not None for trial in ledger.trials)
    sentences = [
        f"The search tried {len(ledger.trials) - num_baselines} policies beside {_count(num_baselines, 'baseline')}, "
        f"each for up to {small.train.epochs} epochs, and chose by validation."
    ]
    level = [
        trial.name for trial in ledger.trials if trial.name and (trial.val_top1 or 0.0) >= (chosen.val_top1 or 0.0)
    ]
    if level:
        sentences.append(f"Already there the baseline {_list(level)} did at least as well as the best that it found.")
    if race is None:
        sentences.append("It was not raced: its score is the best of many, and says too much (search.seeds is 0).")
        return " ".join(sentences)
    by_verdict: dict[str, list[str]] = {}
    for duel in fought:
        by_verdict.setdefault(duel["verdict"], []).append(duel["against"])
    seeds = len(race["seeds"])
    judged = f"On the whole task, with {_count(seeds, 'seed')} that the search had not seen, "
    said = []
    better, worse = by_verdict.get("better", []), by_verdict.get("worse", [])
    if better:
        said.append(f"the found policy is better than {_list(better)}")
    if worse:
        said.append(f"it is worse than {_list(worse)}" if said else f"the found policy is worse than {_list(worse)}")
    if unsure := [*by_verdict.get("cannot tell", []), *by_verdict.get("the same", [])]:
        said.append(f"against {_list(unsure)} these runs cannot tell a difference")
    sentences.append(judged + ", ".join(said) + ".")
    if worse:
        sentences.append("The search has not paid: a policy that needs no search is better.")
    elif not better:
        sentences.append("That the search has paid is not shown.")
    elif len(better) < len(fought):
        sentences.append("So a policy that needs no search may do as well.")
    if proxy is not None and proxy["spearman"] is not None:
        ends = "" if proxy["low"] is None else f" ({proxy['low']:.2f} to {proxy['high']:.2f})"
        sentences.append(
            f"The trials' task ranks {proxy['num_policies']} policies like the whole task with a rank correlation of "
            f"{proxy['spearman']:.2f}{ends}{_early(proxy['stopped_early'])}."
        )
    if chosen.overrides:
        sentences.append(f"The search also set {', '.join(chosen.overrides)}; the baselines kept the job's own.")
    return " ".join(sentences)


def _early(number: int) -> str:
    if not number:
        return ""
    return f"; {number} of them, stopped early, with what {'it' if number == 1 else 'they'} had reached"


def _list(names: list[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
