"""What can be found out about a model, each as plain data for the evaluation's file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from augft.assess.calibrate import calibration
from augft.assess.corrupt import CORRUPTIONS, GROUPS, SEVERITIES
from augft.assess.look import Pictures, Task, loss_units
from augft.assess.paired import mcnemar
from augft.assess.subject import Subject
from augft.assess.views import ANGLES, SHIFTS, AsTheyAre, Augmented, Corrupted, Moved
from augft.assess.workers import Workers
from augft.augment.draw import IntArray
from augft.augment.policy import Policy
from augft.display import Display
from augft.report.interval import wilson
from augft.train.progress import LOSS_UNIT

Logits = npt.NDArray[np.float32]


class Looked:
    """Has pictures looked at, and says how far it is."""

    def __init__(self, workers: Workers, display: Display) -> None:
        self._workers, self._display = workers, display

    def answers(self, subject: Subject, pictures: Pictures, what: str, *views: Any) -> Logits:
        """float32 (M, C), see `Task`."""
        answers: Logits = self._look(subject, pictures, [Task(views, answers=True)], what)[0]
        return answers

    def counts(self, subject: Subject, pictures: Pictures, what: str, views: Sequence[Any]) -> IntArray:
        """int64 (V, 3), see `Task`."""
        return np.concatenate(self._look(subject, pictures, [Task((view,)) for view in views], what))

    def _look(self, subject: Subject, pictures: Pictures, tasks: list[Task], what: str) -> list[Any]:
        return self._workers.look(
            subject, pictures, tasks, lambda done, total: self._display.count(f"evaluating: {what}", done, total)
        )


def metrics(logits: Logits, pictures: Pictures, classes: Sequence[str]) -> dict[str, Any]:
    """Accuracy, loss and confusion matrix; `correct` has a bit for each picture."""
    labels, predicted = pictures.labels, logits.argmax(1)
    num, num_classes = len(labels), len(classes)
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    # Ahead of the label: what has a higher logit, or as high a one and a lower number, as argmax breaks ties.
    own = logits[np.arange(num), labels][:, None]
    ahead = (logits > own) | ((logits == own) & (np.arange(num_classes) < labels[:, None]))
    num_top5 = int((ahead.sum(1) < 5).sum())
    num_correct = int(np.trace(confusion))
    units = int(loss_units(torch.from_numpy(logits), torch.from_numpy(labels)).sum())
    return {
        "num_samples": num,
        "num_correct": num_correct,
        "top1": num_correct / num,
        "top1_interval": list(wilson(num_correct, num)),
        "num_top5": num_top5,
        "top5": num_top5 / num if num_classes > 5 else None,
        "loss_units": units,
        "loss": units * LOSS_UNIT / num,
        "classes": list(classes),
        "confusion": confusion.tolist(),
        "correct": base64.b64encode(np.packbits(labels == predicted).tobytes()).decode(),
    }


def calibrated(
    subject: Subject, logits: Logits, pictures: Pictures, fitted: float | None, val: Pictures | None, *, on_val: bool
) -> dict[str, Any]:
    """How well confidence matches accuracy, as trained and with a temperature.

    Args:
        subject: the model.
        logits: its answers to `pictures`.
        pictures: what it is judged on.
        fitted: the temperature of least loss on `val`; None: the one that was saved, if there is one.
        val: what that temperature is fitted on.
        on_val: whether that is what it is judged on, too.
    """
    seed = subject.run.job.seed
    saved = subject.meta.temperature
    found: dict[str, Any] = {
        "plain": calibration(logits, pictures.labels, temperature=1.0, seed=seed).to_dict(),
        "scaled": None,
        "saved_temperature": saved,
        "fitted_on": len(val) if val is not None and fitted is not None else None,
        "judged_on_the_same": on_val,
    }
    if (temperature := fitted or saved) is not None:
        found["scaled"] = calibration(logits, pictures.labels, temperature=temperature, seed=seed).to_dict()
    return found


def corruptions(looked: Looked, subject: Subject, pictures: Pictures) -> dict[str, Any]:
    """Errors under each corruption at each severity."""
    seed = subject.run.job.seed
    views = [Corrupted(name, severity, seed) for name in CORRUPTIONS for severity in SEVERITIES]
    counts = looked.counts(subject, pictures, "corruptions", views).reshape(len(CORRUPTIONS), len(SEVERITIES), 3)
    errors = 1 - counts[..., 1] / counts[..., 0]
    rows = {
        name: {
            "group": next(group for group, members in GROUPS.items() if CORRUPTIONS[name] in members),
            "num_correct": counts[i, :, 1].tolist(),
            "loss_units": counts[i, :, 2].tolist(),
            "error": errors[i].tolist(),
            "mean_error": float(errors[i].mean()),
        }
        for i, name in enumerate(CORRUPTIONS)
    }
    return {
        "severities": list(SEVERITIES),
        "rows": rows,
        "mean_error": float(errors.mean()),
        "mean_error_by_severity": errors.mean(0).tolist(),
    }


def sweeps(looked: Looked, subject: Subject, pictures: Pictures) -> dict[str, Any]:
    """Accuracy over rotation and shift."""
    kinds: dict[str, Sequence[float]] = {"rotation": ANGLES, "shift_x": SHIFTS, "shift_y": SHIFTS}
    views = [Moved(how, float(amount)) for how, amounts in kinds.items() for amount in amounts]
    counts = iter(looked.counts(subject, pictures, "sweeps", views))
    found: dict[str, Any] = {}
    for how, amounts in kinds.items():
        rows = np.array([next(counts) for _ in amounts])
        found[how] = {
            "amounts": list(amounts),
            "num_correct": rows[:, 1].tolist(),
            "loss_units": rows[:, 2].tolist(),
            "top1": (rows[:, 1] / rows[:, 0]).tolist(),
        }
    return found


def tta(
    looked: Looked, subject: Subject, pictures: Pictures, plain: Logits, policy: Policy, copies: int
) -> dict[str, Any]:
    """Answers averaged over copies by a policy, against those to the pictures as they are."""
    views = [Augmented(policy, copy, subject.run.job.seed) for copy in range(copies)]
    mean = looked.answers(subject, pictures, "test-time augmentation", *views)
    if copies == 1:  # logits, not yet divided
        mean = mean / np.float32(subject.meta.temperature or 1.0)
    labels = pictures.labels
    correct = mean.argmax(1) == labels
    units = int(loss_units(torch.from_numpy(mean), torch.from_numpy(labels)).sum())
    return {
        "policy": policy.to_config(),
        "policy_name": policy.name,
        "copies": copies,
        "temperature": subject.meta.temperature,
        "num_correct": int(correct.sum()),
        "top1": float(correct.mean()),
        "loss_units": units,
        "loss": units * LOSS_UNIT / len(labels),
        "against_none": mcnemar(correct, plain.argmax(1) == labels).to_dict(),
    }


def against(looked: Looked, plain: Logits, pictures: Pictures, other: Subject, theirs: Pictures) -> dict[str, Any]:
    """Two models on the same pictures; `theirs` may be at another size."""
    logits = looked.answers(other, theirs, f"against {other.run.job.name}", AsTheyAre())
    right = logits.argmax(1) == theirs.labels
    found = mcnemar(plain.argmax(1) == pictures.labels, right)
    return {
        "run": other.run.uri,
        "weights": other.weights_digest,
        "num_correct": int(right.sum()),
        "top1": float(right.mean()),
        **found.to_dict(),
    }
