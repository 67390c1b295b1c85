"""What was asked of all replicas and how it went, in Prometheus' text format.

A scrape reaches one replica. So each sends what it has counted, every second, to one actor, and any of them asks that
actor: sums are of all replicas, and a replica that dies takes at most a second with it.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from collections import Counter
from contextlib import suppress
from typing import Any

import ray

from augft.sealed import Sealed

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SEND_S = 1.0
_ANSWER_S = 5.0

Key = tuple[str, ...]
"""("requests", route, status), ("seconds", route, bucket), ("seconds_sum", route), ("batches",), ("pictures",)."""


class _Ledger:
    """The actor. It also hands out what is served: Ray Serve would keep that, weights and all, in its own records."""

    def __init__(self, held: Sealed[Any]) -> None:
        self._held = held.open()
        self._counts: Counter[Key] = Counter()

    def add(self, counts: dict[Key, float]) -> None:
        self._counts.update(counts)

    def recipe(self) -> object:
        return ray.get(self._held)

    def counts(self) -> dict[Key, float]:
        return dict(self._counts)


def start_ledger(held: Any) -> Any:
    """The actor that all replicas share; it ends with this process.

    Args:
        held: a reference to what is served, which the caller keeps. It is given sealed: of an actor that may be started
            again, Ray complains aloud of arguments that are or hold references.
    """
    return ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=3)(_Ledger).remote(Sealed.of(held))


class Counts:
    """A replica's part.

    Args:
        ledger: the actor; None: nothing but this process counts.
    """

    def __init__(self, ledger: Any | None) -> None:
        self._ledger = ledger
        self._unsent: Counter[Key] = Counter()

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._unsent["requests", route, str(status)] += 1
        self._unsent["seconds", route, str(bisect_left(BUCKETS_S, seconds))] += 1
        self._unsent["seconds_sum", route] += seconds  # type: ignore[assignment]

    def batch(self, num_pictures: int) -> None:
        """Pictures went through the model together."""
        self._unsent["batches",] += 1
        self._unsent["pictures",] += num_pictures

    async def keep_sending(self) -> None:
        """Every second, until it is cancelled."""
        while True:
            await asyncio.sleep(_SEND_S)
            # Counting must not stop answering.
            with suppress(Exception):
                await self._send()

    async def text(self) -> str:
        """The counts of all replicas in Prometheus' text format."""
        if self._ledger is None:
            return exposition(dict(self._unsent))
        await self._send()
        return exposition(await asyncio.wait_for(self._ledger.counts.remote(), _ANSWER_S))

    async def _send(self) -> None:
        if self._ledger is None or not self._unsent:
            return
        sent, self._unsent = self._unsent, Counter()
        try:
            await asyncio.wait_for(self._ledger.add.remote(dict(sent)), _ANSWER_S)
        except Exception:
            self._unsent.update(sent)
            logging.getLogger(__name__).warning("the counts could not be sent; they are kept for the next time")
            raise


def exposition(counts: dict[Key, float]) -> str:
    """Counts as Prometheus reads them."""
    lines = ["# HELP augft_requests_total Requests answered.", "# TYPE augft_requests_total counter"]
    for key, value in sorted(counts.items()):
        if key[0] == "requests":
            lines.append(f'augft_requests_total{{route="{key[1]}",status="{key[2]}"}} {value:g}')
    lines += [
        "# HELP augft_request_seconds Time from a request to its answer.",
        "# TYPE augft_request_seconds histogram",
    ]
    for route in sorted({key[1] for key in counts if key[0] == "seconds"}):
        total = 0.0
        for bucket in range(len(BUCKETS_S) + 1):
            total += counts.get(("seconds", route, str(bucket)), 0)
            bound = f"{BUCKETS_S[bucket]:g}" if bucket < len(BUCKETS_S) else "+Inf"
            lines.append(f'augft_request_seconds_bucket{{route="{route}",le="{bound}"}} {total:g}')
        lines.append(f'augft_request_seconds_sum{{route="{route}"}} {counts.get(("seconds_sum", route), 0.0):.6f}')
        lines.append(f'augft_request_seconds_count{{route="{route}"}} {total:g}')
    for name, said in (("batches", "Batches that went through the model."), ("pictures", "Pictures classified.")):
        lines += [f"# HELP augft_{name}_total {said}", f"# TYPE augft_{name}_total counter"]
        lines.append(f"augft_{name}_total {counts.get((name,), 0):g}")
    return "\n".join(lines) + "\n"
