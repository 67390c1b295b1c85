"""Every file in jobs/ is a job, whose keys all count."""

from __future__ import annotations

from pathlib import Path

import pytest

from augft.config import load_job
from augft.errors import ConfigError

JOBS = sorted((Path(__file__).parents[2] / "jobs").glob("*.yaml"))


def test_there_is_one_for_each_purpose() -> None:
    purposes = {"quickstart", "cifar10", "folder", "few-labels", "many-nodes", "object-storage", "search", "compare"}
    assert purposes <= {job.stem for job in JOBS}


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_wrong_key_is_found(path: Path, tmp_path: Path) -> None:
    lines = path.read_text().splitlines()
    keys = [number for number, line in enumerate(lines) if ":" in line and not line.lstrip().startswith("#")]
    for number in keys:
        broken = tmp_path / "job.yaml"
        indent = len(lines[number]) - len(lines[number].lstrip())
        changed = lines[number][:indent] + "x" + lines[number][indent:]
        broken.write_text("\n".join([*lines[:number], changed, *lines[number + 1 :]]))
        with pytest.raises(ConfigError, match=r"unknown key (\w+\.)*x"):
            load_job(broken)
