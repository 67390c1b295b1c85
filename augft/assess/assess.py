"""A run's model, examined on some pictures: what `augft evaluate` does, in order."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from augft.assess import findings
from augft.assess.calibrate import fit_temperature
from augft.assess.findings import Looked
from augft.assess.look import Pictures
from augft.assess.subject import Shelf, Subject, is_own, pictures_of, val_pictures
from augft.assess.views import AsTheyAre
from augft.assess.workers import Actors, Threads, Workers
from augft.augment.policy import Policy
from augft.data.packed import PackedDataset
from augft.display import Display
from augft.errors import AugftError, ConfigError, DataError
from augft.model.files import META_FILE
from augft.report.assessment import write_assessment
from augft.report.lenient import mapping
from augft.report.page import refresh_report
from augft.run import EVALUATIONS
from augft.storage import Storage, extend_uri
from augft.train.nodes import cluster_nodes
from augft.train.session import ray_session
from augft.train.visibility import Files, check_visible

FORMAT_VERSION = 1
_SECTIONS = ("corruptions", "sweeps", "tta", "against")
"""Found only where they are asked for."""


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
    """Examine a run's model, write the evaluation and its page, and link it from the run's report.

    Args:
        run: a finished run.
        source: pictures, as `augft pack` takes them; None: the run's own.
        split: of them; None: test, or what there is. Of the run's own it is what the run used as such.
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
    if out is not None and out.suffix != ".json":
        raise ConfigError(f"--out {out}: name a .json file")
    shown = _shown(run, source, split, wanted, address, display)
    subject, pictures = shown.subject, shown.pictures
    tta = _tta_policy(wanted, subject) if wanted.tta is not None else None
    with _workers(num_workers, address, shown.datasets) as workers:
        looked = Looked(workers, display)
        logits = looked.answers(subject, pictures, shown.split, AsTheyAre())
        found = {
            "format_version": FORMAT_VERSION,
            "run": run,
            "data": shown.described,
            "model": {
                "architecture": subject.meta.architecture,
                "step": subject.meta.step,
                "weights": subject.weights_digest,
            },
            "seed": subject.run.job.seed,
            **findings.metrics(logits, pictures, subject.classes),
        }
        temperature = None
        if (val := shown.val) is not None:
            val_logits = logits if shown.on_val else looked.answers(subject, val, "val", AsTheyAre())
            try:
                temperature = fit_temperature(val_logits, val.labels)
            except DataError:
                if wanted.temperature:
                    raise
        found["calibration"] = findings.calibrated(
            subject, logits, pictures, temperature, val, on_val=shown.on_val and val is not None
        )
        if wanted.temperature and temperature is not None:
            subject = subject.at(temperature)
        if wanted.corruptions:
            found["corruptions"] = findings.corruptions(looked, subject, pictures)
        if wanted.sweeps:
            found["sweeps"] = findings.sweeps(looked, subject, pictures)
        if tta is not None:
            found["tta"] = findings.tta(looked, subject, pictures, logits, tta, wanted.tta_copies)
        if shown.other is not None:
            found["against"] = findings.against(looked, logits, pictures, *shown.other)
    found["wall_s"] = time.monotonic() - began_at
    return _written(found, subject, wanted, source, shown.split, out)


def _written(
    found: dict[str, Any], subject: Subject, wanted: Wanted, source: str | None, split: str, out: Path | None
) -> tuple[dict[str, Any], str]:
    """Write all that is found; what was found earlier, of the same weights and pictures, stays."""
    if out is None:
        folder = Storage(subject.run.uri)
        file = _file(folder, source, split, found["data"]["digest"])
    else:
        folder, file = Storage(out.absolute().parent), out.name
    found = _earlier(folder, file, found, subject) | found
    folder.write(file, (json.dumps(found) + "\n").encode())
    write_assessment(found, folder, file.removesuffix(".json") + ".html")
    if wanted.temperature:
        subject.run.storage.write(META_FILE, subject.saved.description)
    if out is None:
        refresh_report(subject.run.uri)
    return found, f"{folder.uri}/{file}"


def _earlier(folder: Storage, file: str, found: dict[str, Any], subject: Subject) -> dict[str, Any]:
    """Sections that an earlier evaluation has, this one was not asked for, and that it would find again."""
    before = _content(folder, file)
    if any(before.get(key) != found[key] for key in ("format_version", "data", "model", "seed")):
        return {}
    kept = {key: before[key] for key in _SECTIONS if key in before and key not in found}
    # The mean of probabilities is at a temperature.
    if "tta" in kept and mapping(kept["tta"]).get("temperature", "unknown") != subject.meta.temperature:
        del kept["tta"]
    if "against" in kept and not _is_as_it_was(mapping(kept["against"])):
        del kept["against"]
    return kept


def _is_as_it_was(against: dict[str, Any]) -> bool:
    """Whether the other run has the weights that it had."""
    with suppress(AugftError):
        return Subject.of(str(against.get("run"))).weights_digest == against.get("weights")
    return False


def _content(folder: Storage, file: str) -> dict[str, Any]:
    """Of an evaluation; empty where there is none or it is damaged."""
    with suppress(ValueError):
        return mapping(json.loads(folder.read(file))) if folder.exists(file) else {}
    return {}


# ---- which pictures ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shown:
    """The models and the pictures that they are shown."""

    subject: Subject
    split: str
    pictures: Pictures
    described: dict[str, Any]
    """Of the pictures, for the file."""
    val: Pictures | None
    """What the temperature is fitted on."""
    on_val: bool
    """Whether the pictures are those."""
    other: tuple[Subject, Pictures] | None
    """Another model, and the same pictures at the size that it wants."""

    @property
    def datasets(self) -> list[PackedDataset]:
        shown = [self.pictures, *([self.val] if self.val else []), *([self.other[1]] if self.other else [])]
        return [pictures.split.dataset for pictures in shown]


def _shown(
    run: str, source: str | None, split: str | None, wanted: Wanted, address: str | None, display: Display
) -> _Shown:
    subject = Subject.of(run)
    other = Subject.of(wanted.against) if wanted.against is not None else None
    shelf = Shelf(
        # On a cluster, where all nodes see it, as training does.
        None if address is None else extend_uri(subject.run.job.run.storage_path, "/.packed"),
        lambda done, total: display.count("packing", done, total),
    )
    dataset = shelf.own(subject) if source is None else shelf.other(subject, source)
    is_runs_own = is_own(subject, dataset)
    name, pictures = pictures_of(subject, dataset, split)
    val = None
    if is_runs_own or wanted.temperature:
        val = val_pictures(subject, dataset if is_runs_own else shelf.own(subject))
    if val is None and wanted.temperature:
        raise ConfigError(
            "--temperature: the run has no validation pictures to fit it on; set data.val_fraction and train"
        )
    described = {
        "source": source or subject.run.job.data.source,
        "split": name,
        "digest": dataset.manifest.digest,
        "part": {"train": "trained on", "val": "chose the weights"}.get(name) if is_runs_own else None,
    }
    theirs = None
    if other is not None:
        theirs = (other, _same(other, shelf, source or subject.run.job.data.source, source is None, name, pictures))
    return _Shown(subject, name, pictures, described, val, is_runs_own and name == "val", theirs)


def _same(other: Subject, shelf: Shelf, source: str, is_runs_own: bool, split: str, pictures: Pictures) -> Pictures:
    """The same pictures as another run's model wants them.

    Raises:
        DataError: they are not the same.
    """
    ours = pictures.split.dataset
    if ours.manifest.digest == other.run.environment.get("data", {}).get("digest"):
        dataset = ours
    elif is_runs_own and other.run.job.data.source == source:
        dataset = shelf.own(other)
    else:
        dataset = shelf.other(other, source)
    _, theirs = pictures_of(other, dataset, split)
    of_one_size = dataset.manifest.image_shape == ours.manifest.image_shape
    if (
        (of_one_size and dataset.manifest.digest != ours.manifest.digest)
        or not np.array_equal(theirs.sample_ids, pictures.sample_ids)
        or _names(theirs) != _names(pictures)
    ):
        raise DataError(
            f"{other.run.uri} sees {len(theirs)} pictures in '{split}' that are not the {len(pictures)} of this run: "
            "source and, of val and train, seed have to be the same"
        )
    return theirs


def _names(pictures: Pictures) -> list[str]:
    """The class of each picture, by name."""
    classes = pictures.split.dataset.manifest.classes
    return [classes[label] for label in pictures.split.labels[pictures.sample_ids]]


def _file(folder: Storage, source: str | None, split: str, digest: str) -> str:
    """Of the evaluation: the split, after the source's name if that is another than the run's own.

    Where pictures of another digest have that name already, some of the digest tells these from them.
    """
    if source is None:
        return f"{EVALUATIONS}/{split}.json"
    stem = PurePosixPath(source.partition("?")[0].rstrip("/")).name.split(".")[0] or "data"
    file = f"{EVALUATIONS}/{stem}-{split}.json"
    there = mapping(_content(folder, file).get("data")).get("digest", digest)
    return file if there == digest else f"{EVALUATIONS}/{stem}-{split}-{digest[:8]}.json"


# ---- who looks, and how ----------------------------------------------------------------------------------


@contextmanager
def _workers(num_workers: int | None, address: str | None, datasets: Sequence[PackedDataset]) -> Iterator[Workers]:
    if num_workers is None and address is None:
        yield Threads()
        return
    num = num_workers or 1
    with ray_session(address, num_cpus=num):
        if address is not None:
            for path, digest in {str(dataset.path): dataset.manifest.digest for dataset in datasets}.items():
                check_visible(Files(path, digest, take="name that with --data"), cluster_nodes())
        actors = Actors(num)
        try:
            yield actors
        finally:
            actors.close()


def _tta_policy(wanted: Wanted, subject: Subject) -> Policy:
    policy = Policy.from_config(wanted.tta)
    if policy.changes:  # as it is when training ends
        epochs = policy.epochs or subject.run.job.train.epochs
        policy = replace(policy, epochs=epochs).at(epochs - 1)
    return policy
