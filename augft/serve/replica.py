"""The deployment: a replica is a process with the model, which gathers requests to batches."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
import torch
from fastapi import FastAPI
from ray import serve

from augft.serve.app import Limits, build_app
from augft.serve.classifier import Classifier, Recipe, UInt8Array
from augft.serve.counts import Counts


@dataclass(frozen=True)
class Batching:
    """How requests become batches."""

    max_batch: int
    wait_s: float
    """How long the first of a batch waits for others."""


class Replica:
    """What Ray Serve runs, and starts again where it dies.

    Args:
        limits: what a client may bring.
        batching: how requests become batches.
        ledger: the actor that counts for all, and has what is served.
        threads: of PyTorch.
    """

    def __init__(self, limits: Limits, batching: Batching, ledger: Any, threads: int) -> None:
        torch.set_num_threads(threads)
        device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
        recipe: Recipe = ray.get(ledger.recipe.remote())
        self._classifier = Classifier(recipe, device, limits.max_pixels)
        self._classifier.warm_up()
        self._limits = limits
        self._counts = Counts(ledger)
        # One: the model works on one batch at a time, while the next gathers.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._answer.set_max_batch_size(batching.max_batch)
        self._answer.set_batch_wait_timeout_s(batching.wait_s)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_app(self._classifier, self._answer, self._limits, self._counts)

    @serve.batch(max_batch_size=1, batch_wait_timeout_s=0.0)  # type: ignore[untyped-decorator]
    async def _answer(self, pictures: list[UInt8Array]) -> list[npt.NDArray[np.float32]]:
        loop = asyncio.get_running_loop()
        rows = await loop.run_in_executor(self._thread, self._classifier.probabilities, np.stack(pictures))
        self._counts.batch(len(pictures))
        return list(rows)
