"""Units → Ray Data → part files.

A go of units is one read task, which holds their numbers only. Where there is no GPU, an actor has a CPU and a model,
and does it all: it reads, decodes, predicts and writes the part. Ray Data fuses the read task into the actor's, so
nothing travels, and nothing runs ahead. Where actors have GPUs, tasks on the other CPUs read and decode, and pixels
travel. Where a go has several units, as of a compressed archive, one task reads it, and files travel.

A unit travels as one row, as bytes: so Ray Data, which merges and cuts blocks by their size, leaves it whole. What
waits between them in the object store is bounded. What leaves the pipeline is two numbers a unit.

A unit is predicted in the same batches by one thread, whoever does it: a convolution of another batch may end in
another last bit. So parts are the same bytes at any number of workers of the same kind.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
import torch
from ray.data import ActorPoolStrategy, Datasource, ExecutionResources, ReadTask
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data.block import BlockMetadata

from augft import errors
from augft.data.picture import BadPictureError, to_pixels
from augft.errors import AugftError, RunError
from augft.prediction.listing import UNIT_BYTES, Source, read_listing
from augft.prediction.unfinished import Unfinished
from augft.predictor import Predictor
from augft.saved import SavedModel

MAX_GOES = 4_000
"""Read tasks of an execution: planning one costs about a millisecond."""
BATCH = 64
"""Pictures of a forward pass."""
UNITS_IN_STORE = 4
"""Units an actor, and for the readers, that may wait in the object store."""
READER_CPUS = 0.5
"""Of a task that reads apart: other than an actor's, so that it is not fused with one."""
_REST_S = 0.1
_FAILED = [("kind", pa.string()), ("message", pa.string())]
_BOX = pa.schema([("unit", pa.int64()), ("rows", pa.large_binary()), *_FAILED])
_ANSWER = pa.schema([("unit", pa.int64()), ("num_rejected", pa.int64()), *_FAILED])


@dataclass(frozen=True)
class Prediction:
    """What actors need to know."""

    source: Source
    out: str
    """URI of the predictions, by which the folder of parts is found."""
    saved: SavedModel


@dataclass(frozen=True)
class Crew:
    """Who predicts."""

    num_actors: int
    has_gpus: bool
    reads_apart: bool
    """Some goes have several units, which shall not all be one actor's: others read, and files travel."""


def run_units(prediction: Prediction, goes: list[list[int]], crew: Crew, tell: Callable[[int, int], None]) -> None:
    """Predict units and write their parts; Ray is up.

    Args:
        prediction: of what.
        goes: units, by those that are read together.
        crew: by whom.
        tell: called with each unit and how many of its pictures were rejected, when its part is written.

    Raises:
        DataError: the source cannot be read.
        StorageError: a part cannot be written.
        RunError: workers die.
    """
    given = [ray.put(prediction)]  # in a list: whoever needs it fetches it, once
    for first in range(0, len(goes), MAX_GOES):
        dataset = _dataset(given, prediction, goes[first : first + MAX_GOES], crew)
        rows = iter(dataset.iter_rows())
        try:
            for row in rows:
                if row["kind"] is not None:
                    raise getattr(errors, row["kind"])(row["message"])
                tell(row["unit"], row["num_rejected"])
        except ray.exceptions.RayError as error:
            words = " ".join(str(error).strip().split("\n")[-1].split())
            raise RunError(f"a worker failed: {words}; the same command, without --force, goes on") from error
        finally:
            # Its threads end with it: one that still asks when Ray is shut down takes the process along, silently.
            rows.close()


def _dataset(given: list[Any], prediction: Prediction, goes: list[list[int]], crew: Crew) -> ray.data.Dataset:
    units = _Goes(given, goes)
    cpus = READER_CPUS if crew.reads_apart else 1
    dataset = ray.data.read_datasource(units, override_num_blocks=len(goes), num_cpus=cpus)
    context = dataset.context
    context.execution_options.resource_limits = ExecutionResources(
        object_store_memory=UNITS_IN_STORE * (crew.num_actors + 1) * UNIT_BYTES
    )
    context.enable_progress_bars = False
    context.memory_usage_poll_interval_s = None
    # A block is a row, which is a unit: without a size, all blocks of a task would be merged to one.
    context.target_max_block_size = 1
    context.custom_execution_callback_classes = [*context.custom_execution_callback_classes, _Rest]
    whole = {"batch_size": None, "batch_format": "pyarrow"}
    if crew.has_gpus:
        dataset = dataset.map_batches(_decode_block, fn_args=(prediction.saved.picture_size,), num_cpus=1, **whole)
    return dataset.map_batches(
        _Actor,
        fn_constructor_args=(given,),
        compute=ActorPoolStrategy(size=crew.num_actors),
        num_cpus=1,
        num_gpus=1 if crew.has_gpus else 0,
        **whole,
    )


class _Rest(ExecutionCallback):  # type: ignore[misc]
    """Lets Ray Data's loop rest where it would spin: while finished units wait for actors it waits for nothing."""

    def on_execution_step(self, executor: Any) -> None:
        if any(operator._in_task_output_backpressure for operator in executor._topology):
            time.sleep(_REST_S)


class _Goes(Datasource):  # type: ignore[misc]
    """A read task a go; it yields a table a unit."""

    def __init__(self, given: list[Any], goes: list[list[int]]) -> None:
        super().__init__()
        self._given, self._goes = given, goes

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        return [self._read_task(units) for units in self._goes]

    def _read_task(self, units: list[int]) -> ReadTask:
        given = self._given

        def read() -> Iterator[pa.Table]:
            return _read(ray.get(given[0]), units)

        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return ReadTask(read, metadata)


def _read(prediction: Prediction, units: list[int]) -> Iterator[pa.Table]:
    storage = Unfinished(prediction.out).storage
    entries = (entry for unit in units for entry in read_listing(storage, [unit]))
    try:
        for unit, rows in zip(units, prediction.source.read(entries), strict=True):
            yield _boxed(unit, rows)
    except AugftError as error:
        yield _boxed(-1, error)


def _boxed(unit: int, rows: pa.Table | AugftError) -> pa.Table:
    """One row: the number of a unit, and its rows as bytes.

    Or an error, which so arrives as it is: what is raised, Ray Data wraps in ways of its own, and in tracebacks.
    """
    if isinstance(rows, AugftError):
        return _row(_BOX, unit=unit, **_told(rows))
    content = pa.BufferOutputStream()
    with pa.ipc.new_stream(content, rows.schema) as writer:
        writer.write_table(rows)
    return _row(_BOX, unit=unit, rows=content.getvalue().to_pybytes())


def _told(error: AugftError) -> dict[str, str]:
    kind = next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
    return {"kind": kind, "message": str(error)}


def _row(schema: pa.Schema, **cells: Any) -> pa.Table:
    return pa.Table.from_pylist([cells], schema)


def _unboxed(box: dict[str, Any]) -> pa.Table:
    return pa.ipc.open_stream(box["rows"]).read_all()


def _decode_block(block: pa.Table, picture_size: int) -> pa.Table:
    boxes = block.to_pylist()
    return pa.concat_tables(
        _row(_BOX, **box) if box["kind"] else _boxed(box["unit"], _decode(_unboxed(box), picture_size)) for box in boxes
    )


def _decode(unit: pa.Table, picture_size: int) -> pa.Table:
    """Picture files → the column `pixels`, null where it cannot be; there the reason is."""
    if "pixels" in unit.column_names:
        return unit
    pixels: list[bytes | None] = []
    reasons: list[str | None] = []
    with warnings.catch_warnings():  # Pillow's, about odd pictures; each is judged here
        warnings.simplefilter("ignore")
        for content, given in zip(unit["content"], unit["reason"].to_pylist(), strict=True):
            made, why = None, given
            if given is None:
                try:
                    made = to_pixels(content.as_py(), picture_size).tobytes()
                except BadPictureError as error:
                    why = str(error)
            pixels.append(made)
            reasons.append(why)
    return unit.drop_columns(["content", "reason"]).append_column("pixels", [pixels]).append_column("reason", [reasons])


class _Actor:
    """Has the model; gets a unit, writes its part."""

    def __init__(self, given: list[Any]) -> None:
        torch.set_num_threads(1)
        prediction: Prediction = ray.get(given[0])
        # Not whether there is one: an actor that was given none leaves it to others.
        has_gpu = bool(ray.get_gpu_ids()) and torch.cuda.is_available()
        self._size = prediction.saved.picture_size
        self._num_classes = prediction.saved.meta.num_classes
        self._predictor = Predictor(prediction.saved, torch.device("cuda" if has_gpu else "cpu"))
        self._unfinished = Unfinished(prediction.out)

    def __call__(self, block: pa.Table) -> pa.Table:
        return pa.concat_tables(self._answer(box) for box in block.to_pylist())

    def _answer(self, box: dict[str, Any]) -> pa.Table:
        unit = box["unit"]
        if box["kind"]:
            return _row(_ANSWER, unit=unit, kind=box["kind"], message=box["message"])
        try:
            return _row(_ANSWER, unit=unit, num_rejected=self._predict(unit, _unboxed(box)))
        except AugftError as error:
            return _row(_ANSWER, unit=unit, **_told(error))

    def _predict(self, unit: int, rows: pa.Table) -> int:
        """Predict a unit and write its part: how many of its pictures were rejected."""
        decoded = _decode(rows, self._size)
        good = np.flatnonzero(decoded["reason"].is_null().to_numpy())
        probabilities = np.zeros((len(decoded), self._num_classes), np.float32)
        pixels = decoded["pixels"].combine_chunks()
        for start in range(0, len(good), BATCH):
            batch = good[start : start + BATCH]
            images = b"".join(pixels[row].as_py() for row in batch.tolist())
            shape = (len(batch), self._size, self._size, 3)
            probabilities[batch] = self._predictor.probabilities(np.frombuffer(images, np.uint8).reshape(shape))
        columns = decoded.drop_columns(["pixels", "reason"])
        columns = columns.append_column("reason", decoded["reason"].cast(pa.string()))
        columns = columns.append_column("class_index", pa.array(probabilities.argmax(1).astype(np.int32)))
        cells = pa.FixedSizeListArray.from_arrays(pa.array(probabilities.reshape(-1)), self._num_classes)
        self._unfinished.write(unit, columns.append_column("probabilities", cells))
        return len(decoded) - len(good)
