"""Runs sent to trackers: each line once, whatever dies on either side, and never at the run's cost."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import fs

from augft.config import Job, load_job_text
from augft.data.packed import open_packed
from augft.errors import ConfigError, Stopped
from augft.mlflow_model import PictureModel
from augft.model import load_saved
from augft.preprocess import Preprocess
from augft.run import Run
from augft.storage import Storage
from augft.train.solo import run_alone
from augft.train.trackers import check_trackers, follow
from augft.train.trackers.contents import metrics, parameters, reason
from augft.train.trackers.follow import Followed
from tests.event_files import scalars, values
from tests.object_store import s3_server

JOB = """
name: tracked
seed: 3
data: {source: digits, image_size: 8, labels_per_class: 10}
augment: {policy: digits}
model: {name: resnet20, weights: none}
train: {epochs: 2, global_batch_size: 50, precision: fp32, optimizer: {lr: 0.05}}
run: {trackers: []}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    uri = str(tmp_path_factory.mktemp("runs") / "tracked")
    run_alone(load_job_text(JOB, "the test's job"), uri)
    return Run(uri)


@pytest.fixture
def begun(tmp_path: Path) -> Run:
    """A run directory before the first step."""
    run = Run(str(tmp_path / "run"))
    run.storage.write("config.yaml", Job().to_yaml().encode())
    return run


def _line(epoch: int, split: str = "train") -> dict[str, Any]:
    return {"kind": "line", "step": 10 * (epoch + 1), "epoch": epoch, "split": split, "loss": 1 / (epoch + 1)}


def _finish(run: Run, lines: list[dict[str, Any]]) -> None:
    run.storage.write("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    run.storage.write("summary.json", b"{}")


class _Server:
    """A tracker that takes notes, and can be told to fail."""

    def __init__(self, place: str = "here") -> None:
        self.place = place
        self.lines: list[dict[str, Any]] = []
        self.calls: list[str] = []
        self.fails: set[str] = set()

    def _called(self, what: str) -> None:
        if what.split()[0] in self.fails:
            raise ConnectionError(f"HTTPConnectionPool(host='x', port=1): [Errno 111] Connection refused ({what})")
        self.calls.append(what)

    def begin(self, page: Any) -> str | None:
        self._called("begin")
        return "there"

    def log(self, lines: list[dict[str, Any]]) -> None:
        self._called("log")
        self.lines += lines

    def finish(self, page: Any) -> None:
        self._called("finish")

    def end(self, how: str) -> None:
        self._called(f"end {how}")


def _followed(run: Run, server: _Server, said: list[str] | None = None) -> Followed:
    return Followed({"server": server}, run, (said if said is not None else []).append)


def _break_off(followed: Followed, lines: list[dict[str, Any]], error: BaseException) -> None:
    with followed:
        for line in lines:
            followed.log(line)
        raise error


def _wait(until: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_run_is_sent_from_begin_to_end(begun: Run) -> None:
    server, said, lines = _Server(), [], [_line(0), _line(0, "val"), _line(1)]
    with _followed(begun, server, said) as followed:
        for line in lines:
            followed.log(line)
        _finish(begun, lines)
        followed.finish()
    assert server.lines == lines
    assert server.calls[0] == "begin"
    assert server.calls[-2:] == ["finish", "end finished"]
    assert said == ["server: there"]


def test_what_a_resumed_run_makes_again_is_not_sent_again(begun: Run) -> None:
    first, second, lines = _Server(), _Server(), [_line(epoch) for epoch in range(4)]
    with pytest.raises(Stopped):
        _break_off(_followed(begun, first), lines[:3], Stopped("asked to"))
    assert first.calls[-1] == "end stopped"
    with _followed(begun, second) as followed:
        for line in lines[1:] + lines[2:]:
            followed.log(line)
        _finish(begun, lines)
        followed.finish()
    assert first.lines + second.lines == lines


def test_lines_of_an_epoch_are_told_apart_by_split_and_step(begun: Run) -> None:
    server, lines = _Server(), [_line(0), _line(0, "val"), {**_line(0), "step": 11}]
    with _followed(begun, server) as followed:
        for line in lines:
            followed.log(line)
        _finish(begun, lines)
        followed.finish()
    assert server.lines == lines


def test_a_server_that_is_gone_for_a_while_is_told_once_and_gets_all(begun: Run) -> None:
    server, said, lines = _Server(), [], [_line(epoch) for epoch in range(5)]
    server.fails = {"begin", "log"}
    with _followed(begun, server, said) as followed:
        for line in lines[:3]:
            followed.log(line)
        _wait(lambda: said)
        assert said == ["server: Connection refused; the run goes on, and sends later what is missing"]
        server.fails = set()
        followed.log(lines[3])
        _wait(lambda: server.lines == lines[:4])
        followed.log(lines[4])
        _finish(begun, lines)
        followed.finish()
    assert server.lines == lines
    assert said[1:] == ["server: there"]


def test_a_server_that_is_gone_for_good_costs_the_run_nothing_and_gets_all_at_the_next_finish(begun: Run) -> None:
    server, said, lines = _Server(), [], [_line(0), _line(1)]
    with _followed(begun, server, said) as followed:
        followed.log(lines[0])
        _wait(lambda: server.lines)
        server.fails = {"log", "finish", "end"}
        followed.log(lines[1])
        _finish(begun, lines)
        followed.finish()
    assert said[-1] == f"server: Connection refused; {begun.uri} has all of it, and --resume sends it again"
    assert server.calls.count("finish") == 0
    server.fails = set()
    with _followed(begun, server) as followed:
        followed.finish()
    assert server.lines == lines
    assert server.calls[-2:] == ["finish", "end finished"]


def test_a_run_that_was_sent_to_its_end_is_left_alone_until_it_goes_on(begun: Run) -> None:
    lines = [_line(0), _line(1)]
    _finish(begun, lines)
    with _followed(begun, _Server()) as followed:
        followed.finish()
    again = _Server()
    with _followed(begun, again) as followed:
        followed.finish()
    assert again.calls == []
    with _followed(begun, again) as followed:
        followed.log(_line(2))
        _finish(begun, [*lines, _line(2)])
        followed.finish()
    assert again.lines == [_line(2)]
    assert again.calls == ["begin", "log", "finish", "end finished"]


def test_another_server_gets_the_run_from_its_beginning(begun: Run) -> None:
    lines = [_line(0), _line(1)]
    _finish(begun, lines)
    for place in ("here", "elsewhere"):
        server = _Server(place)
        with _followed(begun, server) as followed:
            followed.finish()
        assert server.lines == lines


def test_a_run_does_not_wait_for_a_slow_server(begun: Run) -> None:
    answers = threading.Event()

    class Slow(_Server):
        def log(self, lines: list[dict[str, Any]]) -> None:
            answers.wait(20)
            super().log(lines)

    server, lines = Slow(), [_line(epoch) for epoch in range(100)]
    with _followed(begun, server) as followed:
        began_at = time.monotonic()
        for line in lines:
            followed.log(line)
        assert time.monotonic() - began_at < 1
        answers.set()
        _finish(begun, lines)
        followed.finish()
    assert server.lines == lines


@pytest.mark.parametrize(
    ("error", "how"), [(ValueError, "failed"), (Stopped, "stopped"), (KeyboardInterrupt, "stopped")]
)
def test_a_run_that_ends_early_says_how(begun: Run, error: type[BaseException], how: str) -> None:
    server = _Server()
    with pytest.raises(error):
        _break_off(_followed(begun, server), [_line(0)], error())
    assert server.lines == [_line(0)]
    assert server.calls[-1] == f"end {how}"


def test_no_trackers_no_file(begun: Run) -> None:
    with follow([], begun, print) as followed:
        followed.log(_line(0))
        followed.finish()
    assert not begun.storage.exists("trackers.json")


# ---- what is sent --------------------------------------------------------------------------------------------------


def test_a_job_is_flat_with_the_keys_of_set() -> None:
    given = parameters(Job().to_dict())
    assert given["train.epochs"] == str(Job().train.epochs)
    assert given["run.storage_path"] == "runs"
    assert given["train.stop.loss"] == "null"
    assert json.loads(given["run.trackers"]) == ["tensorboard"]
    assert not any(isinstance(value, dict) for value in given.values())


def test_figures_of_a_line_carry_its_split() -> None:
    line = {**_line(0, "val"), "top1": 0.5, "note": "text", "gap": None, "is_best": True}
    assert metrics(line) == {"val/loss": 1.0, "val/top1": 0.5}


def test_a_reason_is_short() -> None:
    assert reason(ValueError("a " * 400)).startswith("ValueError: a a")
    assert len(reason(ValueError("a " * 400))) < 250
    assert "\n" not in reason(ValueError("a\nb"))
    assert reason(TimeoutError("x: Read timed out. (read timeout=2)")) == "Read timed out"


# ---- TensorBoard ---------------------------------------------------------------------------------------------------


def _expected(run: Run) -> list[tuple[int, str, Any]]:
    return [
        (line["step"], name, pytest.approx(value, rel=1e-6))
        for line in run.metrics
        for name, value in metrics(line).items()
    ]


def _copy(run: Run, uri: str) -> Run:
    """The run directory at another place, without what trackers wrote."""
    storage = Storage(uri)
    for name in run.storage.list():
        path = Path(run.uri, name)
        if path.is_file() and name != "trackers.json":
            storage.write(name, path.read_bytes())
    return Run(uri)


def _send(run: Run, name: str) -> list[str]:
    said: list[str] = []
    with follow([name], run, said.append) as followed:
        for line in run.metrics:
            followed.log(line)
        followed.finish()
    return said


def test_tensorboard_has_what_metrics_jsonl_has_and_pictures(finished: Run, tmp_path: Path) -> None:
    run = _copy(finished, str(tmp_path / "run"))
    assert _send(run, "tensorboard") == []
    assert scalars(run.storage) == _expected(run)
    pictures = {v.tag: v.image.encoded_image_string for _, v in values(run.storage) if v.WhichOneof("value") == "image"}
    preview = np.asarray(Image.open(io.BytesIO(run.storage.read("preview.png"))).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(pictures["preview"]))), preview)
    assert Image.open(io.BytesIO(pictures["test/confusion"])).width > 300
    texts = {v.tag: v.tensor.string_val[0].decode() for _, v in values(run.storage) if v.HasField("tensor")}
    assert any("global_batch_size: 50" in text for text in texts.values())


def test_tensorboard_on_object_storage(finished: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with s3_server() as port:
        for key, value in {
            "ACCESS_KEY_ID": "testing",
            "SECRET_ACCESS_KEY": "testing",
            "EC2_METADATA_DISABLED": "true",
        }.items():
            monkeypatch.setenv(f"AWS_{key}", value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        s3, path = fs.FileSystem.from_uri("s3://tracked?allow_bucket_creation=true")
        s3.create_dir(path)
        run = _copy(finished, "s3://tracked/runs/one")
        said: list[str] = []
        with follow(["tensorboard"], run, said.append) as followed:
            # All lines can be seen while the run goes on.
            _wait(lambda: run.storage.exists("trackers.json") and scalars(run.storage) == _expected(run))
            followed.finish()
        assert said == []
        assert scalars(run.storage) == _expected(run)
    assert list(tmp_path.iterdir()) == []


# ---- MLflow without a server ---------------------------------------------------------------------------------------


def test_a_server_that_does_not_answer_is_refused_before_anything_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'augft[mlflow]'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    before = dict(os.environ)
    began_at = time.monotonic()
    with pytest.raises(ConfigError) as raised:
        check_trackers(["mlflow"])
    assert time.monotonic() - began_at < 20
    assert str(raised.value) == (
        "run.trackers: MLflow at http://127.0.0.1:9 does not answer (Connection refused); start it, set "
        "MLFLOW_TRACKING_URI to another, or leave mlflow out"
    )
    assert dict(os.environ) == before


def test_trackers_that_are_not_asked_for_are_not_loaded() -> None:
    code = (
        "import sys, augft.train.trackers as trackers; trackers.check_trackers([]); "
        "print({'mlflow', 'wandb', 'tensorboardX', 'ray'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_model_as_mlflow_loads_it_gives_the_runs_predictions(
    finished: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_packed(finished.environment["data"]["path"])
    images, labels = dataset.split("test").gather(np.arange(300))
    built = load_saved(Path(finished.uri))
    assert built.meta.mean is not None
    assert built.meta.std is not None
    preprocess = Preprocess(built.meta.mean, built.meta.std, None, torch.device("cpu"))
    with torch.no_grad():
        logits = built.module.eval()(preprocess(images))
    model = PictureModel(Path(finished.uri), torch.device("cpu"))
    probabilities = model.predict(images)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, logits.softmax(1).numpy(), atol=1e-6)
    assert model.predict(images[:0]).shape == (0, 10)
    assert model.classes == tuple(dataset.manifest.classes)
    enlarged = np.asarray([Image.fromarray(image).resize((16, 16)) for image in images])
    assert model.predict(enlarged).shape == (300, 10)
    assert (model.predict(enlarged).argmax(1) == labels).mean() > 0.1
