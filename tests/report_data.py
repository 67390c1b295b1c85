"""What the tests of the reports are fed: a run directory, a comparison and a search. Nothing in here was trained."""

from __future__ import annotations

import base64
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from augft.augment.policy import PRESETS, Policy
from augft.config import load_job
from augft.data.packed import open_packed

NUM_EPOCHS = 10
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
SKILLS = {"none": 0.0, "standard": 0.021, "randaugment": 0.034, "cutout": 0.006, "vertical": -0.027}
"""Policies, and what each is made to score above the first."""
Z = 2.6

# ---- a run directory -----------------------------------------------------------------------------------


def make_run(folder: Path, packed: Path, *, policy: str = "digits", skill: float = 0.93) -> Path:
    """What training would leave: curves that fall, and a test result of about `skill`, none of it trained."""
    rng = np.random.default_rng(round(1000 * skill))
    folder.mkdir(parents=True)
    job = load_job(None, [f"name={folder.name}", f"augment.policy={policy}"])
    (folder / "config.yaml").write_text(job.to_yaml())
    (folder / "policy.json").write_text(PRESETS[policy].to_json())
    dataset = open_packed(packed)
    test = dataset.split("test")
    labels, classes = test.labels, list(dataset.manifest.classes)
    predicted = np.where(rng.random(len(labels)) < skill, labels, (labels + 5 * rng.integers(1, 3, len(labels))) % 10)
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (labels, predicted), 1)
    top1 = float((labels == predicted).mean())
    wrong = np.flatnonzero(labels != predicted)[:24]
    worst = [
        {
            "sample_id": int(i),
            "label": int(labels[i]),
            "predicted": int(predicted[i]),
            "probability": 0.99 - 0.01 * rank,
            "loss": 5.0 - 0.1 * rank,
        }
        for rank, i in enumerate(wrong)
    ]
    evaluation = {"num_samples": len(labels), "top1": top1, "loss": 0.3, "classes": classes}
    write_json(folder / "evaluation.json", evaluation | {"confusion": confusion.tolist(), "worst": worst})
    lines: list[dict[str, Any]] = []
    for epoch in range(NUM_EPOCHS):
        at = {"step": 13 * (epoch + 1), "epoch": epoch}
        left = math.exp(-epoch / 3)
        train = {"split": "train", "loss": 0.25 + 1.9 * left, "top1": skill - 0.6 * left, "num_samples": 800}
        speed = {"images_per_s": 310.0 + 9 * rng.normal(), "data_wait_s": 0.02 + 0.3 * (epoch == 0)}
        lines.append(at | train | speed | {"lr": 0.025 * (1 + math.cos(math.pi * (epoch + 1) / NUM_EPOCHS))})
        val = {"split": "val", "loss": 0.2 + 1.5 * left, "top1": round(140 * (skill - 0.5 * left)) / 140}
        lines.append(at | val | {"num_samples": 140})
    lines.append({"step": 130, "epoch": 9, "split": "test", "loss": 0.3, "top1": top1, "num_samples": len(labels)})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = {
        "best_step": 130,
        "val_top1": lines[-2]["top1"],
        "test_top1": top1,
        "test_num_samples": len(labels),
        "stop_reason": "epochs",
        "steps": 130,
        "epochs": NUM_EPOCHS,
        "images_per_s": 311.2,
        "data_stall_fraction": 0.018,
        "wall_s": 41.3,
        "train_s": 25.7,
        "first_batch_s": 2.4,
        "num_restarts": 0,
        "stream_digest": "5e1f" * 16,
    }
    write_json(folder / "summary.json", summary)
    environment = {
        "augft": "0.1.0",
        "python": "3.11.9",
        "torch": "2.6.0",
        "hardware": {"cpus": 2, "gpus": 0},
        "git_revision": None,
        "data": {
            "path": str(packed),
            "digest": dataset.manifest.digest,
            "classes": classes,
            "num_test": len(labels),
        },
    }
    write_json(folder / "environment.json", environment)
    sheet, _ = dataset.split("train").gather(np.arange(24))
    rows = np.concatenate([np.concatenate(list(sheet[i : i + 8]), 1) for i in (0, 8, 16)])
    Image.fromarray(rows).resize((1024, 384), Image.Resampling.NEAREST).save(folder / "preview.png")
    return folder


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))


def change(path: Path, **values: Any) -> None:
    write_json(path, json.loads(path.read_text()) | values)


# ---- a comparison --------------------------------------------------------------------------------------


def make_comparison(
    labels: tuple[int, ...] = (40, 400), seeds: tuple[int, ...] = (0, 1, 2, 3, 4), baseline: str = "none"
) -> dict[str, Any]:
    """A cell for each number of labels, and five policies in each; with one number there is no axis."""
    return {
        "version": 1,
        "kind": "comparison",
        "name": "test data, nothing trained",
        "created": "2020-01-01T00:00:00+00:00",
        "augft": "0.0.0",
        "baseline": baseline,
        "seeds": list(seeds),
        "confidence": 0.95,
        "judged_on": "test",
        "num_comparisons": (len(SKILLS) - 1) * len(labels),
        "cells": [_cell(num, seeds, baseline, alone=len(labels) == 1) for num in labels],
    }


def _cell(num_labels: int, seeds: tuple[int, ...], baseline: str, *, alone: bool) -> dict[str, Any]:
    rng = np.random.default_rng(num_labels)
    level = 0.42 + 0.13 * math.log10(num_labels)
    shrink = 1.6 / math.log10(num_labels)
    noise_of_seed = 0.012 * rng.normal(size=len(seeds))
    tops = {
        name: level + shrink * skill + noise_of_seed + 0.005 * rng.normal(size=len(seeds))
        for name, skill in SKILLS.items()
    }
    policies = [_policy(name, tops, seeds, baseline, rng) for name in SKILLS]
    best = max(policies, key=lambda policy: policy["val_top1"])
    versus = best["versus"]
    said = versus["text"] if versus else f"Nothing is better than {baseline}."
    return {
        "key": {} if alone else {"labels_per_class": num_labels},
        "title": "" if alone else f"{num_labels} labels a class",
        "classes": CLASSES,
        "num_pictures": 10_000,
        "policies": policies,
        "chosen": best["name"],
        "chosen_by": "val",
        "text": f"Test data. Of five policies {best['name']} was chosen by validation. {said}",
    }


def _policy(
    name: str, tops: dict[str, Any], seeds: tuple[int, ...], baseline: str, rng: np.random.Generator
) -> dict[str, Any]:
    ours, slower = tops[name], 1.0 + 0.04 * list(SKILLS).index(name)
    runs = [
        {
            "seed": seed,
            "uri": f"runs/{name}-{seed}",
            "val_top1": float(top1 + 0.004 * rng.normal()),
            "top1": float(top1),
            "train_s": 30.0 * slower + float(rng.normal()),
            "images_per_s": 1_130.0 / slower + 9 * float(rng.normal()),
            "data_stall_fraction": abs(0.002 * float(rng.normal())),
            "steps": 400,
            "stop_reason": "epochs",
            "stream_digest": f"{rng.integers(2**62):016x}" * 4,
        }
        for seed, top1 in zip(seeds, ours, strict=True)
    ]
    progress = 1 - np.exp(-np.arange(1, 21) / 5)
    policy = PRESETS.get(name, Policy.from_config(["vertical_flip"]))
    train_s = float(np.mean([run["train_s"] for run in runs]))
    return {
        "name": name,
        "words": f"{name}: {', '.join(op.name for op in policy.plain_ops) or 'pictures as they are'}",
        "policy": policy.to_config(),
        "runs": runs,
        "top1": float(ours.mean()),
        "top1_spread": float(ours.std(ddof=1)) if len(seeds) > 1 else None,
        "val_top1": float(np.mean([run["val_top1"] for run in runs])),
        "train_s": train_s,
        "time_ratio": slower,
        "versus": None if name == baseline else _versus(name, ours - tops[baseline], baseline),
        "per_class": []
        if name == baseline
        else [_of_class(one, float((ours - tops[baseline]).mean()), rng) for one in CLASSES],
        "curves": {
            "epoch": list(range(1, 21)),
            "val_top1": [(top1 * progress + 0.008 * rng.normal(size=20)).tolist() for top1 in ours],
            "train_loss": [(2.3 - 1.9 * progress / slower**3 + 0.03 * rng.normal(size=20)).tolist() for _ in ours],
        },
        "preview": _strip(rng),
    }


def _versus(name: str, apart: Any, baseline: str) -> dict[str, Any]:
    middle = float(apart.mean())
    if len(apart) == 1:
        nothing = {"low": None, "high": None, "further_seeds": None}
        said = f"One seed: {name} scores {100 * middle:+.1f} points, and nobody knows how sure that is."
        return {"difference": middle, "probability_better": 0.5, "verdict": "cannot tell", "text": said} | nothing
    half = Z * math.hypot(float(apart.std(ddof=1)) / math.sqrt(len(apart)), 0.003)
    verdict = "better" if middle > half else "worse" if middle < -half else "cannot tell"
    ends = f"{100 * (middle - half):.1f} to {100 * (middle + half):.1f}"
    return {
        "difference": middle,
        "low": middle - half,
        "high": middle + half,
        "probability_better": 0.5 * (1 + math.erf(Z * middle / half / math.sqrt(2))),
        "verdict": verdict,
        "further_seeds": 0 if verdict != "cannot tell" else 7,
        "text": f"{name} against {baseline}: {verdict}, {100 * middle:+.1f} points ({ends}).",
    }


def _of_class(name: str, overall: float, rng: np.random.Generator) -> dict[str, Any]:
    middle = overall + 0.025 * float(rng.normal())
    return {"class": name, "difference": middle, "low": middle - 0.03, "high": middle + 0.03}


def _strip(rng: np.random.Generator) -> str:
    """Eight pictures of coloured noise, as a data URI."""
    base = rng.integers(40, 215, (2, 4 * 8, 3)).repeat(2, 0).astype(np.uint8)
    target = io.BytesIO()
    Image.fromarray(base).resize((8 * 48, 2 * 48), Image.Resampling.BICUBIC).save(target, "PNG")
    return f"data:image/png;base64,{base64.b64encode(target.getvalue()).decode()}"


# ---- a search ------------------------------------------------------------------------------------------


def make_search(algorithm: str = "pbt") -> dict[str, Any]:
    """Sixteen trials, two of them baselines; by `pbt` with a schedule, by `asha` with trials that stop early."""
    rng = np.random.default_rng(16)
    trials = [_trial(i, algorithm, rng) for i in range(16)]
    best = max((t for t in trials if t["name"] is None and t["val_top1"]), key=lambda t: t["val_top1"])
    pbt = algorithm == "pbt"
    policy = _schedule() if pbt else Policy.from_config(best["policy"])
    race = make_comparison(labels=(40,)) | {"baseline": "found", "num_comparisons": 2}
    race["cells"] = [_race(race["seeds"])]
    *baselines, found = race["cells"][0]["policies"]
    duels = [
        {"against": theirs["name"], **_versus("found", _apart(found, theirs), theirs["name"])} for theirs in baselines
    ]
    return {
        "version": 1,
        "kind": "search",
        "name": "test data, nothing trained",
        "created": "2020-01-01T00:00:00+00:00",
        "augft": "0.0.0",
        "algorithm": algorithm,
        "sampler": "random",
        "space": ["rotate: 0 to 30 degrees, p 0 to 1", "horizontal_flip: p 0 to 1", "copies: 1 or 2"],
        "budget": {"trials": 16, "epochs": NUM_EPOCHS, "labels_per_class": 100, "wall_s": 300.2},
        "trials": trials,
        "proxy": {
            "num_policies": 6,
            "stopped_early": 2,
            "spearman": 0.77,
            "low": -0.1,
            "high": 0.97,
            "points": [
                {"name": name, "proxy": 0.4 + 0.02 * i, "full": 0.6 + 0.03 * i + 0.02 * float(rng.normal())}
                for i, name in enumerate(["none", "cutout", "standard", "augmix", "found", "randaugment"])
            ],
        },
        "chosen": {
            "trial": best["id"],
            "name": "found",
            "words": "horizontal_flip(p=0.5), rotate(degrees=12), crop(padding=4)",
            "policy": policy.to_config(),
            "policy_file": "policy.json",
            "overrides": ["augment.copies=2"],
            "val_top1": best["val_top1"],
        },
        "schedule": [
            {"from_epoch": 0, "words": "horizontal_flip(p=0.5), rotate(degrees=5, p=0.3)"},
            {"from_epoch": 4, "words": "horizontal_flip(p=0.5), rotate(degrees=12, p=0.6), cutout(size=0.3, p=0.4)"},
            {"from_epoch": 7, "words": "rotate(degrees=20, p=0.9), cutout(size=0.5, p=0.8), brightness(0.7 to 1.3)"},
        ]
        if pbt
        else None,
        "lineage": [
            {"trial": "0002", "from_epoch": 0, "to_epoch": 4},
            {"trial": "0011", "from_epoch": 4, "to_epoch": 7},
            {"trial": best["id"], "from_epoch": 7, "to_epoch": NUM_EPOCHS},
        ]
        if pbt
        else None,
        "race": race,
        "duels": duels,
        "text": "Test data. Sixteen trials, of which two are baselines, and a race on fresh seeds against both.",
    }


def _race(seeds: list[int]) -> dict[str, Any]:
    """Held against what was found."""
    cell = _cell(40, tuple(seeds), "randaugment", alone=True)
    cell["policies"] = [policy for policy in cell["policies"] if policy["name"] in ("none", "standard", "randaugment")]
    cell["policies"][2] |= {"name": "found", "words": "found: rotate(degrees=12)"}
    for policy in cell["policies"][:2]:
        policy["versus"]["text"] = policy["versus"]["text"].replace("randaugment", "found")
    cell["chosen"] = "found"
    cell["text"] = "Test data. Trained anew on fresh seeds beside two baselines, found is the best of three."
    return cell


def _apart(ours: dict[str, Any], theirs: dict[str, Any]) -> Any:
    return np.array([a["top1"] - b["top1"] for a, b in zip(ours["runs"], theirs["runs"], strict=True)])


def _trial(i: int, algorithm: str, rng: np.random.Generator) -> dict[str, Any]:
    name = {0: "none", 1: "standard"}.get(i)
    skill = 0.55 + 0.06 * float(rng.normal())
    is_weak = algorithm == "asha" and name is None and skill < 0.56
    status = "failed" if i == 9 else "stopped early" if is_weak else "finished"
    num_epochs = {"finished": NUM_EPOCHS, "stopped early": 2 + 2 * (i % 2), "failed": 0}[status]
    tops = [skill * (1 - math.exp(-epoch / 3)) + 0.01 * float(rng.normal()) for epoch in range(1, num_epochs + 1)]
    degrees = round(float(rng.uniform(0, 30)), 1)
    policy = (
        PRESETS[name] if name else Policy.from_config([{"rotate": {"degrees": degrees, "p": 0.7}}, "horizontal_flip"])
    )
    return {
        "id": f"{i:04d}",
        "name": name,
        "status": status,
        "words": f"{policy.name}: rotate(degrees={degrees}, p=0.7)" if name is None else f"{name}: as it is",
        "policy": policy.to_config(),
        "overrides": [] if name else [f"augment.copies={1 + i % 2}"],
        "history": [{"epoch": epoch, "val_top1": top1} for epoch, top1 in enumerate(tops, 1)],
        "val_top1": max(tops, default=None),
        "train_s": 1.9 * num_epochs,
        "error": "the loss is not finite" if status == "failed" else None,
    }


def _schedule() -> Policy:
    flip, weak, strong = "horizontal_flip", {"size": 0.3, "p": 0.4}, {"size": 0.5, "p": 0.8}
    second = [flip, {"rotate": {"degrees": 12, "p": 0.6}}, {"cutout": weak}]
    third = [{"rotate": {"degrees": 20, "p": 0.9}}, {"cutout": strong}, {"brightness": {"factor": [0.7, 1.3]}}]
    return Policy.from_config(
        {
            "name": "found",
            "epochs": NUM_EPOCHS,
            "ops": [flip, {"rotate": {"degrees": 5, "p": 0.3}}],
            "phases": [{"from_epoch": 4, "ops": second}, {"from_epoch": 7, "ops": third}],
        }
    )
