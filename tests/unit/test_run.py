"""A run directory: whether a job may begin there, go on there, and what is read from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from augft.config import Job, load_job_text
from augft.errors import ConfigError, InputError, RunDirectoryError
from augft.run import CONFIG, Run, check_startable, open_run


def job(*overrides: str) -> Job:
    return load_job_text("model: {weights: none}", "job.yaml", overrides)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / CONFIG).write_text(job().to_yaml())
    return folder


def test_a_new_or_empty_folder_is_free(tmp_path: Path) -> None:
    check_startable(str(tmp_path / "new"), job(), resume=False)
    check_startable(str(tmp_path / "new"), job(), resume=True)
    (tmp_path / "empty").mkdir()
    check_startable(str(tmp_path / "empty"), job(), resume=False)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_other_files_are_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    for resume in (False, True):
        with pytest.raises(RunDirectoryError, match="holds files that are no run; give another --run-dir or name"):
            check_startable(str(tmp_path), job(), resume)


def test_a_file_is_no_run_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match="is a file; give a folder"):
        check_startable(str(tmp_path / "file"), job(), resume=False)


def test_a_run_that_is_there_is_gone_on_with_only_when_asked(run: Path) -> None:
    with pytest.raises(RunDirectoryError, match="a run is there already; go on with --resume"):
        check_startable(str(run), job(), resume=False)
    check_startable(str(run), job(), resume=True)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("seed=1", r"seed \(0, not 1\)"),
        ("data.labels_per_class=5", r"data\.labels_per_class \(None, not 5\)"),
        ("augment.policy=none", r"augment\.policy \('standard', not 'none'\)"),
        ("augment.policy=[rotate]", r"augment\.policy \('standard', not \['rotate'\]\)"),
        ("train.epochs=11", r"train\.epochs \(10, not 11\)"),
        ("train.global_batch_size=128", r"train\.global_batch_size \(256, not 128\)"),
        ("train.optimizer.lr=0.1", r"train\.optimizer\.lr \(0\.05, not 0\.1\)"),
        ("train.schedule.milestones=[0.1]", r"train\.schedule\.milestones \(\[0\.5, 0\.75\], not \[0\.1\]\)"),
    ],
)
def test_what_is_computed_may_not_change(run: Path, override: str, key: str) -> None:
    with pytest.raises(RunDirectoryError, match=f"the run there has another {key}; resume it with its own config.yaml"):
        check_startable(str(run), job(override), resume=True)


@pytest.mark.parametrize(
    "override",
    ["scale.num_workers=2", "scale.augment_actors=[1,3]", "run.keep_checkpoints=5", "name=other", "train.stop.steps=9"],
)
def test_who_computes_it_and_when_it_ends_may(run: Path, override: str) -> None:
    check_startable(str(run), job(override), resume=True)


@pytest.mark.parametrize("content", ["", "- 1\n", "a: [", "seed: x\n"])
def test_a_broken_config_of_a_run(run: Path, content: str) -> None:
    (run / CONFIG).write_text(content)
    with pytest.raises(InputError) as caught:
        check_startable(str(run), job("seed=1"), resume=True)
    assert "\n" not in str(caught.value)
    assert CONFIG in str(caught.value)


def test_reading_a_run(run: Path) -> None:
    opened = open_run(run)
    assert opened.job == job()
    assert not opened.is_finished
    with pytest.raises(RunDirectoryError, match="has not finished; go on with --resume"):
        _ = opened.summary
    (run / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    (run / "environment.json").write_text('{"ray": "2"}')
    (run / "summary.json").write_text(json.dumps({"best_step": 3}))
    assert opened.is_finished
    assert opened.summary == {"best_step": 3}
    assert opened.metrics == [{"step": 1}, {"step": 2}]
    assert opened.environment == {"ray": "2"}


def test_there_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"no run there \(config\.yaml is missing\)"):
        open_run(tmp_path)
    with pytest.raises(RunDirectoryError):
        open_run(tmp_path / "nowhere")
    (tmp_path / CONFIG).write_text("trian: 1")
    with pytest.raises(ConfigError, match=r"config\.yaml: unknown key trian; did you mean train\?"):
        _ = Run(str(tmp_path)).job
