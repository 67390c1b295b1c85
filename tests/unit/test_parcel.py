"""What a submitted job takes along, what the cluster runs of it, and how its result comes back."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from augft import __version__
from augft.augment.policy import Policy
from augft.config import Job, load_job
from augft.errors import ConfigError, PolicyError, WeightsError
from augft.storage import Storage
from augft.submit import entry, send
from augft.submit.parcel import fill, run_of

# ---- what is sent along ------------------------------------------------------------------------------------------


def _job(**sections: dict[str, Any]) -> Job:
    return Job.model_validate({"name": "small", **sections})


def _names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty, and apart from the working folder."""
    (tmp_path / "here").mkdir()
    (tmp_path / "sent").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "sent"


def test_a_job_without_files_is_sent_as_it_is(folder: Path) -> None:
    job = _job(augment={"policy": ["horizontal_flip"]}, run={"baseline": "none"}, model={"weights": "imagenet"})
    fill(folder, job)
    assert _names(folder) == {"job.yaml", "entry.py"}
    assert load_job(folder / "job.yaml") == job


def test_policies_and_weights_go_along_and_are_found_by_their_new_paths(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("mine.json").write_text(json.dumps({"name": "mine", "ops": [{"rotate": {"degrees": 7}}]}))
    Path("mine.yaml").write_text("[horizontal_flip]")
    Path("w.safetensors").write_bytes(b"weights")
    Path("w.json").write_bytes(b"what is known of them")
    Path("other.txt").write_bytes(b"nobody's business")
    fill(
        folder,
        _job(augment={"policy": "mine.json"}, run={"baseline": "./mine.yaml"}, model={"weights": "w.safetensors"}),
    )
    assert _names(folder) == {
        "job.yaml",
        "entry.py",
        "policy/mine.json",
        "baseline/mine.yaml",
        "weights/w.safetensors",
        "weights/w.json",
    }
    here = Path.cwd()
    monkeypatch.chdir(folder)
    sent = load_job("job.yaml")
    assert Policy.from_config(sent.augment.policy) == Policy.from_config(here / "mine.json")
    assert Policy.from_config(sent.run.baseline) == Policy.from_config(here / "mine.yaml")
    assert Path(sent.model.weights).read_bytes() == b"weights"


def test_of_a_run_directory_the_model_goes_along(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("model.safetensors", "model.json", "metrics.jsonl"):
        Storage("old").write(name, name.encode())
    fill(folder, _job(model={"weights": "old"}))
    assert _names(folder) == {"job.yaml", "entry.py", "weights/model.safetensors", "weights/model.json"}
    assert load_job(folder / "job.yaml").model.weights == "weights"


def test_what_is_not_here_and_has_an_absolute_path_is_the_clusters(folder: Path) -> None:
    job = _job(model={"weights": "/shared/runs/old"}, data={"source": "s3://pictures/packed"})
    fill(folder, job)
    assert load_job(folder / "job.yaml") == job


@pytest.mark.parametrize(
    ("sections", "error", "says"),
    [
        ({"model": {"weights": "none.pth"}}, WeightsError, r"model\.weights none\.pth: no such file here"),
        ({"model": {"weights": "."}}, WeightsError, "model.safetensors: no such file"),
        ({"augment": {"policy": "none.json"}}, PolicyError, r"none\.json"),
        ({"run": {"baseline": "basik"}}, PolicyError, "basic"),
        ({"data": {"source": "photos"}}, ConfigError, "data is not sent along"),
    ],
)
def test_what_is_missing_is_said_here(folder: Path, sections: dict[str, Any], error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        fill(folder, _job(**sections))


def test_weights_that_the_dashboard_would_not_take(folder: Path) -> None:
    with Path("large.pth").open("wb") as file:
        file.truncate(96 * 2**20)
    with pytest.raises(ConfigError, match=r"large\.pth: 96 MiB are too large"):
        fill(folder, _job(model={"weights": "large.pth"}))


def test_a_run_lives_where_each_node_sees_it() -> None:
    shared = _job(run={"storage_path": "s3://bucket/runs/"})
    assert run_of(shared, None) == "s3://bucket/runs/small"
    assert run_of(shared, "/shared/this") == "/shared/this"
    with pytest.raises(ConfigError, match=r"run\.storage_path runs: is relative"):
        run_of(_job(), None)
    with pytest.raises(ConfigError, match="--run-dir this: is relative"):
        run_of(shared, "this")


# ---- what the cluster runs ---------------------------------------------------------------------------------------


def test_entry_runs_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [])
    with pytest.raises(SystemExit) as end:
        entry.main(__version__, "--version")
    assert not end.value.code
    assert capsys.readouterr().out == f"augft {__version__}\n"


@pytest.mark.parametrize(("found", "says"), [("9.9.9", "has augft 9.9.9"), (None, "has no augft")])
def test_another_augft_there_is_said_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], found: str | None, says: str
) -> None:
    def version(_: str) -> str:
        if found is None:
            raise entry.PackageNotFoundError
        return found

    monkeypatch.setattr(entry, "version", version)
    with pytest.raises(SystemExit) as end:
        entry.main("0.1.0", "train")
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert "install augft 0.1.0 on each node" in line


def test_a_result_comes_through_a_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = np.random.default_rng(0).bytes(100_000)
    Storage(tmp_path).write("summary.json", b"{}\n")
    Storage(tmp_path).write("report.html", data)
    send.send(str(tmp_path))
    log = f"Running entrypoint\naugft-result ../evil e30=\n{capsys.readouterr().out}bye\n"
    assert send.receive(log) == {"summary.json": b"{}\n", "report.html": data}
