"""A run in one process, without Ray: broken off anywhere, it ends as the undisturbed one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from augft.assess.assess import assess
from augft.augment.actor import Augmenter
from augft.config import Job, load_job_text
from augft.display import Display
from augft.errors import ConfigError, RunDirectoryError, Stopped
from augft.prepare import prepare_packed
from augft.run import Run
from augft.saved import read_saved
from augft.train.solo import run_alone

# 200 originals and 200 copies an epoch, 90 a step: epochs end within steps.
JOB = """
name: small
seed: 5
data: {source: digits, image_size: 8, labels_per_class: 20}
augment: {policy: digits, copies: 2, select: 0.5, keep_original: true}
model: {name: resnet20, weights: none}
train: {epochs: 4, global_batch_size: 90, optimizer: {lr: 0.05}, ema_decay: 0.9}
run: {checkpoint_every_steps: 5, trackers: []}
"""
TIMES = ("images_per_s", "data_wait_s")


def job(*overrides: str) -> Job:
    return load_job_text(JOB, "job.yaml", overrides)


def without_times(run: Run) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key not in TIMES} for line in run.metrics]


def assert_same(found: Run, expected: Run) -> None:
    assert found.summary["stream_digest"] == expected.summary["stream_digest"]
    assert without_times(found) == without_times(expected)
    assert found.storage.read("model.safetensors") == expected.storage.read("model.safetensors")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(str(tmp_path_factory.mktemp("runs") / "undisturbed"))
    run_alone(job(), run.uri)
    return run


def test_a_run_directory_explains_itself(undisturbed: Run) -> None:
    assert set(undisturbed.storage.list()) == {
        "config.yaml", "policy.json", "environment.json", "metrics.jsonl", "checkpoints", "model.safetensors",
        "model.json", "summary.json", "evaluation.json", "preview.png",
    }  # fmt: skip
    assert undisturbed.job == job()
    summary = undisturbed.summary
    assert (summary["steps"], summary["stop_reason"], summary["test_num_samples"]) == (18, "epochs", 359)
    assert summary["val_top1"] == max(line["top1"] for line in undisturbed.metrics if line["split"] == "val")


def test_the_size_of_the_pictures_is_the_runs_own_word(undisturbed: Run, tmp_path: Path) -> None:
    """Also where they are not there any more; runs of earlier versions do not say it."""
    environment = undisturbed.environment
    assert environment["data"]["image_shape"] == [8, 8, 3]
    for name in ("config.yaml", "model.safetensors", "model.json"):
        (tmp_path / name).write_bytes(undisturbed.storage.read(name))

    def size(**data: Any) -> int:
        changed = {**environment, "data": {**environment["data"], **data}}
        (tmp_path / "environment.json").write_text(json.dumps(changed))
        return read_saved(str(tmp_path)).picture_size

    assert size(path="gone", image_shape=[9, 9, 3]) == 9
    del environment["data"]["image_shape"]
    assert size() == 8


def test_it_tells_of_the_model_as_it_is_shipped(tmp_path: Path) -> None:
    """Trained in bfloat16; whoever loads it computes in float32, and finds the figures that the run has."""
    uri = str(tmp_path / "run")
    run_alone(job("train.precision=bf16", "train.epochs=1"), uri)
    told = json.loads(Run(uri).storage.read("evaluation.json"))
    found, _ = assess(uri, display=Display(Console(quiet=True)))
    assert found["confusion"] == told["confusion"]
    assert found["loss"] == pytest.approx(told["loss"], rel=1e-6)


def test_pictures_that_are_no_squares_are_not_trained_on(tmp_path: Path) -> None:
    for number in range(20):
        path = tmp_path / "wide" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 6), (number, 0, 0)).save(path)
    wide = (f"data.source={tmp_path / 'wide'}", "data.labels_per_class=null")
    with pytest.raises(ConfigError, match=r"/wide has pictures of 12x6, and models take squares: set data\.image_size"):
        run_alone(job(*wide, "data.image_size=null"), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_what_is_finished_is_not_run_again(undisturbed: Run) -> None:
    events: list[dict[str, Any]] = []
    assert run_alone(job(), undisturbed.uri, on_event=events.append) == undisturbed.summary
    assert not events


@pytest.mark.parametrize("step", [1, 7, 17])
def test_it_stops_when_asked_and_goes_on(undisturbed: Run, tmp_path: Path, step: int) -> None:
    run, steps = Run(str(tmp_path / "run")), [0]

    def asked() -> bool:
        steps[0] += 1
        return steps[0] == step

    with pytest.raises(Stopped, match=f"stopped after step {step} and saved"):
        run_alone(job(), run.uri, stop_is_asked=asked)
    assert not run.is_finished
    run_alone(job(), run.uri)
    assert_same(run, undisturbed)
    assert run.summary["num_restarts"] == 1


def test_in_intervals_it_is_the_same_run(undisturbed: Run, tmp_path: Path) -> None:
    run = Run(str(tmp_path / "run"))
    for epochs in (1, 3):
        summary = run_alone(job(f"train.stop.epochs={epochs}"), run.uri, with_test=False)
        assert (summary["epochs"], summary["stop_reason"], summary["test_top1"]) == (epochs, "epochs", None)
        assert all(line["split"] != "test" for line in run.metrics)
    run_alone(job(), run.uri)
    assert_same(run, undisturbed)


def test_other_draws_are_other_pictures_of_the_same_samples(digits: Path) -> None:
    prepared = [prepare_packed(job(f"augment.draws={draws}"), digits) for draws in (0, 1)]
    first, second = (
        Augmenter(str(digits), "train", each.samples.train_ids, each.plan, each.policy).columns(np.arange(400))
        for each in prepared
    )
    assert np.array_equal(first["sample_id"], second["sample_id"])
    is_copy = first["copy"] > 0
    same = (first["image"] == second["image"]).all((1, 2, 3))
    assert same[~is_copy].all()
    assert not same[is_copy].any()


def test_another_policy_is_refused_unless_it_may_change(tmp_path: Path) -> None:
    uri = str(tmp_path / "run")
    run_alone(job("train.stop.epochs=1"), uri, with_test=False)
    with pytest.raises(RunDirectoryError, match=r"augment\.policy"):
        run_alone(job("augment.policy=none"), uri)
    run_alone(job("augment.policy=none"), uri, free_to_change=("augment.policy",))
    assert Run(uri).summary["epochs"] == 4


def test_what_nobody_looks_at_may_go(tmp_path: Path) -> None:
    run_alone(job("train.epochs=1"), str(tmp_path / "run"), keep_checkpoints=False, with_preview=False)
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert not (tmp_path / "run" / "preview.png").exists()
    assert (tmp_path / "run" / "model.safetensors").exists()
