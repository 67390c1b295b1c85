"""`augft predict`: all of it in order."""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import ray
import torch

from augft.display import Display
from augft.errors import AugftError, DataError, ResourceError, Stopped
from augft.prediction.listing import LISTING, Catalogue, Source, max_rows, read_listing, write_listing
from augft.prediction.pipeline import Crew, Prediction, run_units
from augft.prediction.result import Target, put_together
from augft.prediction.source import open_source
from augft.prediction.unfinished import Identity, PredictionLease, Unfinished, unfinished_uri
from augft.saved import SavedModel, read_saved
from augft.storage import Storage, extend_uri, place
from augft.train.nodes import ask_each, cluster_nodes
from augft.train.placement import local_cpus
from augft.train.session import ray_session
from augft.train.visibility import ANSWER_S, marked

_HUSHED = {
    # That an actor of Ray Data would not restart if its arguments were lost: this process holds them to the end.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    # Figures for a dashboard that come before it knows of the data set. What workers raise is waited for, and told.
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
}


@dataclass(frozen=True)
class Predictions:
    """What `predict` has made."""

    out: str
    num_rows: int
    num_rejected: int
    rejected: str | None
    """The file that lists them; None where there are none."""


def predict(
    run: str,
    source: str,
    out: str | Path,
    *,
    num_workers: int | None = None,
    address: str | None = None,
    force: bool = False,
    verbose: bool = False,
    display: Display | None = None,
) -> Predictions:
    """Predict pictures by a run's model, however many, on Ray Data.

    Rows are in the source's sorted order, the same bytes at any number of workers; columns are `path` (in the source;
    FILE#ROW of Parquet files; `split` and `sample_id` of packed sets), `label`, `class_index` (int32) and
    `probabilities` (float32, as many as classes). Pictures that cannot be used are left out and listed, with the
    reason, in `<out without suffix>.rejected.jsonl`. Killed or stopped, the same call goes on.

    Args:
        run: a run directory.
        source: as `augft.prediction.source.open_source` takes it; it need not have labels.
        out: a path or a URI: one file, if it ends in .parquet, else a folder of them.
        num_workers: actors with a model, each with a GPU where the cluster has so many, else all on CPUs; None: one a
            GPU, or, where there is none, a CPU.
        address: of a Ray cluster; None: this machine.
        force: begin anew, and write over predictions that are there; nothing else is written over.
        verbose: let through what Ray and the workers print.
        display: where progress is shown; None: on stderr.

    Raises:
        InputError: run, source, out or cluster are wrong, or another process is at this prediction; nothing was begun.
        RunError: it began and failed; the same call goes on.
        Stopped: Ctrl-C; the same call goes on.
    """
    saved = read_saved(run)
    target = Target(str(out))
    target.check(force=force)
    try:
        with display or Display() as shown:
            return _predict(saved, source, target, _Means(num_workers, address, force, verbose), shown)
    except KeyboardInterrupt:
        without = " without --force" if force else ""
        raise Stopped(f"{target.uri}: stopped; the same command{without} goes on") from None


@dataclass(frozen=True)
class _Means:
    """How it is to be done, as `predict` is told."""

    num_workers: int | None
    address: str | None
    force: bool
    verbose: bool


def _predict(saved: SavedModel, source: str, target: Target, means: _Means, shown: Display) -> Predictions:
    pictures = open_source(source, saved.picture_size)
    target.check_apart(pictures.where, saved.where)
    lease = PredictionLease(target.uri, shown.say)
    with lease:
        target.check(force=means.force)  # again: another may have put it there meanwhile
        shown.say(f"listing {source}")
        unfinished = Unfinished(target.uri)
        with tempfile.TemporaryDirectory(prefix="augft-listing-") as scratch:
            listing = Path(scratch) / LISTING
            catalogue = write_listing(pictures, listing, max_rows(saved.picture_size))
            if not catalogue.num_pictures:
                raise DataError(f"{source} holds no pictures: expected .jpg, .png and such, at any depth")
            lease.check()
            done = unfinished.begin(_identity(pictures, catalogue, saved), listing, force=means.force)
        if goes := catalogue.goes(done):
            _run(Prediction(pictures, target.uri, saved), catalogue, goes, means, lease, shown)
        lease.check()
        shown.say("putting the predictions together")
        result = put_together(unfinished, catalogue, saved.classes, target)
    rejected = extend_uri(target.parent.uri, f"/{target.rejected_name}") if result.num_rejected else None
    return Predictions(target.uri, result.num_rows, result.num_rejected, rejected)


def _identity(pictures: Source, catalogue: Catalogue, saved: SavedModel) -> Identity:
    model = hashlib.sha256(saved.weights + saved.description + str(saved.picture_size).encode())
    return Identity(pictures.where, catalogue.digest, model.hexdigest())


def _run(
    prediction: Prediction,
    catalogue: Catalogue,
    goes: list[list[int]],
    means: _Means,
    lease: PredictionLease,
    shown: Display,
) -> None:
    num_units = sum(map(len, goes))
    total = catalogue.num_pictures
    num_done = total - int(catalogue.counts[[unit for units in goes for unit in units]].sum())
    if num_done:
        shown.say(f"going on: {num_done:,} of {total:,} pictures are done")
    reads_apart = num_units > len(goes)
    num_gpus = torch.cuda.device_count() if means.address is None else 0
    spare = (local_cpus() if num_gpus else 0) + int(reads_apart)
    shown.say("starting Ray on this machine" if means.address is None else f"connecting to Ray at {means.address}")
    num_cpus = (means.num_workers or num_gpus or local_cpus()) + spare
    with ExitStack() as stack:
        if not means.verbose:
            stack.enter_context(_hushed())
        with nullcontext() if means.verbose else _deaf():
            stack.enter_context(ray_session(means.address, num_cpus=num_cpus, verbose=means.verbose))
        resources = ray.cluster_resources()
        cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
        crew = crew_of(means.num_workers, num_units, reads_apart, cpus, gpus)
        if gpus and not crew.has_gpus:
            shown.say(f"--workers {means.num_workers} are more than the {gpus} GPUs of the cluster: all are on CPUs")
        if means.address is not None:
            _check_visible(prediction)

        def tell(unit: int, num_rejected: int) -> None:
            nonlocal num_done
            lease.check()
            num_done += int(catalogue.counts[unit])
            shown.count("predicting", num_done, total)

        run_units(prediction, goes, crew, tell)


@contextmanager
def _hushed() -> Iterator[None]:
    """Within the block, spare the terminal what Ray Data says in this process of its own inner life."""
    mine = {name: value for name, value in _HUSHED.items() if name not in os.environ}
    os.environ.update(mine)
    try:
        with warnings.catch_warnings():
            # One task that reads for all actors is what is meant.
            warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")
            yield
    finally:
        for name in mine:
            os.environ.pop(name, None)


@contextmanager
def _deaf() -> Iterator[None]:
    """Within the block nothing reaches stderr: Ray, as it starts, says there which level `_HUSHED` has set."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def crew_of(num_workers: int | None, num_units: int, reads_apart: bool, cpus: int, gpus: int) -> Crew:
    """Who predicts with what a cluster has; whoever reads apart, and whoever decodes for GPUs, needs a CPU too.

    Raises:
        ResourceError: it has not enough.
    """
    on_gpus = (num_workers or 1) <= gpus
    spare = int(on_gpus) + int(reads_apart)
    if (num_workers or 1) > cpus - spare:
        readers = f" and readers {spare}" if spare else ""
        raise ResourceError(
            f"--workers {num_workers or 'auto'}: the cluster has {cpus} CPUs, a worker takes one{readers}; give fewer"
        )
    most = min(gpus, cpus - spare) if on_gpus else cpus - spare
    return Crew(min(num_workers or most, num_units), on_gpus, reads_apart)


def _check_visible(prediction: Prediction) -> None:
    """Whether each node that may read or write sees what it needs.

    Raises:
        ResourceError: one does not.
        StorageError: this process cannot write to the folder itself.
    """
    nodes = [node for node in cluster_nodes() if node.cpus > 0]
    source, folder = prediction.source.where, unfinished_uri(prediction.out)
    file = a_file(source, read_listing(Storage(folder), [0])[0])
    with marked(folder) as marker:
        answers = ask_each(nodes, look, source, file, folder, marker, timeout_s=ANSWER_S)
    for answer in answers:
        if problem := answer.error or answer.value:
            raise ResourceError(f"node {answer.node.name} {problem}")


def a_file(source: str, unit: pa.RecordBatch) -> str:
    """One that must be there for a unit to be read: the folder alone is also there where its disk is not mounted."""
    where = place(source)
    if isinstance(where, Path) and where.is_dir() and "name" in unit.schema.names:
        return str(where / os.fsdecode(unit["name"][0].as_py()))
    return source


def look(source: str, file: str, folder: str, marker: str) -> str | None:
    """What this node does not see, in words that go on from its name."""
    where = place(file)
    shared = "a folder that all nodes share, or on s3://"
    if isinstance(where, Path) and not where.exists():
        return f"does not see the pictures at {source}; put them in {shared}"
    try:
        if Storage(folder, must_exist=True).read(marker) == marker.encode():
            return None
    except AugftError:
        pass
    return f"does not see {folder}; give an --out in {shared}"
