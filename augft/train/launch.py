"""Job → Ray Train → a run directory that explains itself."""

from __future__ import annotations

import json
import platform
import subprocess
import threading
import time
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from augft.config import Job
from augft.display import Display
from augft.errors import AugftError, RunError
from augft.model import build_model
from augft.model.stages import stages, trainable_stages
from augft.prepare import Prepared, prepare
from augft.report.page import write_report
from augft.report.preview import preview_png
from augft.report.text import comparison
from augft.run import CONFIG, ENVIRONMENT, POLICY, PREVIEW, SUMMARY, Run, check_startable
from augft.storage import Storage
from augft.train.loop import Assignment, train_loop
from augft.train.placement import Placement, cluster_placement, local_placement
from augft.train.session import ray_session
from augft.train.trackers import check_trackers

_POLL_S = 0.5
_RAY_FOLDER = ".ray"


def run_uri(job: Job, run_dir: str | None = None) -> str:
    """Where a job's run lives: `run_dir`, else `<storage_path>/<name>`."""
    return Storage(run_dir or f"{job.run.storage_path.rstrip('/')}/{job.name}").uri


def train(
    job: Job,
    *,
    run_dir: str | None = None,
    address: str | None = None,
    resume: bool = False,
    verbose: bool = False,
    display: Display | None = None,
) -> Run:
    """Train a job to its end and return its run. With `run.baseline`, that run follows, beside this one.

    Args:
        job: what to do.
        run_dir: where the run lives; None: `<storage_path>/<name>`.
        address: of a Ray cluster; None: this machine.
        resume: go on with the run that is there.
        verbose: let through what Ray and the workers print.
        display: where progress is shown; None: on stderr.

    Raises:
        InputError: job, data, weights, run directory or cluster are wrong; nothing was begun.
        RunError: the run began and failed.
    """
    began_at = time.time()
    uri = run_uri(job, run_dir)
    jobs = {uri: job}
    if job.run.baseline is not None:
        jobs[f"{uri}-baseline"] = _baseline(job)
    local = local_placement(job.scale) if address is None else None
    check_trackers(job.run.trackers)
    with display or Display() as shown:
        for where, each in jobs.items():
            check_startable(where, each, resume)
        prepared = {where: prepare(each, shown) for where, each in jobs.items()}
        _check_model(job, prepared[uri])
        shown.say("starting Ray on this machine" if address is None else f"connecting to Ray at {address}")
        with ray_session(address, num_cpus=local.num_cpus if local else 0, verbose=verbose):
            placement = local or cluster_placement(job.scale, ray.cluster_resources())
            if placement.note:
                shown.say(placement.note)
            for where, each in jobs.items():
                if _is_done(where, each):
                    shown.say(f"{where}: finished before")
                    continue
                shown.say(f"{where}: {prepared[where].policy}")
                _train(each, prepared[where], where, placement, began_at, shown)
                began_at = time.time()
        baseline = f"{uri}-baseline" if len(jobs) > 1 else None
        page = write_report(uri, baseline)
        if baseline is not None:
            shown.console.print(comparison(Run(uri).summary, Run(baseline).summary))
        shown.say(f"report: {page}")
    return Run(uri)


def _check_model(job: Job, prepared: Prepared) -> None:
    """Build the model once here, so that what is wrong with it is said before anything begins."""
    manifest = prepared.dataset.manifest
    built = build_model(
        job.model.name,
        num_classes=len(manifest.classes),
        weights=job.model.weights,
        stem=job.model.stem,
        classes=manifest.classes,
        seed=job.seed,
    )
    trainable_stages(job.model.freeze, list(stages(built.module)), 0, 1)


def _baseline(job: Job) -> Job:
    """The same job with the baseline's policy: as many steps of as many items."""
    plain = job.model_copy(
        update={
            "name": f"{job.name}-baseline",
            "augment": job.augment.model_copy(update={"policy": job.run.baseline}),
            "run": job.run.model_copy(update={"baseline": None}),
        }
    )
    return Job.model_validate(plain.to_dict())


def _is_done(uri: str, job: Job) -> bool:
    """Whether the run is finished, and by the stop rules that the job has now."""
    run = Run(uri)
    return run.is_finished and run.summary.get("stop_rules") == job.train.stop.model_dump()


def _train(job: Job, prepared: Prepared, uri: str, placement: Placement, began_at: float, shown: Display) -> None:
    storage = Storage(uri)
    _describe_run(uri, job, prepared, placement)
    listener = ray.remote(num_cpus=0)(_Listener).remote()
    assignment = Assignment(
        job=job,
        policy=prepared.policy,
        packed=str(prepared.dataset.path),
        run_uri=uri,
        min_actors=placement.min_actors,
        max_actors=placement.max_actors,
        threads=placement.cpus_per_worker,
        began_at=began_at,
        listener=listener,
    )
    summary = _fit(assignment, placement, shown)
    summary["wall_s"] = time.time() - began_at
    storage.write(SUMMARY, (json.dumps(summary, indent=2) + "\n").encode())
    write_report(uri)


def _describe_run(uri: str, job: Job, prepared: Prepared, placement: Placement) -> None:
    """What was run, on what: written before the first step."""
    storage = Storage(uri)
    dataset, samples = prepared.dataset, prepared.samples
    manifest = dataset.manifest
    environment = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **{name: version(name) for name in ("augft", "ray", "torch", "torchvision", "pyarrow", "numpy", "numba")},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "git_revision": _git_revision(),
        "hardware": ray.cluster_resources(),
        "placement": vars(placement),
        "data": {
            "path": str(dataset.path),
            "digest": manifest.digest,
            "source": manifest.source,
            "classes": manifest.classes,
            "num_train": len(samples.train_ids),
            "num_val": len(samples.val_ids),
            "num_test": dataset.split("test").num_rows if dataset.has("test") else 0,
        },
    }
    storage.write(POLICY, prepared.policy.to_json().encode())
    storage.write(ENVIRONMENT, (json.dumps(environment, indent=2, default=str) + "\n").encode())
    storage.write(PREVIEW, preview_png(prepared))
    # Last: its presence makes the folder a run.
    storage.write(CONFIG, job.to_yaml().encode())


def _fit(assignment: Assignment, placement: Placement, shown: Display) -> dict[str, Any]:
    """Hand the assignment to Ray Train and show what it tells."""
    job, uri = assignment.job, assignment.run_uri
    resources = {"CPU": placement.cpus_per_worker, **({"GPU": 1} if placement.use_gpu else {})}
    trainer = TorchTrainer(
        train_loop,
        train_loop_config=assignment,
        scaling_config=ScalingConfig(
            num_workers=job.scale.num_workers, use_gpu=placement.use_gpu, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=_RAY_FOLDER,
            storage_path=uri,
            failure_config=FailureConfig(max_failures=job.run.max_failures),
        ),
    )
    shown.say("starting the training workers")
    fitting = _Fitting(trainer)
    while fitting.is_alive():
        fitting.join(_POLL_S)
        for event in ray.get(assignment.listener.take.remote()):
            shown.handle(event)
    # Checkpoints are ours; what Ray writes of its own is of no use after the run.
    Storage(uri).remove(_RAY_FOLDER)
    return fitting.outcome(uri)


class _Fitting(threading.Thread):
    """Waits for a trainer, so that the main thread can show its events and take a Ctrl-C."""

    def __init__(self, trainer: TorchTrainer) -> None:
        super().__init__(daemon=True)
        self._trainer = trainer
        self._result: Any = None
        self._error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self._result = self._trainer.fit()
        except Exception as error:
            self._error = error

    def outcome(self, uri: str) -> dict[str, Any]:
        """What the loop returned.

        Raises:
            AugftError: it failed, in one line.
        """
        if self._error is not None:
            raise RunError(f"{uri}: {_cause(self._error)}; go on from the last checkpoint with --resume")
        outcome: dict[str, Any] = self._result.return_value
        if isinstance(error := outcome.get("error"), AugftError):
            raise error
        return outcome


def _cause(error: BaseException) -> str:
    """The innermost error of a worker, in a line."""
    for inner in getattr(error, "worker_failures", {}).values():
        return _cause(inner)
    inner = getattr(error, "cause", None) or error.__cause__
    if isinstance(inner, BaseException):
        return _cause(inner)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1] if lines else 'no message'}"


class _Listener:
    """Where the loop's events wait until the driver takes them."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []

    def tell(self, event: dict[str, Any]) -> None:
        self._events.append(event)

    def take(self) -> list[dict[str, Any]]:
        events, self._events = self._events, []
        return events


def _git_revision() -> str | None:
    """Of the working folder, where it is a repository."""
    try:
        asked = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout.strip()
