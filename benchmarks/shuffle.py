"""How well windows of shards mix, against a shuffle of everything.

    python benchmarks/shuffle.py
    python benchmarks/shuffle.py --accuracy digits
    python benchmarks/shuffle.py --accuracy cifar10 --image-size 32 --shard-rows 512 --epochs 3 --policy standard \
        --packed shuffled

The first is arithmetic: the plan of an epoch of as many pictures as ImageNet has, whose train is packed in the order of
class folders or in shuffled order (`augft pack --shuffle`). Printed for each way to shuffle:

    moved       mean distance of a sample's place in the epoch from its place in the source, in epochs; 1/3 by chance
    apart       mean distance in the epoch of two samples that are neighbours in the source; 1/3 by chance
    batchmates  how often those two share a batch, over how often any two do
    again       how often two that share a batch in one epoch do so in the next, over how often any two do
    classes     total variation distance between a batch's classes and the set's: 0 is the same mix, 1 has none of it

The second trains the same network on the same pictures, shuffled fully and in windows, over several seeds, and compares
test accuracy in pairs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from augft.augment.draw import stream_key
from augft.config import Job, load_job_text
from augft.data import shards
from augft.data.pack import pack
from augft.data.packed import open_packed
from augft.data.permutation import permute
from augft.data.plan import IntArray, Plan
from augft.data.windows import Windows
from augft.evaluate import correct_from_dict
from augft.experiment.statistics import compare_runs
from augft.prepare import prepare_packed
from augft.run import EVALUATION, Run
from augft.train.solo import run_alone

BATCH = 1024
PACKED = ("sorted", "shuffled")
WAYS = ((1, 1), (4, 1), (16, 1), (64, 1), (256, 1), (1, 16), (4, 16), (4, 64))
"""Shards of a window, and lanes."""

JOB = """
data: {source: SOURCE, val_fraction: 0.0}
augment: {policy: digits}
model: {name: resnet20, weights: none}
train: {global_batch_size: 64, optimizer: {lr: 0.1}}
run: {trackers: []}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_281_167)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--shard-rows", type=int, help="445 as 64 MiB of 224 px; with --accuracy 64")
    parser.add_argument("--accuracy", metavar="SOURCE", help="train on it instead")
    parser.add_argument("--image-size", type=int, default=8)
    parser.add_argument("--window-shards", type=int, default=2, help="with --accuracy")
    parser.add_argument("--epochs", type=int, default=10, help="with --accuracy")
    parser.add_argument("--seeds", type=int, default=5, help="with --accuracy")
    parser.add_argument("--policy", default="digits", help="with --accuracy")
    parser.add_argument("--packed", nargs="+", choices=PACKED, default=PACKED, help="with --accuracy")
    arguments = parser.parse_args()
    if arguments.accuracy:
        _accuracy(arguments)
    else:
        _mixing(arguments.samples, arguments.classes, arguments.shard_rows or 445)


# ---- arithmetic ----------------------------------------------------------------------------------------------------


def _mixing(num_samples: int, num_classes: int, shard_rows: int) -> None:
    sorted_labels = np.arange(num_samples) * num_classes // num_samples
    mixed_labels = sorted_labels[permute(np.arange(num_samples), num_samples, stream_key(0, "data/pack"))]
    ends = np.append(np.arange(shard_rows, num_samples, shard_rows), num_samples)
    table = Table("window", "lanes", "moved", "apart", "batchmates", "again", "classes, sorted", "classes, shuffled")
    for window_shards, lanes in (*WAYS, (None, 1)):
        windows = Windows(ends, window_shards, lanes) if window_shards else None
        plan = Plan(num_samples, seed=0, epochs=2, global_batch_size=BATCH, windows=windows)
        first, second = (plan.items(np.arange(num_samples) + epoch * num_samples).sample for epoch in (0, 1))
        place, later = _places(first), _places(second)
        by_chance = BATCH / num_samples
        pairs = np.random.default_rng(0).permutation(BATCH)
        mates = first[: num_samples // BATCH * BATCH].reshape(-1, BATCH)
        again = later[mates] // BATCH == later[mates[:, pairs]] // BATCH
        table.add_row(
            f"{window_shards} shards" if window_shards else "all: full",
            str(lanes),
            f"{np.abs(place - np.arange(num_samples)).mean() / num_samples:.3f}",
            f"{np.abs(np.diff(place)).mean() / num_samples:.4f}",
            f"{np.mean(place[1:] // BATCH == place[:-1] // BATCH) / by_chance:,.1f}",
            f"{again[:, pairs != np.arange(BATCH)].mean() / by_chance:,.1f}",
            f"{_class_distance(first, sorted_labels):.3f}",
            f"{_class_distance(first, mixed_labels):.3f}",
        )
    Console(width=110).print(table)


def _places(order: IntArray) -> IntArray:
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    return places


def _class_distance(order: IntArray, labels: IntArray) -> float:
    num_classes = int(labels.max()) + 1
    share = np.bincount(labels, minlength=num_classes) / len(labels)
    batches = labels[order[: len(order) // BATCH * BATCH]].reshape(-1, BATCH)[::7]
    return float(np.mean([np.abs(np.bincount(b, minlength=num_classes) / BATCH - share).sum() / 2 for b in batches]))


# ---- accuracy ------------------------------------------------------------------------------------------------------


def _accuracy(arguments: argparse.Namespace) -> None:
    rows = arguments.shard_rows or 64
    shards._SHARD_BYTES = rows * arguments.image_size**2 * 3
    shards._MAX_ROW_GROUP = min(256, rows)
    console = Console(width=110)
    with tempfile.TemporaryDirectory() as folder:
        correct: dict[str, list[np.ndarray]] = {}
        for packed_as in arguments.packed:
            packed = pack(
                arguments.accuracy,
                Path(folder) / packed_as,
                image_size=arguments.image_size,
                shuffled=packed_as == "shuffled",
            )
            console.print(f"{packed_as}: {len(open_packed(packed).split('train').first_ids)} shards of {rows}")
            for shuffle in ("full", "windowed"):
                runs = correct[f"{shuffle}, packed {packed_as}"] = []
                for seed in range(arguments.seeds):
                    uri = f"{folder}/{packed_as}-{shuffle}-{seed}"
                    job = _job(arguments, shuffle, seed)
                    run_alone(job, uri, prepared=prepare_packed(job, packed))
                    runs.append(correct_from_dict(json.loads(Run(uri).storage.read(EVALUATION))))
                each = "  ".join(f"{run.mean():.2%}" for run in runs)
                console.print(f"{shuffle}, packed {packed_as}: {np.mean(runs):.2%} of test correct ({each})")
        for packed_as in arguments.packed:
            full, windowed = (correct[f"{shuffle}, packed {packed_as}"] for shuffle in ("full", "windowed"))
            told = compare_runs(windowed, full, num_comparisons=len(arguments.packed))
            console.print(f"packed {packed_as}: {told.text('windowed', 'full')}")


def _job(arguments: argparse.Namespace, shuffle: str, seed: int) -> Job:
    overrides = [
        f"seed={seed}",
        f"augment.policy={arguments.policy}",
        f"train.epochs={arguments.epochs}",
        f"data.shuffle={shuffle}",
        f"data.window_shards={arguments.window_shards}",
    ]
    return load_job_text(JOB.replace("SOURCE", arguments.accuracy), "shuffle.py", overrides)


if __name__ == "__main__":
    main()
