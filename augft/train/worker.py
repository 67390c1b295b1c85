"""The loop on one of Ray Train's workers, fed by augmentation actors; `launch.py` starts it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray.train
import ray.train.torch
from ray.train.collective import broadcast_from_rank_zero

from augft.augment.actor import Augmenter
from augft.data.stream import Pool, batches
from augft.data.units import RankBatch
from augft.errors import InputError, NonFiniteLossError, StorageError
from augft.train.contact import WorkerContact, ask_waited, tell_replaced
from augft.train.loop import Assignment, Order, run_steps
from augft.train.ranks import Ranks


@dataclass(frozen=True)
class Post:
    """What `launch.py` hands to each worker."""

    assignment: Assignment
    min_actors: int
    max_actors: int
    actor_labels: dict[str, str]
    listener: Any
    """The driver's `Listener.actor`."""


def work(post: Post) -> dict[str, Any]:
    """Run an assignment on this rank.

    Returns:
        As `run_steps`; or `{"error": …}` for an error that a restart would only meet again.
    """
    context = ray.train.get_context()
    ranks = Ranks(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())
    contact = WorkerContact(post.listener, ranks.rank)
    try:
        return run_steps(post.assignment, ranks, contact, partial(_deliver, post, ranks, contact))
    except (InputError, NonFiniteLossError, StorageError) as error:
        return {"error": error}
    finally:
        contact.close()


def _deliver(post: Post, ranks: Ranks, contact: WorkerContact, order: Order) -> Generator[RankBatch, None, None]:
    """One stream for all steps that are left."""
    unit_rows = post.assignment.job.scale.unit_rows
    pool = Pool(
        Augmenter,
        order.actor_kwargs,
        min_actors=post.min_actors,
        max_actors=post.max_actors,
        row_bytes=order.row_bytes,
        label_selector=post.actor_labels,
        on_replaced=partial(tell_replaced, post.listener),
        ask_waited=partial(ask_waited, post.listener),
        **({} if unit_rows == "auto" else {"unit_rows": unit_rows}),
    )
    contact.say("starting the augmentation actors")
    return batches(
        order.plan,
        pool,
        cursor=order.cursor,
        rank=ranks.rank,
        world_size=ranks.world_size,
        broadcast=broadcast_from_rank_zero,
    )
