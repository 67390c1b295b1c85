"""`augft serve`: start, wait, stop, with nothing left running."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from augft.errors import ConfigError, HeadLostError, ResourceError, RunError

try:
    import python_multipart  # noqa: F401
    import ray
    from ray import serve as ray_serve
    from ray.serve.config import AutoscalingConfig, HTTPOptions
    from ray.serve.exceptions import RayServeException
    from ray.serve.schema import LoggingConfig
except ImportError as missing:
    raise ConfigError(f"augft serve needs {missing.name}: pip install 'augft[serve]'") from None

from augft.data.picture import MAX_PIXELS
from augft.display import Display
from augft.serve.app import Limits
from augft.serve.classifier import read_recipe
from augft.serve.counts import start_ledger
from augft.serve.door import digest
from augft.serve.replica import Batching, Replica
from augft.signals import when_asked_to_stop
from augft.train.session import Head, ray_session

REQUEST_S = 30.0
"""From a request's first byte to the answer's last, Ray Serve's own 408 after that."""
_DRAIN_S = 5.0
_LOOK_S = 2.0
_APP = "augft"
_HERE = ("127.0.0.1", "localhost", "::1")


def serve(
    run: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    replicas: int | None = 1,
    max_batch: int = 32,
    batch_wait_s: float = 0.005,
    max_bytes: int = 16 * 2**20,
    max_pixels: int = 32 * 2**20,
    token_env: str | None = None,
    address: str | None = None,
    display: Display | None = None,
) -> None:
    """Serve a run's model over HTTP until SIGINT or SIGTERM.

    Args:
        run: a run directory or URI; it is read here, replicas need not see it.
        host, port: where HTTP is listened to; on a cluster on each node that has a replica.
        replicas: processes with the model; None: from one to as many as there are CPUs, as requests come.
        max_batch: pictures that go through the model together, at most.
        batch_wait_s: how long the first picture of a batch waits for others.
        max_bytes, max_pixels: of a picture; of pixels not more than `MAX_PIXELS` of `augft.data.picture`.
        token_env: name of the environment variable that holds the token which clients have to give.
        address: of a Ray cluster; None: this machine.
        display: where lines go; None: stderr.

    Raises:
        InputError: the run, the limits, the port, the token or the cluster is wrong; nothing is running.
        RunError: the replicas do not start.
    """
    if max_pixels > MAX_PIXELS:
        raise ConfigError(f"--max-pixels {max_pixels}: no picture of more than {MAX_PIXELS} is decoded; give fewer")
    recipe = read_recipe(run)
    limits = Limits(max_bytes, max_pixels, _token(token_env))
    most = os.cpu_count() or 1
    if address is None:
        _check_free(host, port)
    with display or Display() as shown, _until_asked() as asked:
        shown.say("starting Ray on this machine" if address is None else f"connecting to Ray at {address}")
        with ray_session(address, num_cpus=replicas or most):
            _check_alone()
            gpus = ray.cluster_resources().get("GPU", 0)
            deployment = ray_serve.deployment(
                ray_serve.ingress()(Replica),
                name="Classifier",
                num_replicas=replicas,
                autoscaling_config=None
                if replicas
                else AutoscalingConfig(min_replicas=1, max_replicas=int(ray.cluster_resources().get("CPU", 1))),
                ray_actor_options={"num_cpus": 1, "num_gpus": 1 if gpus >= (replicas or 1) else 0},
                # Enough to fill the next batch while one is at work; more waits outside, and is told 503 in time.
                max_ongoing_requests=2 * max_batch,
                max_queued_requests=32 * max_batch,
                health_check_period_s=5.0,
                graceful_shutdown_timeout_s=_DRAIN_S,
                logging_config=LoggingConfig(enable_access_log=False),
            )
            held = ray.put(recipe)
            ledger = start_ledger(held)
            logging.getLogger("ray.serve").setLevel(logging.ERROR)
            try:
                ray_serve.start(
                    proxy_location="HeadOnly" if address is None else "EveryNode",
                    http_options=HTTPOptions(host=host, port=port, request_timeout_s=REQUEST_S),
                    logging_config=LoggingConfig(enable_access_log=False),
                )
                ray_serve.run(
                    deployment.bind(limits, Batching(max_batch, batch_wait_s), ledger, 1),
                    name=_APP,
                    route_prefix="/",
                )
                shown.say(_where(recipe.name, host, port, replicas, limits))
                _wait(asked, address)
            except RayServeException as error:
                raise RunError(f"{run}: it could not be served: {_first_line(error)}") from None
            except RuntimeError as error:
                raise RunError(f"{run}: the replicas do not start: {_first_line(error)}") from None
            except KeyboardInterrupt:
                pass
            finally:
                shown.say("stopping")
                _stop(address)


def _stop(address: str | None) -> None:
    if address is not None:
        ray_serve.shutdown()
        return
    # Requests under way are answered; what is left ends with this machine's Ray.
    with suppress(Exception):
        ray_serve.delete(_APP)


def _where(name: str, host: str, port: int, replicas: int | None, limits: Limits) -> str:
    shown = f"[{host}]" if ":" in host else host
    processes = "as many replicas as it takes" if replicas is None else f"{replicas} replica{'s' * (replicas > 1)}"
    text = f"{name}: http://{shown}:{port}/, {processes}; Ctrl-C stops"
    if host not in _HERE and limits.token is None:
        text += "\nwhoever reaches this port may use it: --token-env NAME asks for a token"
    return text


def _wait(asked: threading.Event, address: str | None) -> None:
    head = Head()
    while not asked.wait(_LOOK_S):
        if address is not None and head.is_lost():
            raise HeadLostError(f"{head.address}: the head of the cluster does not answer any more")


@contextmanager
def _until_asked() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second one interrupts."""
    asked = threading.Event()

    def ask(number: int) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    with when_asked_to_stop(ask):
        yield asked


def _token(token_env: str | None) -> bytes | None:
    if token_env is None:
        return None
    token = os.environ.get(token_env, "").strip()
    if not token:
        raise ConfigError(f"--token-env {token_env}: there is no such environment variable, or it is empty; set it")
    # Headers come as latin-1, and clients differ in how they send anything else.
    if not (token.isascii() and token.isprintable()):
        raise ConfigError(
            f"--token-env {token_env}: the token has characters that not every client can send in a header; use "
            "letters, digits and signs of ASCII"
        )
    return digest(token)


def _check_free(host: str, port: int) -> None:
    """Whether the port can be had: Ray Serve would try for a long time, and tell at length."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
    except OSError as error:
        reason = error.strerror or error
        raise ResourceError(f"--host {host} --port {port}: {reason}; give another --port or --host") from None


def _check_alone() -> None:
    """Whether no Ray Serve runs here yet: it has one HTTP server for all, and stopping it would stop the others."""
    names = ray.util.list_named_actors(all_namespaces=True)
    if any(actor["namespace"] == "serve" for actor in names):
        raise ResourceError(
            "this cluster runs Ray Serve already: stop it with `serve shutdown`, or use another cluster"
        )


def _first_line(error: Exception) -> str:
    with suppress(IndexError):
        return str(error).splitlines()[0]
    return type(error).__name__
