"""MLflow: a run in an experiment, with parameters, metrics, files and the model.

The server is the one that MLflow itself would take: `MLFLOW_TRACKING_URI`, else MLflow's default.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from augft import __version__
from augft.errors import ConfigError
from augft.model.files import META_FILE, WEIGHTS_FILE, meta_from_bytes
from augft.run import CONFIG, ENVIRONMENT, EVALUATION, METRICS, POLICY, PREVIEW, REPORT, SUMMARY, Run
from augft.storage import Storage
from augft.train.trackers.contents import (
    confusion_png,
    metrics,
    parameters,
    read_confusion,
    reason,
    run_name,
    summary_metrics,
)
from augft.train.trackers.ledger import Line, Page

CONFUSION = "confusion.png"
MODEL = "model"
LOADER = "augft.mlflow_model"

_MAX_KEY, _MAX_VALUE, _MAX_TAG = 250, 500, 5000
"""In characters; what servers of all versions take."""
_MAX_BATCH = 100
_NOT_IN_KEYS = re.compile(r"[^\w\-./ ]")
_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


def check_server() -> None:
    """Whether MLflow's server answers.

    Raises:
        ConfigError: it does not.
    """
    import mlflow

    uri = mlflow.get_tracking_uri()
    try:
        with _impatience():
            mlflow.MlflowClient().search_experiments(max_results=1)
    except Exception as error:  # whatever a database, a server or a proxy comes up with
        raise ConfigError(
            f"run.trackers: MLflow at {uri} does not answer ({reason(error)}); start it, set MLFLOW_TRACKING_URI to "
            "another, or leave mlflow out"
        ) from None


class MLflow:
    """One run there for one run directory; the experiment has the group's name, else the job's."""

    def __init__(self, run: Run, group: str | None) -> None:
        import mlflow

        self._run, self._group = run, group
        self.place: str = mlflow.get_tracking_uri()
        self._client: Any = None
        self._id = ""

    def begin(self, page: Page) -> str | None:
        import mlflow

        with _impatience():
            self._client = mlflow.MlflowClient(self.place)
            if page["run_id"] is None:
                began = self._client.create_run(self._experiment(), tags=self._tags(), run_name=run_name(self._run))
                page["run_id"] = began.info.run_id
            self._id = page["run_id"]
            there = self._client.get_run(self._id)
            if there.info.status != "RUNNING":
                self._client.update_run(self._id, status="RUNNING")
            # Parameters cannot be changed there, only added: those that a resumed run has otherwise stay as they were.
            self._log(params=[p for p in self._parameters() if p.key not in there.data.params])
            self._log_files([CONFIG, POLICY, ENVIRONMENT, PREVIEW])
        if self.place.startswith("http"):
            return f"{self.place.rstrip('/')}/#/experiments/{there.info.experiment_id}/runs/{self._id}"
        return f"run {self._id} in {self.place}"

    def log(self, lines: list[Line]) -> None:
        with _impatience():
            self._log(metrics=[m for line in lines for m in _metrics(metrics(line), line["step"])])

    def finish(self, page: Page) -> None:
        summary, storage = self._run.summary, self._run.storage
        with _impatience():
            self._log(metrics=_metrics(summary_metrics(summary), summary["steps"]))
            for key in ("stop_reason", "stream_digest"):
                self._client.set_tag(self._id, f"augft.{key}", str(summary.get(key)))
            confusion = read_confusion(storage)
            pictures = {} if confusion is None else {CONFUSION: confusion_png(confusion)}
            self._log_files([REPORT, SUMMARY, EVALUATION, METRICS], pictures)
            if page["model_step"] != summary["best_step"]:
                self._log_model(storage)
                page["model_step"] = summary["best_step"]

    def end(self, how: str) -> None:
        with _impatience():
            self._client.set_terminated(self._id, _STATUS[how])

    def _experiment(self) -> str:
        if named := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return named
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or self._group or self._run.job.name
        try:
            if (found := self._client.get_experiment_by_name(name)) is None:
                created: str = self._client.create_experiment(name)
                return created
        except Exception:
            # Another run of the same comparison may have made it between the two calls.
            if (found := self._client.get_experiment_by_name(name)) is None:
                raise
        there: str = found.experiment_id
        return there

    def _tags(self) -> dict[str, str]:
        environment = self._run.environment
        tags = {
            "augft.version": __version__,
            "augft.run": self._run.uri,
            "augft.data_digest": environment.get("data", {}).get("digest"),
            "augft.job": self._run.job.name,
            "mlflow.source.name": "augft",
            "mlflow.source.git.commit": environment.get("git_revision"),
        }
        return {key: str(value)[:_MAX_TAG] for key, value in tags.items() if value is not None}

    def _parameters(self) -> list[Any]:
        from mlflow.entities import Param

        given = parameters(self._run.job.to_dict())
        return [Param(_NOT_IN_KEYS.sub("_", key)[:_MAX_KEY], _cut(value)) for key, value in given.items()]

    def _log(self, **lists: list[Any]) -> None:
        for kind, entries in lists.items():
            for start in range(0, len(entries), _MAX_BATCH):
                self._client.log_batch(self._id, **{kind: entries[start : start + _MAX_BATCH]})

    def _log_files(self, names: Iterable[str], made: dict[str, bytes] | None = None) -> None:
        """Copies of what the run directory has of these, and of files made for MLflow alone."""
        storage = self._run.storage
        contents = {name: storage.read(name) for name in names if storage.exists(name)} | (made or {})
        with tempfile.TemporaryDirectory(prefix="augft-") as folder:
            for name, content in contents.items():
                Path(folder, name).write_bytes(content)
            self._client.log_artifacts(self._id, folder)

    def _log_model(self, storage: Storage) -> None:
        """As files and the name of the module that reads them: nothing in it is pickled."""
        import mlflow
        from mlflow.models import ModelSignature
        from mlflow.types import Schema, TensorSpec

        meta = meta_from_bytes(storage.read(META_FILE), META_FILE)
        signature = ModelSignature(
            inputs=Schema([TensorSpec(np.dtype("uint8"), (-1, -1, -1, 3))]),
            outputs=Schema([TensorSpec(np.dtype("float32"), (-1, meta.num_classes))]),
        )
        with tempfile.TemporaryDirectory(prefix="augft-") as folder:
            for name in (WEIGHTS_FILE, META_FILE):
                Path(folder, name).write_bytes(storage.read(name))
            # What is active is this thread's own; from it MLflow takes the experiment that the model belongs to.
            with mlflow.start_run(run_id=self._id), warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*input example", UserWarning)  # the signature is given
                mlflow.pyfunc.log_model(
                    name=MODEL,
                    loader_module=LOADER,
                    data_path=folder,
                    signature=signature,
                    metadata={"classes": list(meta.classes or ())},
                    pip_requirements=[f"{name}=={version(name)}" for name in ("augft", "torch", "torchvision")],
                )


def _metrics(values: dict[str, float], step: int) -> list[Any]:
    from mlflow.entities import Metric

    return [Metric(key, value, int(time.time() * 1000), step) for key, value in values.items()]


def _cut(value: str) -> str:
    return value if len(value) <= _MAX_VALUE else value[: _MAX_VALUE - 1] + "…"


@contextmanager
def _impatience() -> Iterator[None]:
    """A request that is not answered fails in about a minute, and is made again later; MLflow's own wait is longer."""
    ours = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
    ours = {key: value for key, value in ours.items() if key not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for key in ours:
            os.environ.pop(key, None)
