"""Checkpoints: whole or passed over; what is kept; what is said of a damaged one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from augft.errors import RunDirectoryError, StorageError
from augft.storage import Storage
from augft.train.checkpoint import FOLDER, Checkpoints
from augft.train.progress import Progress


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path)


def tensors(step: int) -> dict[str, Any]:
    return {"model": {"w": torch.full((3,), float(step))}, "optimizer": {"lr": 0.1, "step": step}, "ema": None}


def save(checkpoints: Checkpoints, step: int, **progress: Any) -> None:
    checkpoints.save(Progress(cursor=step, **progress), tensors(step))
    checkpoints.wait()


def load(storage: Storage) -> tuple[int | None, list[str]]:
    said: list[str] = []
    found = Checkpoints(storage, 2).load(said.append)
    if found is None:
        return None, said
    progress, state = found
    assert state["model"]["w"].tolist() == [float(progress.cursor)] * 3
    return progress.cursor, said


def path(tmp_path: Path, step: int, name: str = "state.pt") -> Path:
    return tmp_path / FOLDER / f"step-{step:08d}" / name


def names(storage: Storage) -> list[str]:
    return storage.list(FOLDER)


def test_round_trip(storage: Storage) -> None:
    assert load(storage) == (None, [])
    progress = Progress(
        cursor=7,
        epoch=1,
        history=[{"split": "train", "loss": 0.1}],
        sums={1: [0.1, 2.0, 3.0]},
        stream_digest="ab",
        best_step=5,
        best_top1=0.5,
        elapsed_s=1.25,
        stop_reason="steps",
    )
    checkpoints = Checkpoints(storage, 2)
    checkpoints.save(progress, tensors(7))
    checkpoints.wait()
    found = Checkpoints(storage, 2).load(pytest.fail)
    assert found is not None
    assert found[0] == progress
    assert found[1]["optimizer"] == {"lr": 0.1, "step": 7}
    meta = json.loads(storage.read(f"{FOLDER}/step-00000007/checkpoint.json"))
    assert (meta["step"], meta["best_step"]) == (7, 5)


def test_what_is_saved_is_what_was_when_save_was_called(storage: Storage) -> None:
    checkpoints, progress, state = Checkpoints(storage, 2), Progress(cursor=3, sums={0: [1.0]}), tensors(3)
    checkpoints.save(progress, state)
    progress.sums[0][0] = 9.0
    state["model"]["w"].zero_()
    checkpoints.wait()
    found = Checkpoints(storage, 2).load(pytest.fail)
    assert found is not None
    assert found[0].sums == {0: [1.0]}
    assert found[1]["model"]["w"].tolist() == [3.0] * 3


# ---- damage --------------------------------------------------------------------------------------------------------


def damage_truncate(tmp_path: Path) -> None:
    state = path(tmp_path, 20)
    state.write_bytes(state.read_bytes()[:-10])


def damage_byte(tmp_path: Path) -> None:
    content = bytearray(path(tmp_path, 20).read_bytes())
    content[len(content) // 2] ^= 1
    path(tmp_path, 20).write_bytes(content)


def damage_no_state(tmp_path: Path) -> None:
    path(tmp_path, 20).unlink()


def damage_no_meta(tmp_path: Path) -> None:
    """Killed between the two files."""
    path(tmp_path, 20, "checkpoint.json").unlink()


def damage_cut_meta(tmp_path: Path) -> None:
    meta = path(tmp_path, 20, "checkpoint.json")
    meta.write_bytes(meta.read_bytes()[:-5])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damage_truncate, "is damaged (its digest differs)"),
        (damage_byte, "is damaged (its digest differs)"),
        (damage_no_state, "is not whole"),
        (damage_no_meta, "is not whole"),
        (damage_cut_meta, "is damaged (checkpoint.json is no JSON)"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over(storage: Storage, tmp_path: Path, damage: Any, said: str) -> None:
    checkpoints = Checkpoints(storage, 2)
    save(checkpoints, 10)
    save(checkpoints, 20)
    assert load(storage) == (20, [])
    damage(tmp_path)
    assert load(storage) == (10, [f"{FOLDER}/step-00000020 {said}: using the one before"])


def test_killed_between_the_files_of_a_checkpoint_written_again(storage: Storage, tmp_path: Path) -> None:
    checkpoints = Checkpoints(storage, 2)
    save(checkpoints, 10)
    save(checkpoints, 20)
    old_meta = path(tmp_path, 20, "checkpoint.json").read_bytes()
    checkpoints.save(Progress(cursor=20, epoch=5), tensors(20))
    checkpoints.wait()
    path(tmp_path, 20, "checkpoint.json").write_bytes(old_meta)
    cursor, said = load(storage)
    assert cursor == 10
    assert len(said) == 1


def test_killed_at_any_moment_while_it_saves(storage: Storage, tmp_path: Path) -> None:
    """A process that saves and saves is killed; whatever is there then is whole."""
    # What saves is forked from a process that has imported everything, once.
    code = (
        "import os, sys, torch\n"
        "from augft.storage import Storage\n"
        "from augft.train.checkpoint import Checkpoints\n"
        "from augft.train.progress import Progress\n"
        "for reached in sys.stdin:\n"
        "    if child := os.fork():\n"
        "        os.waitpid(child, 0)\n"
        "        print('killed', flush=True)\n"
        "        continue\n"
        "    checkpoints, step = Checkpoints(Storage(sys.argv[1]), 2), int(reached)\n"
        "    while True:\n"
        "        step += 1\n"
        "        checkpoints.save(Progress(cursor=step), {'w': torch.full((2_000_000,), float(step))})\n"
        "        if step == int(reached) + 1:\n"
        "            print(os.getpid(), flush=True)\n"
    )
    rng, reached = random.Random(0), 0
    with subprocess.Popen(
        [sys.executable, "-c", code, storage.uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as forking:
        assert forking.stdin is not None
        assert forking.stdout is not None
        for _ in range(4):
            print(reached, file=forking.stdin, flush=True)
            saving = int(forking.stdout.readline())
            time.sleep(rng.uniform(0.1, 0.8))
            os.kill(saving, signal.SIGKILL)
            assert forking.stdout.readline() == "killed\n"
            reached = newest_whole(storage, reached)


def newest_whole(storage: Storage, reached: int) -> int:
    said: list[str] = []
    found = Checkpoints(storage, 2).load(said.append)
    assert found is not None
    progress, tensors = found
    assert progress.cursor > reached
    assert torch.equal(tensors["w"], torch.full((2_000_000,), float(progress.cursor)))
    assert all("is not whole" in text for text in said), "half a file took the place of a whole one"
    return progress.cursor


def test_all_damaged_is_none(storage: Storage, tmp_path: Path) -> None:
    save(Checkpoints(storage, 2), 20)
    damage_byte(tmp_path)
    cursor, said = load(storage)
    assert cursor is None
    assert len(said) == 1


def test_steps_are_ordered_as_numbers(storage: Storage) -> None:
    checkpoints = Checkpoints(storage, 2)
    save(checkpoints, 99_999_999)
    save(checkpoints, 100_000_000)
    assert load(storage) == (100_000_000, [])


def test_another_version(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("augft.train.checkpoint.asdict", lambda progress: {"cursor": 1, "pace": 2})
    save(Checkpoints(storage, 2), 1)
    with pytest.raises(RunDirectoryError, match="written by another version of augft"):
        load(storage)


def test_an_error_of_writing_is_raised_by_the_next_save(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(storage, 2)
    save(checkpoints, 10)
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise StorageError("no space")

        patch.setattr(storage, "write", full)
        checkpoints.save(Progress(cursor=20), tensors(20))
        with pytest.raises(StorageError, match="no space"):
            checkpoints.save(Progress(cursor=30), tensors(30))
    # Said once; what comes after may succeed.
    checkpoints.wait()
    assert load(storage) == (10, [])
    save(checkpoints, 40)
    assert load(storage) == (40, [])


# ---- what is kept --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_stay(storage: Storage, keep: int) -> None:
    checkpoints = Checkpoints(storage, keep)
    for step in (5, 10, 15, 20):
        save(checkpoints, step)
    assert names(storage) == [f"step-{step:08d}" for step in (5, 10, 15, 20)[-keep:]]


def test_what_lies_beyond_the_newest_goes(storage: Storage, tmp_path: Path) -> None:
    checkpoints = Checkpoints(storage, 3)
    for step in (10, 20, 30):
        save(checkpoints, step)
    # Gone back to 10, on another path.
    save(checkpoints, 15)
    assert names(storage) == ["step-00000010", "step-00000015"]


def test_best_weights_stay_as_long_as_a_checkpoint_refers_to_them(storage: Storage) -> None:
    checkpoints = Checkpoints(storage, 2)
    checkpoints.save_best(10, b"ten")
    save(checkpoints, 10, best_step=10)
    save(checkpoints, 20, best_step=10)
    checkpoints.save_best(30, b"thirty")
    save(checkpoints, 30, best_step=30)
    # Checkpoint 20 remains and would be gone back to: its best is 10.
    assert names(storage) == [
        "best-00000010.safetensors", "best-00000030.safetensors", "step-00000020", "step-00000030",
    ]  # fmt: skip
    assert checkpoints.best(10) == b"ten"
    save(checkpoints, 40, best_step=30)
    assert names(storage) == ["best-00000030.safetensors", "step-00000030", "step-00000040"]
    assert checkpoints.best(30) == b"thirty"


def test_best_weights_of_a_checkpoint_that_is_being_written_stay(storage: Storage) -> None:
    """The weights of step 20 are there before checkpoint 10's pruning ends."""
    checkpoints = Checkpoints(storage, 1)
    checkpoints.save_best(10, b"ten")
    checkpoints.save_best(20, b"twenty")
    save(checkpoints, 10, best_step=10)
    assert checkpoints.best(20) == b"twenty"


def test_what_is_not_ours_stays(storage: Storage) -> None:
    storage.write(f"{FOLDER}/notes.txt", b"mine")
    storage.write(f"{FOLDER}/my-step-00000001/a", b"mine")
    checkpoints = Checkpoints(storage, 1)
    save(checkpoints, 10)
    save(checkpoints, 20)
    assert names(storage) == ["my-step-00000001", "notes.txt", "step-00000020"]
    assert load(storage) == (20, [])
