"""What all tests share: a cache folder of their own, one thread, and some pictures."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

import psutil
import pytest
from hypothesis import settings

# A busy machine is slow, not wrong.
settings.register_profile("augft", deadline=None)
settings.load_profile("augft")


_MARK = "TESTS_OF_AUGFT"
_FOLDERS = ("aray*", "af*", "asub*", "augft-tests-*")
"""Temporary folders that tests make in /tmp, where paths are short enough for Ray's sockets."""


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Whatever is started here inherits a mark; at the end no process carries it.

    Nor is a folder left; that is looked at where no other tests run beside these.
    """
    mark = uuid.uuid4().hex
    before = _folders()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(_MARK, mark)
        yield
    _, left = psutil.wait_procs(_marked(mark), timeout=15)  # a Ray that has just been shut down
    for process in left:
        process.kill()
    assert not left, f"still running after the tests: {left}"
    assert not os.environ.get("CI") or not _folders() - before, f"left by the tests: {sorted(_folders() - before)}"


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(_MARK) == mark and process.pid != os.getpid():
                found.append(process)
        except psutil.Error:
            continue
    return found


def _folders() -> set[Path]:
    return {folder for pattern in _FOLDERS for folder in Path("/tmp").glob(pattern)}


@pytest.fixture(scope="session", autouse=True)
def _session_cache(_nothing_is_left: None) -> Iterator[None]:
    """Nothing is read from or left in the cache of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="augft-tests-") as folder:
        patch.setenv("AUGFT_CACHE", folder)
        yield


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory, _session_cache: None) -> Path:
    """scikit-learn's digits, packed at 8x8: train 1,438 and test 359, ten classes."""
    from augft.data.pack import pack

    return pack("digits", tmp_path_factory.mktemp("packed") / "digits", image_size=8)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets, of tests marked `real_data`."""
    named = os.environ.get("AUGFT_TEST_DATA")
    if not named:
        pytest.skip("AUGFT_TEST_DATA is not set: it names a folder with cifar10-jpeg.tar.gz")
    if not Path(named).is_dir():
        pytest.skip(f"AUGFT_TEST_DATA names {named}, which is no folder")
    return Path(named)
