"""Batch prediction on Ray Data: the same rows whatever the source, the workers, and how often it was killed."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import uuid
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyarrow import fs
from rich.console import Console

from augft.data.picture import to_pixels
from augft.display import Display
from augft.errors import ConfigError, DataError, ResourceError, RunDirectoryError, Stopped, StorageError
from augft.prediction import predict as module
from augft.prediction.predict import Predictions, predict
from augft.prediction.unfinished import Unfinished
from augft.predictor import Predictor
from augft.saved import read_saved
from tests.object_store import bucket_by_uri
from tests.small_disk import mounted_disk
from tests.small_run import train_small

pytestmark = pytest.mark.usefixtures("local_ray")

NUM, NUM_BAD, UNIT_ROWS = 37, 2, 4
Row = tuple[str, int, list[float]]
"""Label, class index and probabilities."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(train_small(tmp_path_factory.mktemp("runs") / "small"))


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    """Picture files of several sizes by path; two of them are none."""
    rng = np.random.default_rng(0)
    made = {"b/broken.jpg": b"", "text.png": b"no picture"}
    for number in range(NUM):
        buffer = io.BytesIO()
        shape = (16, 16, 3) if number % 2 else (20, 31, 3)
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(buffer, "JPEG")
        made[f"{'abc'[number % 3]}/{number}.jpg"] = buffer.getvalue()
    return dict(sorted(made.items()))


@pytest.fixture(scope="module")
def folder(contents: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    for name, content in contents.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(content)
    return root


@pytest.fixture(autouse=True)
def _small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "max_rows", lambda picture_size: UNIT_ROWS)


def predicted(run: str, source: object, out: object, num_workers: int = 2, **options: bool) -> Predictions:
    shown = Display(Console(quiet=True))
    return predict(run, str(source), str(out), num_workers=num_workers, display=shown, **options)


@pytest.fixture(scope="module")
def undisturbed(run: str, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "p.parquet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "max_rows", lambda picture_size: UNIT_ROWS)
        made = predicted(run, folder, out)
    assert (made.num_rows, made.num_rejected) == (NUM, NUM_BAD)
    assert made.rejected == str(out.with_name("p.rejected.jsonl"))
    return out


def test_the_command_says_what_it_does_and_nothing_of_ray(run: str, folder: Path, tmp_path: Path) -> None:
    picture, out = str(folder / "a/0.jpg"), str(tmp_path / "p.parquet")
    command = [sys.executable, "-m", "augft.cli", "predict", run, picture, "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.stderr.splitlines() == [
        f"listing {picture}",
        "starting Ray on this machine",
        "putting the predictions together",
    ]
    assert done.stdout == f"{out}: 1 pictures predicted, 0 rejected\n"
    assert pq.read_table(out)["path"].to_pylist() == ["0.jpg"]


def test_rows_are_the_models_and_in_order(undisturbed: Path, run: str, contents: dict[str, bytes]) -> None:
    rows = pq.read_table(undisturbed)
    assert rows.schema.names == ["path", "label", "class_index", "probabilities"]
    assert rows.schema.field("probabilities").type == pa.list_(pa.float32(), 10)
    good = [name for name in contents if name not in ("b/broken.jpg", "text.png")]
    assert rows["path"].to_pylist() == good
    saved = read_saved(run)
    images = np.stack([to_pixels(contents[name], saved.picture_size) for name in good])
    import torch

    expected = Predictor(saved, torch.device("cpu")).probabilities(images)
    found = np.array(rows["probabilities"].to_pylist(), np.float32)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert rows["class_index"].to_pylist() == found.argmax(1).tolist()
    assert rows["label"].to_pylist() == [saved.classes[index] for index in found.argmax(1)]
    assert json.loads(rows.schema.metadata[b"augft"]) == {"classes": list(saved.classes)}


def test_bad_pictures_are_listed(undisturbed: Path) -> None:
    lines = undisturbed.with_name("p.rejected.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"path": "b/broken.jpg", "reason": "is empty or cannot be read"},
        {"path": "text.png", "reason": "is not a picture of a known kind"},
    ]
    assert sorted(path.name for path in undisturbed.parent.iterdir()) == ["p.parquet", "p.rejected.jsonl"]


def test_one_worker_makes_the_same_bytes_as_two(undisturbed: Path, run: str, folder: Path, tmp_path: Path) -> None:
    predicted(run, folder, tmp_path / "p.parquet", num_workers=1)
    assert (tmp_path / "p.parquet").read_bytes() == undisturbed.read_bytes()


def test_a_compressed_tar_is_put_in_order(
    undisturbed: Path, run: str, contents: dict[str, bytes], tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "pictures.tar.gz", "w:gz") as archive:
        for name, content in reversed(contents.items()):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    predicted(run, tmp_path / "pictures.tar.gz", tmp_path / "p.parquet")
    _assert_same(_rows(tmp_path / "p.parquet"), _rows(undisturbed))
    listed = (tmp_path / "p.rejected.jsonl").read_bytes()
    assert listed == undisturbed.with_name("p.rejected.jsonl").read_bytes()


def test_parquet(undisturbed: Path, run: str, contents: dict[str, bytes], tmp_path: Path) -> None:
    images = pa.array([{"bytes": content} for content in contents.values()])
    pq.write_table(pa.table({"image": images}), tmp_path / "pictures.parquet", row_group_size=20)  # whole units
    predicted(run, tmp_path / "pictures.parquet", tmp_path / "p.parquet")
    names = list(contents)
    rows = _rows(tmp_path / "p.parquet")
    by_name = {names[int(path.removeprefix("pictures.parquet#"))]: row for path, row in rows.items()}
    _assert_same(by_name, _rows(undisturbed))


def test_an_object_store(
    undisturbed: Path, run: str, contents: dict[str, bytes], bucket: Callable[[str], str], tmp_path: Path
) -> None:
    s3, _ = fs.FileSystem.from_uri(bucket(""))
    for name, content in contents.items():
        with s3.open_output_stream(f"bucket/pictures/{name}") as stream:
            stream.write(content)
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    with s3.open_output_stream("bucket/pictures.zip") as stream:
        stream.write((tmp_path / "pictures.zip").read_bytes())

    predicted(run, bucket("/pictures"), bucket("/p.parquet"))
    predicted(run, bucket("/pictures.zip"), bucket("/folder"))

    names = [info.path for info in s3.get_file_info(fs.FileSelector("bucket", recursive=True)) if info.is_file]
    left = {name for name in names if not name.startswith("bucket/pictures")}
    made = {"p.parquet", "p.rejected.jsonl", "folder/part-00000.parquet", "folder.rejected.jsonl"}
    assert left == {f"bucket/{name}" for name in made}
    for name in ("p.parquet", "folder/part-00000.parquet"):
        with s3.open_input_file(f"bucket/{name}") as file:
            assert file.read() == undisturbed.read_bytes()


@pytest.fixture(scope="module")
def bucket() -> Iterator[Callable[[str], str]]:
    """The URI of a place in a bucket of this module's own."""
    with bucket_by_uri() as uri:
        yield uri


def test_killed_in_the_middle(undisturbed: Path, run: str, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.parquet"
    code = f"""
import os, signal
from rich.console import Console
from augft.display import Display
from augft.prediction import predict as module
module.max_rows = lambda picture_size: {UNIT_ROWS}
class Killing(Display):
    def count(self, what, done, total):
        if done >= 12:
            os.kill(os.getpid(), signal.SIGKILL)
module.predict({run!r}, {str(folder)!r}, {str(out)!r}, num_workers=1, display=Killing(Console(quiet=True)))
"""
    mark = {"KILLED_IN_THE_MIDDLE": uuid.uuid4().hex}
    killed = subprocess.run([sys.executable, "-c", code], env=os.environ | mark, capture_output=True)
    _end_what_was_left(mark)
    assert killed.returncode == -9, killed.stderr
    assert not out.exists()
    done = Unfinished(str(out)).done()
    assert 3 <= len(done) < 10
    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "p.parquet.partial").glob("part-*")}

    told: list[tuple[int, int | None]] = []

    class Watching(Display):
        def count(self, what: str, done: int, total: int | None) -> None:
            told.append((done, total))
            assert {path: path.stat().st_mtime_ns for path in parts} == parts

    predict(run, str(folder), str(out), num_workers=2, display=Watching(Console(quiet=True)))
    assert len(told) == 10 - len(done)
    assert told[-1] == (NUM + NUM_BAD, NUM + NUM_BAD)
    assert out.read_bytes() == undisturbed.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.parquet", "p.rejected.jsonl"]


def test_a_second_one_is_told_who_is_at_it(undisturbed: Path, run: str, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.parquet"
    told: list[str] = []

    class Doubling(Display):
        def count(self, what: str, done: int, total: int | None) -> None:
            for force in (False, True):
                before = Unfinished(str(out)).done()
                with pytest.raises(RunDirectoryError, match=r"another `augft predict` is at it") as caught:
                    predicted(run, folder, out, force=force)
                assert before <= Unfinished(str(out)).done()
                told.append(str(caught.value))

    predict(run, str(folder), str(out), num_workers=1, display=Doubling(Console(quiet=True)))
    assert len(told) == 20
    assert f"process {os.getpid()} on " in told[0]
    assert out.read_bytes() == undisturbed.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.parquet", "p.rejected.jsonl"]


def test_whoever_finished_meanwhile_is_not_written_over(
    undisturbed: Path, run: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "p.parquet"
    open_source = module.open_source

    def finished_meanwhile(*arguments: object) -> object:
        out.write_bytes(undisturbed.read_bytes())
        return open_source(*arguments)

    monkeypatch.setattr(module, "open_source", finished_meanwhile)
    with pytest.raises(ConfigError, match="is there already; give another name, or --force"):
        predicted(run, folder, out)
    assert [path.name for path in tmp_path.iterdir()] == ["p.parquet"]


def test_no_picture_at_all_can_be_used(run: str, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        (tmp_path / "pictures" / f"{number}.jpg").write_bytes(b"no picture")
    made = predicted(run, tmp_path / "pictures", tmp_path / "p.parquet")
    assert (made.num_rows, made.num_rejected) == (0, 3)
    assert made.rejected is not None
    assert len(Path(made.rejected).read_text().splitlines()) == 3
    assert pq.read_table(tmp_path / "p.parquet").num_rows == 0


def test_the_process_is_left_as_it_was(run: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_BACKEND_LOG_LEVEL", raising=False)
    monkeypatch.setenv("RAY_IGNORE_UNHANDLED_ERRORS", "as the caller has it")
    filters = list(warnings.filters)
    seen: list[tuple[str | None, bool]] = []

    class Looking(Display):
        def count(self, what: str, done: int, total: int | None) -> None:
            seen.append((os.environ.get("RAY_BACKEND_LOG_LEVEL"), warnings.filters != filters))

    predict(run, str(folder), str(tmp_path / "p.parquet"), num_workers=1, display=Looking(Console(quiet=True)))
    assert set(seen) == {("fatal", True)}
    assert "RAY_BACKEND_LOG_LEVEL" not in os.environ
    assert os.environ["RAY_IGNORE_UNHANDLED_ERRORS"] == "as the caller has it"
    assert warnings.filters == filters


def test_stopped_by_ctrl_c(run: str, folder: Path, tmp_path: Path) -> None:
    class Stopping(Display):
        def count(self, what: str, done: int, total: int | None) -> None:
            raise KeyboardInterrupt

    out = tmp_path / "p.parquet"
    with pytest.raises(Stopped, match=rf"{out}: stopped; the same command goes on") as caught:
        predict(run, str(folder), str(out), num_workers=1, display=Stopping(Console(quiet=True)))
    assert caught.value.exit_code == 130
    assert len(Unfinished(str(out)).done()) >= 1
    assert not out.exists()


def test_what_goes_wrong_in_a_worker_is_told_in_its_line(run: str, tmp_path: Path) -> None:
    rows = pa.table({"image": pa.array([{"bytes": b"no picture" * 999}] * 40)})
    pq.write_table(rows, tmp_path / "a.parquet", compression="none", use_dictionary=False)
    content = (tmp_path / "a.parquet").read_bytes()
    # Its pages are damaged, not its footer: that is found when it is read.
    (tmp_path / "a.parquet").write_bytes(content[:4] + b"\xff" * 2000 + content[2004:])
    with pytest.raises(DataError, match=r"a.parquet is damaged or cut short \(.*\): get it again$") as caught:
        predicted(run, tmp_path / "a.parquet", tmp_path / "p.parquet")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "p.parquet").exists()


def test_a_disk_that_is_full_is_told_by_whoever_writes(run: str, folder: Path, tmp_path: Path) -> None:
    with mounted_disk(tmp_path / "small", 1) as disk:

        class Filling(Display):
            def say(self, text: str) -> None:
                if text.startswith("starting Ray"):
                    with suppress(OSError), (disk / "filler").open("wb") as file:
                        file.write(bytes(2**20))

        with pytest.raises(StorageError, match=r"part-\d+.parquet: cannot be written: No space left") as caught:
            predict(run, str(folder), disk / "p.parquet", num_workers=1, display=Filling(Console(quiet=True)))
        assert "\n" not in str(caught.value)
        (disk / "filler").unlink()
        assert predicted(run, folder, disk / "p.parquet").num_rows == NUM


def test_more_workers_than_cpus(run: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"--workers 99: the cluster has 8 CPUs, a worker takes one; give fewer"):
        predicted(run, folder, tmp_path / "p.parquet", num_workers=99)


def _end_what_was_left(mark: dict[str, str]) -> None:
    """Ray's processes end by themselves when they miss their driver; on a busy machine that takes its time."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if mark.items() <= process.environ().items():
                process.kill()


def _assert_same(found: dict[str, Row], expected: dict[str, Row]) -> None:
    """But for the last bits of probabilities: units that are cut otherwise are other batches."""
    assert {path: row[:2] for path, row in found.items()} == {path: row[:2] for path, row in expected.items()}
    for path, row in found.items():
        np.testing.assert_allclose(row[2], expected[path][2], rtol=0, atol=1e-6)


def _rows(path: Path) -> dict[str, Row]:
    rows = pq.read_table(path).to_pylist()
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    return {row["path"]: (row["label"], row["class_index"], row["probabilities"]) for row in rows}
