"""A disk that is soon full."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted_disk(folder: Path, num_mib: int) -> Iterator[Path]:
    """A file system of so many MiB, mounted at a folder that this makes; the test is skipped where that cannot be."""
    if os.geteuid() != 0:
        pytest.skip("a small disk takes a mount, and a mount takes root")
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={num_mib}m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
