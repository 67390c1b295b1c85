"""The laws, on whole runs: the same samples, pixels and weights whoever works and whatever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from augft.config import Job, load_job_text
from augft.errors import NonFiniteLossError, RunDirectoryError
from augft.model import build_model
from augft.run import Run
from augft.train.launch import train
from tests.ray.alone import train_alone

pytestmark = pytest.mark.usefixtures("local_ray")

JOB = """
name: small
seed: 5
data: {source: digits, image_size: 12, labels_per_class: 20}
augment: {policy: digits, copies: 2, select: 0.5, keep_original: true}
model: {name: resnet20, weights: none}
train:
  epochs: 6
  global_batch_size: 90
  optimizer: {lr: 0.05}
run: {checkpoint_every_steps: 5, trackers: []}
"""
TIMES = ("images_per_s", "data_wait_s")


def _job(*overrides: str) -> Job:
    return load_job_text(JOB, "the test's job", overrides)


def _without_times(run: Run) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key not in TIMES} for line in run.metrics]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(_job(), run_dir=str(tmp_path_factory.mktemp("runs") / "undisturbed"))


def test_an_epoch_has_each_original_and_each_copy(undisturbed: Run) -> None:
    lines = [line for line in undisturbed.metrics if line["split"] == "train"]
    assert [line["num_samples"] for line in lines] == [200 + 2 * 100] * 6
    assert undisturbed.summary["steps"] == -(-6 * 400 // 90)


def test_a_run_directory_explains_itself(undisturbed: Run) -> None:
    names = set(undisturbed.storage.list())
    assert names >= {
        "config.yaml",
        "policy.json",
        "environment.json",
        "metrics.jsonl",
        "checkpoints",
        "model.safetensors",
        "model.json",
        "summary.json",
        "evaluation.json",
        "report.html",
        "preview.png",
    }
    assert undisturbed.job == _job()
    summary = undisturbed.summary
    assert summary["test_num_samples"] == 359
    assert summary["stop_reason"] == "epochs"
    assert summary["num_restarts"] == 0
    evaluation = json.loads(undisturbed.storage.read("evaluation.json"))
    assert sum(map(sum, evaluation["confusion"])) == 359
    val = [line["top1"] for line in undisturbed.metrics if line["split"] == "val"]
    assert summary["val_top1"] == max(val)


@pytest.mark.parametrize("scale", ["augment_actors=3", "num_workers=2"])
def test_who_works_does_not_show(undisturbed: Run, tmp_path: Path, scale: str) -> None:
    other = train(_job(f"scale.{scale}"), run_dir=str(tmp_path / "other"))
    assert other.summary["stream_digest"] == undisturbed.summary["stream_digest"]
    assert other.summary["num_restarts"] == 0
    if scale.startswith("augment"):
        assert other.storage.read("model.safetensors") == undisturbed.storage.read("model.safetensors")
        assert _without_times(other) == _without_times(undisturbed)


def test_a_run_alone_in_a_process_is_the_same(undisturbed: Run, tmp_path: Path) -> None:
    alone = train_alone(_job(), tmp_path / "alone")
    assert alone.summary["stream_digest"] == undisturbed.summary["stream_digest"]
    assert alone.storage.read("model.safetensors") == undisturbed.storage.read("model.safetensors")
    assert _without_times(alone) == _without_times(undisturbed)


def test_where_no_statistics_are_learned_two_workers_learn_what_one_does(tmp_path: Path) -> None:
    alike = ("model.bn=frozen", "train.precision=fp32", "train.optimizer.lr=0.01", "train.epochs=3")
    one = train_alone(_job(*alike), tmp_path / "one")
    two = train(_job(*alike, "scale.num_workers=2"), run_dir=str(tmp_path / "two"))
    assert one.summary["stream_digest"] == two.summary["stream_digest"]
    ours, theirs = (load(run.storage.read("model.safetensors")) for run in (one, two))
    for name, tensor in ours.items():
        torch.testing.assert_close(
            theirs[name], tensor, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
    moved = max(float((ours[name] - other).abs().max()) for name, other in _first_weights(_job(*alike)).items())
    assert moved > 1e-2, "nothing was learned, so nothing is shown"


def _first_weights(job: Job) -> dict[str, torch.Tensor]:
    built = build_model(job.model.name, num_classes=10, weights="none", stem="imagenet", classes=None, seed=job.seed)
    return {name: value for name, value in built.module.state_dict().items() if value.dtype == torch.float32}


def test_another_seed_or_policy_shows(undisturbed: Run, tmp_path: Path) -> None:
    stop = "train.stop.steps=4"
    digests = [
        train_alone(_job(stop, *changed), tmp_path / str(number)).summary["stream_digest"]
        for number, changed in enumerate([(), ("seed=6",), ("augment.policy=none",)])
    ]
    assert len(set(digests)) == 3


def test_a_driver_killed_in_mid_epoch_is_gone_on_with(undisturbed: Run, tmp_path: Path) -> None:
    job_file = tmp_path / "job.yaml"
    job_file.write_text(JOB)
    run_dir = tmp_path / "killed"
    command = [sys.executable, "-m", "augft.cli", "train", str(job_file), "--run-dir", str(run_dir)]
    # A Ray of its own, that dies with it.
    env = {**os.environ, "AUGFT_RAY_TEMP_DIR": os.environ["AUGFT_RAY_TEMP_DIR"] + "/k"}
    with subprocess.Popen(command, env=env, start_new_session=True, stderr=subprocess.PIPE) as driver:
        # Steps 10 and 15 lie within epochs of 4.4 steps.
        _wait_for(run_dir / "checkpoints" / "step-00000010" / "checkpoint.json", driver)
        os.killpg(driver.pid, signal.SIGKILL)
    assert not (run_dir / "summary.json").exists()

    with pytest.raises(RunDirectoryError, match="--resume"):
        train(_job(), run_dir=str(run_dir))
    with pytest.raises(RunDirectoryError, match=r"train\.epochs"):
        train(_job("train.epochs=7"), run_dir=str(run_dir), resume=True)

    resumed = train(_job(), run_dir=str(run_dir), resume=True)
    _assert_same(resumed, undisturbed)
    assert resumed.summary["num_restarts"] == 1


def test_a_killed_worker_and_a_killed_actor_are_replaced(undisturbed: Run, tmp_path: Path) -> None:
    run_dir = tmp_path / "faults"
    command = [sys.executable, "-c", _KILL_AT_STEP_10.format(run_dir=run_dir, ray=os.getpid())]
    with subprocess.Popen(command) as killer:
        # Small units: else the actor has made all pictures, and ended, before it can be killed.
        run = train(_job("scale.unit_rows=90"), run_dir=str(run_dir))
        assert killer.wait(timeout=10) == 0, "nothing was killed"
    _assert_same(run, undisturbed)
    assert run.summary["num_restarts"] >= 1


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLossError, match=r"step \d+ .*sample ids \d+"):
        train(
            _job("train.optimizer.lr=1e30", "train.optimizer.momentum=0", "train.optimizer.nesterov=false"),
            run_dir=str(tmp_path / "nan"),
        )


@pytest.mark.parametrize(
    ("rule", "reason"),
    [("loss=100", "loss"), ("epochs=2", "epochs"), ("steps=7", "steps"), ("time_s=0.001", "time_s")],
)
def test_stop_rules(tmp_path: Path, rule: str, reason: str) -> None:
    summary = train_alone(_job(f"train.stop.{rule}"), tmp_path / "stopped").summary
    assert summary["stop_reason"] == reason
    assert summary["steps"] == {"loss": 5, "epochs": 9, "steps": 7, "time_s": 2}[reason]


def _assert_same(run: Run, undisturbed: Run) -> None:
    assert run.summary["stream_digest"] == undisturbed.summary["stream_digest"]
    assert _without_times(run) == _without_times(undisturbed)
    assert run.storage.read("model.safetensors") == undisturbed.storage.read("model.safetensors")


def _wait_for(path: Path, driver: subprocess.Popen[bytes], timeout_s: float = 240) -> None:
    begin = time.monotonic()
    while not path.exists():
        if driver.poll() is not None or time.monotonic() - begin > timeout_s:
            assert driver.stderr is not None
            driver.kill()
            pytest.fail(f"{path.name} never came: {driver.stderr.read().decode()[-2000:]}")
        time.sleep(0.01)


_KILL_AT_STEP_10 = """
import pathlib, psutil, signal, time
begin = time.monotonic()
while not pathlib.Path("{run_dir}/checkpoints/step-00000010/checkpoint.json").exists():
    assert time.monotonic() - begin < 240
    time.sleep(0.01)
killed = 0
for process in psutil.Process({ray}).children(recursive=True):
    try:
        title = " ".join(process.cmdline())
    except psutil.Error:
        continue
    if title.startswith(("ray::RayTrainWorker", "ray::MapWorker", "ray::_MapWorker")):
        process.send_signal(signal.SIGKILL)
        killed += 1
raise SystemExit(0 if killed >= 2 else 1)
"""


def test_where_pictures_are_made_does_not_show(undisturbed: Run, tmp_path: Path) -> None:
    other = train(_job("augment.where=device"), run_dir=str(tmp_path / "other"))
    assert other.storage.read("model.safetensors") == undisturbed.storage.read("model.safetensors")
    assert _without_times(other) == _without_times(undisturbed)
    assert other.summary["stream_digest"] != undisturbed.summary["stream_digest"]
