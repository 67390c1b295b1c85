"""The folder of a comparison or a search: begun once, gone on with when that is asked for, by one driver at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from augft.config import Job, load_job_text
from augft.display import Display
from augft.errors import RunDirectoryError
from augft.prepare import Prepared, prepare
from augft.run import CONFIG, LEASE, difference
from augft.signals import when_asked_to_stop
from augft.storage import Storage, extend_uri
from augft.train.lease import Lease
from augft.train.placement import local_trials_cpus
from augft.train.session import ray_session

_OURS = {LEASE, ".packed"}


@dataclass(frozen=True)
class Means:
    """Where and how, as a command is told."""

    address: str | None
    resume: bool
    verbose: bool


@dataclass(frozen=True)
class Begun:
    """An experiment that may be run."""

    prepared: Prepared
    stop_is_asked: Callable[[], bool]


@contextmanager
def begun(
    uri: str,
    job: Job,
    config: str,
    means: Means,
    shown: Display,
    *,
    task: Job,
    check: Callable[[Prepared], None],
    free_to_change: tuple[str, ...],
) -> Iterator[Begun]:
    """Within the block the folder is this driver's, its data is packed, and Ray is up.

    Args:
        uri: the folder.
        job: what is to be done.
        config: the file that holds the job there.
        means: where and how.
        shown: for people.
        task: whose data is packed.
        check: raises where the task cannot be done with them; nothing is written then.
        free_to_change: keys that may be others when it goes on.

    Raises:
        InputError: folder, data or cluster are wrong.
    """
    with ExitStack() as stack:
        if means.address is not None:
            shown.say(f"connecting to Ray at {means.address}")
            stack.enter_context(ray_session(means.address, num_cpus=0, verbose=means.verbose))
        stack.enter_context(Lease(Storage(uri), shown.say))
        check_folder(uri, job, config, resume=means.resume, free_to_change=free_to_change)
        prepared = prepare(task, shown, None if means.address is None else extend_uri(job.run.storage_path, "/.packed"))
        check(prepared)
        Storage(uri).write(config, job.to_yaml().encode())
        if means.address is None:
            shown.say("starting Ray on this machine")
            stack.enter_context(ray_session(None, num_cpus=local_trials_cpus(job.scale), verbose=means.verbose))
        yield Begun(prepared, stack.enter_context(stop_signals(shown.say)))


def check_folder(uri: str, job: Job, config: str, *, resume: bool, free_to_change: tuple[str, ...]) -> None:
    """Whether a job may be begun here, or gone on with.

    Args:
        uri: the folder.
        job: what is to be done.
        config: the file that holds the job there, and tells this kind of folder from others.
        resume: whether to go on with what is there.
        free_to_change: keys that may be others when it goes on.

    Raises:
        RunDirectoryError: there is one and it is not to be gone on with, or one of another job, or other files.
    """
    storage = Storage(uri)
    storage.check_possible()
    if not storage.exists(config):
        if any(name not in _OURS and not name.startswith(".") for name in storage.list()):
            what = "a run" if storage.exists(CONFIG) else "other files"
            raise RunDirectoryError(f"{uri}: holds {what}; give another --run-dir or name")
    elif not resume:
        raise RunDirectoryError(
            f"{uri}: {config} is there already; go on with --resume, or choose another with --run-dir or --set name=…"
        )
    else:
        before = load_job_text(storage.read(config).decode(), f"{uri}/{config}")
        if found := difference(before, job, free_to_change):
            raise RunDirectoryError(f"{uri}: what is there has another {found}; go on with its own {config}")


@contextmanager
def stop_signals(say: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Within the block the first SIGINT or SIGTERM is noted, and the second interrupts.

    Yields:
        Whether somebody has asked to stop.
    """
    asked = threading.Event()

    def ask(number: int) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        say("stopping: what runs is saved first; once more (Ctrl-C) stops at once")

    with when_asked_to_stop(ask):
        yield asked.is_set
