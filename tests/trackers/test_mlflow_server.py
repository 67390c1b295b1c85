"""Runs sent to a real MLflow server on this machine: what is logged is the run, and its model predicts as the run's."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'augft[mlflow]'")
for needed in ("sqlalchemy", "alembic", "flask_cors"):
    pytest.importorskip(needed, reason=f"an MLflow server needs {needed}: pip install 'augft[test]'")

from augft.config import Job, load_job_text  # noqa: E402
from augft.data.packed import open_packed  # noqa: E402
from augft.errors import Stopped  # noqa: E402
from augft.model import load_saved  # noqa: E402
from augft.preprocess import Preprocess  # noqa: E402
from augft.report.page import write_report  # noqa: E402
from augft.run import Run  # noqa: E402
from augft.train.solo import run_alone  # noqa: E402
from augft.train.trackers import check_trackers, follow  # noqa: E402
from augft.train.trackers.contents import metrics, parameters  # noqa: E402

JOB = """
name: mlflow-digits
seed: 3
data: {source: digits, image_size: 8, labels_per_class: 20}
augment: {policy: digits}
model: {name: resnet20, weights: none}
train: {epochs: 3, global_batch_size: 50, precision: fp32, optimizer: {lr: 0.05}}
run: {trackers: []}
"""
START_S = 180
"""Ten on an idle machine."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_TRACKING_URI": ""}
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment, start_new_session=True)
        try:
            deadline = time.monotonic() + START_S
            while not _answers(uri):
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"the MLflow server did not start:\n{(folder / 'log').read_text()}")
                time.sleep(0.1)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("MLFLOW_TRACKING_URI", uri)
                yield uri
        finally:
            # A session of its own: with its workers it is one process group.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def _answers(uri: str) -> bool:
    with suppress(OSError):
        return bool(urllib.request.urlopen(f"{uri}/health", timeout=1).status == 200)
    return False


@pytest.fixture(scope="module")
def sent(server: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[str]]:
    """A run that was stopped after an epoch and resumed, as the server was sent it in two goes; and what was said."""
    run = Run(str(tmp_path_factory.mktemp("runs") / "digits"))
    said: list[str] = []
    lines: list[dict[str, Any]] = []

    def hear(event: dict[str, Any]) -> None:
        if event["kind"] == "line":
            lines.append(event)

    with pytest.raises(Stopped):
        run_alone(_job(), run.uri, on_event=hear, stop_is_asked=lambda: bool(lines))
    assert lines
    with pytest.raises(Stopped):
        _send_and_stop(run, lines, said)
    run_alone(_job(), run.uri, on_event=hear)
    write_report(run.uri)
    with follow(["mlflow"], run, said.append) as followed:
        for line in lines:  # those of the first go as well, as if made again
            followed.log(line)
        followed.finish()
    return run, said


def _send_and_stop(run: Run, lines: list[dict[str, Any]], said: list[str]) -> None:
    with follow(["mlflow"], run, said.append) as followed:
        for line in lines:
            followed.log(line)
        raise Stopped("asked to")


def _job() -> Job:
    return load_job_text(JOB, "the test's job")


@pytest.fixture(scope="module")
def there(sent: tuple[Run, list[str]]) -> Any:
    """The run as the server has it."""
    [experiment] = mlflow.MlflowClient().search_experiments(filter_string="name = 'mlflow-digits'")
    [run] = mlflow.MlflowClient().search_runs([experiment.experiment_id])
    return run


def test_the_server_answers(server: str) -> None:
    check_trackers(["mlflow"])


def test_it_says_where_to_look(sent: tuple[Run, list[str]], server: str, there: Any) -> None:
    page = f"mlflow: {server}/#/experiments/{there.info.experiment_id}/runs/{there.info.run_id}"
    assert sent[1] == [page, page]
    assert there.info.status == "FINISHED"
    assert there.info.run_name == "digits"


def test_parameters_are_those_of_the_job(sent: tuple[Run, list[str]], there: Any) -> None:
    assert there.data.params == parameters(_job().to_dict())


def test_tags_say_what_it_was_made_of(sent: tuple[Run, list[str]], there: Any) -> None:
    run, _ = sent
    assert there.data.tags["augft.run"] == run.uri
    assert there.data.tags["augft.data_digest"] == run.environment["data"]["digest"]
    assert there.data.tags["augft.stream_digest"] == run.summary["stream_digest"]
    assert there.data.tags.get("mlflow.source.git.commit") == run.environment["git_revision"]


def test_metrics_are_those_of_metrics_jsonl_each_once(sent: tuple[Run, list[str]], there: Any) -> None:
    run, _ = sent
    lines = run.metrics
    assert len({line["epoch"] for line in lines}) == 3
    expected: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for name, value in metrics(line).items():
            expected.setdefault(name, []).append((line["step"], value))
    client = mlflow.MlflowClient()
    for name, points in expected.items():
        history = client.get_metric_history(there.info.run_id, name)
        assert sorted((m.step, m.value) for m in history) == sorted(points), name
    assert there.data.metrics["summary/test_top1"] == run.summary["test_top1"]


def test_files_are_those_of_the_run(sent: tuple[Run, list[str]], there: Any, tmp_path: Path) -> None:
    run, _ = sent
    folder = Path(mlflow.artifacts.download_artifacts(run_id=there.info.run_id, dst_path=str(tmp_path)))
    copied = ("config.yaml", "policy.json", "environment.json", "preview.png", "report.html", "summary.json")
    for name in (*copied, "evaluation.json", "metrics.jsonl"):
        assert (folder / name).read_bytes() == run.storage.read(name), name
    assert Image.open(io.BytesIO((folder / "confusion.png").read_bytes())).width > 300


def test_the_model_loaded_back_predicts_as_the_runs_own(sent: tuple[Run, list[str]], there: Any) -> None:
    run, _ = sent
    split = open_packed(run.environment["data"]["path"]).split("test")
    images, labels = split.gather(np.arange(split.num_rows))
    model = mlflow.pyfunc.load_model(f"runs:/{there.info.run_id}/model")
    probabilities = model.predict(images)

    built = load_saved(Path(run.uri))
    assert built.meta.mean is not None
    assert built.meta.std is not None
    preprocess = Preprocess(built.meta.mean, built.meta.std, built.meta.input_size, torch.device("cpu"))
    with torch.no_grad():
        own = built.module.eval()(preprocess(images)).softmax(1).numpy()
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, own, atol=1e-6)
    assert (probabilities.argmax(1) == labels).mean() == run.summary["test_top1"]
    assert model.metadata.metadata["classes"] == list(map(str, range(10)))


def test_nothing_in_the_model_is_pickled(sent: tuple[Run, list[str]], there: Any, tmp_path: Path) -> None:
    folder = Path(mlflow.artifacts.download_artifacts(f"runs:/{there.info.run_id}/model", dst_path=str(tmp_path)))
    names = {path.relative_to(folder).name for path in folder.rglob("*") if path.is_file()}
    assert {"model.safetensors", "model.json", "MLmodel"} <= names
    assert not any(name.endswith((".pkl", ".pickle", ".pt", ".pth")) for name in names)


def test_runs_of_a_comparison_are_in_one_experiment(sent: tuple[Run, list[str]], tmp_path: Path) -> None:
    names = []
    for number in range(2):
        run = Run(str(tmp_path / f"seed-{number}"))
        for name in ("config.yaml", "environment.json", "policy.json"):
            run.storage.write(name, sent[0].storage.read(name))
        with follow(["mlflow"], run, print, group="which-policy"):
            pass
        names.append(run.uri.rpartition("/")[2])
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("which-policy")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name for run in runs) == names
    assert {run.info.status for run in runs} == {"FAILED"}  # they were left without a finish


def test_a_run_whose_server_comes_late_is_sent_whole(
    sent: tuple[Run, list[str]], server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, said = Run(str(tmp_path / "late")), []
    for name in sent[0].storage.list():
        if Path(sent[0].uri, name).is_file() and name != "trackers.json":
            run.storage.write(name, sent[0].storage.read(name))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with follow(["mlflow"], run, said.append) as followed:
        followed.finish()
    assert said[-1] == f"mlflow: Connection refused; {run.uri} has all of it, and --resume sends it again"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    with follow(["mlflow"], run, said.append) as followed:
        followed.finish()
    page = json.loads(run.storage.read("trackers.json"))["mlflow"]
    assert page["complete"]
    history = mlflow.MlflowClient().get_metric_history(page["run_id"], "train/loss")
    assert len(history) == sum(line["split"] == "train" for line in run.metrics)


def test_a_job_sends_itself_stopped_and_resumed(server: str, tmp_path: Path) -> None:
    job = _job().replace(["name=by-itself", "run.trackers=[mlflow]"])
    uri, said, lines = str(tmp_path / "one"), [], []

    def hear(event: dict[str, Any]) -> None:
        (said if event["kind"] == "say" else lines if event["kind"] == "line" else []).append(event)

    with pytest.raises(Stopped):
        run_alone(job, uri, on_event=hear, stop_is_asked=lambda: bool(lines))
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("by-itself")
    assert experiment is not None
    [stopped] = client.search_runs([experiment.experiment_id])
    assert stopped.info.status == "KILLED"
    run_alone(job, uri, on_event=hear)
    [there] = client.search_runs([experiment.experiment_id])
    assert there.info.run_id == stopped.info.run_id
    assert there.info.status == "FINISHED"
    run = Run(uri)
    for split in ("train", "val", "test"):
        history = client.get_metric_history(there.info.run_id, f"{split}/top1")
        made = [(line["step"], line["top1"]) for line in run.metrics if line["split"] == split]
        assert sorted((m.step, m.value) for m in history) == sorted(made)
    assert mlflow.pyfunc.load_model(f"runs:/{there.info.run_id}/model").predict(
        np.zeros((1, 8, 8, 3), np.uint8)
    ).shape == (1, 10)
    assert [event["text"].split(":")[0] for event in said if "mlflow" in event["text"]] == ["mlflow", "mlflow"]
