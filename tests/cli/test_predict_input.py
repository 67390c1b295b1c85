"""`augft predict` with something wrong: one line, exit code 2, nothing written, and Ray is never started."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from PIL import Image

from augft.prediction.predict import Predictions
from tests.small_run import train_small


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_small(tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(buffer.getvalue())
    return tmp_path / "pictures"


@pytest.fixture
def fails(augft: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs `augft predict …` and gives the one line that it says on the way out."""

    def no_ray(*_: object, **__: object) -> None:
        pytest.fail("Ray was started")

    monkeypatch.setattr(ray, "init", no_ray)

    def failed(*arguments: object) -> str:
        before = sorted(tmp_path.rglob("*"))
        typed = augft("predict", *arguments)
        assert typed.code == 2, typed
        assert typed.out == ""
        message = typed.err.splitlines()[-1]
        assert message.startswith("augft: ")
        assert [line for line in typed.err.splitlines()[:-1] if not line.startswith("listing ")] == []
        assert sorted(tmp_path.rglob("*")) == before
        return str(message)

    return failed


def test_the_run(fails: Callable[..., str], run: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.parquet"
    assert "no run there (config.yaml is missing)" in fails(tmp_path, pictures, "--out", out)
    half = tmp_path / "half"
    half.mkdir()
    (half / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    assert "the run has left no model yet" in fails(half, pictures, "--out", out)


def test_the_source(fails: Callable[..., str], run: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.parquet"
    assert "source 'nowhere' does not exist" in fails(run, "nowhere", "--out", out)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no picture")
    assert "empty holds no pictures: expected .jpg" in fails(run, tmp_path / "empty", "--out", out)
    assert "is no folder, .tar," in fails(run, tmp_path / "empty" / "notes.txt", "--out", out)
    assert "s3://bucket" in fails(run, "s3://bucket?endpoint_override=127.0.0.1:9&scheme=gopher", "--out", out)


def test_the_place(fails: Callable[..., str], run: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "p.parquet").write_bytes(b"something")
    assert "is there already; give another name, or --force" in fails(run, pictures, "--out", tmp_path / "p.parquet")
    assert "pictures: is there already" in fails(run, pictures, "--out", pictures)
    assert "is a file; give a folder" in fails(run, pictures, "--out", tmp_path / "p.parquet" / "q.parquet")
    assert "give a folder, s3:// or gs://" in fails(run, pictures, "--out", "gopher://x/p.parquet")


def test_force_is_for_predictions_only(fails: Callable[..., str], run: Path, pictures: Path, tmp_path: Path) -> None:
    message = fails(run, pictures, "--out", pictures, "--force")
    assert "pictures: holds a.png, and only predictions are written over; give another name" in message
    (tmp_path / "p.parquet").write_bytes(b"something")
    message = fails(run, pictures, "--out", tmp_path / "p.parquet", "--force")
    assert "p.parquet: is no file of predictions, and only predictions are written over" in message
    message = fails(run, pictures, "--out", pictures / "p.parquet", "--force")
    assert f"p.parquet: lies in {pictures}, which is read; give another place" in message
    message = fails(run, pictures, "--out", run / "p.parquet")
    assert f"p.parquet: lies in {run}, which is read; give another place" in message
    assert not (run / "p.parquet.partial").exists()


def test_an_unfinished_one_of_other_pictures(
    fails: Callable[..., str], run: Path, pictures: Path, tmp_path: Path
) -> None:
    partial = tmp_path / "p.parquet.partial"
    partial.mkdir()
    (partial / "prediction.json").write_text('{"format": 1, "source": "/elsewhere"}')
    message = fails(run, pictures, "--out", tmp_path / "p.parquet")
    assert "p.parquet.partial: holds an unfinished prediction of another source; finish that one" in message
    (partial / "prediction.json").write_text("{")
    assert "of another format" in fails(run, pictures, "--out", tmp_path / "p.parquet")


@pytest.mark.parametrize("workers", ["0", "-1", "many"])
def test_the_workers(fails: Callable[..., str], run: Path, pictures: Path, tmp_path: Path, workers: str) -> None:
    message = fails(run, pictures, "--out", tmp_path / "p.parquet", "--workers", workers)
    assert f"--workers {workers}: give a number from 1 on, or auto" in message


def test_an_address_that_does_not_answer(augft: Callable, run: Path, pictures: Path, tmp_path: Path) -> None:
    typed = augft("predict", run, pictures, "--out", tmp_path / "p.parquet", "--address", "127.0.0.1:9")
    assert typed.code == 2
    assert typed.err.splitlines()[-1].startswith("augft: --address 127.0.0.1:9: Connection refused; start a cluster")


def test_no_picture_that_can_be_used_is_no_success(
    augft: Callable, run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict(*_: object, **__: object) -> Predictions:
        return Predictions("p.parquet", 0, 1234, "p.rejected.jsonl")

    monkeypatch.setattr("augft.prediction.predict.predict", predict)
    typed = augft("predict", run, pictures, "--out", tmp_path / "p.parquet")
    assert typed.code == 1
    assert typed.err == f"augft: {pictures}: no picture could be used; p.rejected.jsonl says why\n"
