"""Checkpoints: save, find, load. A checkpoint is whole or it does not exist.

A checkpoint is a folder `checkpoints/step-00001234/` of `state.pt` and `checkpoint.json`, which holds the digest of
the former and is written last: a folder without it, or with another digest, is passed over for the one before. The
state is the cursor with weights, optimizer and EMA, and the record of the run so far. Ray Train's own checkpoints are
not used: they are committed by a controller that polls, and are lost with it (docs/decisions.md).

Weights worth keeping lie beside them as `best-00001234.safetensors`. One is removed only when no remaining checkpoint
refers to it, so a run that goes back to a checkpoint also finds the best weights of that time.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import torch

from augft.errors import RunDirectoryError, StorageError
from augft.storage import Storage
from augft.train.progress import Progress

FOLDER = "checkpoints"
_STEP = re.compile(r"step-(\d{8,})$")
_BEST = re.compile(r"best-(\d{8,})\.safetensors$")


class Checkpoints:
    """The checkpoints of a run directory.

    Args:
        storage: the run directory.
        keep: how many stay.
    """

    def __init__(self, storage: Storage, keep: int) -> None:
        self._storage = storage
        self._keep = keep
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._under_way: dict[str, Future[None]] = {}

    def save(self, progress: Progress, tensors: dict[str, Any]) -> None:
        """Write a checkpoint in the background; one at a time, and an error of one is raised by the next call.

        Args:
            progress: copied before this returns.
            tensors: state dicts; copied before this returns.
        """
        self._finish("state")
        buffer = io.BytesIO()
        torch.save({"progress": asdict(progress), "tensors": tensors}, buffer)
        self._under_way["state"] = self._writer.submit(
            self._write, progress.cursor, progress.best_step, buffer.getvalue()
        )

    def save_best(self, step: int, weights: bytes) -> None:
        """Keep the weights of a step, in the background, before any checkpoint saved after this; errors as `save`.

        Args:
            step: of the weights.
            weights: the content of a safetensors file.
        """
        self._finish("best")
        name = f"{FOLDER}/best-{step:08d}.safetensors"
        self._under_way["best"] = self._writer.submit(self._storage.write, name, weights)

    def best(self, step: int) -> bytes:
        """The weights that `save_best` kept for a step."""
        self._finish("best")
        return self._storage.read(f"{FOLDER}/best-{step:08d}.safetensors")

    def wait(self) -> None:
        """Until all is on storage.

        Raises:
            StorageError: it could not be written.
        """
        self._finish("best")
        self._finish("state")

    def _finish(self, kind: str) -> None:
        """Wait for a write that is under way; its error is raised here, once."""
        if kind in self._under_way:
            self._under_way.pop(kind).result()

    def load(self, say: Callable[[str], None]) -> tuple[Progress, dict[str, Any]] | None:
        """The newest whole checkpoint, or None where there is none; `say` is told of damaged ones."""
        matches = [match for name in self._storage.list(FOLDER) if (match := _STEP.match(name))]
        names = [match.string for match in sorted(matches, key=lambda match: int(match[1]), reverse=True)]
        for name in names:
            files = [f"{FOLDER}/{name}/{file}" for file in ("checkpoint.json", "state.pt")]
            if not all(map(self._storage.exists, files)):
                say(f"{FOLDER}/{name} is not whole: using the one before")
                continue
            try:
                meta, data = json.loads(self._storage.read(files[0])), self._storage.read(files[1])
            except ValueError:
                say(f"{FOLDER}/{name} is damaged (checkpoint.json is no JSON): using the one before")
                continue
            if hashlib.sha256(data).hexdigest() != meta.get("sha256"):
                say(f"{FOLDER}/{name} is damaged (its digest differs): using the one before")
                continue
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            try:
                return Progress(**state["progress"]), state["tensors"]
            except TypeError:
                raise RunDirectoryError(
                    f"{FOLDER}/{name}: written by another version of augft; start a new run"
                ) from None
        return None

    def _write(self, step: int, best_step: int | None, data: bytes) -> None:
        folder = f"{FOLDER}/step-{step:08d}"
        meta = {
            "step": step,
            "best_step": best_step,
            "num_bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        self._storage.write(f"{folder}/state.pt", data)
        self._storage.write(f"{folder}/checkpoint.json", json.dumps(meta, indent=1).encode())
        self._prune(step)

    def _prune(self, newest: int) -> None:
        """Drop all but the newest `keep` checkpoints up to `newest`, whatever lies beyond it, and orphaned bests."""
        names = self._storage.list(FOLDER)
        steps = sorted(int(match[1]) for name in names if (match := _STEP.match(name)))
        # Steps beyond the newest are of a time that the run has gone back from.
        kept = [step for step in steps if step <= newest][-self._keep :]
        for step in set(steps) - set(kept):
            self._storage.remove(f"{FOLDER}/step-{step:08d}")
        referred = {self._best_step(step) for step in kept}
        for name in names:
            match = _BEST.match(name)
            if match and int(match[1]) < newest and int(match[1]) not in referred:
                self._storage.remove(f"{FOLDER}/{name}")

    def _best_step(self, step: int) -> int | None:
        try:
            meta = json.loads(self._storage.read(f"{FOLDER}/step-{step:08d}/checkpoint.json"))
        except (StorageError, ValueError):
            return None
        best: int | None = meta.get("best_step")
        return best
