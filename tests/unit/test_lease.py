"""One driver at a time in a run directory."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from augft.errors import RunDirectoryError
from augft.run import LEASE
from augft.storage import Storage
from augft.train import lease as module
from augft.train.lease import Lease


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RENEW_S", 0.05)
    monkeypatch.setattr(module, "WATCH_S", 0.4)
    monkeypatch.setattr(module, "SETTLE_S", 0.05)


@pytest.fixture
def run(tmp_path: Path) -> Storage:
    storage = Storage(tmp_path / "run")
    storage.write("config.yaml", b"name: x")
    return storage


def _content(run: Storage) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(run.read(LEASE))
    return content


def test_it_is_held_renewed_and_given_back(run: Storage) -> None:
    with Lease(run) as lease:
        first = _content(run)["count"]
        threading.Event().wait(0.3)
        assert _content(run)["count"] > first
        assert not lease.lost
    assert run.list() == ["config.yaml"]


def test_a_live_holder_of_this_machine_is_named(run: Storage) -> None:
    with Lease(run), pytest.raises(RunDirectoryError, match=r"in use by a live run \(process \d+ on "), Lease(run):
        pass


def test_a_killed_holder_of_this_machine_locks_nobody_out(run: Storage) -> None:
    code = (
        "import os, sys; from augft.storage import Storage; from augft.train.lease import Lease\n"
        "Lease(Storage(sys.argv[1])).__enter__(); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, run.uri]).returncode == -9
    before = _content(run)["token"]
    with Lease(run):
        assert _content(run)["token"] != before


def _from_elsewhere(run: Storage, **changed: Any) -> None:
    run.write(LEASE, json.dumps({**_content(run), "place": "elsewhere", "host": "far", **changed}).encode())


def test_a_live_holder_from_elsewhere_is_told_by_its_counter(run: Storage) -> None:
    said: list[str] = []
    with Lease(run) as lease:
        run_on = threading.Event()

        def renew() -> None:
            count = 0
            while not run_on.wait(0.05):
                count += 1
                _from_elsewhere(run, token="t", count=count)

        _from_elsewhere(run, token="t")
        thread = threading.Thread(target=renew)
        thread.start()
        with (
            pytest.raises(RunDirectoryError, match=r"in use by a live run \(process \d+ on far\)"),
            Lease(run, said.append),
        ):
            pass
        run_on.set()
        thread.join()
        assert "far held it" in said[0]
        assert lease.lost, "its own lease was taken"


def test_a_dead_holder_from_elsewhere_is_found_out(run: Storage) -> None:
    with Lease(run):
        kept = run.read(LEASE)
    run.write(LEASE, kept)
    _from_elsewhere(run)
    with Lease(run):
        assert _content(run)["host"] != "far"


def test_a_lease_that_cannot_be_read_is_no_lease(run: Storage) -> None:
    run.write(LEASE, b"{")
    with Lease(run):
        assert _content(run)["token"]


def test_a_folder_in_which_nothing_was_begun_goes(tmp_path: Path) -> None:
    with Lease(Storage(tmp_path / "new")):
        assert (tmp_path / "new" / LEASE).exists()
    assert not (tmp_path / "new").exists()
