"""What the workers tell the driver while they train, and what it asks of them.

The driver owns one actor, the `Listener`, which lives where the driver lives. Workers send it events (for people),
incidents (for the record) and, each second from a thread, a pulse: how far they are and what they are at. The driver
takes all of it a few times a second, and may ask once: stop after this step. Nobody waits for a message, and none
changes what is computed.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from augft.errors import HeadLostError

PULSE_S = 1.0
_CLOCK_SET_S = 5.0


@dataclass(frozen=True)
class Pulse:
    """How a worker is, as it says itself."""

    rank: int
    node_id: str
    address: str
    pid: int
    born_at: float
    """When the process was started, in seconds since 1970: tells it from a later one of the same pid."""
    step: int
    """Steps done."""
    phase: str
    """What it is at: "waits for pictures", …"""
    waited_s: float
    """How long training has waited for pictures, in all."""
    beats: int
    """Grows with each thing done: a step, a batch of a validation."""

    @property
    def process(self) -> tuple[str, int, float]:
        """What tells the worker's process from all others."""
        return self.node_id, self.pid, self.born_at


@dataclass(frozen=True)
class Heard:
    """What came in since the driver asked last."""

    events: list[dict[str, Any]]
    pulses: dict[int, Pulse]
    """The newest of each rank that sent one."""


class _Listener:
    """An actor with async methods, so that `asked_to_stop` can wait while others speak."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self._pulses: dict[int, Pulse] = {}
        self._waited_s = 0.0
        self._stop = asyncio.Event()

    async def tell(self, event: dict[str, Any]) -> None:
        self._events.append(event)

    async def pulse(self, pulse: Pulse) -> None:
        self._pulses[pulse.rank] = pulse
        if pulse.rank == 0:  # all ranks wait for the one that waits
            self._waited_s = pulse.waited_s

    async def take(self) -> Heard:
        heard = Heard(self._events, self._pulses)
        self._events, self._pulses = [], {}
        return heard

    async def waited(self) -> float:
        return self._waited_s

    async def stop(self) -> None:
        self._stop.set()

    async def asked_to_stop(self) -> None:
        """Returns when somebody does."""
        await self._stop.wait()


class Listener:
    """The driver's end. A context manager, with whose block the actor ends.

    To drop the handle would not end it: an actor that is let go of first finishes its calls, and `asked_to_stop` of a
    run that nobody stopped never is.
    """

    def __init__(self) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # Each worker holds one call open, the one that waits to be asked to stop.
        actor = ray.remote(num_cpus=0, scheduling_strategy=here, max_concurrency=10_000)(_Listener)
        self.actor = actor.remote()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or not issubclass(kind, HeadLostError):  # else there is nobody to tell
            with suppress(ray.exceptions.RayError):
                ray.kill(self.actor)

    def take(self, timeout_s: float = 60.0) -> Heard:
        """What came in since the last call.

        Raises:
            ray.exceptions.RayError: the listener does not answer.
        """
        heard: Heard = ray.get(self.actor.take.remote(), timeout=timeout_s)
        return heard

    def ask_to_stop(self) -> None:
        """Have the workers finish the step, save, and end."""
        ray.get(self.actor.stop.remote(), timeout=60.0)


class WorkerContact:
    """A worker's end: the loop's `Contact`.

    Args:
        listener: the driver's `Listener.actor`.
        rank: of this worker; the first alone speaks for all.
    """

    def __init__(self, listener: Any, rank: int) -> None:
        self._listener = listener
        self._rank = rank
        context = ray.get_runtime_context()
        self._node_id, self._pid = context.get_node_id(), os.getpid()
        self._born_at = psutil.Process().create_time()
        self._address: str = ray.util.get_node_ip_address()
        self._asked = listener.asked_to_stop.remote()
        self._step = self._beats = 0
        self._waited_s = 0.0
        self._phase = "starts"
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._send_pulses, name="pulse", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Of this worker's node."""
        return self._address

    def tell(self, kind: str, **event: Any) -> None:
        """An event for people, from the first rank."""
        if self._rank == 0:
            self._listener.tell.remote({"kind": kind, **event})

    def say(self, text: str) -> None:
        """A line for people, from the first rank."""
        self.tell("say", text=text)

    def incident(self, what: str, text: str) -> None:
        """Something that people should find in the run's record, from the first rank."""
        self.tell("incident", what=what, text=text, step=self._step)

    @property
    def stop_is_asked(self) -> bool:
        """Whether the driver wants the run to end after this step."""
        return bool(ray.wait([self._asked], timeout=0)[0])

    @contextmanager
    def at(self, phase: str) -> Iterator[None]:
        """Around something that may take long."""
        before, self._phase = self._phase, phase
        try:
            yield
        finally:
            self._phase = before

    def begin(self, step: int) -> None:
        """Training goes on from a step."""
        self._step, self._phase = step, "trains"

    def beat(self) -> None:
        """Something is done."""
        self._beats += 1

    def stepped(self, step: int, waited_s: float) -> None:
        """A step is done; for it and those before, training has waited so long."""
        self._step, self._waited_s = step, waited_s
        self.beat()

    def close(self) -> None:
        """The run is over for this worker."""
        self._closed.set()
        self._thread.join()

    def _send_pulses(self) -> None:
        while not self._closed.wait(PULSE_S):
            self._listener.pulse.remote(
                Pulse(
                    rank=self._rank,
                    node_id=self._node_id,
                    address=self._address,
                    pid=self._pid,
                    born_at=self._born_at,
                    step=self._step,
                    phase=self._phase,
                    waited_s=self._waited_s,
                    beats=self._beats,
                )
            )


def tell_replaced(listener: Any, address: str) -> None:
    """An augmentation actor was lost, and another has begun in its place at this address."""
    text = f"an augmentation actor was lost; another took its place on {address}"
    listener.tell.remote({"kind": "incident", "what": "actor", "text": text, "step": None})


def ask_waited(listener: Any) -> Any:
    """A reference to how long training has waited for pictures, in seconds."""
    return listener.waited.remote()


def stop_process(pulse: Pulse) -> bool:
    """SIGKILL a worker on its node, and have Ray Train start all workers anew.

    Returns:
        Whether there was such a process; False also where its node does not answer.
    """
    there = NodeAffinitySchedulingStrategy(pulse.node_id, soft=False)
    try:
        killed: bool = ray.get(
            ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(_kill).remote(pulse.pid, pulse.born_at),
            timeout=30.0,
        )
    except ray.exceptions.RayError:
        return False
    return killed


def _kill(pid: int, born_at: float) -> bool:
    try:
        process = psutil.Process(pid)
        if not is_born_at(process, born_at):
            return False
        process.kill()
    except psutil.NoSuchProcess:
        return False
    return True


def is_born_at(process: psutil.Process, born_at: float) -> bool:
    """Whether a process was started then, and is no later one of the same pid; clocks may have been set a little."""
    return bool(abs(process.create_time() - born_at) < _CLOCK_SET_S)
