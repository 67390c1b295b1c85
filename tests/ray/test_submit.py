"""`augft submit`, as typed, to a Ray that wants a token and is reached by its dashboard's port alone."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from augft.run import open_run

BIN = Path(sys.executable).parent
JOB = """
name: small
seed: 5
data: {source: digits, image_size: 12, labels_per_class: 20}
augment: {policy: mine.json}
model: {name: resnet20, weights: none}
train: {epochs: 2, global_batch_size: 90}
run: {trackers: [], checkpoint_every_steps: 100000}
"""
POLICY = '{"name": "mine", "ops": [{"rotate": {"degrees": 7}}]}'
_MARK = "AUGFT_TESTS_HEAD"


@dataclass(frozen=True)
class Head:
    """A Ray head node, by its dashboard; `env` is what its users have to set."""

    address: str
    env: dict[str, str]

    def run(self, *command: object, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        """A command of this installation's, to its end."""
        program, *arguments = map(str, command)
        return subprocess.run(
            [str(BIN / program), *arguments],
            cwd=cwd,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    folder = tempfile.mkdtemp(prefix="asub", dir="/tmp")
    ports = iter(_free_ports(4))
    port = next(ports)
    env = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "of-the-tests-" * 4,
        "RAY_TMPDIR": folder,
        _MARK: folder,
    }
    options = f"--port {next(ports)} --dashboard-port {port} --ray-client-server-port {next(ports)}"
    options += f" --dashboard-agent-listen-port {next(ports)} --min-worker-port 0 --max-worker-port 0"
    options += f" --temp-dir {folder} --num-cpus 4 --object-store-memory 100000000 --disable-usage-stats --block"
    command = [str(BIN / "ray"), "start", "--head", *options.split()]
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, start_new_session=True) as started:
        try:
            _wait_for_answer(f"http://127.0.0.1:{port}", started)
            yield Head(f"http://127.0.0.1:{port}", env)
        finally:
            for process in (marked := _marked(folder)):
                process.kill()
            psutil.wait_procs(marked, timeout=10)
    shutil.rmtree(folder, ignore_errors=True)
    assert not _marked(folder)


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _wait_for_answer(address: str, started: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{address}/api/version", timeout=5)
        except urllib.error.HTTPError:
            return  # it wants a token
        except OSError:
            assert started.poll() is None, "ray start failed"
            time.sleep(0.1)
    raise AssertionError("the dashboard does not answer")


def _marked(folder: str) -> list[psutil.Process]:
    """All processes of a head: they inherit its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(_MARK) == folder:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "mine.json").write_text(POLICY)
    return tmp_path


def test_a_job_is_followed_and_its_result_fetched(head: Head, here: Path) -> None:
    run_dir = here / "shared" / "run"
    submitted = head.run("augft", "submit", "job.yaml", "--address", head.address, "--run-dir", run_dir, cwd=here)
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    run = open_run(run_dir)
    assert run.summary["stop_reason"] == "epochs"
    assert run.job.augment.policy == "policy/mine.json"
    assert b'"degrees": 7' in run.storage.read("policy.json")
    for line in ("starting the training workers", "tests the weights of step 5", f"report: {run_dir}/report.html"):
        assert submitted.stdout.count(line) == 1
    fetched = here / "runs" / "small"
    assert {path.name for path in fetched.iterdir()} == {"summary.json", "report.html", "submission.json"}
    for name in ("summary.json", "report.html"):
        assert (fetched / name).read_bytes() == run.storage.read(name)


def test_a_job_is_stopped_from_elsewhere_or_by_ctrl_c_and_has_saved(head: Head, here: Path) -> None:
    run_dir = here / "run"
    submit = ("augft", "submit", "job.yaml", "--address", head.address, "--run-dir", str(run_dir))
    endless = ("--set", "train.epochs=3000")
    submitted = head.run(*submit, *endless, "--no-wait", cwd=here)
    assert (submitted.returncode, submitted.stdout) == (0, "")
    commands = dict(line.split(":", 1) for line in submitted.stderr.splitlines()[1:])
    _wait_for(lambda: _num_epochs(run_dir) >= 1)
    stopped = head.run(*shlex.split(commands["stop it"]))
    assert stopped.returncode == 0, stopped.stderr
    log = head.run(*shlex.split(commands["follow it"])).stdout
    assert "saved; go on with --resume" in log
    (saved,) = _saved(run_dir)

    num_epochs = _num_epochs(run_dir)
    command = [str(BIN / "augft"), *submit[1:], *endless, "--resume"]
    with subprocess.Popen(
        command, cwd=here, env=head.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as following:
        _wait_for(lambda: _num_epochs(run_dir) > num_epochs)
        following.send_signal(signal.SIGINT)
        output, _ = following.communicate(timeout=300)
    assert following.returncode == 130, output
    assert "stopping the job" in output
    assert max(_saved(run_dir)) > saved
    assert not (here / "runs").exists()


def test_a_bad_job_ends_with_the_runs_own_message_and_code(head: Head, here: Path) -> None:
    submitted = head.run(
        *("augft", "submit", "job.yaml", "--address", head.address, "--run-dir", here / "run"),
        *("--set", "data.source=/no/such/pictures"),
        cwd=here,
    )
    assert submitted.returncode == 2
    assert submitted.stdout.splitlines()[-1].startswith("augft: source '/no/such/pictures' does not exist")
    assert not (here / "runs").exists()


def test_without_the_token_there_is_a_line_that_says_so(head: Head, here: Path) -> None:
    options = ("--address", head.address, "--run-dir", here / "run")
    submitted = head.run("augft", "submit", "job.yaml", *options, cwd=here, RAY_AUTH_MODE="disabled")
    assert (submitted.returncode, submitted.stdout) == (2, "")
    assert submitted.stderr.startswith(f"augft: {head.address} wants a token: set RAY_AUTH_MODE=token")
    assert submitted.stderr.count("\n") == 1


def test_what_a_job_sets_for_its_workers_is_not_refused_and_holds(head: Head) -> None:
    code = (
        "import os, ray\n"
        "from augft.train.session import ray_session\n"
        "with ray_session('auto', num_cpus=0):\n"
        "    print('worker has', ray.get(ray.remote(lambda: os.environ['MALLOC_ARENA_MAX']).remote()))\n"
    )
    env = '{"env_vars": {"MALLOC_ARENA_MAX": "3"}}'
    options = ("--address", head.address, "--runtime-env-json", env)
    submitted = head.run("ray", "job", "submit", *options, "--", "python3", "-c", code)
    assert "worker has 3" in submitted.stdout, submitted.stdout


def _num_epochs(run_dir: Path) -> int:
    metrics = run_dir / "metrics.jsonl"
    return metrics.read_text().count('"train"') if metrics.exists() else 0


def _saved(run_dir: Path) -> list[int]:
    """The steps of the checkpoints that are there."""
    return [int(path.parent.name.removeprefix("step-")) for path in run_dir.glob("checkpoints/step-*/checkpoint.json")]


def _wait_for(is_so: Callable[[], bool]) -> None:
    for _ in range(3000):
        if is_so():
            return
        time.sleep(0.1)
    raise AssertionError("has not come")
