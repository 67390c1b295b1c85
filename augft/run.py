"""A run directory: what is in it, how it is begun, read and gone on with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from augft.config import Job, load_job_text
from augft.errors import RunDirectoryError
from augft.storage import Storage

CONFIG, POLICY, ENVIRONMENT, SUMMARY = "config.yaml", "policy.json", "environment.json", "summary.json"
INCIDENTS, LEASE = "incidents.jsonl", "lease.json"
METRICS, EVALUATION, REPORT, PREVIEW = "metrics.jsonl", "evaluation.json", "report.html", "preview.png"
EVALUATIONS = "evaluation"
"""A folder: what `augft evaluate` has found since, NAME.json with its page NAME.html each."""

_FREE_TO_CHANGE = ("run", "scale", "name", "compare", "search", "train.stop")
"""What a resumed run may have otherwise: who works on it, when it ends, and what it is compared with."""


@dataclass(frozen=True)
class Run:
    """A run, by its directory."""

    uri: str

    @property
    def storage(self) -> Storage:
        return Storage(self.uri)

    @property
    def job(self) -> Job:
        """The resolved job."""
        return load_job_text(self.storage.read(CONFIG).decode(), f"{self.uri}/{CONFIG}")

    @property
    def summary(self) -> dict[str, Any]:
        """The content of summary.json.

        Raises:
            RunDirectoryError: the run has not finished.
        """
        if not self.storage.exists(SUMMARY):
            raise RunDirectoryError(f"{self.uri}: the run has not finished; go on with --resume")
        summary: dict[str, Any] = json.loads(self.storage.read(SUMMARY))
        return summary

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return [json.loads(line) for line in self.storage.read(METRICS).splitlines()]

    @property
    def environment(self) -> dict[str, Any]:
        """The content of environment.json."""
        environment: dict[str, Any] = json.loads(self.storage.read(ENVIRONMENT))
        return environment

    @property
    def is_finished(self) -> bool:
        return self.storage.exists(SUMMARY)


def open_run(uri: str | Path) -> Run:
    """An existing run.

    Raises:
        RunDirectoryError: there is none.
    """
    run = Run(str(uri))
    if not run.storage.exists(CONFIG):
        raise RunDirectoryError(f"{uri}: no run there ({CONFIG} is missing); give a folder that `augft train` wrote")
    return run


def is_done(uri: str, job: Job) -> bool:
    """Whether the run is finished, and by the stop rules that the job has now."""
    run = Run(uri)
    return run.is_finished and run.summary.get("stop_rules") == job.train.stop.model_dump()


def write_summary(storage: Storage, summary: dict[str, Any]) -> None:
    """Write summary.json: the run is finished."""
    storage.write(SUMMARY, (json.dumps(summary, indent=2) + "\n").encode())


def check_startable(uri: str, job: Job, resume: bool, free_to_change: tuple[str, ...] = ()) -> None:
    """Whether a job may write to a run directory.

    Args:
        uri: the run directory.
        job: what is to be run.
        resume: whether to go on with a run that is there.
        free_to_change: keys that may differ from those of the run that is there, beside those that always may.

    Raises:
        RunDirectoryError: there is a run and it is not to be resumed, or one of another job, or other files.
    """
    storage = Storage(uri)
    storage.check_possible()
    if not storage.exists(CONFIG):
        # What a run writes before its config may be left of one that was killed right then.
        ours = {LEASE, POLICY, ENVIRONMENT, PREVIEW}
        if any(name not in ours and not name.startswith(".") for name in storage.list()):
            raise RunDirectoryError(f"{uri}: holds files that are no run; give another --run-dir or name")
        return
    if not resume:
        raise RunDirectoryError(
            f"{uri}: a run is there already; go on with --resume, or choose another with --run-dir or --set name=…"
        )
    if found := difference(Run(uri).job, job, (*_FREE_TO_CHANGE, *free_to_change)):
        raise RunDirectoryError(
            f"{uri}: the run there has another {found}; resume it with its own {CONFIG}, or begin a new one"
        )


def difference(old: Job, new: Job, free_to_change: tuple[str, ...]) -> str | None:
    """The first key whose values differ, with the old value and the new one; None where all that matter are equal."""
    return _difference(old.to_dict(), new.to_dict(), free_to_change)


def _difference(old: dict[str, Any], new: dict[str, Any], free: tuple[str, ...], prefix: str = "") -> str | None:
    """The first key, in the order of the file, whose values differ and matter."""
    for key in new:
        name = prefix + key
        if name in free:
            continue
        if isinstance(new[key], dict) and isinstance(old.get(key), dict):
            if found := _difference(old[key], new[key], free, f"{name}."):
                return found
        elif old.get(key) != new[key]:
            return f"{name} ({old.get(key)!r}, not {new[key]!r})"
    return None
