"""Packing by Ray tasks: the same bytes as by threads, whoever dies, and on object storage."""

from __future__ import annotations

import os
import signal
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ray import cloudpickle

from augft.data import encoded, encoded_parts, pack_on_ray, parts, shards, sources
from augft.data.pack import pack
from augft.data.pack_on_ray import check_seen
from augft.data.packed import open_packed
from augft.data.portions import Files, Picture
from augft.errors import DataError, ResourceError
from augft.storage import Storage
from tests.object_store import bucket_by_uri

# Workers do not find test modules by name.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = pytest.mark.usefixtures("local_ray")

S = 224


def packed(source: str, out: str | Path, workers: int | None = 2, **options: object) -> dict[str, bytes]:
    made = pack_on_ray.pack_on_ray(
        source,
        str(out),
        address=None,
        workers=workers,
        image_size=S,
        **options,  # type: ignore[arg-type]
    )
    return files_of(made)


def files_of(place: str | Path) -> dict[str, bytes]:
    """All there is, but for the name of the source."""
    storage = Storage(place)
    files = {name: storage.read(name) for name, info in storage.walk().items() if info.is_file}
    files["manifest.json"] = open_packed(place).manifest.model_copy(update={"source": "", "recipe": ""}).digest.encode()
    return files


@pytest.fixture(autouse=True)
def small_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUGFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shards, "_SHARD_BYTES", 6 * S * S * 3)  # a row group; a part of pixels has as many records


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("source")
    rng = np.random.default_rng(0)
    for number in range(40):
        path = root / ("train" if number < 34 else "test") / "ab"[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8)).save(path)
    return root


@pytest.fixture
def source(folder: Path, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(folder)
    with tarfile.open(tmp_path / "pictures.tar", "w") as tar:
        tar.add(folder, "pictures")
    return str(tmp_path / "pictures.tar")


@pytest.mark.parametrize("source", ["folder", "archive"], indirect=True)
def test_the_same_bytes_by_threads_and_by_tasks(source: str, tmp_path: Path) -> None:
    local = files_of(pack(source, tmp_path / "local", image_size=S, val_fraction=0.1, shuffled=True))
    assert len(local) == 8
    for workers in (1, 2, None):
        assert packed(source, tmp_path / f"by-{workers}", workers, val_fraction=0.1, shuffled=True) == local
    assert {path.name for path in tmp_path.iterdir()} >= {"local", "by-1", "by-2", "by-None"}
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("source", ["folder", "archive"], indirect=True)
def test_picture_files_by_threads_and_by_tasks(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded, "SHARD_BYTES", 600)
    monkeypatch.setattr(encoded_parts, "_PART_ROWS", 7)
    local = files_of(pack(source, tmp_path / "local", image_size=S, val_fraction=0.1, shuffled=True, encoded=True))
    assert len(local) > 5
    made = packed(source, tmp_path / "by-tasks", val_fraction=0.1, shuffled=True, encoded=True)
    assert made == local


def test_bad_pictures_are_found_by_tasks(folder: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    for path in folder.rglob("*.png"):
        (bad / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
        (bad / path.relative_to(folder)).write_bytes(b"bad" if path.name in ("04.png", "19.png") else path.read_bytes())
    with pytest.raises(DataError, match=r"train/a/04.png' is not a picture .*\(2 bad of 40\)"):
        packed(str(bad), tmp_path / "sets" / "out")
    assert not list((tmp_path / "sets").iterdir())
    local = files_of(pack(str(bad), tmp_path / "local", image_size=S, on_bad="skip"))
    assert packed(str(bad), tmp_path / "sets" / "out", on_bad="skip") == local


@dataclass(frozen=True)
class Deadly(Files):
    """Files whose second portion kills who reads it, the first time."""

    def read(self) -> Iterator[Picture]:
        mark = Path(self.root).parent / f"{Path(self.root).name}.read"
        if self.names[0] != "train/a/00.png" and "train" in self.names[0] and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read()


def test_a_worker_that_is_killed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = files_of(pack(str(folder), tmp_path / "local", image_size=S))
    monkeypatch.setattr(sources, "Files", Deadly)
    assert packed(str(folder), tmp_path / "out") == local
    assert folder.with_name(f"{folder.name}.read").exists()


def test_a_cluster_that_has_no_cpu_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_on_ray, "_num_cpus", lambda: 0)
    jobs = [lambda pieces, n=n: n for n in range(3)]
    assert sorted(pack_on_ray.Tasks(None).do(jobs)) == [0, 1, 2]


class BrokenOffError(Exception):
    """Stands in for whatever may end the driver."""


def test_a_driver_that_breaks_off_goes_on(folder: Path, tmp_path: Path) -> None:
    local = files_of(pack(str(folder), tmp_path / "local", image_size=S))

    def breaking(done: int, total: int | None) -> None:
        if done >= 12:
            raise BrokenOffError

    with pytest.raises(BrokenOffError):
        packed(str(folder), tmp_path / "out", progress=breaking)
    said: list[str] = []
    assert packed(str(folder), tmp_path / "out", say=said.append) == local
    assert len(said) == 1


# ---- object storage --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bucket() -> Iterator[Callable[[str], str]]:
    """The URI of a place in a bucket of this module's own."""
    with bucket_by_uri() as uri:
        yield uri


def test_from_object_storage_to_object_storage(
    folder: Path, bucket: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = Storage(bucket("/pictures"))
    for path in folder.rglob("*.png"):
        pictures.write(str(path.relative_to(folder)), path.read_bytes())
    local = files_of(pack(str(folder), tmp_path / "local", image_size=S, shuffled=True))
    assert packed(bucket("/pictures"), bucket("/set"), shuffled=True) == local

    def breaking(done: int, total: int | None) -> None:
        if done >= 30:  # of all pixels, and some shards
            raise BrokenOffError

    monkeypatch.setattr(parts, "_MAX_PART_ROWS", 5)
    with pytest.raises(BrokenOffError):
        packed(bucket("/pictures"), bucket("/skip"), shuffled=True, on_bad="skip", progress=breaking)
    with pytest.raises(DataError, match="holds what a packing of another source or with other options left unfinished"):
        packed(bucket("/pictures"), bucket("/skip"))
    said: list[str] = []
    assert packed(bucket("/pictures"), bucket("/skip"), shuffled=True, on_bad="skip", say=said.append) == local
    assert len(said) == 1
    stored = files_of(pack(str(folder), tmp_path / "files", image_size=S, shuffled=True, encoded=True))
    assert packed(bucket("/pictures"), bucket("/files"), shuffled=True, encoded=True) == stored
    assert not list((tmp_path / "cache").rglob("*.parquet"))


# ---- what cannot be --------------------------------------------------------------------------------------


def test_more_workers_than_cpus(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"--workers 99: the cluster has 8 CPUs"):
        packed(str(folder), tmp_path / "out", 99)


def test_a_node_that_does_not_see(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes on one machine see the same; what this one names is where they would look."""
    check_seen(str(folder), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    with monkeypatch.context() as patch:
        patch.setattr(pack_on_ray, "_seen_by_all", lambda _: ("/nowhere", "a.png"))
        with pytest.raises(ResourceError, match=r"^node \S+ does not see the pictures at /nowhere: use a folder that"):
            check_seen(str(folder), tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(pack_on_ray, "_versions", lambda: {"pillow": "0", "pyarrow": "0", "numpy": "0"})
        with pytest.raises(ResourceError, match=r"^node \S+ has pillow [\d.]+, here it is 0: the set would not be"):
            check_seen(str(folder), tmp_path / "out")
