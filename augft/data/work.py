"""Jobs that can be done in any order: by threads here, or by whoever else keeps to `Crew`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from typing import Protocol, TypeVar

from augft.errors import RunError

T = TypeVar("T")
Job = Callable[[Executor | None], T]
"""Something to do. It may pass small pieces of it to the executor, where there is one. Pickles."""
Progress = Callable[[int, int | None], None]
"""Called with how many are done, and of how many."""


class Crew(Protocol):
    """Does jobs."""

    def do(self, jobs: Iterable[Job[T]]) -> Iterator[T]:
        """What the jobs give, as they are done; takes a few jobs ahead and no more."""
        ...


def all_done(crew: Crew, jobs: Iterable[Job[T]]) -> Iterator[T]:
    """What the jobs give, as a crew does them, and none less.

    Raises:
        RunError: the crew left jobs undone; nothing may be made of the others as if they were all.
    """
    coming, num_taken, num_done = iter(jobs), 0, 0

    def taken() -> Iterator[Job[T]]:
        nonlocal num_taken
        for job in coming:
            num_taken += 1
            yield job

    for result in crew.do(taken()):
        num_done += 1
        yield result
    if num_done != num_taken or next(coming, None) is not None:
        raise RunError(f"{num_done} parts were made, and not all: the same command goes on with what is done")


class Threads:
    """So many jobs at a time by threads of this process, and as many threads for their pieces.

    Pillow, hashing and Parquet free the interpreter while they work.
    """

    def __init__(self, num_threads: int) -> None:
        self._num = num_threads

    def do(self, jobs: Iterable[Job[T]]) -> Iterator[T]:
        """See `Crew`."""
        pending: set[Future[T]] = set()
        # Pillow warns about odd pictures as it goes; each is judged where it is decoded, and a thousand warnings
        # help nobody.
        with (
            warnings.catch_warnings(),
            ThreadPoolExecutor(self._num) as pieces,
            ThreadPoolExecutor(self._num) as pool,
        ):
            warnings.simplefilter("ignore")
            try:
                for job in jobs:
                    pending.add(pool.submit(job, pieces))
                    if len(pending) > self._num:
                        yield from _done(pending)
                while pending:
                    yield from _done(pending)
            finally:
                pool.shutdown(cancel_futures=True)


def _done(pending: set[Future[T]]) -> Iterator[T]:
    """The results of those that are done, at least one, which are taken out."""
    done, _ = wait(pending, return_when=FIRST_COMPLETED)
    pending -= done
    for future in done:
        yield future.result()
