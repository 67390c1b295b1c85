"""A run's model, examined on some pictures: what `augft evaluate` does, in order."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from augft.assess.calibrate import calibration, fit_temperature
from augft.assess.corrupt import CORRUPTIONS, GROUPS, SEVERITIES
from augft.assess.look import Pictures, Task, loss_units
from augft.assess.paired import mcnemar
from augft.assess.subject import Subject, choose_split, own_packed, packed_for, pictures_of, val_pictures
from augft.assess.views import ANGLES, SHIFTS, AsTheyAre, Augmented, Corrupted, Moved
from augft.assess.workers import Actors, Threads, Workers
from augft.augment.draw import IntArray
from augft.augment.policy import Policy
from augft.data.packed import PackedDataset
from augft.display import Display
from augft.errors import ConfigError, DataError
from augft.model.files import META_FILE, meta_to_bytes
from augft.report.assessment import write_assessment
from augft.report.interval import wilson
from augft.storage import Storage
from augft.train.progress import LOSS_UNIT
from augft.train.session import ray_session

FORMAT_VERSION = 1
FOLDER = "evaluation"

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Wanted:
    """What is to be found out beside the metrics and the calibration."""

    corruptions: bool = False
    """Accuracy under the fifteen common corruptions at five severities."""
    sweeps: bool = False
    """Accuracy under rotations and shifts."""
    tta: str | None = None
    """Test-time augmentation by this policy."""
    tta_copies: int = 8
    temperature: bool = False
    """Save the fitted temperature in model.json."""
    against: str | None = None
    """Another run, tested on the same pictures."""


def assess(
    run: str,
    *,
    source: str | None = None,
    split: str | None = None,
    wanted: Wanted = Wanted(),
    num_workers: int | None = None,
    address: str | None = None,
    out: Path | None = None,
    display: Display,
) -> tuple[dict[str, Any], str]:
    """Examine a run's model, write the evaluation and its page.

    Args:
        run: a finished run.
        source: pictures, as `augft pack` takes them; None: the run's own.
        split: of them; None: test, or what there is.
        wanted: what to find out.
        num_workers: Ray actors; None: threads of this process.
        address: of a Ray cluster; None: this machine.
        out: the JSON file; the page lies beside it. None: in the run's folder `evaluation`.
        display: where progress is shown.

    Returns:
        The content of the JSON file, and where it is.

    Raises:
        InputError: run, source, policy or cluster are wrong.
        StorageError: the evaluation could not be written.
    """
    began_at = time.monotonic()
    subject = Subject.of(run)
    other = Subject.of(wanted.against) if wanted.against is not None else None
    tta = _tta_policy(wanted, subject) if wanted.tta is not None else None
    if out is not None and out.suffix != ".json":
        raise ConfigError(f"--out {out}: name a .json file")

    def packed(of: Subject, what: str | None) -> PackedDataset:
        def progress(done: int, total: int | None) -> None:
            display.count("packing", done, total)

        return own_packed(of, progress) if what is None else packed_for(of, what, progress)

    dataset = packed(subject, source)
    split = choose_split(dataset, split)
    pictures = pictures_of(subject, dataset, split)
    val = _val(subject, dataset if source is None else None, wanted, packed)
    with _workers(num_workers, address) as workers:
        looked = _Looked(workers, display)
        logits = looked.answers(subject, pictures, "test", AsTheyAre())
        found = {
            "format_version": FORMAT_VERSION,
            "run": run,
            "data": {
                "source": source or subject.run.job.data.source,
                "split": split,
                "digest": dataset.manifest.digest,
            },
            "model": {"architecture": subject.meta.architecture, "step": subject.meta.step},
            "seed": subject.run.job.seed,
            **_metrics(logits, pictures, subject.classes),
        }
        val_logits = looked.answers(subject, val, "val", AsTheyAre()) if val is not None else None
        temperature = fit_temperature(val_logits, val.labels) if val is not None and val_logits is not None else None
        found["calibration"] = _calibration(subject, logits, pictures, temperature, val)
        if wanted.temperature and temperature is not None:
            subject = replace(subject, description=meta_to_bytes(replace(subject.meta, temperature=temperature)))
        if wanted.corruptions:
            found["corruptions"] = _corruptions(looked, subject, pictures)
        if wanted.sweeps:
            found["sweeps"] = _sweeps(looked, subject, pictures)
        if tta is not None:
            found["tta"] = _tta(looked, subject, pictures, logits, tta, wanted.tta_copies)
        if other is not None:
            found["against"] = _against(looked, other, _theirs(other, subject, source, packed), split, pictures, logits)
    found["wall_s"] = time.monotonic() - began_at
    name = _name(source, split)
    folder, file = (
        (subject.run.storage, f"{FOLDER}/{name}.json") if out is None else (Storage(out.absolute().parent), out.name)
    )
    folder.write(file, (json.dumps(found) + "\n").encode())
    write_assessment(found, folder, file.removesuffix(".json") + ".html")
    if wanted.temperature:
        subject.run.storage.write(META_FILE, subject.description)
    return found, f"{folder.uri}/{file}"


class _Looked:
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


@contextmanager
def _workers(num_workers: int | None, address: str | None) -> Iterator[Workers]:
    if num_workers is None and address is None:
        yield Threads()
        return
    num = num_workers or 1
    with ray_session(address, num_cpus=num):
        actors = Actors(num)
        try:
            yield actors
        finally:
            actors.close()


# ---- what is found -----------------------------------------------------------------------------------------


def _metrics(logits: Logits, pictures: Pictures, classes: Sequence[str]) -> dict[str, Any]:
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


def _calibration(
    subject: Subject, logits: Logits, pictures: Pictures, fitted: float | None, val: Pictures | None
) -> dict[str, Any]:
    seed = subject.run.job.seed
    saved = subject.meta.temperature
    found: dict[str, Any] = {
        "plain": calibration(logits, pictures.labels, temperature=1.0, seed=seed).to_dict(),
        "scaled": None,
        "saved_temperature": saved,
        "fitted_on": len(val) if val is not None else None,
    }
    if (temperature := fitted or saved) is not None:
        found["scaled"] = calibration(logits, pictures.labels, temperature=temperature, seed=seed).to_dict()
    return found


def _corruptions(looked: _Looked, subject: Subject, pictures: Pictures) -> dict[str, Any]:
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


def _sweeps(looked: _Looked, subject: Subject, pictures: Pictures) -> dict[str, Any]:
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


def _tta_policy(wanted: Wanted, subject: Subject) -> Policy:
    policy = Policy.from_config(wanted.tta)
    if policy.changes:  # as it is when training ends
        epochs = policy.epochs or subject.run.job.train.epochs
        policy = replace(policy, epochs=epochs).at(epochs - 1)
    return policy


def _tta(
    looked: _Looked, subject: Subject, pictures: Pictures, plain: Logits, policy: Policy, copies: int
) -> dict[str, Any]:
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
        "num_correct": int(correct.sum()),
        "top1": float(correct.mean()),
        "loss_units": units,
        "loss": units * LOSS_UNIT / len(labels),
        "against_none": mcnemar(correct, plain.argmax(1) == labels).to_dict(),
    }


def _theirs(other: Subject, subject: Subject, source: str | None, packed: Any) -> PackedDataset:
    """The same pictures, at the size that the other run wants them."""
    same = source is None and other.run.job.data.source == subject.run.job.data.source
    found: PackedDataset = packed(other, None if same else source or subject.run.job.data.source)
    return found


def _against(
    looked: _Looked, other: Subject, dataset: PackedDataset, split: str, pictures: Pictures, plain: Logits
) -> dict[str, Any]:
    theirs = pictures_of(other, dataset, split)
    names, other_names = (np.array(of) for of in (_names_of(pictures), _names_of(theirs)))
    if not np.array_equal(names, other_names):
        raise DataError(
            f"{other.run.uri} sees {len(theirs)} pictures in '{split}' that are not the {len(pictures)} of this run: "
            "the source has to be the same"
        )
    logits = looked.answers(other, theirs, f"against {other.run.job.name}", AsTheyAre())
    found = mcnemar(plain.argmax(1) == pictures.labels, logits.argmax(1) == theirs.labels)
    num = len(theirs)
    num_correct = int((logits.argmax(1) == theirs.labels).sum())
    return {"run": other.run.uri, "num_correct": num_correct, "top1": num_correct / num, **found.to_dict()}


def _names_of(pictures: Pictures) -> list[str]:
    """The class of each picture, by name."""
    classes = pictures.split.dataset.manifest.classes
    return [classes[label] for label in pictures.split.labels[pictures.sample_ids]]


def _val(subject: Subject, own: PackedDataset | None, wanted: Wanted, packed: Any) -> Pictures | None:
    """What the temperature is fitted on: asked for, or at hand."""
    if own is None and not wanted.temperature:
        return None
    val = val_pictures(subject, own or packed(subject, None))
    if val is None and wanted.temperature:
        raise ConfigError(
            "--temperature: the run has no validation pictures to fit it on; set data.val_fraction and train"
        )
    return val


def _name(source: str | None, split: str) -> str:
    """Of the evaluation: the split, after the source if that is another than the run's own."""
    if source is None:
        return split
    stem = PurePosixPath(source.rstrip("/")).name.split(".")[0] or "data"
    return f"{stem}-{split}"
