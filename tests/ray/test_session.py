"""A process that uses Ray already stays in the Ray that it is in, and says so if another is asked for."""

from __future__ import annotations

import pytest
import ray

from augft.errors import ResourceError
from augft.train.session import ray_session

pytestmark = pytest.mark.usefixtures("local_ray")


def test_the_ray_that_is_up_is_used_and_left() -> None:
    connected: str = ray.get_runtime_context().gcs_address
    port = connected.rpartition(":")[2]
    for address in (None, "auto", connected, f"localhost:{port}"):
        with ray_session(address, num_cpus=1):
            assert ray.get_runtime_context().gcs_address == connected
        assert ray.is_initialized()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no-such-host:6379"])
def test_another_ray_than_the_one_that_is_up(address: str) -> None:
    connected: str = ray.get_runtime_context().gcs_address
    refused = f"--address {address}: this process is connected to the Ray at {connected}"
    with pytest.raises(ResourceError, match=refused), ray_session(address, num_cpus=1):
        pass
    assert ray.is_initialized()


TIMED_OUT = "The current node timed out during startup. This could happen because some of the raylet failed to start."


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (
            None,
            r"^Ray could not be started on this machine \(The current node timed out .* to start\); try again, later "
            r"if the machine is busy, or set AUGFT_RAY_TEMP_DIR to another folder, with space and a short path$",
        ),
        ("auto", r"^--address auto: The current node timed out .*; start a cluster with `ray start --head`, or leave"),
    ],
)
@pytest.mark.parametrize("kind", [Exception, RuntimeError, OSError])
def test_a_ray_that_does_not_start(
    monkeypatch: pytest.MonkeyPatch, kind: type[Exception], address: str | None, words: str
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise kind(f"{TIMED_OUT}\nMore of it.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fails)
    with pytest.raises(ResourceError, match=words), ray_session(address, num_cpus=1):
        pass
