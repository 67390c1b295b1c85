"""One local Ray for all tests here: starting one takes longer than most of them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator

import pytest

from augft.train.session import ray_session


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    # Ray's sockets live in its folder, and a socket's path has to be short.
    folder = tempfile.mkdtemp(prefix="aray", dir="/tmp")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AUGFT_RAY_TEMP_DIR", folder)
            with ray_session(None, num_cpus=8):
                yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
