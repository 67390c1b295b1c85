"""`augft submit` against what is no cluster, or none that takes the job: exit code 2 and one line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import ray

JOB = "name: small\nmodel: {weights: none}\nrun: {storage_path: /shared/runs}\n"


class Answers(BaseHTTPRequestHandler):
    """The same to each request."""

    status, body = 200, b""

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """`server(status, body)` gives the address of one that always answers so."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(JOB)
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")  # not what was typed
    handler = type("Fixed", (Answers,), {})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def answers(status: int, body: object) -> str:
        text = body if isinstance(body, str) else json.dumps(body)
        handler.status, handler.body = status, text.encode()
        return f"http://127.0.0.1:{http.server_port}"

    yield answers
    http.shutdown()
    http.server_close()


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (401, "Unauthorized: Missing authentication token", "wants a token: set RAY_AUTH_MODE=token, and RAY_AUTH_"),
        (403, "Forbidden: Invalid authentication token", "refuses this token: set RAY_AUTH_MODE=token"),
        (404, "not here", "is no Ray dashboard"),
        (200, "<html>a page</html>", "is no Ray dashboard"),
        (200, {"version": "4"}, "is no Ray dashboard"),
        (200, ["a", "list"], "is no Ray dashboard"),
        (500, "broken", "500 Server Error"),
        (200, {"ray_version": "1.8.0"}, f"Ray version 1.8.0 is running on the cluster.*Ray is {ray.__version__} here"),
    ],
)
def test_what_does_not_take_a_job(augft: Callable, server: Callable, status: int, body: object, says: str) -> None:
    address = server(status, body)
    typed = augft("submit", "job.yaml", "--address", address)
    assert typed.code == 2
    (line,) = typed.err.splitlines()
    assert line.startswith(f"augft: {address}")
    assert re.search(says, line), line


def test_another_version_of_ray_is_named_with_what_to_do(augft: Callable, server: Callable) -> None:
    typed = augft("submit", "job.yaml", "--address", server(200, {"ray_version": "2.59.1"}))
    assert typed.code == 2  # this server takes no job
    first = typed.err.splitlines()[0]
    assert first.startswith(f"Ray is {ray.__version__} here and 2.59.1 on the cluster")
    assert "install ray==2.59.1 here" in first


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--address", "127.0.0.1:1"), "http://127.0.0.1:1: nothing answers"),
        (
            ("--address", "ray://head:10001"),
            "give the address of the cluster's dashboard, for example http://head:8265",
        ),
        (("--address", "http://h", "--verb", "preview"), "--verb preview: give one of train"),
        (("--address", "http://h", "--set", "run.storage_path=runs"), "run.storage_path runs: is relative"),
        (("--address", "http://h", "--out", "."), "holds other files; give another folder for the result with --out"),
        ((), "Missing option '--address'"),
    ],
)
def test_what_is_wrong_is_said_before_a_cluster_is_asked(
    augft: Callable, server: Callable, arguments: tuple[str, ...], says: str
) -> None:
    typed = augft("submit", "job.yaml", *arguments)
    assert (typed.code, typed.out) == (2, "")
    (line,) = typed.err.splitlines()
    assert says in line
