"""A search on the digits: what it leaves behind, what may befall it, and that what it finds can be trained again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from augft.augment.policy import Policy
from augft.config import Job, load_job_text
from augft.experiment.budget import trial_job
from augft.experiment.tune import tune
from augft.run import Run
from augft.train.solo import run_alone

pytestmark = pytest.mark.usefixtures("local_ray")

JOB = """
name: small
seed: 5
data: {source: digits, image_size: 8, labels_per_class: 20, val_fraction: 0.2}
model: {name: resnet20, weights: none}
train: {epochs: 4, global_batch_size: 64}
scale: {use_gpu: false}
run: {trackers: []}
search:
  base: none
  ops: [rotate, translate, cutout, contrast, brightness]
  baselines: [none, digits]
  trials: 5
  labels_per_class: 10
  epochs: 3
  reduction: 2
  seeds: 2
  proxy_checks: 1
"""


def job(*overrides: str) -> Job:
    return load_job_text(JOB, "the test's job", overrides)


def until(condition: Callable[[], bool], timeout_s: float = 400) -> None:
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < timeout_s, "it never came"
        time.sleep(0.02)


def read(path: Path) -> Any:
    """A JSON file that is there, and is replaced as a whole."""
    return json.loads(path.read_text()) if path.exists() else None


def stamps(folder: Path, name: str = "summary.json") -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in sorted(folder.glob(f"trials/*/{name}"))}


def alone(trial: dict[str, Any], whole: Job, folder: Path) -> tuple[str, bytes]:
    """Digest and weights of a trial's run, made here and undisturbed."""
    policy = f"augment.policy={json.dumps(trial['policy'])}"
    summary = run_alone(trial_job(whole).replace([policy, *trial["overrides"]]), str(folder), with_test=False)
    return summary["stream_digest"], Run(str(folder)).storage.read("model.safetensors")


def made(run_dir: Path) -> tuple[str, bytes]:
    run = Run(str(run_dir))
    return run.summary["stream_digest"], run.storage.read("model.safetensors")


def test_a_search_from_its_start_to_its_end(tmp_path: Path) -> None:
    found = tune(job(), run_dir=str(tmp_path / "s"))
    assert json.loads((tmp_path / "s/search.json").read_text()) == found
    trials = {trial["id"]: trial for trial in found["trials"]}
    assert [trial["name"] for trial in found["trials"]] == ["none", "digits", None, None, None]
    assert {trial["status"] for trial in found["trials"]} <= {"finished", "stopped early"}
    for trial in found["trials"][:2]:
        assert trial["status"] == "finished"
    for trial in found["trials"]:
        epochs = [line["epoch"] for line in trial["history"]]
        assert epochs == list(range(1, len(epochs) + 1))
        assert (len(epochs) == 3) == (trial["status"] == "finished")
        assert trial["val_top1"] == max(line["val_top1"] for line in trial["history"])
        assert Policy.from_config(trial["policy"]).to_config() == trial["policy"]

    chosen = found["chosen"]
    assert trials[chosen["trial"]]["name"] is None
    assert chosen["policy"] == trials[chosen["trial"]]["policy"]
    policy = Policy.from_config(tmp_path / "s/policy.json")
    assert policy == Policy.from_config(chosen["policy"])
    assert policy.name == "found"

    # Nothing of the search has seen the test split, and nothing of the race the search's seed.
    assert not list((tmp_path / "s/trials").glob("*/evaluation.json"))
    assert found["race"]["seeds"] == [6, 7]
    assert found["race"]["baseline"] == "none"
    [cell] = found["race"]["cells"]
    assert [each["name"] for each in cell["policies"]] == ["found", "none", "digits"]
    for each in cell["policies"]:
        for run in each["runs"]:
            assert Run(str(tmp_path / "s" / run["uri"])).job.train.epochs == 4
    means = {each["name"]: each["top1"] for each in cell["policies"]}
    assert {duel["against"] for duel in found["duels"]} == {"none", "digits"}
    for duel in found["duels"]:
        assert duel["difference"] == pytest.approx(means["found"] - means[duel["against"]])
        assert duel["text"]
    proxy = found["proxy"]
    assert proxy["num_policies"] == len(proxy["points"]) == 4
    [checked] = [trials[point["name"].split()[1]] for point in proxy["points"] if point["name"].startswith("trial ")]
    assert proxy["stopped_early"] == (checked["status"] == "stopped early")
    assert proxy["points"][0] == {
        "name": "found",
        "proxy": chosen["val_top1"],
        "full": pytest.approx(cell["policies"][0]["val_top1"]),
    }
    left = {path.name for path in (tmp_path / "s").iterdir()}
    assert left == {
        *("search.yaml", "trials.json", "trials", "policy.json", "race", "checks"),
        *("search.json", "summary.json", "report.html"),
    }

    # It is done: going on with it runs nothing, and finds the same.
    before = stamps(tmp_path / "s")
    again = tune(job(), run_dir=str(tmp_path / "s"), resume=True)
    assert stamps(tmp_path / "s") == before
    assert {key: again[key] for key in ("chosen", "trials", "duels", "proxy")} == {
        key: found[key] for key in ("chosen", "trials", "duels", "proxy")
    }


def test_a_trial_whose_process_dies_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    longer = job("search.epochs=30", "search.trials=2", "search.baselines=[digits]", "search.seeds=0")
    run_dir, killed = tmp_path / "s/trials/0000", []

    def kill() -> None:
        until(lambda: bool(list(run_dir.glob("checkpoints/step-*/checkpoint.json"))))
        killed.append(read(run_dir / "lease.json")["pid"])
        os.kill(killed[0], signal.SIGKILL)

    killing = threading.Thread(target=kill)
    killing.start()
    found = tune(longer, run_dir=str(tmp_path / "s"))
    killing.join()
    assert killed
    [baseline] = [trial for trial in found["trials"] if trial["name"]]
    assert baseline["status"] == "finished"
    assert [line["epoch"] for line in baseline["history"]] == list(range(1, 31))
    assert Run(str(run_dir)).summary["num_restarts"] == 1
    assert made(run_dir) == alone(baseline, longer, tmp_path / "alone")


class _Driver:
    """`augft tune` in a process of its own, with a Ray of its own."""

    def __init__(self, folder: Path, *arguments: str, cpus: set[int] | None = None) -> None:
        self.folder = folder / "s"
        (folder / "job.yaml").write_text(JOB)
        command = [sys.executable, "-m", "augft.cli", "tune", str(folder / "job.yaml"), "--run-dir", str(self.folder)]
        self.process = subprocess.Popen(
            [*command, *arguments],
            env={**os.environ, "AUGFT_RAY_TEMP_DIR": os.environ["AUGFT_RAY_TEMP_DIR"] + "/d"},
            start_new_session=True,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=(lambda: os.sched_setaffinity(0, cpus)) if cpus else None,
        )

    def ended(self) -> tuple[int, str]:
        said = self.process.communicate(timeout=500)[1]
        return self.process.returncode, said

    def trials(self) -> list[dict[str, Any]]:
        ledger = read(self.folder / "trials.json")
        return ledger["trials"] if ledger else []

    def has_one_done_and_one_begun(self) -> bool:
        states = [(trial["status"], bool(trial["history"])) for trial in self.trials()]
        return ("finished", True) in states and ("unfinished", True) in states


def test_ctrl_c_and_a_killed_driver(tmp_path: Path) -> None:
    settings = ["search.epochs=12", "search.concurrent=2", "search.first_rung_epochs=11", "search.seeds=0"]
    texts = [text for setting in settings for text in ("--set", setting)]
    driver = _Driver(tmp_path, *texts)
    until(driver.has_one_done_and_one_begun)
    os.killpg(driver.process.pid, signal.SIGINT)
    code, said = driver.ended()
    assert code == 130, said
    assert "go on with --resume" in said.splitlines()[-1]
    assert "Traceback" not in said
    done = {trial["id"] for trial in driver.trials() if trial["status"] == "finished"}
    kept = {key: stamp for key, stamp in stamps(driver.folder, "model.safetensors").items() if key in done}
    assert set(kept) == done

    driver = _Driver(tmp_path, *texts, "--resume")
    until(lambda: sum(trial["status"] != "unfinished" for trial in driver.trials()) > len(done))
    driver.process.kill()
    driver.process.wait()

    until(lambda: not (driver.folder / "lease.json").exists() or driver.process.poll() is not None)
    found = tune(job(*settings), run_dir=str(driver.folder), resume=True)
    after = stamps(driver.folder, "model.safetensors")
    assert {key: after[key] for key in done} == kept, "a finished trial was run again"
    assert len(found["trials"]) == 5
    assert found["chosen"]["trial"] in {trial["id"] for trial in found["trials"] if trial["name"] is None}
    for trial in found["trials"]:
        if trial["status"] == "finished":
            assert len(trial["history"]) == 12
            assert made(driver.folder / "trials" / trial["id"]) == alone(trial, job(*settings), tmp_path / trial["id"])


def test_two_trials_with_workers_of_their_own_do_not_wait_for_each_other(tmp_path: Path) -> None:
    settings = ["scale.num_workers=2", "scale.augment_actors=1", "scale.cpus_per_worker=1", "search.trials=2"]
    settings += ["search.baselines=[digits]", "search.seeds=0", "search.epochs=2"]
    two = set(sorted(os.sched_getaffinity(0))[:2])
    driver = _Driver(tmp_path, *(text for setting in settings for text in ("--set", setting)), cpus=two)
    code, said = driver.ended()
    assert code == 0, said
    assert "1 at a time, each with training workers and augmentation actors" in said
    found = read(driver.folder / "search.json")
    assert found["trials"][0]["status"] == "finished"
    assert found["trials"][1]["history"]
    run = Run(str(driver.folder / "trials/0000"))
    assert run.job.scale.num_workers == 2
    assert [line["epoch"] for line in found["trials"][0]["history"]] == [1, 2]


def test_what_a_population_found_trains_to_the_same_weights_from_the_start(tmp_path: Path) -> None:
    settings = ["search.algorithm=pbt", "search.epochs=null", "search.interval_epochs=1", "search.baselines=[]"]
    whole = job(*settings, "search.trials=4", "search.seeds=0")
    found = tune(whole, run_dir=str(tmp_path / "s"))
    assert [trial["status"] for trial in found["trials"]] == ["finished"] * 4
    changed = [trial for trial in found["trials"] if trial["policy"].get("phases")]
    assert changed, "nobody took over from anybody"
    assert len({made(tmp_path / "s/trials" / trial["id"])[0] for trial in found["trials"]}) == 4, (
        "a change had no effect"
    )
    assert sum(part["to_epoch"] - part["from_epoch"] for part in found["lineage"]) == 4
    assert found["lineage"][-1]["trial"] == found["chosen"]["trial"]
    assert found["schedule"][0]["from_epoch"] == 0

    by_file = trial_job(whole).replace([f"augment.policy={tmp_path / 's/policy.json'}"])
    run_alone(by_file, str(tmp_path / "found"), with_test=False)
    assert made(tmp_path / "found") == made(tmp_path / "s/trials" / found["chosen"]["trial"])
    for trial in changed:
        assert made(tmp_path / "s/trials" / trial["id"]) == alone(trial, whole, tmp_path / trial["id"])
