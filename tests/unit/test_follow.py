"""How a submitted job is followed: against a client that does what a cluster and a bad connection may do."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from ray.job_submission import JobStatus

from augft.errors import RunDirectoryError, RunError
from augft.storage import Storage
from augft.submit import client, follow
from augft.submit.client import fetch
from augft.submit.cluster import Cluster


class FakeClient:
    """A job that writes `log`, through a connection that fails as `tails` say.

    Args:
        log: all that the job writes.
        tails: what each reading of the log does: the texts it gives, then the error that ends it, or None.
        infos: errors that asking for the job's status meets first.
        end: how the job ends, once the tails are used up.
    """

    def __init__(
        self, log: str, tails: list[list[Any]], infos: tuple[Exception, ...] = (), end: str = "SUCCEEDED", code: int = 0
    ) -> None:
        self.log, self.tails, self.infos, self.end, self.code = log, tails, list(infos), JobStatus(end), code
        self.num_stops = 0

    def get_job_info(self, _: str) -> Any:
        if self.infos:
            raise self.infos.pop(0)
        ended = not self.tails
        return SimpleNamespace(
            status=self.end if ended else JobStatus.RUNNING, driver_exit_code=self.code, message="Killed.\nmore"
        )

    def get_job_logs(self, _: str) -> str:
        return self.log

    async def tail_job_logs(self, _: str) -> AsyncIterator[str]:
        for item in self.tails.pop(0):
            if isinstance(item, Exception):
                raise item
            if callable(item):
                await item()
            else:
                yield item

    def stop_job(self, _: str) -> None:
        self.num_stops += 1
        if self.num_stops == 1:
            raise ConnectionError("not now")


class GoneClient:
    """Of a cluster that takes no more jobs."""

    def submit_job(self, **_: Any) -> None:
        raise ConnectionError("refused")


@pytest.fixture(autouse=True)
def _in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "_PAUSE_S", 0.01)
    monkeypatch.setattr(follow, "_LONGEST_PAUSE_S", 0.01)


def _follow(fake: FakeClient) -> tuple[int, str, list[str]]:
    written: list[str] = []
    said: list[str] = []
    code = asyncio.run(follow.attend(Cluster("http://head", fake), "small-1", written.append, said.append))
    return code, "".join(written), said


def test_a_log_that_breaks_off_is_read_on_and_nothing_twice() -> None:
    log = "one\ntwo\nthree\nfour\n"
    fake = FakeClient(
        log,
        tails=[
            ["one\n", "tw", aiohttp.ClientError("reset")],
            ["one\nt", RuntimeError("closed unexpectedly")],
            [OSError("no route")],
            ["one\n", "two\nth"],
        ],
        infos=(ConnectionError("refused"), OSError("timed out")),
    )
    code, written, said = _follow(fake)
    assert (code, written) == (0, log)
    assert [line for line in said if "lost" in line] == [
        "connection lost (refused); trying again",
        "connection lost (reset); trying again",
        "connection lost (closed unexpectedly); trying again",
        "connection lost (no route); trying again",
    ]


def test_a_silent_connection_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "_SILENCE_S", 0.05)
    fake = FakeClient("one\ntwo\n", tails=[["one\n", lambda: asyncio.sleep(3600)], ["one\ntwo\n"]])
    assert _follow(fake) == (0, "one\ntwo\n", [])


def test_a_cluster_that_does_not_answer_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "_PATIENCE_S", 0.0)
    with pytest.raises(RunError, match=r"no answer(.|\n)*ray job logs --address http://head --follow small-1"):
        _follow(FakeClient("", tails=[[]], infos=(OSError("no"),) * 9))


def test_a_cluster_that_was_started_anew() -> None:
    gone = RuntimeError("Request failed with status code 404: Job small-1 does not exist.")
    with pytest.raises(RunError, match=r"knows nothing of small-1.*--resume"):
        _follow(FakeClient("", tails=[[]], infos=(gone,)))


@pytest.mark.parametrize(
    ("end", "code", "ours"),
    [("SUCCEEDED", 0, 0), ("FAILED", 1, 1), ("FAILED", 2, 2), ("FAILED", 130, 130), ("STOPPED", None, 130)],
)
def test_the_runs_exit_code_is_ours(end: str, code: int, ours: int) -> None:
    assert _follow(FakeClient("", tails=[[]], end=end, code=code)) == (ours, "", [])


@pytest.mark.parametrize("code", [None, -9, 137])
def test_a_job_that_ends_otherwise_has_failed(code: int | None) -> None:
    assert _follow(FakeClient("", tails=[[]], end="FAILED", code=code)) == (1, "", ["the job failed: Killed."])


async def _ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.sleep(0.1)


def test_the_first_ctrl_c_stops_the_job_and_goes_on_following() -> None:
    fake = FakeClient("step\nsaved\n", tails=[["step\n", _ctrl_c, "saved\n"]], end="STOPPED")
    code, written, said = _follow(fake)
    assert (code, written) == (130, "step\nsaved\n")
    assert said == ["stopping the job: it finishes its step and saves; Ctrl-C again leaves it alone"]
    assert fake.num_stops == 2  # the first attempt failed
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_second_ctrl_c_leaves_the_job() -> None:
    fake = FakeClient("step\n", tails=[["step\n", _ctrl_c, _ctrl_c, "never read"]])
    code, written, said = _follow(fake)
    assert (code, written) == (130, "step\n")
    assert "ray job stop --address http://head small-1" in said[-1]


@pytest.mark.parametrize(
    ("log", "end"),
    [
        ("augft: report.html: cannot be read\n", "SUCCEEDED"),
        ("augft-result summary.json e30=\naugft-result report.html e30=\naugft: cannot be read\n", "FAILED"),
    ],
)
def test_a_result_that_did_not_come_whole_names_where_it_lies(
    monkeypatch: pytest.MonkeyPatch, log: str, end: str
) -> None:
    monkeypatch.setattr(Cluster, "start", lambda *_: None)
    fake = FakeClient(log, tails=[[]], end=end)
    with pytest.raises(RunError, match=r"/shared/x: the run is done, .*cannot be read; look for it there"):
        fetch(Cluster("http://head", fake), "small-1", "/shared/x", print)


def test_a_cluster_that_is_gone_at_the_end_does_not_undo_the_run() -> None:
    with pytest.raises(RunError, match=r"/shared/x: the run is done, .*nothing answers.*; look for it there"):
        fetch(Cluster("http://head", GoneClient()), "small-1", "/shared/x", print)


def test_a_result_overwrites_only_results(tmp_path: Path) -> None:
    results = Storage(tmp_path / "runs" / "small")
    client._check_free(results)
    results.write("summary.json", b"of a run that was made here")
    with pytest.raises(RunDirectoryError, match="--out"):
        client._check_free(results)
    results.write(client.SUBMISSION, b"{}")
    client._check_free(results)
