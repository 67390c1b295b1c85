"""Submit a job to a Ray cluster, follow it, fetch its result."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import augft
from augft.config import Job
from augft.display import Display
from augft.errors import AugftError, RunDirectoryError, RunError
from augft.storage import Storage
from augft.submit.cluster import TROUBLE, Cluster, connect
from augft.submit.follow import attend
from augft.submit.parcel import ENTRY_FILE, JOB_FILE, fill, run_of
from augft.submit.send import RESULT, receive

SUBMISSION = "submission.json"
"""The file, beside the fetched ones, that says where they are from."""


def submit(
    job: Job,
    *,
    address: str,
    verb: str = "train",
    arguments: Sequence[str] = (),
    run_dir: str | None = None,
    resume: bool = False,
    wait: bool = True,
    out: Path | None = None,
    display: Display | None = None,
) -> int:
    """Run a job on a cluster, as `augft VERB` on its head would.

    Args:
        job: what to do; policies and weights that are files here are sent along.
        address: of the cluster's dashboard, `http://head:8265`.
        verb: the command of augft.
        arguments: more arguments of that command.
        run_dir: where on the cluster the run lives; None: `<storage_path>/<name>`.
        resume: go on with the run that is there.
        wait: follow the log to the end and fetch the result.
        out: the folder here for the result; None: `runs/<name>`.
        display: where messages are shown; None: on stderr. The log goes to stdout.

    Returns:
        The run's exit code; 0 without `wait`.

    Raises:
        InputError: job, files, cluster or folder are wrong; nothing was submitted.
        RunError: the cluster no longer answers, or the result could not be fetched.
    """
    run = run_of(job, run_dir)
    results = Storage(out or Path("runs") / job.name)
    if wait:
        _check_free(results)
    name = f"{job.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    options = [*(["--run-dir", run_dir] if run_dir else []), *(["--resume"] if resume else []), *arguments]
    command = [ENTRY_FILE, augft.__version__, verb, JOB_FILE, "--address", "auto", *options]
    with display or Display() as shown:
        with tempfile.TemporaryDirectory(prefix="augft-submit-") as folder:
            fill(Path(folder), job)
            cluster = connect(address, shown.say)
            cluster.start(name, command, {"name": job.name, "augft": augft.__version__}, folder)
        shown.say(f"submitted {name} to {cluster.address}")
        if not wait:
            shown.say(cluster.how_to_go_on(name))
            return 0
        code = asyncio.run(attend(cluster, name, _to_stdout, shown.say))
        if code == 0:
            origin = json.dumps({"id": name, "address": cluster.address, "run": run}) + "\n"
            files = {SUBMISSION: origin.encode(), **fetch(cluster, name, run, shown.say)}
            for file, data in files.items():
                results.write(file, data)
            shown.say(f"{results.uri}: {', '.join(files)}")
    return code


def _check_free(results: Storage) -> None:
    """Whether results may be written there.

    Raises:
        RunDirectoryError: other files are there, such as a run of this machine.
    """
    results.check_possible()
    if results.list() and not results.exists(SUBMISSION):
        raise RunDirectoryError(f"{results.uri}: holds other files; give another folder for the result with --out")


def fetch(cluster: Cluster, name: str, run: str, say: Callable[[str], None]) -> dict[str, bytes]:
    """The result of a run: another, short job prints it.

    Args:
        cluster: where the run was.
        name: of the job that made it.
        run: its directory, by the name that it has there.

    Raises:
        RunError: it could not be had.
    """
    sender = f"{name}-result"
    parts: list[str] = []
    files: dict[str, bytes] = {}
    try:
        cluster.start(sender, ["-m", "augft.submit.send", run], {"name": sender})
        if asyncio.run(attend(cluster, sender, parts.append, say)) == 0:
            files = receive("".join(parts))
        reason = ("".join(parts).strip().splitlines() or ["no output"])[-1]
    except AugftError as error:
        reason = str(error)
    if len(files) != len(RESULT):
        raise RunError(f"{run}: the run is done, but its result cannot be fetched: {reason}; look for it there")
    with suppress(*TROUBLE):
        cluster.client.delete_job(sender)
    return files


def _to_stdout(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
