"""`augft serve` as a user starts it, asked over the loopback: answers, refusals, many clients, a kill, Ctrl-C."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from augft.cli import app
from augft.data.picture import MAX_PIXELS as MOST_PIXELS
from augft.errors import InputError
from augft.mlflow_model import PictureModel
from tests.small_run import pictures_of_the_test, train_small

pytest.importorskip("python_multipart", reason="pip install 'augft[serve]'")
pytest.importorskip("ray.serve", reason="pip install 'augft[serve]'")

from augft.serve.app import Limits, build_app
from augft.serve.classifier import Classifier, read_recipe
from augft.serve.counts import Counts

MAX_BYTES, MAX_PIXELS = 200_000, 250_000
TOKEN = "a token of the tests"
LIMITS = Limits(MAX_BYTES, MAX_PIXELS, None)
LOAD_S = float(os.environ.get("AUGFT_LOAD_S", "3"))
NUM_CLIENTS = 32
START_S = 180


@dataclass
class Server:
    """A server that was started, and what is known of it."""

    process: subprocess.Popen[bytes]
    port: int
    run: Path
    log: Path

    def connection(self, timeout: float = 60) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def ask(
        self, method: str, path: str, body: Any = None, token: str | None = TOKEN, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (in lower case) and body of the answer."""
        connection = self.connection()
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            given["Authorization"] = f"Bearer {token}"
        try:
            connection.request(method, path, body, given)
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()

    def replicas(self) -> list[psutil.Process]:
        """The processes that hold the model."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if "ServeReplica" in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory."""
    return train_small(tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, small: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "log.txt"
    command = [
        sys.executable,
        "-m",
        "augft.cli",
        "serve",
        str(small),
        "--port",
        str(port),
        "--token-env",
        "SERVE_TOKEN",
    ]
    command += ["--max-bytes", str(MAX_BYTES), "--max-pixels", str(MAX_PIXELS)]
    temporary = Path(f"/tmp/aray{os.getpid()}s")
    environment = os.environ | {"SERVE_TOKEN": TOKEN, "AUGFT_RAY_TEMP_DIR": str(temporary)}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
    server = Server(process, port, small, log)
    try:
        _wait_until(lambda: _is_ready(server), START_S, server)
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(60)
        subprocess.run(["rm", "-rf", str(temporary)], check=True)


def _is_ready(server: Server) -> bool:
    assert server.process.poll() is None, server.log.read_text()
    try:
        return server.ask("GET", "/readyz", token=None)[0] == 200
    except OSError:
        return False


def _wait_until(holds: Any, seconds: float, server: Server) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, f"it never came true: {server.log.read_text()}"
        time.sleep(0.2)


def png(pixels: Any, **options: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG", **options)
    return content.getvalue()


def form(content: bytes, name: str = "picture", filename: str = '; filename="a.png"') -> tuple[bytes, str]:
    """A multipart body and its content type."""
    head = f'--border\r\nContent-Disposition: form-data; name="{name}"{filename}\r\n\r\n'
    return head.encode() + content + b"\r\n--border--\r\n", "multipart/form-data; boundary=border"


def answers(server: Server, num: int) -> tuple[list[bytes], Any]:
    """Picture files, and the model's own probabilities for them."""
    images = pictures_of_the_test(server.run, num)
    return [png(image) for image in images], PictureModel(server.run, torch.device("cpu")).predict(images)


# ---- answers ---------------------------------------------------------------------------------------------


def test_it_answers_what_the_model_answers_to_a_body_and_to_a_form(server: Server) -> None:
    files, probabilities = answers(server, 8)
    assert len(set(probabilities.argmax(1).tolist())) > 2, "the test would see nothing"
    for content, expected in zip(files, probabilities, strict=True):
        body, content_type = form(content)
        for given, headers in ((content, {"Content_Type": "image/png"}), (body, {"Content_Type": content_type})):
            status, _, answer = server.ask("POST", "/predict?top=10", given, **headers)
            assert status == 200, answer
            told = json.loads(answer)
            assert [row["label"] for row in told["top"]] == np.argsort(-expected, kind="stable").tolist()
            found = {row["label"]: row["probability"] for row in told["top"]}
            np.testing.assert_allclose([found[i] for i in range(10)], expected, atol=1e-5)
            assert all(row["class"] == str(row["label"]) for row in told["top"])
    assert len(json.loads(server.ask("POST", "/predict?top=3", files[0])[2])["top"]) == 3
    assert len(json.loads(server.ask("POST", "/predict", files[0])[2])["top"]) == 5


def test_the_strip_is_the_same_whenever_it_is_asked_for(server: Server) -> None:
    [content], _ = answers(server, 1)
    strips = [server.ask("POST", f"/augment?{query}", content) for query in ("seed=1", "seed=1", "seed=2", "")]
    assert [status for status, _, _ in strips] == [200] * 4
    assert strips[0][1]["content-type"] == "image/png"
    assert strips[0][2] == strips[1][2] != strips[2][2]
    assert server.ask("POST", "/augment?seed=5", content)[2] == strips[3][2], "the run's own seed goes without saying"
    with Image.open(io.BytesIO(strips[0][2])) as strip:
        assert strip.width > 8 * strip.height
    with Image.open(io.BytesIO(server.ask("POST", "/augment?copies=5&columns=3", content)[2])) as strip:
        assert strip.width == pytest.approx(1.5 * strip.height, rel=0.03)


def test_probes_page_and_metrics(server: Server) -> None:
    assert server.ask("GET", "/healthz", token=None)[::2] == (200, b"ok\n")
    status, headers, page = server.ask("GET", "/", token=None)
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert b"<h1>small</h1>" in page
    for path in ("/healthz", "/readyz", "/"):
        asked = server.ask("GET", path, token=None)
        status, headers, body = server.ask("HEAD", path, token=None)
        assert (status, body) == (200, b""), path
        assert headers["content-type"] == asked[1]["content-type"]
        assert headers["content-length"] == str(len(asked[2]))
    before = _metrics(server)
    [content], _ = answers(server, 1)
    for _ in range(3):
        server.ask("POST", "/predict", content)
    server.ask("POST", "/predict", b"x")
    after = _metrics(server)
    for name, more in (
        ('augft_requests_total{route="/predict",status="200"}', 3),
        ('augft_requests_total{route="/predict",status="415"}', 1),
        ('augft_request_seconds_count{route="/predict"}', 4),
        ("augft_pictures_total", 3),
    ):
        assert after[name] - before.get(name, 0) == more, name


def _metrics(server: Server) -> dict[str, float]:
    status, _, text = server.ask("GET", "/metrics")
    assert status == 200
    rows = [line.rpartition(" ") for line in text.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in rows}


# ---- refusals --------------------------------------------------------------------------------------------


def _noise(width: int, height: int) -> bytes:
    return png(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


REFUSED = {
    "empty": (b"", 400),
    "no picture": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415),
    "a program": (b"\x7fELF" + bytes(1000), 415),
    "cut short": (_noise(100, 100)[:15_000], 400),
    "too many bytes": (_noise(400, 400), 413),
    "a bomb": (png(np.zeros((10_000, 10_000), np.uint8), compress_level=9), 413),
    "more pixels than allowed": (png(np.zeros((500, 501, 3), np.uint8)), 413),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("route", ["/predict", "/augment"])
def test_a_body_that_is_no_good_is_refused_in_a_line(server: Server, route: str, name: str) -> None:
    content, expected = REFUSED[name]
    status, _, answer = server.ask("POST", route, content)
    assert status == expected, answer
    detail = json.loads(answer)["detail"]
    assert detail
    assert "\n" not in detail
    body, content_type = form(content)
    assert server.ask("POST", route, body, Content_Type=content_type)[0] == expected


def test_a_picture_of_just_the_pixels_that_are_allowed_is_taken(server: Server) -> None:
    assert server.ask("POST", "/predict", png(np.zeros((500, 500, 3), np.uint8)))[0] == 200


def test_a_body_of_unknown_length_is_cut_off(server: Server) -> None:
    """Chunked, and without end: the answer comes long before the body is over."""
    connection = server.connection()
    connection.putrequest("POST", "/predict")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.putheader("Authorization", f"Bearer {TOKEN}")
    connection.endheaders()
    chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
    sent = 0
    try:
        while sent < 500:
            connection.send(chunk)
            sent += 1
            connection.sock.settimeout(0.01)
            try:
                if connection.sock.recv(1, socket.MSG_PEEK):
                    break
            except TimeoutError:
                pass
            finally:
                connection.sock.settimeout(60)
    except (BrokenPipeError, ConnectionResetError):
        pass  # told already, and the door is shut
    assert sent < 500
    assert connection.getresponse().status == 413


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/predict?top=0", 422),
        ("POST", "/predict?top=many", 422),
        ("POST", "/augment?copies=1000", 422),
        ("POST", "/augment?seed=-1", 422),
        ("POST", "/augment?epoch=1", 422),
        ("GET", "/predict", 405),
        ("GET", "/openapi.json", 404),
        ("GET", "/nothing/here", 404),
    ],
)
def test_questions_that_make_no_sense_are_refused(server: Server, method: str, path: str, status: int) -> None:
    [content], _ = answers(server, 1)
    found, _, answer = server.ask(method, path, content if method == "POST" else None)
    assert found == status, answer


def test_a_form_without_a_file_or_without_an_end_is_refused(server: Server) -> None:
    body, content_type = form(b"text", filename="")
    assert server.ask("POST", "/predict", body, Content_Type=content_type)[0] == 422
    assert server.ask("POST", "/predict", body, Content_Type="multipart/form-data")[0] == 400
    assert server.ask("POST", "/predict", b"--other\r\n", Content_Type=content_type)[0] == 400


def test_only_who_has_the_token_is_answered(server: Server) -> None:
    [content], _ = answers(server, 1)
    for token in (None, "", "another token", TOKEN[:-1], TOKEN + "x", "ünknown"):
        for method, path in (("POST", "/predict"), ("POST", "/augment"), ("GET", "/metrics")):
            headers = {} if token is None else {"Authorization": f"Bearer {token}".encode("latin-1").decode("latin-1")}
            status, answered, _ = server.ask(method, path, content if method == "POST" else None, None, **headers)
            assert (status, answered.get("www-authenticate")) == (401, "Bearer")
    assert server.ask("POST", "/predict", content)[0] == 200
    assert server.ask("POST", "/predict", content, None, Authorization=f"bearer {TOKEN}")[0] == 200
    assert TOKEN not in server.log.read_text()


# ---- many clients, and worse -------------------------------------------------------------------------------


def test_many_clients_get_the_right_answers_and_share_batches(server: Server) -> None:
    files, probabilities = answers(server, NUM_CLIENTS)
    labels = probabilities.argmax(1).tolist()
    before = _metrics(server)
    until = time.monotonic() + LOAD_S
    wrong: list[object] = []
    took_s: list[list[float]] = [[] for _ in range(NUM_CLIENTS)]

    def client(number: int) -> None:
        connection = server.connection()
        try:
            while (asked_at := time.monotonic()) < until:
                connection.request("POST", "/predict?top=1", files[number], {"Authorization": f"Bearer {TOKEN}"})
                response = connection.getresponse()
                answer = response.read()
                if response.status != 200 or json.loads(answer)["top"][0]["label"] != labels[number]:
                    wrong.append((response.status, answer))
                took_s[number].append(time.monotonic() - asked_at)
        except Exception as error:
            wrong.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(NUM_CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[:3]
    assert all(took_s)
    times_ms = 1000 * np.concatenate(took_s)
    after = _metrics(server)
    pictures, batches = (after[name] - before[name] for name in ("augft_pictures_total", "augft_batches_total"))
    half, most = np.percentile(times_ms, [50, 99])
    print(
        f"{len(times_ms) / LOAD_S:.0f} answers/s over {LOAD_S:g} s, {NUM_CLIENTS} clients, no error; p50 {half:.0f}, "
        f"p99 {most:.0f} ms; {pictures / batches:.1f} pictures a batch"
    )
    assert pictures == len(times_ms)
    assert pictures > 1.5 * batches


def test_a_replica_that_is_killed_is_started_again(server: Server) -> None:
    [content], _ = answers(server, 1)
    [replica] = server.replicas()
    expected = server.ask("POST", "/predict", content)[2]
    replica.kill()

    def answers_again() -> bool:
        status, _, answer = server.ask("POST", "/predict", content)
        assert status in (200, 500, 503), answer
        return status == 200 and replica.pid not in {process.pid for process in server.replicas()}

    _wait_until(answers_again, 90, server)
    assert server.ask("POST", "/predict", content)[2] == expected


def test_ctrl_c_stops_it_and_leaves_nothing_running(server: Server) -> None:
    """The last test of the server: it is gone afterwards."""
    family = psutil.Process(server.process.pid).children(recursive=True)
    assert family
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(60) == 0, server.log.read_text()
    _, left = psutil.wait_procs(family, timeout=15)
    assert not left
    with pytest.raises(OSError):  # noqa: PT011
        server.ask("GET", "/healthz")
    assert "Traceback" not in server.log.read_text()


# ---- what is refused before anything starts ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such-run"], "no run there"),
        (["RUN", "--replicas", "none"], "--replicas none: give a number"),
        (["RUN", "--token-env", "NOT_THERE"], "NOT_THERE: there is no such environment variable"),
        (["RUN", "--token-env", "NOT_ASCII"], "--token-env NOT_ASCII: the token has characters that not every client"),
        (["RUN", "--token-env", "TWO_LINES"], "--token-env TWO_LINES: the token has characters that not every client"),
        (
            ["RUN", "--max-pixels", str(MOST_PIXELS + 1)],
            "no picture of more than 67108864 is decoded; give fewer",
        ),
        (["RUN", "--port", "TAKEN"], "Address already in use; give another --port"),
        (["RUN", "--host", "192.0.2.1"], "--host 192.0.2.1"),
    ],
)
def test_bad_input_is_one_line(small: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str) -> None:
    monkeypatch.setattr("augft.serve.start.ray_session", None)
    monkeypatch.setenv("NOT_ASCII", "gehütet")
    monkeypatch.setenv("TWO_LINES", "a\nb")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        places = {"RUN": str(small), "TAKEN": str(taken.getsockname()[1])}
        result = CliRunner().invoke(app, ["serve", *(places.get(word, word) for word in arguments)])
    assert isinstance(result.exception, InputError)
    assert result.exception.exit_code == 2
    assert words in str(result.exception)
    assert "\n" not in str(result.exception)
    assert "geh" not in str(result.exception)


def test_a_body_that_comes_too_slowly_is_given_up(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("augft.serve.door.BODY_S", 0.2)

    async def drip() -> tuple[int, bytes]:
        parts: list[dict[str, Any]] = []
        served = build_app(Classifier(read_recipe(str(small)), torch.device("cpu"), 10**6), None, LIMITS, Counts(None))

        async def receive() -> dict[str, Any]:
            await asyncio.sleep(0.05)
            return {"type": "http.request", "body": b"x", "more_body": True}

        async def send(message: Any) -> None:
            parts.append(message)

        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": [], "query_string": b""}
        await asyncio.wait_for(served(scope, receive, send), 10)
        return parts[0]["status"], parts[1]["body"]

    status, answer = asyncio.run(drip())
    assert status == 408
    assert b"did not arrive" in answer
