"""A Ray cluster that is reached by its dashboard's HTTP port alone; what it refuses is said in one line."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import aiohttp
import ray
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from augft.errors import ResourceError

TROUBLE = (OSError, RuntimeError, aiohttp.ClientError)
"""What Ray's client raises when a connection fails; those of requests are OSErrors."""

_JOB_ENVIRONMENT = {
    # What a stopped job has for its last step and its checkpoint; Ray's own 3 s are too few.
    "RAY_JOB_STOP_WAIT_TIME_S": "300",
    "RAY_USAGE_STATS_ENABLED": "0",
}
_PYTHON = "exec python3"  # exec: no shell stands between Ray's signals and the run
_ANSWER_S = 30.0
_ADVICE = "give the address of the cluster's dashboard, for example http://head:8265"


class _Client(JobSubmissionClient):  # type: ignore[misc]
    """Ray's, with an end to waiting for an answer."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        return super()._do_request(method, endpoint, **{"timeout": _ANSWER_S, **options})

    def ray_version(self) -> str:
        """Of the cluster."""
        return str(self._do_request("GET", "/api/version").json()["ray_version"])


class Cluster:
    """A Ray cluster, by its dashboard.

    Args:
        address: of the dashboard.
        client: of the same.
    """

    def __init__(self, address: str, client: Any) -> None:
        self.address, self.client = address, client

    def start(self, name: str, command: Sequence[str], metadata: dict[str, str], folder: str | None = None) -> None:
        """Start `python3 COMMAND` on the head, with a folder's files around it.

        Raises:
            ResourceError: the cluster refuses.
        """
        environment: dict[str, Any] = {"env_vars": _JOB_ENVIRONMENT}
        if folder is not None:
            environment["working_dir"] = folder
        with _refusals(self.address):
            self.client.submit_job(
                entrypoint=f"{_PYTHON} {shlex.join(command)}",
                submission_id=name,
                runtime_env=environment,
                metadata=metadata,
            )

    def how_to_go_on(self, name: str) -> str:
        """The commands that follow and stop a job."""
        return (
            f"follow it: ray job logs --address {self.address} --follow {name}\n"
            f"stop it:   ray job stop --address {self.address} {name}"
        )


def connect(address: str, say: Callable[[str], None]) -> Cluster:
    """Find the cluster.

    Raises:
        ResourceError: nothing answers, it is no Ray dashboard, it wants another token or another version of Ray.
    """
    url = (address if "://" in address else f"http://{address}").rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise ResourceError(f"--address {address}: {_ADVICE}")
    for variable in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        os.environ.pop(variable, None)  # Ray would let them win over what was typed
    for handler in logging.getLogger("ray").handlers:
        handler.setLevel(logging.ERROR)
    with _refusals(url):
        try:
            client = _Client(url)
            there = client.ray_version()
        except (LookupError, TypeError, ValueError):
            raise ResourceError(f"{url} is no Ray dashboard; {_ADVICE}") from None
    if there != ray.__version__:
        say(
            f"Ray is {ray.__version__} here and {there} on the cluster, which runs the job; should it not be taken, "
            f"install ray=={there} here"
        )
    return Cluster(url, client)


@contextmanager
def _refusals(url: str) -> Iterator[None]:
    """What a cluster may refuse, in one line.

    Raises:
        ResourceError: it did.
    """
    try:
        yield
    except AuthenticationError as error:
        what = "refuses this token" if "failed" in str(error) else "wants a token"
        raise ResourceError(
            f"{url} {what}: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, as on the cluster"
        ) from None
    except ConnectionError:
        raise ResourceError(f"{url}: nothing answers; {_ADVICE}") from None
    except (*TROUBLE, LookupError, TypeError, ValueError) as error:
        if "returned 404" in str(error):
            raise ResourceError(f"{url} is no Ray dashboard; {_ADVICE}") from None
        raise ResourceError(
            f"{url}: {last_line(error)}; Ray is {ray.__version__} here: on the cluster it should be the same"
        ) from None


def last_line(error: BaseException) -> str:
    """What an error says, without the traceback that a server may have sent along."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].rstrip(".")
