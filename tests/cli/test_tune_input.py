"""What is wrong with a search is said in one line, before anything begins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import ray

JOB = """
name: small
data: {source: digits, image_size: 8}
model: {name: resnet20, weights: none}
"""


@pytest.fixture(autouse=True)
def _in_a_folder_and_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(JOB)
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray was started"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.ops=[rotat]", "search.ops: unknown op 'rotat'; did you mean rotate?"),
        ("search.trials=3", "search.trials 3: the 4 baselines are trials too"),
        ("search.base=standart", "did you mean 'standard'"),
        ("search.trails=3", "unknown key search.trails; did you mean search.trials?"),
        ("data.val_fraction=0", "a search chooses by validation, and the task has none"),
        ("model.name=resnet200", "resnet200"),
    ],
)
def test_one_line(augft: Callable, tmp_path: Path, override: str, message: str) -> None:
    typed = augft("tune", "job.yaml", "--set", override)
    assert typed.code == 2
    assert message in typed.err.splitlines()[-1]
    assert "Traceback" not in typed.err
    assert not list(tmp_path.glob("runs/small/trials*"))


def test_a_folder_that_holds_something_else(augft: Callable, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not touch")
    typed = augft("tune", "job.yaml", "--run-dir", "mine")
    assert (typed.code, typed.err.count("\n")) == (2, 1)
    assert "holds other files" in typed.err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_help_has_an_example(augft: Callable) -> None:
    typed = augft("tune", "--help")
    assert typed.code == 0
    assert "Example: augft tune" in " ".join(typed.out.replace("│", " ").split())
