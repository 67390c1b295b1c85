"""An evaluation by Ray actors: the same counts as by the threads of one process."""

from __future__ import annotations

from pathlib import Path

import pytest
from evaluated_run import make_run
from rich.console import Console

from augft.assess import assess as module
from augft.assess.assess import Wanted, assess
from augft.display import Display
from augft.errors import ResourceError

pytestmark = pytest.mark.usefixtures("local_ray")


def test_actors_count_as_threads_do(tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CORRUPTIONS", {"fog": module.CORRUPTIONS["fog"]})
    run = make_run(tmp_path / "small", digits)
    other = make_run(tmp_path / "other", digits, seed=1)
    wanted = Wanted(corruptions=True, tta="digits", tta_copies=2, temperature=True, against=other)

    def found(num_workers: int | None) -> dict[str, object]:
        result, _ = assess(run, wanted=wanted, num_workers=num_workers, display=Display(Console(quiet=True)))
        del result["wall_s"]
        # The first evaluation saved it, the second one found it there.
        del result["calibration"]["saved_temperature"]
        return result

    assert found(2) == found(None)


def test_more_workers_than_cpus(tmp_path: Path, digits: Path) -> None:
    run = make_run(tmp_path / "small", digits)
    with pytest.raises(ResourceError, match=r"--workers 99: the cluster has 8 CPUs"):
        assess(run, num_workers=99, display=Display(Console(quiet=True)))
    assert not (tmp_path / "small" / "evaluation").exists()
