"""A run in one process: the same loop, without Ray, with the pictures made by a thread beside it.

Since neither pixels nor plan know who works on them, such a run has the same stream digest as any other, and with as
many threads on the same CPU the same weights. It starts in a fraction of a second: a comparison or a search is many of
these at a time.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from augft.augment.actor import Augmenter
from augft.config import Job
from augft.data.beside import batches_beside
from augft.data.units import RankBatch
from augft.display import Display
from augft.errors import Stopped
from augft.prepare import Prepared, prepare
from augft.run import Run, check_startable, is_done, write_summary
from augft.storage import Storage
from augft.train.checkpoint import FOLDER as CHECKPOINTS
from augft.train.describe import describe_run
from augft.train.incidents import Incidents
from augft.train.lease import Lease
from augft.train.loop import Assignment, Order, run_steps
from augft.train.placement import local_cpus
from augft.train.ranks import Ranks
from augft.train.trackers import follow
from augft.train.visibility import resolved_weights

Event = dict[str, Any]


def run_alone(
    job: Job,
    uri: str,
    *,
    prepared: Prepared | None = None,
    threads: int = 1,
    on_event: Callable[[Event], None] = lambda _: None,
    stop_is_asked: Callable[[], bool] = lambda: False,
    with_test: bool = True,
    keep_checkpoints: bool = True,
    with_preview: bool = True,
    free_to_change: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Run a job in this process, from its newest checkpoint at `uri` to its end; a finished one is not run again.

    Trains on the first GPU that this process sees, where `scale.use_gpu` allows it, else on the CPU.

    Args:
        job: what to do; with `train.stop.epochs` only as far as that: then again with more.
        uri: the run directory, to which nobody else may be given the job at the same moment.
        prepared: policy, pictures and plan of the job, where they are known.
        threads: of PyTorch.
        on_event: called with what happens; `{"kind": "line", …}` for each line of metrics.jsonl.
        stop_is_asked: asked after each step.
        with_test: whether the chosen weights are tested at the end.
        keep_checkpoints: whether they stay after the end: they are needed to go on with other stop rules.
        with_preview: whether preview.png is drawn: of many runs nobody looks at it.
        free_to_change: keys in which the job may differ from that of the run that is there, as `augment.policy`.

    Returns:
        The content of summary.json.

    Raises:
        InputError: job, data, weights or run directory are wrong.
        RunError: the run failed.
        Stopped: it was asked to stop, and has saved.
    """
    began_at = time.time()
    check_startable(uri, job, resume=True, free_to_change=free_to_change)
    if is_done(uri, job):
        return Run(uri).summary
    prepared = prepared or prepare(job, Display())
    storage = Storage(uri, retry_s=job.run.storage_retry_s)
    device = _device(job)
    with Lease(Storage(uri), settle_s=0.0):
        describe_run(
            storage,
            job,
            prepared,
            hardware={"CPU": local_cpus(), "GPU": torch.cuda.device_count()},
            placement={"device": str(device), "threads": threads, "augment": "in the trainer's process"},
            with_preview=with_preview,
        )
        assignment = Assignment(
            job=resolved_weights(job),
            policy=prepared.policy,
            packed=str(prepared.dataset.path),
            run_uri=uri,
            threads=threads,
            began_at=began_at,
            with_test=with_test,
        )

        def hear(event: Event) -> None:
            if event["kind"] == "line":
                followed.log(event)
            on_event(event)

        with follow(job.run.trackers, Run(uri), lambda text: on_event({"kind": "say", "text": text})) as followed:
            contact = _Contact(Incidents(Storage(uri)), hear, stop_is_asked)
            summary = run_steps(assignment, Ranks(0, 1, device), contact, _deliver)
            if (step := summary.get("stopped_at")) is not None:
                raise Stopped(f"{uri}: stopped after step {step} and saved; go on with --resume")
            summary["wall_s"] = time.time() - began_at
            write_summary(storage, summary)
            followed.finish()
        if not keep_checkpoints:
            Storage(uri).remove(CHECKPOINTS)
    return summary


def _device(job: Job) -> torch.device:
    use_gpu = torch.cuda.is_available() if job.scale.use_gpu == "auto" else job.scale.use_gpu
    return torch.device("cuda", 0) if use_gpu else torch.device("cpu")


def _deliver(order: Order) -> Generator[RankBatch, None, None]:
    augmenter = Augmenter(**order.actor_kwargs)
    return batches_beside(order.plan, augmenter.columns, cursor=order.cursor, row_bytes=order.row_bytes)


class _Contact:
    """The loop's contact where nobody has to be reached: events are handed on where they happen."""

    def __init__(
        self, incidents: Incidents, on_event: Callable[[Event], None], stop_is_asked: Callable[[], bool]
    ) -> None:
        self._incidents, self._on_event, self._ask = incidents, on_event, stop_is_asked
        self._step = 0
        self.address = socket.gethostname()

    @property
    def stop_is_asked(self) -> bool:
        return self._ask()

    def tell(self, kind: str, **event: Any) -> None:
        self._on_event({"kind": kind, **event})

    def say(self, text: str) -> None:
        self.tell("say", text=text)

    def incident(self, what: str, text: str) -> None:
        self._incidents.add(what, text, self._step)
        self.say(text)

    @contextmanager
    def at(self, phase: str) -> Iterator[None]:
        yield

    def begin(self, step: int) -> None:
        self._step = step

    def beat(self) -> None: ...

    def stepped(self, step: int, waited_s: float) -> None:
        self._step = step
