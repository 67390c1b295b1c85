"""The record of what befell a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from augft.errors import StorageError
from augft.run import INCIDENTS
from augft.storage import Storage
from augft.train.incidents import Incidents


def _texts(storage: Storage) -> list[str]:
    return [json.loads(line)["text"] for line in storage.read(INCIDENTS).splitlines()]


def test_nothing_befell_no_file(tmp_path: Path) -> None:
    Incidents(Storage(tmp_path)).flush()
    assert not (tmp_path / INCIDENTS).exists()


def test_a_later_driver_adds_to_what_is_there(tmp_path: Path) -> None:
    Incidents(Storage(tmp_path)).add("restart", "one", 3)
    Incidents(Storage(tmp_path)).add("resume", "two")
    assert _texts(Storage(tmp_path)) == ["one", "two"]
    first = json.loads((tmp_path / INCIDENTS).read_text().splitlines()[0])
    assert (first["what"], first["step"]) == ("restart", 3)
    assert first["time"] > 1.7e9


def test_a_storage_that_fails_for_a_while_loses_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    incidents = Incidents(storage := Storage(tmp_path))

    def fail(*_: object) -> None:
        raise StorageError("down")

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "write", fail)
        incidents.add("storage", "one")
    incidents.add("storage", "two")
    assert _texts(storage) == ["one", "two"]
