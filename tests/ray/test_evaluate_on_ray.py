"""An evaluation by Ray actors: the same counts as by the threads of one process."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import ray
from rich.console import Console

from augft.assess import assess as module
from augft.assess import findings
from augft.assess.assess import Wanted, assess
from augft.assess.look import Task
from augft.assess.subject import Subject, pictures_of
from augft.assess.workers import Actors, Threads
from augft.data.packed import open_packed
from augft.display import Display
from augft.errors import ResourceError
from augft.train.visibility import Files
from tests.evaluated_run import make_run

pytestmark = pytest.mark.usefixtures("local_ray")


def test_actors_count_as_threads_do(tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "CORRUPTIONS", {"fog": findings.CORRUPTIONS["fog"]})
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


@dataclass(frozen=True)
class Deadly:
    """Pictures as they are; but whoever first sees some of them dies of it."""

    marker: Path
    sample_id: int

    def __call__(self, images_u8: np.ndarray, sample_ids: np.ndarray) -> np.ndarray:
        if self.sample_id in sample_ids and not self.marker.exists():
            self.marker.touch()
            os._exit(1)
        return images_u8


def test_an_actor_that_dies_changes_no_count(tmp_path: Path, digits: Path) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    subject = Subject.of(make_run(tmp_path / "small", digits))
    _, pictures = pictures_of(subject, open_packed(digits), "test")
    markers = [tmp_path / "first", tmp_path / "second"]
    # One dies of the first chunk, and one of the last, when others are done.
    views = [Deadly(marker, sample_id) for marker, sample_id in zip(markers, (0, 358), strict=True)]
    tasks = [Task((views[0],)), Task((views[1],), answers=True)]
    actors = Actors(2)
    counts, answers = actors.look(subject, pictures, tasks, lambda *_: None)
    actors.close()
    assert all(marker.exists() for marker in markers), "nobody died"
    expected = Threads().look(subject, pictures, tasks, lambda *_: None)
    assert counts.tolist() == expected[0].tolist()
    assert counts[0, 0] == 359
    assert np.array_equal(answers, expected[1])


def test_a_node_that_does_not_see_the_pictures_is_told(
    tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To this one node a path is shown that it has not; on a real cluster it would be the pictures' own."""
    run = make_run(tmp_path / "small", digits)

    def elsewhere(packed: str, digest: str, **options: str) -> Files:
        assert packed == str(digits)
        return Files(f"{packed}-elsewhere", digest, **options)

    monkeypatch.setattr(module, "Files", elsewhere)
    with pytest.raises(ResourceError, match=r"does not see the packed pictures .*-elsewhere.* name that with --data"):
        assess(run, address="auto", display=Display(Console(quiet=True)))
    assert not (tmp_path / "small" / "evaluation").exists()
    monkeypatch.setattr(module, "Files", Files)
    found, _ = assess(run, address="auto", display=Display(Console(quiet=True)))
    assert found["num_samples"] == 359


def test_more_workers_than_cpus(tmp_path: Path, digits: Path) -> None:
    run = make_run(tmp_path / "small", digits)
    with pytest.raises(ResourceError, match=r"--workers 99: the cluster has 8 CPUs"):
        assess(run, num_workers=99, display=Display(Console(quiet=True)))
    assert not (tmp_path / "small" / "evaluation").exists()
