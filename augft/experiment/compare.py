"""Which augmentation helps, and how sure that is: contenders × seeds, in pairs.

A contender is chosen by `val`, where there is one; `test` is looked at once for each run, after its end, and chooses
nothing. The verdicts are about what was asked before any run: each contender against the baseline.

    compare.yaml      the job
    runs/             a run directory for each trial, without its checkpoints
    comparison.json   all figures that the report shows
    summary.json      the verdicts
    report.html
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from augft.config import Job
from augft.data.packed import PackedDataset, open_packed
from augft.display import Display
from augft.errors import ConfigError, RunError, Stopped
from augft.experiment.design import Cell, Trial, cells_of, contenders_of, trials
from augft.experiment.folder import Means, begun
from augft.experiment.judge import judge
from augft.experiment.standings import Standings
from augft.experiment.trial import Task, Trials, room_for
from augft.prepare import Prepared, prepare_packed
from augft.report.comparison import COMPARISON, write_comparison_report
from augft.run import Run, check_startable, is_done, write_summary
from augft.storage import Storage, extend_uri
from augft.train.launch import check_model, run_uri
from augft.train.trackers import check_trackers

CONFIG = "compare.yaml"

_FREE_TO_CHANGE = ("run", "scale", "name", "search", "compare")
"""More seeds, contenders and points of the axes may come later: what is done stays."""


def compare(
    job: Job,
    *,
    run_dir: str | None = None,
    address: str | None = None,
    resume: bool = False,
    verbose: bool = False,
    display: Display | None = None,
) -> dict[str, Any]:
    """Compare policies as `job.compare` says.

    Args:
        job: the task, and what is compared.
        run_dir: the comparison's folder; None: `<storage_path>/<name>`.
        address: of a Ray cluster; None: this machine.
        resume: go on with what is there; finished runs stay.
        verbose: let through what Ray and the workers print.
        display: where progress is shown; None: on stderr.

    Returns:
        The content of comparison.json.

    Raises:
        InputError: job, data, weights, folder or cluster are wrong; nothing was begun.
        RunError: a run failed; the others are done.
        Stopped: it was asked to stop.
    """
    uri = run_uri(job, run_dir)
    contenders, baseline = contenders_of(job)
    cells = cells_of(job)
    seeds = [job.seed + number for number in range(job.compare.seeds)]
    planned = trials(job, contenders, seeds, cells)
    check_trackers(job.run.trackers)
    means = Means(address, resume, verbose)

    def check(prepared: Prepared) -> None:
        _check([trial for trial in planned if trial.seed == job.seed], prepared.dataset)

    with (
        display or Display() as shown,
        begun(
            uri, job, CONFIG, means, shown, task=planned[0].job, check=check, free_to_change=_FREE_TO_CHANGE
        ) as experiment,
    ):
        return compare_contenders(
            job,
            contenders,
            seeds,
            uri,
            baseline=baseline,
            packed=str(experiment.prepared.dataset.path),
            shown=shown,
            cells=cells,
            stop_is_asked=experiment.stop_is_asked,
        )


def compare_contenders(
    job: Job,
    contenders: Mapping[str, Sequence[str]],
    seeds: Sequence[int],
    folder: str,
    *,
    baseline: str,
    packed: str,
    shown: Display,
    cells: Sequence[Cell] = (Cell(),),
    stop_is_asked: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Run what is not done yet, and judge it; Ray is up.

    Args:
        job: the task.
        contenders: name → overrides, as texts of the form `key.key=value`.
        seeds: distinct.
        folder: of the comparison.
        baseline: the contender that the others are held against.
        packed: the packed data set.
        shown: for people.
        cells: of the axes.
        stop_is_asked: asked a few times a second.

    Returns, Raises:
        As `compare`.
    """
    planned = trials(job, contenders, seeds, cells)
    dataset = open_packed(packed)
    tasks = {extend_uri(folder, f"/{trial.folder}"): trial for trial in planned}
    standings = Standings(tasks, baseline, shown)
    open_tasks = []
    for uri, trial in tasks.items():
        check_startable(uri, trial.job, resume=True)
        if is_done(uri, trial.job):
            standings.add(uri, Run(uri).summary)
        else:
            open_tasks.append(Task(trial.job, uri, packed))
    if open_tasks:
        room = room_for(job, gpus_per_trial=job.compare.gpus_per_trial, concurrent=job.compare.concurrent)
        shown.say(
            f"{len(contenders)} contenders x {len(seeds)} seeds"
            + (f" x {len(cells)} tasks" if len(cells) > 1 else "")
            + f" = {len(tasks)} runs, {len(tasks) - len(open_tasks)} of them done before; {room}"
        )
        runner = Trials(room, job.run.max_failures, job.scale.worker_label_selector, stop_is_asked)
        failed = []
        try:
            with standings.live():
                for outcome in runner.run(open_tasks, standings.look):
                    if outcome.error is not None:
                        failed.append(outcome.error)
                        shown.say(str(outcome.error))
                    else:
                        assert outcome.summary is not None
                        standings.add(outcome.task.uri, outcome.summary)
        except Stopped:
            done = f"{standings.num_done} of {len(tasks)} runs are done"
            raise Stopped(f"{folder}: {done}; go on with --resume") from None
        if failed:
            raise RunError(f"{folder}: {len(failed)} of {len(tasks)} runs failed ({failed[0]}); go on with --resume")
    judged = judge(job, tasks, dataset, baseline=baseline, folder=folder)
    storage = Storage(folder)
    storage.write(COMPARISON, (json.dumps(judged, indent=1) + "\n").encode())
    write_summary(storage, _summary(judged))
    page = write_comparison_report(folder)
    standings.show(judged)
    shown.say(f"report: {page}")
    return judged


def _check(planned: Sequence[Trial], dataset: PackedDataset) -> None:
    """What would fail in a run fails here, before any begins.

    Args:
        planned: the trials of one seed; those of others differ in nothing that could be wrong.
        dataset: what they would be run on.
    """
    by_model = {}
    for trial in planned:
        prepared = prepare_packed(trial.job, dataset.path)
        if not dataset.has("test") and len(prepared.samples.val_ids) == 0:
            raise ConfigError(
                f"{dataset.path}: no picture is left to judge by: set data.val_fraction above 0, or give a source with "
                "a test split"
            )
        by_model[trial.job.model] = trial.job, prepared
    for job, prepared in by_model.values():  # to build one, and read its weights, takes long
        check_model(job, prepared)


def _summary(comparison: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kind": "comparison",
        "judged_on": comparison["judged_on"],
        "cells": [
            {
                "title": cell["title"],
                "chosen": cell["chosen"],
                "text": cell["text"],
                "verdicts": {
                    policy["name"]: policy["versus"]["verdict"] for policy in cell["policies"] if policy["versus"]
                },
            }
            for cell in comparison["cells"]
        ],
    }
