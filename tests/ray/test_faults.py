"""What may befall a run on one machine: a wish to stop, a hung worker, a full disk, a second driver."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pyarrow import fs

from augft.config import Job, load_job_text
from augft.errors import StorageError
from augft.run import INCIDENTS, Run
from augft.storage import Storage
from augft.train.launch import train
from tests.object_store import Line, s3_server
from tests.ray.alone import train_alone
from tests.ray.processes import titles
from tests.small_disk import mounted_disk

pytestmark = pytest.mark.usefixtures("local_ray")

# Long enough to be met in the middle: 66 epochs of 4 to 5 steps.
JOB = """
name: small
seed: 5
data: {source: digits, image_size: 8, labels_per_class: 20}
augment: {policy: digits, copies: 2, select: 0.5, keep_original: true}
model: {name: resnet20, weights: none}
train:
  epochs: 66
  global_batch_size: 90
  optimizer: {lr: 0.05}
run: {checkpoint_every_steps: 20, trackers: []}
"""
TIMES = ("images_per_s", "data_wait_s")


def _job(*overrides: str) -> Job:
    return load_job_text(JOB, "the test's job", overrides)


def _incidents(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / INCIDENTS).read_text().splitlines()]


def _assert_same(run: Run, undisturbed: Run) -> None:
    def without_times(run: Run) -> list[dict[str, Any]]:
        return [{key: value for key, value in line.items() if key not in TIMES} for line in run.metrics]

    assert run.summary["stream_digest"] == undisturbed.summary["stream_digest"]
    assert without_times(run) == without_times(undisturbed)
    assert run.storage.read("model.safetensors") == undisturbed.storage.read("model.safetensors")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train_alone(_job(), tmp_path_factory.mktemp("runs") / "undisturbed")


def _until(condition: Callable[[], bool], timeout_s: float = 240) -> None:
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < timeout_s, "it never came"
        time.sleep(0.02)


def _is_at(run_dir: Path, step: int) -> Callable[[], bool]:
    return (run_dir / "checkpoints" / f"step-{step:08d}" / "checkpoint.json").exists


class _Driver:
    """`augft train` in a process of its own, with a Ray of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.run_dir = folder / "run"
        job = folder / "job.yaml"
        job.write_text(JOB)
        command = [sys.executable, "-m", "augft.cli", "train", str(job), "--run-dir", str(self.run_dir), *arguments]
        env = {**os.environ, "AUGFT_RAY_TEMP_DIR": os.environ["AUGFT_RAY_TEMP_DIR"] + "/d"}
        self.process = subprocess.Popen(command, env=env, start_new_session=True, stderr=subprocess.PIPE, text=True)

    def ended(self) -> tuple[int, str]:
        """Exit code and what it said."""
        said = self.process.communicate(timeout=240)[1]
        return self.process.returncode, said


@pytest.mark.parametrize("to_group", [True, False], ids=["ctrl-c", "sigterm"])
def test_asked_to_stop_it_saves_after_the_step_and_goes_on_to_the_same_bits(
    undisturbed: Run, tmp_path: Path, to_group: bool
) -> None:
    driver = _Driver(tmp_path)
    _until(_is_at(driver.run_dir, 20))
    # A terminal sends Ctrl-C to all processes that it started; `ray job stop` and Slurm send SIGTERM to one.
    os.killpg(driver.process.pid, signal.SIGINT) if to_group else driver.process.terminate()
    code, said = driver.ended()
    assert code == 130
    assert "stopped after step" in said.splitlines()[-1]
    assert "--resume" in said.splitlines()[-1]
    assert "Traceback" not in said
    step = int(said.splitlines()[-1].split("after step ")[1].split()[0])
    assert _is_at(driver.run_dir, step)(), "not saved"
    assert not (driver.run_dir / "summary.json").exists()
    assert not (driver.run_dir / "lease.json").exists()
    resumed = (
        train(_job(), run_dir=str(driver.run_dir), resume=True) if to_group else train_alone(_job(), driver.run_dir)
    )
    _assert_same(resumed, undisturbed)
    assert [line["what"] for line in _incidents(driver.run_dir)] == ["stop", "resume"]


def _workers(driver: int | None = None) -> list[psutil.Process]:
    """The training workers below a driver's Ray, this process's own by default."""
    return [process for process, title in titles(driver).items() if "RayTrainWorker" in title]


@pytest.fixture
def meanwhile() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Runs a function beside the test, whose failure is the test's."""
    threads: list[threading.Thread] = []
    errors: list[BaseException] = []

    def start(function: Callable[[], None]) -> None:
        def run() -> None:
            try:
                function()
            except BaseException as error:
                errors.append(error)

        threads.append(threading.Thread(target=run))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join()
    assert not errors, errors


def test_a_hung_worker_is_named_and_replaced(tmp_path: Path, meanwhile: Callable[[Callable[[], None]], None]) -> None:
    run_dir = tmp_path / "run"
    job = _job("scale.num_workers=2", "run.hang_timeout_s=8")
    pids: list[int] = []

    def hold() -> None:
        _until(_is_at(run_dir, 40))
        worker = _workers()[0]
        pids.append(worker.pid)
        worker.suspend()

    meanwhile(hold)
    run = train(job, run_dir=str(run_dir))
    incidents = _incidents(run_dir)
    assert [line["what"] for line in incidents] == ["hang", "restart", "resume"]
    assert f"process {pids[0]} " in incidents[0]["text"]
    assert "has not been heard of" in incidents[0]["text"]
    other = train(_job("scale.num_workers=2"), run_dir=str(tmp_path / "other"))
    _assert_same(run, other)


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Driver]:
    """A run that trains, for as long as nobody ends it."""
    driver = _Driver(tmp_path_factory.mktemp("endless"), "--set", "train.epochs=100000")
    try:
        _until(_is_at(driver.run_dir, 20))
        yield driver
    finally:
        if driver.process.poll() is None:
            driver.process.terminate()
            assert driver.ended()[0] == 130


def test_a_run_in_use_is_not_taken_over(endless: _Driver) -> None:
    command = [sys.executable, "-m", "augft.cli", "train", str(endless.run_dir.parent / "job.yaml")]
    command += ["--run-dir", str(endless.run_dir), "--set", "train.epochs=100000"]
    for more, words in [([], "a run is there already"), (["--resume"], "in use by a live run")]:
        second = subprocess.run([*command, *more], capture_output=True, text=True, timeout=120)
        assert second.returncode == 2
        assert words in second.stderr.splitlines()[-1]
    assert endless.process.poll() is None, "the first goes on"


def test_asked_twice_it_stops_at_once(endless: _Driver) -> None:
    """Ends it, so it comes last."""
    _workers(endless.process.pid)[0].suspend()  # it cannot finish its step
    endless.process.send_signal(signal.SIGINT)
    time.sleep(2)
    assert endless.process.poll() is None
    endless.process.send_signal(signal.SIGINT)
    code, said = endless.ended()
    assert code == 130, said
    assert "--resume" in said.splitlines()[-1]
    assert "Traceback" not in said


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    with mounted_disk(tmp_path / "disk", 3) as folder:
        yield folder


def test_a_full_disk_is_one_line_and_the_run_goes_on_once_there_is_room(undisturbed: Run, small_disk: Path) -> None:
    # A checkpoint is about 3.3 MB of weights and momentum, so none fits, or the second does not.
    with pytest.raises(StorageError, match="No space left on device") as caught:
        train(_job(), run_dir=str(small_disk / "run"))
    assert "\n" not in str(caught.value)
    assert not list((small_disk / "run").rglob("*.tmp")), "half-written"
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    _assert_same(train(_job(), run_dir=str(small_disk / "run"), resume=True), undisturbed)


class _Bucket:
    """A bucket of an S3 server, reached over a line that can be cut."""

    def __init__(self, port: int) -> None:
        self.line = Line(port)
        self._port = port
        s3, path = fs.FileSystem.from_uri(self._uri("s3://testing:testing@runs", port) + "&allow_bucket_creation=true")
        s3.create_dir(path)

    def run_dir(self, name: str) -> str:
        """Of a run, over the line."""
        return self._uri(f"s3://testing:testing@runs/{name}", self.line.port)

    def has(self, name: str) -> bool:
        """Whether a file is there, asked past the line."""
        return Storage(self._uri("s3://testing:testing@runs", self._port)).exists(name)

    def _uri(self, bucket: str, port: int) -> str:
        return f"{bucket}?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"


@pytest.fixture(scope="module")
def bucket() -> Iterator[_Bucket]:
    with s3_server() as port:
        made = _Bucket(port)
        yield made
        made.line.close()


def test_storage_that_fails_for_a_while_is_waited_for(
    undisturbed: Run, bucket: _Bucket, meanwhile: Callable[[Callable[[], None]], None]
) -> None:
    def cut() -> None:
        _until(lambda: bucket.has("waits/checkpoints/step-00000040/checkpoint.json"))
        bucket.line.cut(20)

    meanwhile(cut)
    run = train(_job(), run_dir=bucket.run_dir("waits"))
    _assert_same(run, undisturbed)
    incidents = [json.loads(line) for line in run.storage.read(INCIDENTS).splitlines()]
    assert {line["what"] for line in incidents} == {"storage"}
    assert "trying again for 120 s" in incidents[0]["text"]


def test_storage_that_fails_for_good_ends_the_run_in_a_line(
    bucket: _Bucket, meanwhile: Callable[[Callable[[], None]], None]
) -> None:
    def cut() -> None:
        _until(lambda: bucket.has("fails/checkpoints/step-00000040/checkpoint.json"))
        bucket.line.cut_after(0)

    meanwhile(cut)
    with pytest.raises(StorageError, match=r"\(tried for \d+ s\)") as caught:
        train(_job("run.storage_retry_s=2"), run_dir=bucket.run_dir("fails"))
    assert "\n" not in str(caught.value)
