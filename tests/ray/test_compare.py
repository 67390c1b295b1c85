"""A whole comparison on digits: pairs, figures, nothing run twice, whatever is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from typer.testing import CliRunner

from augft.cli import app
from augft.config import Job, load_job_text
from augft.errors import InputError, RunDirectoryError, RunError
from augft.evaluate import correct_from_dict
from augft.experiment.compare import compare
from augft.run import Run
from tests.ray.processes import titles

pytestmark = pytest.mark.usefixtures("local_ray")

JOB = """
name: small
data: {source: digits, image_size: 8, labels_per_class: 10}
model: {name: resnet20, weights: none, bn: frozen}
train: {epochs: 4, global_batch_size: 25, precision: fp32, optimizer: {lr: 0.05}}
run: {trackers: []}
compare:
  policies: [none, digits, {flips: {policy: [horizontal_flip, vertical_flip]}}, {again: {policy: digits}}]
  seeds: 2
"""


def job(*overrides: str) -> Job:
    return load_job_text(JOB, "the test's job", overrides)


def files(folder: Path) -> dict[str, int]:
    """Each run's summary, and when it was written."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.glob("runs/**/summary.json")}


def without_times(comparison: dict[str, Any]) -> str:
    """All of it but what differs between equal comparisons."""
    text = json.loads(json.dumps(comparison))
    for cell in text["cells"]:
        for policy in cell["policies"]:
            policy["train_s"] = policy["time_ratio"] = None
            for run in policy["runs"]:
                run["train_s"] = run["images_per_s"] = run["data_stall_fraction"] = None
    return json.dumps({**text, "created": None})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("comparisons") / "undisturbed"
    compare(job(), run_dir=str(made))
    return made


@pytest.fixture(scope="module")
def comparison(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "comparison.json").read_text())
    return found


def test_runs_of_a_seed_are_a_pair(folder: Path, comparison: dict[str, Any]) -> None:
    [cell] = comparison["cells"]
    assert [policy["name"] for policy in cell["policies"]] == ["none", "digits", "flips", "again"]
    for seed, _ in enumerate(comparison["seeds"]):
        runs = [Run(str(folder / policy["runs"][seed]["uri"])) for policy in cell["policies"]]
        assert len({(run.job.seed, run.environment["data"]["digest"]) for run in runs}) == 1
        digests = [run.summary["stream_digest"] for run in runs]
        assert digests[1] == digests[3]
        assert len(set(digests)) == 3


def test_figures_are_those_of_the_runs(folder: Path, comparison: dict[str, Any]) -> None:
    [cell] = comparison["cells"]
    assert (comparison["judged_on"], cell["num_pictures"]) == ("test", 359)
    correct = {}
    for policy in cell["policies"]:
        runs = [Run(str(folder / run["uri"])) for run in policy["runs"]]
        correct[policy["name"]] = np.array(
            [correct_from_dict(json.loads(run.storage.read("evaluation.json"))) for run in runs]
        )
        assert policy["top1"] == pytest.approx(correct[policy["name"]].mean())
        assert policy["val_top1"] == pytest.approx(np.mean([run.summary["val_top1"] for run in runs]))
        assert [len(each) for each in policy["curves"]["val_top1"]] == [4, 4]
    for policy in cell["policies"][1:]:
        versus = policy["versus"]
        assert versus["difference"] == pytest.approx(correct[policy["name"]].mean() - correct["none"].mean())
        assert versus["low"] < versus["difference"] < versus["high"]
        assert sum(one["difference"] for one in policy["per_class"]) != 0
    assert cell["policies"][0]["versus"] is None
    best = max(cell["policies"], key=lambda policy: policy["val_top1"])
    assert (cell["chosen"], cell["chosen_by"]) == (best["name"], "val")


def test_what_is_the_same_is_called_so(tmp_path: Path) -> None:
    made = job("compare.policies=[digits, {again: {policy: digits}}]", "compare.seeds=1", "train.epochs=1")
    [cell] = compare(made, run_dir=str(tmp_path / "c"))["cells"]
    assert cell["policies"][1]["versus"]["verdict"] == "the same"


def test_the_folder_explains_itself(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {
        "compare.yaml", "runs", "comparison.json", "summary.json", "report.html",
    }  # fmt: skip
    assert load_job_text((folder / "compare.yaml").read_text(), "compare.yaml") == job()
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary["cells"][0]["verdicts"]) == {"digits", "flips", "again"}
    assert not list(folder.glob("runs/*/checkpoints"))


def test_a_single_run_has_its_page_when_asked_for(folder: Path) -> None:
    run = folder / "runs" / "digits-seed-0"
    assert not (run / "report.html").exists()
    told = CliRunner().invoke(app, ["report", str(run)])
    assert told.stdout.strip() == str(run / "report.html")
    assert "<html" in (run / "report.html").read_text()[:200]
    told = CliRunner().invoke(app, ["report", str(folder), "--baseline", str(run)])
    assert "a comparison or a search has its own" in str(told.exception)


def test_nothing_is_run_twice_and_more_seeds_may_come(folder: Path, comparison: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="go on with --resume"):
        compare(job(), run_dir=str(folder))
    with pytest.raises(RunDirectoryError, match=r"another train\.epochs \(4, not 5\)"):
        compare(job("train.epochs=5"), run_dir=str(folder), resume=True)
    before = files(folder)
    assert len(before) == 8
    again = compare(job(), run_dir=str(folder), resume=True)
    assert without_times(again) == without_times(comparison)
    assert files(folder) == before
    more = compare(job("compare.seeds=3", "compare.policies=[none, digits]"), run_dir=str(folder), resume=True)
    assert more["seeds"] == [0, 1, 2]
    after = files(folder)
    assert len(after) == 10
    assert before.items() <= after.items()


def test_a_trial_that_is_killed_goes_on(comparison: dict[str, Any], tmp_path: Path) -> None:
    """Each seat's process is killed once, at its first checkpoint or so."""
    command = [sys.executable, "-c", _KILLING, JOB, str(tmp_path / "c")]
    subprocess.run(command, check=True, timeout=400)
    found = json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert int((tmp_path / "killed").read_text()) == 2
    assert without_times(found) == without_times(comparison)


# In a process with a Ray of its own, whose seats are its children's children.
_KILLING = """
import sys, threading, time
from pathlib import Path
import psutil
from augft.config import load_job_text
from augft.experiment.compare import compare

folder = Path(sys.argv[2])
killed = []

def kill():
    while len(killed) < 2:
        time.sleep(0.05)
        if not list(folder.glob("runs/*/checkpoints/step-*")):
            continue
        for process in psutil.Process().children(recursive=True):
            try:
                if "_Runner" in process.cmdline()[0] and process.pid not in killed and len(killed) < 2:
                    process.kill()
                    killed.append(process.pid)
            except (psutil.Error, IndexError):
                pass

thread = threading.Thread(target=kill, daemon=True)
thread.start()
compare(load_job_text(sys.argv[1], "the test's job"), run_dir=str(folder))
(folder.parent / "killed").write_text(str(len(killed)))
"""


def _start(folder: Path, *more: str) -> subprocess.Popen[str]:
    file = folder.parent / "job.yaml"
    file.write_text(JOB)
    command = [sys.executable, "-m", "augft.cli", "compare", str(file), "--run-dir", str(folder), *more]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_driver_that_is_killed_or_stopped_goes_on(
    comparison: dict[str, Any], tmp_path: Path, sent: signal.Signals
) -> None:
    folder = tmp_path / "c"
    with _start(folder) as driver:
        deadline = time.monotonic() + 300
        while len(files(folder)) < 3:
            assert driver.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        seats = [process for process, title in titles(driver.pid).items() if "_Runner" in title]
        assert seats
        os.kill(driver.pid, sent)
        _, stderr = driver.communicate(timeout=120)
        assert not psutil.wait_procs(seats, timeout=60)[1]
    if sent == signal.SIGINT:
        assert driver.returncode == 130
        assert stderr.splitlines()[-1].endswith("go on with --resume")
    before = files(folder)
    assert 3 <= len(before) < 8
    with _start(folder, "--resume") as driver:
        _, stderr = driver.communicate(timeout=300)
    assert driver.returncode == 0, stderr
    assert before.items() <= files(folder).items()
    assert without_times(json.loads((folder / "comparison.json").read_text())) == without_times(comparison)


def test_trials_of_several_workers(tmp_path: Path) -> None:
    """Each a whole run with its actors: as many at a time as fit, and none waits for another for ever."""
    made = job("scale.num_workers=2", "scale.augment_actors=1", "compare.policies=[none, digits]", "compare.seeds=1")
    found = compare(made, run_dir=str(tmp_path / "c"))
    digests = [policy["runs"][0]["stream_digest"] for policy in found["cells"][0]["policies"]]
    alone = compare(job("compare.policies=[none, digits]", "compare.seeds=1"), run_dir=str(tmp_path / "alone"))
    assert digests == [policy["runs"][0]["stream_digest"] for policy in alone["cells"][0]["policies"]]


def test_a_run_that_fails_fails_the_comparison_and_no_other_run(tmp_path: Path) -> None:
    bad = "{wild: {policy: none, mixup_alpha: 0.5}}"
    made = job(f"compare.policies=[none, {bad}]", "compare.seeds=1", "train.optimizer.lr=1.0e+12")
    with pytest.raises(RunError, match="2 of 2 runs failed"):
        compare(made, run_dir=str(tmp_path / "c"))


def test_bad_input_begins_nothing(tmp_path: Path) -> None:
    for override, message in (
        ("model.name=resnet21", "resnet"),
        ("compare.policies=[none, digitz]", "did you mean 'digits'"),
        ("data.labels_per_class=100000", "labels_per_class"),
    ):
        with pytest.raises(InputError, match=message):
            compare(job(override), run_dir=str(tmp_path / "c"))
        assert not (tmp_path / "c").exists()
