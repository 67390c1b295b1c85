"""A Ray session: connect to a cluster, or make one of this machine; quiet unless asked."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray.util import get_node_ip_address

from augft.errors import HeadLostError, ResourceError

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # `uv run` would upload the working folder to each worker.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Workers stay in the folder that they are started in: what a submitted job brings along lies there.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # A submitted job may set the workers' environment too: its values are taken over below, not refused.
    "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",
    # Of a Ray that is started here: a trainer is as urgent as anything else, and not at Ray's own 15
    # (docs/decisions.md, 13).
    "RAY_worker_niceness": "0",
}
_WORKERS_ENVIRONMENT = {
    # Start-up: look often, and do without what is not used here (docs/decisions.md, 12).
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # glibc gives the memory of each step's activations back to the kernel, and page faults fetch it again.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
}

_ANSWER_S = 5.0
_ASK_S, _LOST_S = 5.0, 30.0


class Head:
    """The head of the cluster that this process is connected to: does it still answer?

    Ray ends a process that has not reached the head for a minute, with a message of many lines. To have a word before
    that, ask now and then.
    """

    def __init__(self) -> None:
        self.address: str = ray.get_runtime_context().gcs_address
        self._host, _, port = self.address.rpartition(":")
        self._port = int(port)
        self._answered_at = self._asked_at = time.monotonic()

    def is_lost(self) -> bool:
        """Whether it has not answered for `_LOST_S`; asks every `_ASK_S`."""
        now = time.monotonic()
        if now - self._asked_at >= _ASK_S:
            self._asked_at = now
            with suppress(OSError), socket.create_connection((self._host, self._port), timeout=_ANSWER_S):
                self._answered_at = now
        return now - self._answered_at >= _LOST_S


@contextmanager
def ray_session(address: str | None, *, num_cpus: int, verbose: bool = False) -> Iterator[None]:
    """Within the block Ray is up; one that was up before is used and left as it is, unless another is asked for.

    Args:
        address: of a cluster (`auto`, `host:6379`); None: this machine.
        num_cpus: CPUs that this machine shall pretend to have. More than it has is oversubscription: Ray counts
            CPUs, it does not bind them.
        verbose: let through what Ray and the workers print.

    Raises:
        ResourceError: Ray does not start here; or no cluster answers at the address, or this process is connected to
            another one.
    """
    if ray.is_initialized():
        if address is not None:
            _check_connected(address)
        yield
        return
    for name, value in {**_ENVIRONMENT, **_WORKERS_ENVIRONMENT}.items():
        os.environ.setdefault(name, value)
    _hush(verbose)
    if address is not None:
        _check_answers(address)
    options: dict[str, Any] = {
        "log_to_driver": verbose,
        "logging_level": logging.INFO if verbose else logging.ERROR,
        "configure_logging": True,
    }
    try:
        if address is None:
            # A cluster that happens to run here is not this machine's own business: never join it unasked.
            ray.init(
                "local",
                num_cpus=num_cpus,
                include_dashboard=False,
                _temp_dir=os.environ.get("AUGFT_RAY_TEMP_DIR"),
                **options,
            )
        else:
            workers = {name: os.environ[name] for name in _WORKERS_ENVIRONMENT}
            ray.init(address, runtime_env={"env_vars": workers}, **options)
    except Exception as error:  # of a start that took too long Ray says so in a bare one
        raise _not_up(address, error) from None
    try:
        yield
    except HeadLostError:
        raise  # a farewell would wait for the head's answer
    except BaseException:
        ray.shutdown()
        raise
    ray.shutdown()


def _not_up(address: str | None, error: Exception) -> ResourceError:
    """Why Ray is not up, in a line."""
    told = (str(error).strip().splitlines() or [""])[0].rstrip(" .")
    if address is None:
        return ResourceError(
            f"Ray could not be started on this machine ({told or type(error).__name__}); try again, later if the "
            "machine is busy, or set AUGFT_RAY_TEMP_DIR to another folder, with space and a short path"
        )
    return ResourceError(
        f"--address {address}: {told or 'no answer'}; start a cluster with `ray start --head`, or leave --address out"
    )


def _check_connected(address: str) -> None:
    """Whether the Ray that this process is connected to is the one at an address; it can only be in one.

    Raises:
        ResourceError: it is another.
    """
    if address in ("auto", "local") or address.startswith("ray://"):  # of a client Ray tells no port of its own
        return
    connected: str = ray.get_runtime_context().gcs_address
    if _resolved(address) != _resolved(connected):
        raise ResourceError(
            f"--address {address}: this process is connected to the Ray at {connected}; "
            "end that with `ray.shutdown()`, or leave the address out"
        )


def _resolved(address: str) -> tuple[str, str]:
    """The number of a host and its port; this machine by the number that Ray knows it by."""
    host, _, port = address.rpartition(":")
    with suppress(OSError):
        host = socket.gethostbyname(host.strip("[]"))
    return get_node_ip_address() if host.startswith("127.") else host, port


def _check_answers(address: str) -> None:
    """Whether anything listens at an address: Ray itself would go on asking for many minutes, aloud.

    Raises:
        ResourceError: nothing does, or it is no address.
    """
    if address in ("auto", "local"):
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    advice = "start a cluster with `ray start --head`, or leave --address out"
    if not colon or not port.isdecimal():
        raise ResourceError(f"--address {address}: give auto, host:6379 or ray://host:10001; {advice}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ResourceError(f"--address {address}: {reason}; {advice}") from None


def _hush(verbose: bool) -> None:
    if verbose:
        return
    os.environ["RAY_TRAIN_ENABLE_PRINT_PATCH"] = "0"
    os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
    for name in ("ray", "ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
