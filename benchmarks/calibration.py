"""Does a comparison err as rarely as it says? A policy against itself, and against one that must do harm; real runs.

    python benchmarks/calibration.py --out runs/calibration.jsonl
    python benchmarks/calibration.py --out runs/calibration.jsonl --alike 10 --harmful 2      a first look

`alike`: both contenders have the same policy with other draws (`augment.draws`). No difference is true, so each
"better" or "worse" is false; at 95 % there may be 5 % of them. `harmful`: digits that are flipped both ways against
digits that are not; each should be told as "worse". A comparison has five seeds of its own, and is also judged by its
first two and three alone. "one run": what the first seed would claim by McNemar's exact test, which knows of no other
seed. "a class": any of the ten classes is told, by intervals that hold together.

A run takes less than a second of a core: a small ResNet that learns twenty 8x8 digits a class from scratch. Finished
runs are kept in the file, so the command can be stopped and started.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rich import box
from rich.console import Console
from rich.table import Table
from scipy import stats

from augft.config import load_job_text
from augft.display import Display
from augft.evaluate import correct_from_dict
from augft.experiment.statistics import compare_classes, compare_runs
from augft.prepare import prepare
from augft.report.interval import wilson
from augft.train.solo import run_alone

JOB = """
name: calibration
data: {source: digits, image_size: 8, val_fraction: 0.0, labels_per_class: 20}
model: {name: resnet20, weights: none}
train:
  epochs: 8
  global_batch_size: 50
  precision: fp32
  schedule: {warmup_steps: 5}
scale: {use_gpu: false}
run: {trackers: [], checkpoint_every_steps: 1000, keep_checkpoints: 1}
"""
SEEDS = 5
PLAIN, FLIPPED = "digits", "[horizontal_flip, vertical_flip]"
KIND = hashlib.sha256(JOB.encode()).hexdigest()[:12]
"""Of the job: runs of another one in the file are left alone."""


class Contender(NamedTuple):
    policy: str
    draws: int


class Key(NamedTuple):
    """Of a run."""

    contender: Contender
    seed: int


BoolArray = npt.NDArray[np.bool_]
PAIRS = {
    "alike": (Contender(PLAIN, 1), Contender(PLAIN, 0)),
    "harmful": (Contender(FLIPPED, 0), Contender(PLAIN, 0)),
}


def train(key: Key) -> tuple[Key, dict[str, Any], float]:
    """One run, in a process of the pool: its evaluation and its seconds."""
    began_at = time.perf_counter()
    (policy, draws), seed = key
    job = load_job_text(JOB, "the job", [f"seed={seed}", f"augment.policy={policy}", f"augment.draws={draws}"])
    with tempfile.TemporaryDirectory(prefix="calibration-") as folder:
        run_alone(job, f"{folder}/run", keep_checkpoints=False)
        evaluation = json.loads(Path(folder, "run", "evaluation.json").read_text(encoding="utf-8"))
    return key, evaluation, time.perf_counter() - began_at


def runs_in(file: Path) -> dict[Key, BoolArray]:
    """Run → whether each test picture was right; a last line that was cut short is no run."""
    runs: dict[Key, BoolArray] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if row["kind"] == KIND:
            runs[Key(Contender(row["policy"], row["draws"]), row["seed"])] = correct_from_dict(row)
    return runs


def run_all(keys: Sequence[Key], file: Path, processes: int) -> None:
    """What is missing in the file is run and added to it."""
    done = runs_in(file)
    missing = [key for key in keys if key not in done]
    print(f"{len(keys) - len(missing)} runs are there, {len(missing)} to go", flush=True)
    if not missing:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists() and not file.read_bytes().endswith(b"\n"):  # cut short: what follows needs a line of its own
        file.open("a").write("\n")
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes to come: as many threads as cores in each would fight
    began_at, seconds = time.perf_counter(), []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool, file.open("a", encoding="utf-8") as out:
        for future in as_completed([pool.submit(train, key) for key in missing]):
            (contender, seed), evaluation, run_s = future.result()
            kept = {name: evaluation[name] for name in ("num_samples", "top1", "correct")}
            row = {"kind": KIND, **contender._asdict(), "seed": seed, **kept, "run_s": round(run_s, 3)}
            out.write(json.dumps(row) + "\n")
            out.flush()
            seconds.append(run_s)
            if len(seconds) % 50 == 0 or len(seconds) == len(missing):
                elapsed = time.perf_counter() - began_at
                print(
                    f"{len(seconds)} of {len(missing)} runs in {elapsed:.0f} s, {np.median(seconds):.2f} s each",
                    flush=True,
                )


def tables(runs: dict[Key, BoolArray], kind: str, number: int, num_seeds: int) -> tuple[BoolArray, BoolArray]:
    """Of one comparison, both contenders: bool (S, n)."""
    seeds = range(number * SEEDS, number * SEEDS + num_seeds)
    ours, baseline = (np.stack([runs[Key(contender, seed)] for seed in seeds]) for contender in PAIRS[kind])
    return ours, baseline


def judge(runs: dict[Key, BoolArray], labels: npt.NDArray[np.integer[Any]], counts: dict[str, int]) -> Table:
    """The table of verdicts."""
    caption = "told: %, with its 95 % interval; ±: half an interval, points; F: mean square of seeds over the rest's"
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), caption=caption, caption_justify="left")
    for heading in ("", "seeds", "better", "worse", "told", "a class", "±", "F"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for kind, num_seeds in product(PAIRS, (1, 2, 3, SEEDS)):
        if not (count := counts[kind]):
            continue
        pairs = [tables(runs, kind, number, num_seeds) for number in range(count)]
        if num_seeds == 1:
            verdicts, rest = [_of_one_run(*pair) for pair in pairs], ["", "", ""]
        else:
            results = [compare_runs(*pair) for pair in pairs]
            verdicts = [str(result.verdict) for result in results]
            classes = [compare_classes(*pair, labels, int(labels.max()) + 1) for pair in pairs]
            in_a_class = sum(any(c and c.verdict in ("better", "worse") for c in of_pair) for of_pair in classes)
            width = np.median([(r.high - r.low) / 2 for r in results if r.low is not None and r.high is not None])
            ratio = np.median([_seeds_over_rest(*pair) for pair in pairs])
            rest = [f"{100 * in_a_class / count:.1f}", f"{100 * width:.1f}", f"{ratio:.1f}"]
        better, worse = verdicts.count("better"), verdicts.count("worse")
        low, high = wilson(better + worse, count)
        told = f"{100 * (better + worse) / count:.1f} ({100 * low:.1f} to {100 * high:.1f})"
        seeds = "one run" if num_seeds == 1 else str(num_seeds)
        table.add_row(f"{count} {kind}", seeds, str(better), str(worse), told, *rest)
    return table


def _of_one_run(ours: BoolArray, baseline: BoolArray) -> str:
    """What McNemar's exact test claims at 5 %."""
    won, lost = int((ours & ~baseline).sum()), int((baseline & ~ours).sum())
    if not won + lost or stats.binomtest(won, won + lost).pvalue >= 0.05:
        return "cannot tell"
    return "better" if won > lost else "worse"


def _seeds_over_rest(ours: BoolArray, baseline: BoolArray) -> float:
    table = ours.astype(float) - baseline
    rows, columns = table.mean(1, keepdims=True), table.mean(0, keepdims=True)
    rest = np.square(table - rows - columns + table.mean()).sum() / ((table.shape[0] - 1) * (table.shape[1] - 1))
    return float(table.shape[1] * rows.var(ddof=1) / rest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/calibration.jsonl"), help="file of finished runs")
    parser.add_argument("--alike", type=int, default=200, help="comparisons of a policy with itself")
    parser.add_argument("--harmful", type=int, default=40, help="comparisons with flips")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    counts = {"alike": arguments.alike, "harmful": arguments.harmful}
    prepared = prepare(load_job_text(JOB, "the job"), Display())  # packs, before many would at a time
    keys = [
        Key(contender, seed)
        for kind, count in counts.items()
        for number in range(count)
        for seed in range(number * SEEDS, (number + 1) * SEEDS)
        for contender in PAIRS[kind]
    ]
    run_all(list(dict.fromkeys(keys)), arguments.out, arguments.processes)
    runs = runs_in(arguments.out)
    for contender in dict.fromkeys(contender for pair in PAIRS.values() for contender in pair):
        top1 = [float(correct.mean()) for key, correct in runs.items() if key.contender == contender]
        if top1:
            spread = np.std(top1, ddof=1) if len(top1) > 1 else float("nan")
            print(f"{contender.policy}, draws {contender.draws}: {len(top1)} runs, {np.mean(top1):.1%} ± {spread:.1%}")
    again = [correct_from_dict(train(Key(PAIRS["alike"][1], seed))[1]) for seed in range(2)]
    before = [runs[Key(PAIRS["alike"][1], seed)] for seed in range(2)]
    print("The same policy with the same draws, run again:", compare_runs(again, before).verdict)
    Console(width=100).print(judge(runs, prepared.dataset.split("test").labels, counts))


if __name__ == "__main__":
    main()
