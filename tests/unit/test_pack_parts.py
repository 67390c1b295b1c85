"""Packing in parts: broken off at any point it goes on with what is done, and the set is the same."""

from __future__ import annotations

import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from augft.data import encoded, encoded_parts, parts, shards
from augft.data.pack import pack
from augft.data.packed import open_packed
from augft.data.work import Threads
from augft.errors import DataError, RunError, StorageError
from tests.small_disk import mounted_disk

SIZE, NUM_PER_CLASS = 6, 20
SHARD_ROWS = 8
FILE_SHARD_BYTES = 1500
"""Eight or nine of the PNG files of 6 x 6 pixels."""


@pytest.fixture(autouse=True)
def small_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """60 rows of train lie in 8 shards, and pixels in parts of 7 records."""
    monkeypatch.setenv("AUGFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shards, "_MAX_ROW_GROUP", SHARD_ROWS)
    monkeypatch.setattr(shards, "_SHARD_BYTES", SHARD_ROWS * SIZE * SIZE * 3)
    monkeypatch.setattr(parts, "_MAX_PART_ROWS", 7)
    monkeypatch.setattr(encoded_parts, "_PART_ROWS", 7)
    monkeypatch.setattr(encoded, "SHARD_BYTES", FILE_SHARD_BYTES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(3 * NUM_PER_CLASS + 6):
        split = "train" if number < 3 * NUM_PER_CLASS else "test"
        path = tmp_path / "pictures" / split / "abc"[number % 3] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)).save(path)
    return tmp_path / "pictures"


@pytest.fixture(params=["folder", "tar"])
def source(request: pytest.FixtureRequest, folder: Path) -> str:
    """The rows of a folder's shards are known beforehand; an archive is decoded in parts first."""
    if request.param == "folder":
        return str(folder)
    with tarfile.open(folder.with_suffix(".tar"), "w") as tar:
        tar.add(folder, "pictures")
    return str(folder.with_suffix(".tar"))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


_KILLED = f"""
import os, signal, sys
from augft.data import encoded, encoded_parts, parts, shards
from augft.data.pack import pack
shards._MAX_ROW_GROUP = {SHARD_ROWS}
shards._SHARD_BYTES = {SHARD_ROWS * SIZE * SIZE * 3}
parts._MAX_PART_ROWS = encoded_parts._PART_ROWS = 7
encoded.SHARD_BYTES = {FILE_SHARD_BYTES}
source, out, at, how = sys.argv[1:]
def progress(done, total):
    if done >= int(at):
        os.kill(os.getpid(), getattr(signal, how))
pack(source, out, on_bad="skip" if "skip" in out else "fail", shuffled="shuffled" in out, num_threads=1,
     progress=progress, encoded="encoded" in out, image_size=4 if "encoded" in out else None)
"""


def killed(source: str, out: Path, at: int, how: str = "SIGKILL") -> int:
    """Pack in another process that gets a signal when so many pictures are done."""
    command = [sys.executable, "-c", _KILLED, source, str(out), str(at), how]
    return subprocess.run(command, capture_output=True).returncode


def hidden(out: Path) -> list[Path]:
    return list(out.parent.glob(f".{out.name}.packing-*"))


class Counted:
    """How many shards were written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shards = 0
        self.pictures = 0
        real_shard, real_pixels = parts.shard_parquet, parts.to_pixels
        real_files, real_judge = encoded_parts.files_parquet, encoded_parts.judge

        def shard(*args: object) -> bytes:
            self.shards += 1
            return real_shard(*args)  # type: ignore[arg-type]

        def pixels(*args: object, **options: object) -> np.ndarray:
            self.pictures += 1
            return real_pixels(*args, **options)  # type: ignore[arg-type]

        def files(*args: object) -> bytes:
            self.shards += 1
            return real_files(*args)  # type: ignore[arg-type]

        def judged(*args: object, **options: object) -> encoded.Judged:
            self.pictures += 1
            return real_judge(*args, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(encoded_parts, "files_parquet", files)
        monkeypatch.setattr(encoded_parts, "judge", judged)
        monkeypatch.setattr(parts, "shard_parquet", shard)
        monkeypatch.setattr(parts, "to_pixels", pixels)


# ---- broken off and gone on with -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "skip-shuffled"])
def test_killed_it_goes_on_with_what_is_done(
    source: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_bad, shuffled = ("skip", True) if name == "skip-shuffled" else ("fail", False)
    whole = files_of(pack(source, tmp_path / "whole", on_bad=on_bad, shuffled=shuffled))  # type: ignore[arg-type]
    out = tmp_path / "sets" / name
    assert killed(source, out, 40) == -signal.SIGKILL
    assert not out.exists()
    counted, said = Counted(monkeypatch), []
    made = pack(source, out, on_bad=on_bad, shuffled=shuffled, say=said.append)  # type: ignore[arg-type]
    assert files_of(made) == whole
    assert [path.name for path in out.parent.iterdir()] == [name]
    assert len(said) == 1
    assert said[0].startswith("going on: ")
    in_one_go = source.endswith("pictures") and on_bad == "fail"
    assert 0 < counted.shards < (5 if in_one_go else 9)
    assert counted.pictures < (30 if in_one_go else 7)


def test_picture_files_as_they_are_too(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    how: dict[str, Any] = {"encoded": True, "image_size": 4, "on_bad": "skip", "shuffled": True}
    whole = files_of(pack(source, tmp_path / "whole", **how))
    assert len(whole) > 6
    for at in (12, 50):  # while parts are made, and shards
        out = tmp_path / "sets" / f"encoded-skip-shuffled-{at}"
        assert killed(source, out, at) == -signal.SIGKILL
        counted = Counted(monkeypatch)
        assert files_of(pack(source, out, **how)) == whole
        assert 0 < counted.shards < len(whole) - 1 if at == 50 else counted.shards == len(whole) - 1
        assert counted.pictures == 0 if at == 50 else 0 < counted.pictures < 66
        assert not hidden(out)


def test_an_interrupted_packing_too(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "sets" / "plain"
    assert killed(str(folder), out, 20, "SIGINT")
    assert len(hidden(out)) == 1
    counted = Counted(monkeypatch)
    pack(str(folder), out)
    assert 0 < counted.shards < 8
    assert not hidden(out)


@pytest.mark.parametrize("change", ["source", "options"])
def test_what_something_else_left_is_not_used(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    out = tmp_path / "sets" / "plain"
    killed(str(folder), out, 40)
    before = hidden(out)
    if change == "source":
        (folder / "train/a/000.png").write_bytes((folder / "train/b/001.png").read_bytes())
    options = {"val_fraction": 0.1} if change == "options" else {}
    counted = Counted(monkeypatch)
    made = pack(str(folder), out, say=pytest.fail, **options)  # type: ignore[arg-type]
    assert counted.pictures == 66
    assert before
    assert not hidden(out)
    assert files_of(made) == files_of(pack(str(folder), tmp_path / "fresh", **options))  # type: ignore[arg-type]


def test_a_part_that_is_cut_is_made_again(source: str, tmp_path: Path) -> None:
    whole = files_of(pack(source, tmp_path / "whole"))
    out = tmp_path / "sets" / "plain"
    killed(source, out, 40)
    for path in hidden(out)[0].rglob("*"):
        if path.suffix in ("", ".parquet") and path.is_file() and path.stat().st_size:
            path.write_bytes(path.read_bytes()[:-1])
    assert files_of(pack(source, out)) == whole


def test_bad_pictures_leave_nothing(folder: Path, tmp_path: Path) -> None:
    (folder / "train/c/002.png").write_bytes(b"bad")
    with pytest.raises(DataError, match=r"train/c/002.png' is not a picture .*\(1 bad of 66\)"):
        pack(str(folder), tmp_path / "sets" / "out")
    assert not list((tmp_path / "sets").iterdir())


def test_a_file_that_is_gone_for_a_while(folder: Path, tmp_path: Path) -> None:
    last = folder / "train/c/059.png"
    content = last.read_bytes()

    def losing(done: int, total: int | None) -> None:
        last.unlink(missing_ok=True)

    with pytest.raises(DataError, match=r"059.png cannot be read: No such file"):
        pack(str(folder), tmp_path / "sets" / "out", progress=losing, num_threads=1)
    last.write_bytes(content)
    said: list[str] = []
    pack(str(folder), tmp_path / "sets" / "out", say=said.append)
    assert len(said) == 1


def test_a_full_disk(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = files_of(pack(str(folder), tmp_path / "whole"))
    with mounted_disk(tmp_path / "disk", 1) as disk:
        (disk / "filler").write_bytes(bytes(2**20 - 4096 * 12))
        with pytest.raises(StorageError, match=r"out could not be written \(.*No space left on device; free") as error:
            pack(str(folder), disk / "out", num_threads=1)
        assert str(error.value).endswith("the same command goes on with what is done")
        assert not (disk / "out").exists()
        (disk / "filler").unlink()
        said: list[str] = []
        assert files_of(pack(str(folder), disk / "out", say=said.append)) == whole
        assert len(said) == 1


class Forgetful(Threads):
    """Leaves out the last job, does no job, or loses a result."""

    def __init__(self, how: str) -> None:
        super().__init__(1)
        self.how = how

    def do(self, jobs: Iterable[Any]) -> Iterator[Any]:
        if self.how != "none":
            every = list(jobs)
            done = list(super().do(every[:-1] if self.how == "last" else every))
            yield from done[1:] if self.how == "lost" else done


@pytest.mark.parametrize("on_bad", ["fail", "skip"])
@pytest.mark.parametrize("how", ["last", "none", "lost"])
def test_a_crew_that_does_not_do_all(folder: Path, tmp_path: Path, how: str, on_bad: Any) -> None:
    with pytest.raises(RunError, match="parts were made, and not all"):
        pack(str(folder), tmp_path / "out", on_bad=on_bad, crew=Forgetful(how))
    assert not (tmp_path / "out").exists()


# ---- the same set, however it is cut ---------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"val_fraction": 0.2, "shuffled": True}])
def test_parts_and_shards_make_the_same_set(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, object]
) -> None:
    at_once = open_packed(pack(str(folder), tmp_path / "fail", **options)).manifest  # type: ignore[arg-type]
    in_parts = open_packed(pack(str(folder), tmp_path / "skip", on_bad="skip", **options)).manifest  # type: ignore[arg-type]
    monkeypatch.setattr(parts, "_MAX_PART_ROWS", 1000)
    in_one = open_packed(pack(str(folder), tmp_path / "one", on_bad="skip", **options)).manifest  # type: ignore[arg-type]
    for other in (in_parts, in_one):
        assert other.splits == at_once.splits
        assert (other.mean, other.std) == (at_once.mean, at_once.std)


def test_rows_and_counts_where_pictures_are_skipped(folder: Path, tmp_path: Path) -> None:
    for number in (0, 30, 31):
        next(folder.rglob(f"{number:03d}.png")).write_bytes(b"bad")
    packed = open_packed(pack(str(folder), tmp_path / "out", on_bad="skip", val_fraction=0.2, shuffled=True))
    assert len(packed.manifest.rejected) == 3
    rows = {name: packed.split(name).num_rows for name in packed.splits}
    assert sum(rows.values()) == 63
    train = packed.split("train")
    pixels, labels = train.gather(np.arange(train.num_rows))
    np.testing.assert_allclose(packed.manifest.mean, pixels.mean((0, 1, 2)) / 255, rtol=1e-12)
    np.testing.assert_allclose(packed.manifest.std, pixels.std((0, 1, 2)) / 255, rtol=1e-12)
    of = {np.asarray(Image.open(p)).tobytes(): p.parent.name for p in folder.rglob("*.png") if p.stat().st_size > 9}
    assert [of[image.tobytes()] for image in pixels] == ["abc"[label] for label in labels]
