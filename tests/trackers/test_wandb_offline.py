"""Runs sent to Weights & Biases without a key: what would be synced is the run."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

wandb = pytest.importorskip("wandb", reason="wandb is not installed: pip install 'augft[wandb]'")

from augft.config import load_job_text  # noqa: E402
from augft.errors import Stopped  # noqa: E402
from augft.report.page import write_report  # noqa: E402
from augft.run import Run  # noqa: E402
from augft.train.solo import run_alone  # noqa: E402
from augft.train.trackers import follow  # noqa: E402
from augft.train.trackers.contents import metrics  # noqa: E402

JOB = """
name: wandb-digits
seed: 3
data: {source: digits, image_size: 8, labels_per_class: 10}
augment: {policy: digits}
model: {name: resnet20, weights: none}
train: {epochs: 2, global_batch_size: 50, optimizer: {lr: 0.05}}
run: {trackers: []}
"""
_HEADER, _BLOCK = 7, 2**15


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[str]]:
    """A run that was sent in two goes, as if stopped after its first lines; and what was said."""
    run = Run(str(tmp_path_factory.mktemp("runs") / "digits"))
    run_alone(load_job_text(JOB, "the test's job"), run.uri)
    write_report(run.uri)
    lines = run.storage.read("metrics.jsonl")
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for key in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE"):
            patch.delenv(key, raising=False)
        home = tmp_path_factory.mktemp("home")
        patch.setenv("HOME", str(home))
        patch.setenv("NETRC", str(home / "netrc"))
        try:
            run.storage.write("metrics.jsonl", b"".join(lines.splitlines(keepends=True)[:2]))
            with pytest.raises(Stopped):
                _send_and_stop(run, said)
            run.storage.write("metrics.jsonl", lines)
            with follow(["wandb"], run, said.append, group="which-policy") as followed:
                for line in run.metrics:
                    followed.log(line)
                followed.finish()
        finally:
            wandb.teardown()  # ends W&B's own process
    return run, said


def _send_and_stop(run: Run, said: list[str]) -> None:
    with follow(["wandb"], run, said.append, group="which-policy"):
        raise Stopped("asked to")


@pytest.fixture(scope="module")
def records(sent: tuple[Run, list[str]]) -> list[Any]:
    """All that is written to be synced, in order of time."""
    files = sorted(Path(sent[0].uri).glob("wandb/offline-run-*/run-*.wandb"), key=lambda file: file.stat().st_mtime)
    return [record for file in files for record in _records(file.read_bytes())]


def _records(content: bytes) -> Iterator[Any]:
    """Of a .wandb file, which is a log as LevelDB's: blocks of pieces with checksum, length and kind."""
    from wandb.proto import wandb_internal_pb2

    at, whole = _HEADER, b""
    while at < len(content):
        if _BLOCK - at % _BLOCK < 7:
            at += _BLOCK - at % _BLOCK
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b""


def _history(records: list[Any]) -> list[dict[str, Any]]:
    return [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]


def test_it_says_that_it_is_offline_and_what_to_do(sent: tuple[Run, list[str]]) -> None:
    run, said = sent
    assert said == [f"wandb: no API key, so offline; later: wandb sync {run.uri}/wandb/offline-run-*"] * 2


def test_metrics_are_those_of_metrics_jsonl_each_once(sent: tuple[Run, list[str]], records: list[Any]) -> None:
    written = [entry for entry in _history(records) if "epoch" in entry]
    expected = [{**metrics(line), "epoch": line["epoch"], "global_step": line["step"]} for line in sent[0].metrics]
    assert [{key: entry[key] for key in row} for entry, row in zip(written, expected, strict=True)] == expected


def test_both_goes_are_one_run_in_the_group(sent: tuple[Run, list[str]], records: list[Any]) -> None:
    runs = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert len({run.run_id for run in runs}) == 1
    assert {(run.project, run.run_group, run.display_name) for run in runs} == {("augft", "which-policy", "digits")}
    config = {item.key: json.loads(item.value_json) for item in runs[-1].config.update}
    assert config["train"]["global_batch_size"] == 50
    assert len(list(Path(sent[0].uri).glob("wandb/offline-run-*"))) == 2


def test_pictures_files_and_summary_are_there(sent: tuple[Run, list[str]], records: list[Any]) -> None:
    run, _ = sent
    pictures = [entry[key] for entry in _history(records) for key in entry if key.endswith("/path")]
    assert len(pictures) == 2, "the preview and the confusion matrix, each once"
    assert all(list(Path(run.uri).glob(f"wandb/offline-run-*/files/{picture}")) for picture in pictures)
    folder = max(Path(run.uri).glob("wandb/offline-run-*"))
    for name in ("model.safetensors", "model.json", "config.yaml", "policy.json", "report.html"):
        assert (folder / "files" / "run" / name).read_bytes() == run.storage.read(name)
    synced = {f.path for r in records if r.WhichOneof("record_type") == "files" for f in r.files.files}
    assert "run/model.safetensors" in synced
    summary: dict[str, Any] = {}
    for record in records:
        if record.WhichOneof("record_type") == "summary":
            summary |= {item.key: json.loads(item.value_json) for item in record.summary.update}
    assert summary["summary/test_top1"] == run.summary["test_top1"]
    assert summary["summary/stop_reason"] == "epochs"
