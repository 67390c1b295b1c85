"""The steps of a run, in order, on one rank.

It runs on each of Ray Train's workers (worker.py), or as the only one in a process of its own (solo.py). What outlives
a step is in two places: the tensors of the `Learner`, and `Progress` (the cursor and the record so far). Whatever is
random is a function of the seed and the step.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from augft.augment.apply import NUM_VIEWS
from augft.augment.policy import Policy
from augft.config import Job
from augft.data.packed import PackedDataset, open_packed
from augft.data.plan import Plan
from augft.data.subset import Subset, subset
from augft.data.units import RankBatch
from augft.errors import NonFiniteLossError, RunDirectoryError
from augft.model.files import META_FILE, WEIGHTS_FILE, meta_to_bytes, tensors_from_bytes
from augft.prepare import mixing_advice, plan_of
from augft.run import EVALUATION, METRICS
from augft.storage import Storage
from augft.train.ahead import Ahead
from augft.train.checkpoint import Checkpoints
from augft.train.learner import Learner
from augft.train.progress import Clock, EpochSums, Progress
from augft.train.ranks import FirstFailure, Ranks

TELL_EVERY_S = 0.25


@dataclass(frozen=True)
class Assignment:
    """What is to be run."""

    job: Job
    policy: Policy
    packed: str
    run_uri: str
    threads: int
    began_at: float
    """When the person asked for it, in seconds since 1970."""
    with_test: bool = True
    """Whether the chosen weights are tested at the end, where there is a test split; not in a search, which chooses by
    validation and goes on from where a run has ended."""


@dataclass(frozen=True)
class Order:
    """The pictures that the loop wants: those of a plan, from a step on, as `actor_kwargs` make an `Augmenter`."""

    plan: Plan
    cursor: int
    actor_kwargs: dict[str, Any]
    row_bytes: int


class Contact(Protocol):
    """Who watches the loop: told of what it does, and asked whether to go on."""

    @property
    def address(self) -> str: ...

    @property
    def stop_is_asked(self) -> bool: ...

    def tell(self, kind: str, **event: Any) -> None: ...

    def say(self, text: str) -> None: ...

    def incident(self, what: str, text: str) -> None: ...

    def at(self, phase: str) -> AbstractContextManager[None]: ...

    def begin(self, step: int) -> None: ...

    def beat(self) -> None: ...

    def stepped(self, step: int, waited_s: float) -> None: ...


def run_steps(
    assignment: Assignment,
    ranks: Ranks,
    contact: Contact,
    deliver: Callable[[Order], Generator[RankBatch, None, None]],
) -> dict[str, Any]:
    """Run an assignment on this rank, from its newest checkpoint to its end.

    Args:
        assignment: the same on all ranks.
        ranks: this rank among those that run it.
        contact: who watches.
        deliver: makes this rank's batches.

    Returns:
        What summary.json is made of; or `{"stopped_at": step}` if it was asked to stop, and saved.

    Raises:
        InputError, NonFiniteLossError, StorageError: on all ranks.
    """
    job, stop = assignment.job, assignment.job.train.stop
    torch.set_num_threads(assignment.threads)
    nodes = ranks.gather(contact.address)

    # ---- which samples, in which order; what learns from them ------------------------------------------------------
    every = job.run.checkpoint_every_steps
    by_actors, by_device, num_views = assignment.policy, None, NUM_VIEWS if job.train.jsd_weight else 1
    if job.augment.where == "device":
        by_actors, by_device, num_views = Policy(name="none"), assignment.policy, 1
    start = FirstFailure()
    with start:
        dataset = open_packed(assignment.packed, in_windows=job.data.shuffle == "windowed")
        samples = subset(dataset, job.data, job.seed)
        plan = plan_of(job, dataset, samples)
        learner = Learner(job, dataset, plan, ranks, by_device, contact.beat)
        storage = Storage(
            assignment.run_uri,
            retry_s=job.run.storage_retry_s,
            on_retry=lambda text: contact.incident("storage", text),
            must_exist=True,
        )
        checkpoints = Checkpoints(storage, job.run.keep_checkpoints)
        found = checkpoints.load(lambda text: contact.incident("checkpoint", text))
    ranks.agree(start)

    # ---- go on from the newest checkpoint, where there is one ------------------------------------------------------
    writes = FirstFailure()
    progress = Progress()
    cursors = ranks.gather(found[0].cursor if found else 0)
    cursor = max(cursors)
    for rank, seen in enumerate(cursors):
        if seen != cursor:
            raise RunDirectoryError(
                f"{assignment.run_uri}: worker {rank} on {nodes[rank]} does not see checkpoint {cursor}; "
                "give a run.storage_path that all nodes share"
            )
    contact.begin(cursor)
    if found is not None:
        progress, tensors = found
        learner.load_state(tensors)
        progress.num_restarts += 1
        if progress.stop_rules != stop.model_dump():
            progress.stop_reason = None
        contact.incident("resume", f"goes on from step {cursor} of {plan.num_steps} with {_on(nodes)}")
    else:
        contact.say(learner.load_report.summary)
        if ranks.world_size > 1:
            contact.say(f"trains with {_on(nodes)}")
    contact.say(_arithmetic(job, plan, ranks, assignment.threads, learner.precision))
    if (advice := mixing_advice(plan, dataset.split("train").labels[samples.train_ids])) is not None:
        contact.say(advice)

    # ---- one stream for all steps that are left --------------------------------------------------------------------
    height, width, channels = dataset.manifest.image_shape
    actor_kwargs = {
        "packed": assignment.packed,
        "split": "train",
        "sample_ids": samples.train_ids,
        "plan": plan,
        "policy": by_actors,
        "num_views": num_views,
    }
    order = Order(plan, cursor, actor_kwargs, row_bytes=num_views * height * width * channels)
    stream = Ahead(deliver(order), learner.send, ranks.device)
    sums = EpochSums(progress, ranks)
    clock = Clock(progress, plan.items_before(cursor))
    told_at, first_step_s = 0.0, None

    def record(**line: Any) -> None:
        progress.history.append(line)
        contact.tell("line", **line)

    # ---- steps -----------------------------------------------------------------------------------------------------
    stopped = False
    while not stopped and progress.stop_reason is None and progress.cursor < plan.num_steps:
        step = progress.cursor
        with clock.waiting(), contact.at("waits for pictures"):
            batch, sent = next(stream)

        losses, correct = learner.backward(batch, sent)

        # The one synchronisation of a step: every rank learns the loss, and whether to go on.
        time_is_up = ranks.is_first and stop.time_s is not None and progress.elapsed_s >= stop.time_s
        loss_sum, num_bad, is_late, is_asked, has_failed = ranks.sum(
            [float(time_is_up), float(ranks.is_first and contact.stop_is_asked), float(writes.error is not None)],
            torch.stack([losses.sum(), (~torch.isfinite(losses)).sum()]).double(),
        )
        if num_bad:
            raise _non_finite(batch, losses, ranks)
        if has_failed:
            break

        learner.update(step)
        sums.add(batch, losses, correct)
        progress.cursor += 1
        clock.stepped()
        contact.stepped(progress.cursor, progress.data_wait_s)
        first_step_s = first_step_s or time.time() - assignment.began_at
        num_images = plan.items_before(progress.cursor)

        if ranks.is_first and time.monotonic() - told_at > TELL_EVERY_S:
            told_at = time.monotonic()
            contact.tell(
                "step",
                step=progress.cursor,
                num_steps=plan.num_steps,
                epoch=int(batch.epochs[-1]),
                epochs=plan.epochs,
                loss=loss_sum / plan.step_size(step),
                images_per_s=clock.rate(num_images),
                data_stall_fraction=progress.data_stall_fraction,
            )

        # ---- is an epoch over, or the run?
        ended = [e for e in range(progress.epoch, plan.epochs) if plan.epoch_end(e) <= progress.cursor]
        if progress.cursor == plan.num_steps:
            progress.stop_reason = "epochs"
        elif stop.steps is not None and progress.cursor >= stop.steps:
            progress.stop_reason = "steps"
        elif is_late:
            progress.stop_reason = "time_s"
        closing = bool(ended) or progress.stop_reason is not None
        stopped = progress.stop_reason is None and bool(is_asked)
        due = closing if every is None else progress.cursor % every == 0
        saving = due or stopped or progress.stop_reason is not None
        if closing or saving:
            sums.reduce()

        if closing:
            with clock.paused(), contact.at("validates"):
                lap = clock.lap(num_images)
                for epoch in ended or [progress.epoch]:
                    record(**sums.line(epoch), **lap, lr=learner.rate(step))
                for epoch in ended:
                    del progress.sums[epoch]
                progress.epoch += len(ended)
                _judge(learner, dataset, samples, progress, checkpoints, writes, ranks, record)
                if ranks.is_first:
                    with writes:
                        storage.write(METRICS, _lines(progress))
                if ended and progress.stop_reason is None:
                    progress.stop_reason = _reason_to_stop(job, progress)

        if progress.stop_reason is not None:
            progress.stop_rules = stop.model_dump()
        if (saving or progress.stop_reason is not None) and ranks.is_first:
            with contact.at("saves"), writes:
                checkpoints.save(progress, learner.state())
    stream.close()

    # ---- the chosen weights, tested once ---------------------------------------------------------------------------
    with contact.at("saves"), writes:
        checkpoints.wait()
    ranks.agree(writes)  # from here on all read what is there
    if stopped:
        contact.incident("stop", f"stopped on request after step {progress.cursor}, and saved")
        return {"stopped_at": progress.cursor}
    assert progress.best_step is not None
    learner.model.load_state_dict(tensors_from_bytes(checkpoints.best(progress.best_step), WEIGHTS_FILE))
    test = None
    if assignment.with_test and dataset.has("test"):
        contact.say(f"tests the weights of step {progress.best_step}")
        with contact.at("tests"):
            test = learner.evaluate(dataset, "test", np.arange(dataset.split("test").num_rows), as_shipped=True)
        record(
            step=progress.best_step,
            epoch=progress.epoch - 1,
            split="test",
            loss=test.loss,
            top1=test.top1,
            num_samples=test.num_samples,
        )
    if ranks.is_first:
        storage.write(METRICS, _lines(progress))
        storage.write(WEIGHTS_FILE, checkpoints.best(progress.best_step))
        storage.write(META_FILE, meta_to_bytes(learner.meta(progress.best_step)))
        if test is not None:
            storage.write(EVALUATION, json.dumps(test.to_dict(list(dataset.manifest.classes))).encode())
    return {
        "best_step": progress.best_step,
        "val_top1": progress.best_top1,
        "test_top1": test.top1 if test is not None else None,
        "test_num_samples": test.num_samples if test is not None else 0,
        "stop_reason": progress.stop_reason,
        "stop_rules": progress.stop_rules,
        "steps": progress.cursor,
        "epochs": progress.epoch,
        "images_per_s": plan.items_before(progress.cursor) / progress.elapsed_s,
        "data_stall_fraction": progress.data_stall_fraction,
        "train_s": progress.elapsed_s,
        "first_step_s": first_step_s,
        "longest_wait_s": progress.longest_wait_s,
        "augment_s_per_image": progress.augment_s_per_image,
        "actors_needed": progress.actors_needed(plan.items_before(progress.cursor)),
        "num_restarts": progress.num_restarts,
        "workers": nodes,
        "stream_digest": progress.stream_digest,
    }


def _judge(
    learner: Learner,
    dataset: PackedDataset,
    samples: Subset,
    progress: Progress,
    checkpoints: Checkpoints,
    writes: FirstFailure,
    ranks: Ranks,
    record: Callable[..., None],
) -> None:
    """Validate, and keep the weights if they are the best so far; without validation the last are."""
    with learner.judged():
        if len(samples.val_ids):
            val = learner.evaluate(dataset, samples.val_split, samples.val_ids)
            record(
                step=progress.cursor,
                epoch=progress.history[-1]["epoch"],
                split="val",
                loss=val.loss,
                top1=val.top1,
                num_samples=val.num_samples,
            )
            progress.epochs_without_gain += 1
            if progress.best_top1 is not None and val.top1 <= progress.best_top1:
                return
            progress.best_top1, progress.epochs_without_gain = val.top1, 0
        progress.best_step = progress.cursor
        if ranks.is_first:
            with writes:
                checkpoints.save_best(progress.cursor, learner.weights())


def _reason_to_stop(job: Job, progress: Progress) -> str | None:
    """The stop rules that are asked at the end of an epoch."""
    stop = job.train.stop
    train = progress.last("train")
    if stop.loss is not None and train is not None and train["loss"] <= stop.loss:
        return "loss"
    if stop.epochs is not None and progress.epoch >= stop.epochs:
        return "epochs"
    if stop.patience is not None and progress.epochs_without_gain >= stop.patience:
        return "patience"
    return None


def _non_finite(batch: RankBatch, losses: torch.Tensor, ranks: Ranks) -> NonFiniteLossError:
    """Names the samples, on all ranks."""
    bad = batch.sample_ids[(~torch.isfinite(losses)).cpu().numpy()].tolist()
    ids = [sample_id for part in ranks.gather(bad) for sample_id in part]
    shown = ", ".join(map(str, ids[:5])) + (", …" if len(ids) > 5 else "")
    return NonFiniteLossError(
        f"the loss is not finite at step {batch.step} for {len(ids)} of its samples (sample ids {shown}); the update "
        "was not applied: lower train.optimizer.lr, or look at these pictures"
    )


def _arithmetic(job: Job, plan: Plan, ranks: Ranks, threads: int, precision: str) -> str:
    accumulation = job.train.grad_accum_steps
    micro = plan.global_batch_size / ranks.world_size / accumulation
    return (
        f"global {plan.global_batch_size} = {ranks.world_size} workers x {micro:g} x {accumulation} accumulation; "
        f"{plan.epochs} epochs x {plan.epoch_length} items = {plan.num_steps} steps; "
        f"{precision} on {ranks.device}, {threads} threads a worker{_windows(plan)}"
    )


def _windows(plan: Plan) -> str:
    if plan.windows is None:
        return ""
    shards, windows = plan.windows.num_shards, plan.windows.num_windows
    lanes = f" in {plan.windows.lanes} lanes" if plan.windows.lanes > 1 else ""
    return f"; {shards} shards in {windows} windows of {plan.windows.window_shards}{lanes}"


def _lines(progress: Progress) -> bytes:
    return "".join(json.dumps(line) + "\n" for line in progress.history).encode()


def _on(nodes: list[str]) -> str:
    """Workers and their nodes, in words."""
    each = [node if nodes.count(node) == 1 else f"{node} ({nodes.count(node)})" for node in dict.fromkeys(nodes)]
    return f"{len(nodes)} worker{'s' if len(nodes) > 1 else ''} on {', '.join(each)}"
