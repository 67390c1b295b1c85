"""Follow a job's log to its end, through lost connections and Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus

from augft.errors import RunError
from augft.submit.cluster import TROUBLE, Cluster, last_line

_SILENCE_S = 60.0
"""A log that says nothing for this long is asked for anew: its connection may be dead, and none would notice."""
_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 15.0
_PATIENCE_S = 600.0
"""How long a cluster that does not answer is asked again."""

_FAILED, _INTERRUPTED = 1, 130
_OWN_CODES = (1, 2, _INTERRUPTED)

Say = Callable[[str], None]


async def attend(cluster: Cluster, name: str, write: Say, say: Say) -> int:
    """Follow a job to its end. The first Ctrl-C stops it, the second leaves it.

    Returns:
        Its exit code.
    """
    loop = asyncio.get_running_loop()
    this = asyncio.current_task()
    assert this is not None
    stopping: list[asyncio.Task[None]] = []

    def interrupted() -> None:
        if stopping:
            this.cancel()
        else:
            say("stopping the job: it finishes its step and saves; Ctrl-C again leaves it alone")
            stopping.append(loop.create_task(_stop(cluster, name)))

    followed = Followed(cluster, name, say)
    loop.add_signal_handler(signal.SIGINT, interrupted)
    try:
        async for text in followed.log():
            write(text)
    except asyncio.CancelledError:
        say(f"left {name} on the cluster\n{cluster.how_to_go_on(name)}")
        return _INTERRUPTED
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        for task in stopping:
            task.cancel()
    return _exit_code(followed.info, say)


async def _stop(cluster: Cluster, name: str) -> None:
    while True:
        with suppress(*TROUBLE):
            await asyncio.to_thread(cluster.client.stop_job, name)
            return
        await asyncio.sleep(_PAUSE_S)


class Followed:
    """A job whose log is read to the end, through lost connections.

    Args:
        cluster: where it runs.
        name: its submission id.
        say: is told of lost connections.
    """

    def __init__(self, cluster: Cluster, name: str, say: Say) -> None:
        self._cluster, self._client, self._name, self._say = cluster, cluster.client, name, say
        self._num_seen = 0
        self.info: Any = None
        """What Ray knows of the job; of its end, once the log has ended."""

    async def log(self) -> AsyncIterator[str]:
        """The log, each character once, until the job has ended.

        Raises:
            RunError: the cluster has not answered for long, or knows nothing of the job.
        """
        failing_since, pause = None, _PAUSE_S
        while True:
            try:
                self.info = await asyncio.to_thread(self._client.get_job_info, self._name)
                if self.info.status.is_terminal():
                    text = await asyncio.to_thread(self._client.get_job_logs, self._name)
                    yield text[self._num_seen :]
                    return
                if failing_since is not None:
                    self._say("connected again")
                failing_since, pause = None, _PAUSE_S
                async for text in self._tail():
                    yield text
            except (*TROUBLE, AuthenticationError) as error:
                if "does not exist" in str(error):
                    raise RunError(
                        f"{self._cluster.address} knows nothing of {self._name}: its head was started anew; "
                        f"go on from the last checkpoint with --resume"
                    ) from None
                if failing_since is None:
                    failing_since = time.monotonic()
                    self._say(f"connection lost ({last_line(error)}); trying again")
                elif time.monotonic() - failing_since > _PATIENCE_S:
                    raise RunError(
                        f"{self._cluster.address}: no answer for {_PATIENCE_S:.0f} s, the job may be running\n"
                        f"{self._cluster.how_to_go_on(self._name)}"
                    ) from None
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            await asyncio.sleep(pause)

    async def _tail(self) -> AsyncIterator[str]:
        """What comes new from the log, until Ray ends it or it falls silent; Ray always begins at its beginning."""
        texts = self._client.tail_job_logs(self._name)
        position = 0
        while True:
            try:
                text = await asyncio.wait_for(anext(texts), _SILENCE_S)
            except (StopAsyncIteration, TimeoutError):
                return
            new = text[max(self._num_seen - position, 0) :]
            position += len(text)
            self._num_seen = max(self._num_seen, position)
            if new:
                yield new


def _exit_code(info: Any, say: Say) -> int:
    if info.status == JobStatus.SUCCEEDED:
        return 0
    if info.status == JobStatus.STOPPED:
        return _INTERRUPTED
    if info.driver_exit_code in _OWN_CODES:
        return int(info.driver_exit_code)
    say(f"the job failed: {(str(info.message).strip().splitlines() or ['no reason given'])[0]}")
    return _FAILED
