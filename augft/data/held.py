"""Shards that a process has at hand, of a set that it cannot hold: those it works on, and those it will want soon.

A thread loads what will be wanted, one shard after another, while what is there is worked on. What is no longer wanted
goes, the longest unused first; and where `$AUGFT_CACHE_MAX_BYTES` is set, also what is wanted, down to so many bytes.
"""

from __future__ import annotations

import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

import numpy as np
import numpy.typing as npt

UInt8Array = npt.NDArray[np.uint8]

_LOG = logging.getLogger("augft")


class Held:
    """Arrays by number, loaded when they are wanted and let go when they are not.

    Args:
        load: makes the array of a number; called by one thread at a time for each number.
        num_bytes: of a number's array, known beforehand.
        max_bytes: of all arrays together, but for the one in use, which may be larger; None: no more than are wanted.
    """

    def __init__(
        self, load: Callable[[int], UInt8Array], num_bytes: Callable[[int], int], max_bytes: int | None
    ) -> None:
        self._load, self._num_bytes, self._max_bytes = load, num_bytes, max_bytes
        self._futures: OrderedDict[int, Future[UInt8Array]] = OrderedDict()  # the longest unused first
        self._wanted: set[int] = set()
        self._told = False
        self._lock = Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shards")
        weakref.finalize(self, self._thread.shutdown, wait=False, cancel_futures=True)

    @property
    def held_bytes(self) -> int:
        """Of arrays that are there or on their way."""
        return sum(self._num_bytes(number) for number in list(self._futures))

    def get(self, number: int) -> UInt8Array:
        """An array, waited for if it is being loaded. Raises what `load` raises."""
        with self._lock:
            future = self._futures.get(number)
            mine = future is None or future.cancel()  # waits in the queue: it is wanted now
            if mine:
                future = self._futures[number] = Future()
                future.set_running_or_notify_cancel()
            assert future is not None
            self._futures.move_to_end(number)
            self._let_go(keep=number)
        if mine:
            try:
                future.set_result(self._load(number))
            except BaseException as error:
                future.set_exception(error)
        try:
            return future.result()
        except BaseException:
            with self._lock:
                self._futures.pop(number, None)  # asked for again, it is loaded again
            raise

    def expect(self, now: Sequence[int], soon: Sequence[int]) -> None:
        """Say what will be wanted.

        Args:
            now: numbers that are worked on next.
            soon: numbers that are wanted after those, the first first; begun to be loaded as far as there is room.
        """
        with self._lock:
            self._wanted = {*now, *soon}
            for number, future in list(self._futures.items()):
                if number not in self._wanted and (future.cancel() or future.done()):
                    del self._futures[number]
            need = sum(map(self._num_bytes, set(now)))
            if self._max_bytes is not None and need > self._max_bytes and not self._told:
                self._told = True
                _LOG.warning(
                    "a window of %d shards has %d bytes, more than AUGFT_CACHE_MAX_BYTES=%d: its shards are read over "
                    "and over; raise it, or lower data.window_shards or data.lanes",
                    *(len(set(now)), need, self._max_bytes),
                )
            coming = [number for number in dict.fromkeys(soon) if number not in set(now)]
            for number in (*dict.fromkeys(now), *coming):
                if number in self._futures:
                    need += 0 if number in now else self._num_bytes(number)
                    continue
                if number not in now:
                    need += self._num_bytes(number)
                if self._max_bytes is not None and need > self._max_bytes:
                    break
                self._futures[number] = self._thread.submit(self._load, number)

    def _let_go(self, keep: int) -> None:
        """Drop what is not wanted, and the longest unused of the rest where it is too much."""
        for number, future in list(self._futures.items()):
            too_much = self._max_bytes is not None and self.held_bytes > self._max_bytes
            if number != keep and (number not in self._wanted or too_much) and (future.cancel() or future.done()):
                del self._futures[number]
