"""What all tests share: a cache folder of their own, one thread, and some pictures."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

import pytest
from hypothesis import settings

# A busy machine is slow, not wrong.
settings.register_profile("augft", deadline=None)
settings.load_profile("augft")


@pytest.fixture(scope="session", autouse=True)
def _session_cache() -> Iterator[None]:
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
