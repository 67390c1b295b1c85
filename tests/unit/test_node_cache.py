"""Arrays of the node: made once, mapped by all, and bounded."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from augft.data import node_cache
from augft.data.node_cache import MAX_BYTES, shared_array
from augft.errors import ConfigError

ROWS = 1000
"""Bytes of an array; its file has 128 more."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(MAX_BYTES, str(3 * (ROWS + 128)))
    node_cache._tell_once.cache_clear()
    return tmp_path / "raw"


@pytest.fixture
def made() -> list[int]:
    return []


@pytest.fixture
def array(folder: Path, made: list[int]) -> Callable[[int], np.ndarray]:
    """The array of a number; `made` tells which were not found."""

    def get(number: int) -> np.ndarray:
        def make() -> np.ndarray:
            made.append(number)
            return np.full(ROWS, number, np.uint8)

        found = shared_array(folder / f"{number}.npy", (ROWS,), np.uint8, make)
        assert (found == number).all()
        return found

    return get


def touch(folder: Path, *numbers: int) -> None:
    """Let arrays have been used in this order, a second apart, long ago."""
    for second, number in enumerate(numbers):
        os.utime(folder / f"{number}.npy", (second, second))


def kept(folder: Path) -> set[str]:
    return {path.stem for path in folder.iterdir()}


def test_what_was_used_longest_ago_goes_first(
    folder: Path, array: Callable[[int], np.ndarray], made: list[int]
) -> None:
    for number in (1, 2, 3):
        array(number)
    touch(folder, 2, 3, 1)
    array(2)  # used again: 3 is now the oldest
    assert made == [1, 2, 3]
    array(4)
    assert kept(folder) == {"1", "2", "4"}
    array(3)
    assert kept(folder) == {"2", "3", "4"}
    assert made == [1, 2, 3, 4, 3]


def test_what_is_mapped_stays(
    folder: Path, array: Callable[[int], np.ndarray], made: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(node_cache._LOG, "warning", lambda text, *values: told.append(text % values))
    held = {number: array(number) for number in (1, 2, 3)}
    touch(folder, 1, 2, 3)
    for _ in range(2):
        assert (array(4) == 4).all()  # in memory, each time anew
    assert made == [1, 2, 3, 4, 4]
    assert kept(folder) == {"1", "2", "3"}
    assert told == [
        f"{folder} has no room for the whole data set: each process holds the rest in memory; "
        f"raise {MAX_BYTES} or free some space"
    ]
    del held[2]
    gc.collect()
    array(4)
    assert kept(folder) == {"1", "3", "4"}
    assert all((pixels == number).all() for number, pixels in held.items())


def test_another_process_holds_what_it_mapped(folder: Path, array: Callable[[int], np.ndarray]) -> None:
    for number in (1, 2, 3):
        array(number)
    touch(folder, 1, 2, 3)
    code = (
        "import sys, numpy; from pathlib import Path; from augft.data.node_cache import shared_array;"
        "mapped = shared_array(Path(sys.argv[1]), (1000,), numpy.uint8, lambda: sys.exit('not found'));"
        "print('mapped', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(folder / "1.npy")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "mapped\n"
        touch(folder, 1, 2, 3)
        array(4)
        assert kept(folder) == {"1", "3", "4"}
        other.communicate()
    touch(folder, 1, 3, 4)
    array(5)
    assert kept(folder) == {"3", "4", "5"}


def test_what_fits_nowhere_drives_nothing_out(
    folder: Path, array: Callable[[int], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    array(1)
    monkeypatch.setenv(MAX_BYTES, str(ROWS // 2))
    array(2)
    assert kept(folder) == {"1"}


def test_without_a_bound_some_of_the_disk_stays_free(
    folder: Path, array: Callable[[int], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(MAX_BYTES)
    usage = type(node_cache.shutil.disk_usage("/"))
    free = {"bytes": 2200}
    monkeypatch.setattr(node_cache.shutil, "disk_usage", lambda _: usage(10_000, 0, free["bytes"]))
    array(1)
    assert kept(folder) == {"1"}
    free["bytes"] = 2000  # a tenth, 1000, is to stay
    array(2)
    assert kept(folder) == {"2"}
    free["bytes"] = 0
    array(3)
    assert kept(folder) == {"2"}
    terabyte = 2**40
    monkeypatch.setattr(node_cache.shutil, "disk_usage", lambda _: usage(terabyte, 0, 5 * 2**30 + 1128))
    array(4)
    assert kept(folder) == {"2", "4"}


def test_a_bound_that_is_no_number(array: Callable[[int], np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MAX_BYTES, "5G")
    with pytest.raises(ConfigError, match=r"AUGFT_CACHE_MAX_BYTES=5G: give a whole number of bytes"):
        array(1)


_READER = """
import sys
import numpy as np
from pathlib import Path
from augft.data.node_cache import shared_array

folder, seed = Path(sys.argv[1]), int(sys.argv[2])
for number in range(60):
    name = (number * (2 * seed + 3) + seed) % 7
    found = shared_array(folder / f"{name}.npy", (1000,), np.uint8, lambda: np.full(1000, name, np.uint8))
    assert (found == name).all()
"""


def test_many_processes_in_a_small_cache(folder: Path) -> None:
    runs = [subprocess.Popen([sys.executable, "-c", _READER, str(folder), str(seed)]) for seed in range(4)]
    assert [run.wait() for run in runs] == [0, 0, 0, 0]
    assert 1 <= len(kept(folder)) <= 3
    assert not list(folder.glob(".*"))
    assert all((np.load(path) == int(path.stem)).all() for path in folder.iterdir())


def test_a_file_is_mapped_without_a_parser(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own, by which NumPy reads a header, fails now and then in threads."""
    target = folder / "array.npy"
    made = np.arange(12, dtype=np.int32).reshape(3, 4)
    monkeypatch.setattr("ast.literal_eval", lambda _: pytest.fail("parsed"))
    for make in (lambda: made, lambda: pytest.fail("made again")):
        found = shared_array(target, (3, 4), np.int32, make)
        assert np.array_equal(found, made)
        assert not found.flags.writeable
    for shape, dtype in (((4, 3), np.int32), ((3, 4), np.uint32)):
        other = np.ones(shape, dtype)
        assert np.array_equal(shared_array(target, shape, dtype, lambda other=other: other), other)
