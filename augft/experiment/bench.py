"""Trials side by side, by Ray Tune: each a function with the whole training loop inside.

There are two forms. A trial that trains with one worker is `run_alone` in one process, with a CPU of its own; it
reports after each epoch. One that trains with several is a whole `augft train` of its own, with workers and actors on
the cluster; it trains to a rung, ends, and asks whether it may go on: so nothing of it runs when Ray Tune stops it, and
what its workers held is free. Either way the trial's state is its run directory. A trial that died is started again by
Ray Tune and goes on from there, to the same samples.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from ray import tune
from ray.tune import Callback, FailureConfig, PlacementGroupFactory, RunConfig, Stopper, TuneConfig, Tuner
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from rich.console import Console

from augft.config import Job, load_job_text
from augft.display import Display
from augft.errors import AugftError, InputError, StorageError
from augft.experiment.ledger import Ledger, Trial
from augft.experiment.trial import Room, trial_threads
from augft.prepare import prepare_packed
from augft.run import METRICS, Run
from augft.storage import Storage
from augft.train.attend import in_a_line
from augft.train.launch import train
from augft.train.solo import run_alone

_TUNE_FOLDER = ".tune"
_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # Ctrl-C is heard by whoever runs the search.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # A trial that is stopped in the middle of an epoch cannot answer; what it saved is on the storage.
    "TUNE_FORCE_TRIAL_CLEANUP_S": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "RAY_AIR_NEW_OUTPUT": "0",
}


@dataclass(frozen=True)
class Work:
    """What a trial has to do."""

    trial: Trial
    job: Job
    uri: str
    """Its run directory."""
    last: bool = True
    """Whether this is all of it: then its checkpoints go when it is done."""


class Bench:
    """Runs trials.

    Args:
        folder: the search's.
        ledger: where what they report is written down.
        room: for them.
        packed: the packed data set.
        rungs: epochs at which a trial with workers of its own ends and asks.
        stop_is_asked: whether to leave it.
    """

    def __init__(
        self,
        folder: str,
        ledger: Ledger,
        room: Room,
        *,
        packed: str,
        rungs: Sequence[int] = (),
        stop_is_asked: Callable[[], bool] = lambda: False,
    ) -> None:
        self._folder, self._ledger, self._room = folder, ledger, room
        self._packed, self._rungs, self._stop_is_asked = packed, rungs, stop_is_asked

    def run(
        self,
        works: Iterator[Work],
        num_works: int,
        job: Job,
        *,
        scheduler: TrialScheduler | None = None,
        on_end: Callable[[Trial], None] = lambda _: None,
    ) -> None:
        """Run what `works` gives, asked for each when there is room for it.

        Args:
            works: the next one may depend on how earlier ones ended.
            num_works: how many there are.
            job: like those of the works: who works on them, and how often they are started again.
            scheduler: which of them go on; None: all.
            on_end: told of each that ended.

        Raises:
            InputError: a trial says that the input is wrong.
        """
        if num_works == 0:
            return
        record = _Record(self._ledger, on_end, self._stop_is_asked)
        room = self._room
        resources = {"CPU": room.cpus, **({"GPU": room.gpus} if room.gpus else {})}
        labels = {} if room.in_workers else job.scale.worker_label_selector
        where = {"bundle_label_selector": [labels]} if labels else {}
        os.environ.update({name: os.environ.get(name, value) for name, value in _ENVIRONMENT.items()})
        tuner = Tuner(
            tune.with_resources(
                _train_with_workers if room.in_workers else _train_alone, PlacementGroupFactory([resources], **where)
            ),
            tune_config=TuneConfig(
                search_alg=_Proposals(map(self._config, works)),
                scheduler=scheduler or FIFOScheduler(),
                num_samples=num_works,
                max_concurrent_trials=room.seats,
                reuse_actors=True,
                trial_name_creator=lambda trial: f"trial-{trial.trial_id}",
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=RunConfig(
                name=_TUNE_FOLDER,
                storage_path=self._folder,
                failure_config=FailureConfig(max_failures=job.run.max_failures),
                callbacks=[record],
                stop=_Leave(record.is_left),
                verbose=0,
            ),
        )
        tuner.fit()
        with suppress(StorageError):
            Storage(self._folder).remove(_TUNE_FOLDER)
        if record.error is not None:
            raise record.error

    def is_left(self) -> bool:
        """Whether somebody asked to stop."""
        return self._stop_is_asked()

    def _config(self, work: Work) -> dict[str, Any]:
        return {
            "id": work.trial.id,
            "uri": work.uri,
            "job": work.job.to_yaml(),
            "packed": self._packed,
            "rungs": list(self._rungs),
            "seats": self._room.seats,
            "told": work.trial.history[-1]["epoch"] if work.trial.history else 0,
            "last": work.last,
        }


# -- in the trial's process ------------------------------------------------------------------------------------------


def _train_alone(config: dict[str, Any]) -> None:
    job = load_job_text(config["job"], config["uri"])
    began_at = time.monotonic()

    def on_event(event: dict[str, Any]) -> None:
        if event["kind"] == "line" and event["split"] == "val":
            _report(event, time.monotonic() - began_at)

    with _failures_told():
        for line in _val_lines(config["uri"])[config["told"] :]:  # the driver may have died before it heard of them
            _report(line, 0.0)
        summary = run_alone(
            job,
            config["uri"],
            prepared=prepare_packed(job, config["packed"]),
            threads=trial_threads(job),
            on_event=on_event,
            with_test=False,
            keep_checkpoints=not config["last"],
            with_preview=False,
            free_to_change=("augment.policy",),
        )
        if config["last"]:
            _report_end(summary)


def _train_with_workers(config: dict[str, Any]) -> None:
    job = load_job_text(config["job"], config["uri"])
    told = config["told"]
    with _failures_told():
        for epochs in (*config["rungs"], None):
            part = job if epochs is None else job.replace([f"train.stop.epochs={epochs}"])
            run = train(
                part,
                run_dir=config["uri"],
                address="auto",
                resume=True,
                display=Display(Console(quiet=True)),
                trials=config["seats"],
            )
            lines = _val_lines(config["uri"])
            for line in lines[told:]:
                _report(line, run.summary["train_s"])
            told = len(lines)
            if run.summary["stop_reason"] != "epochs":
                break
        _report_end(run.summary)


def _val_lines(uri: str) -> list[dict[str, Any]]:
    """Of the run so far, one an epoch."""
    run = Run(uri)
    return [line for line in run.metrics if line["split"] == "val"] if run.storage.exists(METRICS) else []


def _report(line: dict[str, Any], train_s: float) -> None:
    tune.report({"epoch": line["epoch"] + 1, "val_top1": line["top1"], "train_s": train_s})


def _report_end(summary: dict[str, Any]) -> None:
    tune.report({"outcome": "finished", "train_s": summary["train_s"]})


@contextmanager
def _failures_told() -> Iterator[None]:
    """What a restart would only meet again is the trial's result; after anything else Ray Tune starts it anew."""
    try:
        yield
    except AugftError as error:
        tune.report({"outcome": "failed", "error": str(error), "is_input": isinstance(error, InputError)})


# -- in the driver's process -----------------------------------------------------------------------------------------


class _NotSaved:
    """Ray Tune writes down all that it is given; the search keeps its own books."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Proposals(_NotSaved, Searcher):  # type: ignore[misc]
    """Hands out the works in turn."""

    def __init__(self, configs: Iterator[dict[str, Any]]) -> None:
        super().__init__(metric="val_top1", mode="max")
        self._configs = configs

    def suggest(self, trial_id: str) -> Any:
        return next(self._configs, Searcher.FINISHED)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None: ...

    def save(self, checkpoint_path: str) -> None: ...

    def restore(self, checkpoint_path: str) -> None: ...


class _Record(_NotSaved, Callback):  # type: ignore[misc]
    """Writes down what trials report."""

    def __init__(self, ledger: Ledger, on_end: Callable[[Trial], None], stop_is_asked: Callable[[], bool]) -> None:
        self._ledger, self._on_end = ledger, on_end
        self._stop_is_asked = stop_is_asked
        self.error: AugftError | None = None
        """Why nothing more makes sense."""

    def is_left(self) -> bool:
        """Whether trials are stopped where they are, to be gone on with later."""
        return self.error is not None or self._stop_is_asked()

    def on_trial_result(self, iteration: int, trials: Sequence[Any], trial: Any, result: dict[str, Any]) -> None:
        known = self._ledger[trial.config["id"]]
        known.train_s = result.get("train_s", known.train_s)
        if "epoch" in result:
            known.reported(result["epoch"], result["val_top1"])
        if "outcome" in result:
            known.status, known.error = result["outcome"], result.get("error")
            if result.get("is_input"):
                self.error = InputError(result["error"])
        self._save()

    def on_trial_complete(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        self._ended(trial, "stopped early" if trial.config["last"] and not self.is_left() else "unfinished")

    def on_trial_error(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        known = self._ledger[trial.config["id"]]
        error = trial.get_error()
        known.error = in_a_line(error) if error else "its process died"
        self._ended(trial, "failed")

    def _ended(self, trial: Any, status: Any) -> None:
        known = self._ledger[trial.config["id"]]
        if known.status == "unfinished":
            known.status = status
        self._save()
        if known.status != "unfinished":
            self._on_end(known)

    def _save(self) -> None:
        try:
            self._ledger.save()
        except StorageError as error:
            self.error = error


class _Leave(_NotSaved, Stopper):  # type: ignore[misc]
    """Stops all trials when it is asked to."""

    def __init__(self, asked: Callable[[], bool]) -> None:
        self._asked = asked

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._asked()
