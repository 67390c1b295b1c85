"""Plan → Ray Data → the batches of a rank.

The plan's steps are cut into *units*: unit (b, r) holds rank r's positions of the b-th K consecutive steps. A unit is
one read task (integers only), one call of an augmentation actor, one block: so units are long enough to hide Ray's
cost a task, and all are equally long, shorter shares being padded. Blocks come in order (`preserve_order`), and a
split over W consumers then deals them out in turn: block k to rank k mod W.

One execution serves many epochs, since a new one starts its actors anew. Only a run of more units than
`MAX_UNITS` takes several executions, one after the other: planning costs about a millisecond a unit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy, Datasource, ExecutionResources, ReadTask
from ray.data._internal.actor_autoscaler.autoscaling_actor_pool import ActorPoolScalingRequest
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data.block import BlockMetadata
from ray.data.context import AutoscalingConfig

from augft.data.crew import CrewSize
from augft.data.plan import IntArray, Plan
from augft.data.units import SECONDS, RankBatch, batch_of, steps_per_unit
from augft.sealed import Sealed

MIN_UNIT_ROWS = 16_000
MAX_UNITS = 4_000
UNITS_AHEAD = 2
"""Units that a rank fetches before it needs them."""
UNITS_IN_STORE = 6
"""Units a rank and actor that may wait in the object store."""
REST_S = 0.2
_NEVER = 1e9


@dataclass(frozen=True)
class Pool:
    """The augmentation actors: `actor` is a class whose instances turn positions into pictures.

    An instance gets `{"position": int64 (M,)}` and returns columns of M rows: `image` uint8 (M, H, W, 3),
    `label` int32, `epoch`, `sample_id` and `copy` int64 and `digest` uint64; rows at `PADDING` are never looked at.
    """

    actor: type
    actor_kwargs: dict[str, Any]
    min_actors: int
    max_actors: int
    row_bytes: int
    """Bytes of a picture."""
    label_selector: dict[str, str] = field(default_factory=dict)
    """Labels of the nodes that actors may run on."""
    on_replaced: Callable[[str], None] | None = None
    """Called where an actor begins in the place of one that was lost, with its node's address."""
    ask_waited: Callable[[], Any] | None = None
    """Gives a reference to how long training has waited for pictures, in seconds; without it no actor is added."""
    unit_rows: int = MIN_UNIT_ROWS
    """Rows of a unit, at least, where its bytes allow it."""


def batches(
    plan: Plan,
    pool: Pool,
    *,
    cursor: int,
    rank: int,
    world_size: int,
    broadcast: Callable[[Any], Any],
) -> Generator[RankBatch, None, None]:
    """A rank's batches from step `cursor` to the end of the plan. All ranks must iterate together.

    Args:
        plan: the order of the run.
        pool: who makes the pictures.
        cursor: steps already done.
        rank: this rank, of `world_size`.
        world_size: ranks that share each step.
        broadcast: hands rank 0's value to every rank.
    """
    width = ceil(plan.global_batch_size / world_size)
    unit_steps = steps_per_unit(width, pool.row_bytes, pool.unit_rows)
    segment_steps = unit_steps * max(1, MAX_UNITS // world_size)
    for first in range(cursor, plan.num_steps, segment_steps):
        last = min(first + segment_steps, plan.num_steps)
        splits = _split(plan, pool, first, last, unit_steps, world_size) if rank == 0 else None
        iterator = broadcast(splits)[rank]
        blocks = iterator.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=UNITS_AHEAD)
        for number, block in enumerate(blocks):
            for row in range(unit_steps):
                step = first + number * unit_steps + row
                if step < last:
                    start, stop = plan.share(step, rank, world_size)
                    yield batch_of(step, block, slice(row * width, row * width + stop - start))


def _split(
    plan: Plan, pool: Pool, first: int, last: int, unit_steps: int, world_size: int
) -> list[ray.data.DataIterator]:
    """One execution over steps [first, last), split over the ranks."""
    units = _Units(plan, first, last, unit_steps, world_size)
    dataset = ray.data.read_datasource(units, override_num_blocks=units.num_units)
    context = dataset.context
    context.execution_options.preserve_order = True
    unit_bytes = unit_steps * ceil(plan.global_batch_size / world_size) * pool.row_bytes
    context.execution_options.resource_limits = ExecutionResources(
        # The rest is the training workers'.
        cpu=pool.max_actors,
        # How far the actors run ahead of the trainer.
        object_store_memory=UNITS_IN_STORE * (world_size + pool.max_actors) * unit_bytes,
    )
    context.enable_progress_bars = False
    # Looking up how much memory an actor uses, each second, takes a good part of that second.
    context.memory_usage_poll_interval_s = None
    # A block is a unit: never cut, never merged with the next.
    context.target_max_block_size = None
    # The number of actors is ours to decide: Ray Data would grow the pool whenever it has tasks (see `crew`).
    context.autoscaling_config = AutoscalingConfig(
        actor_pool_util_upscaling_threshold=_NEVER, actor_pool_util_downscaling_threshold=-_NEVER
    )
    sized = replace(pool, actor=object, actor_kwargs={})
    context.custom_execution_callback_classes = [*context.custom_execution_callback_classes, _overseer(sized)]
    dataset = dataset.map_batches(
        _Worker,
        fn_constructor_args=(Sealed.of(pool),),
        batch_size=None,
        compute=ActorPoolStrategy(min_size=pool.min_actors, max_size=pool.max_actors),
        num_cpus=1,
        label_selector=pool.label_selector or None,
    )
    # All blocks are equally long, so dealing to whoever has fewest rows is dealing in turn.
    return list(dataset.streaming_split(world_size, equal=False))


class _Worker:
    """A pool's actor as Ray Data runs it: timed, and telling when it takes the place of one that was lost.

    The column `seconds` says how long a row took, float32; NaN in an actor's first unit, where it opens the data.
    """

    def __init__(self, sealed: Sealed[Pool]) -> None:
        pool = sealed.open()
        self._actor = pool.actor(**pool.actor_kwargs)
        self._is_first = True
        if pool.on_replaced is not None and ray.get_runtime_context().was_current_actor_reconstructed:
            pool.on_replaced(ray.util.get_node_ip_address())

    def __call__(self, batch: dict[str, IntArray]) -> pa.Table:
        begin = time.perf_counter()
        table = self._actor(batch)
        seconds = (time.perf_counter() - begin) / max(1, table.num_rows)
        column = np.full(table.num_rows, np.nan if self._is_first else seconds, np.float32)
        self._is_first = False
        return table.append_column(SECONDS, pa.array(column))


class _Overseer(ExecutionCallback):  # type: ignore[misc]
    """Looks at each round of the scheduling loop: lets it rest while the stream is ahead, and sizes the pool.

    Ray Data's loop waits for tasks that are not done. While finished ones may not be read yet, which is nearly always
    when augmenting is faster than training, it waits for nothing and takes half a CPU from the trainer.
    """

    pool: Pool

    def __init__(self) -> None:
        self._rule = CrewSize(self.pool.min_actors, self.pool.max_actors)
        self._asked: Any = None

    def on_execution_step(self, executor: Any) -> None:
        is_ahead = any(operator._in_task_output_backpressure for operator in executor._topology)
        if self.pool.ask_waited is not None and self._rule.is_due():
            self._resize(executor, self.pool.ask_waited, is_ahead)
        if is_ahead:
            time.sleep(REST_S)

    def _resize(self, executor: Any, ask: Callable[[], Any], is_ahead: bool) -> None:
        self._asked = self._asked or ask()
        if not ray.wait([self._asked], timeout=0)[0]:
            return
        waited_s, self._asked = ray.get(self._asked), None
        for operator in executor._topology:
            for actors in operator.get_autoscaling_actor_pools():
                change = self._rule.change(actors.current_size(), waited_s, is_ahead)
                if change > 0:
                    actors.scale(ActorPoolScalingRequest.upscale(delta=1, reason="training waits"))
                elif change < 0:
                    actors.scale(ActorPoolScalingRequest.downscale(delta=-1, reason="actors idle"))


def _overseer(pool: Pool) -> type[_Overseer]:
    """Ray Data takes classes, and makes their instances where the stream is scheduled."""
    return type("Overseer", (_Overseer,), {"pool": pool})


class _Units(Datasource):  # type: ignore[misc]
    """The units of consecutive steps, in order of (b, r)."""

    def __init__(self, plan: Plan, first: int, last: int, unit_steps: int, world_size: int) -> None:
        super().__init__()
        self._plan = replace(plan, windows=None)  # a task only cuts steps to shares
        self._first = first
        self._unit_steps = unit_steps
        self._world_size = world_size
        self.num_units = ceil((last - first) / unit_steps) * world_size

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        return [self._read_task(number) for number in range(self.num_units)]

    def _read_task(self, number: int) -> ReadTask:
        index, rank = divmod(number, self._world_size)
        first = self._first + index * self._unit_steps
        plan, unit_steps, world_size = self._plan, self._unit_steps, self._world_size

        def read() -> list[pa.Table]:
            positions = plan.padded_share(first, unit_steps, rank, world_size)
            return [pa.table({"position": positions.reshape(-1)})]

        rows = unit_steps * ceil(plan.global_batch_size / world_size)
        metadata = BlockMetadata(num_rows=rows, size_bytes=8 * rows, input_files=None, exec_stats=None)
        return ReadTask(read, metadata, schema=pa.schema([("position", pa.int64())]))
