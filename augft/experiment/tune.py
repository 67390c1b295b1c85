"""Search a policy for a task, then find out whether it is any better than those that need no search.

Policies are tried on a small form of the task and chosen by validation. What is chosen is the best of many, so its
score there flatters it; only the race says what it is worth: on the whole task, with seeds that the search has not
seen, against the baselines, judged by the test split.

    search.yaml       the job
    trials.json       what is known of each trial
    trials/           a run directory for each
    population.json   pbt: who is in force
    policy.json       what was found, as `augft train` takes it
    race/             a comparison: what was found and the baselines
    checks/           trials on the whole task, to see whether the small one ranks alike
    search.json       all figures that the report shows
    summary.json, report.html
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from augft.augment.policy import Policy
from augft.config import Job
from augft.display import Display
from augft.errors import ConfigError, RunError, Stopped
from augft.experiment.bench import Bench, Work
from augft.experiment.budget import baselines_of, check_budget, trial_job
from augft.experiment.compare import compare_contenders
from augft.experiment.folder import Means, begun
from augft.experiment.halving import Halving, rungs
from augft.experiment.ledger import Ledger, Trial
from augft.experiment.outcome import FOUND, duels, outcome, summary
from augft.experiment.population import Population
from augft.experiment.propose import ByChance, ByOptuna, Proposer
from augft.experiment.space import Space
from augft.experiment.trial import Room, Task, Trials, room_for
from augft.prepare import Prepared
from augft.report.search import SEARCH, write_search_report
from augft.run import POLICY, write_summary
from augft.storage import Storage, extend_uri
from augft.train.launch import check_model, run_uri
from augft.train.trackers import check_trackers

CONFIG = "search.yaml"

_FREE_TO_CHANGE = ("run", "scale", "name", "compare", "search.seeds", "search.proxy_checks", "search.concurrent")


def tune(
    job: Job,
    *,
    run_dir: str | None = None,
    address: str | None = None,
    resume: bool = False,
    verbose: bool = False,
    display: Display | None = None,
) -> dict[str, Any]:
    """Search a policy as `job.search` says, and race it.

    Args:
        job: the whole task, and what is searched.
        run_dir: the search's folder; None: `<storage_path>/<name>`.
        address: of a Ray cluster; None: this machine.
        resume: go on with what is there; finished trials and runs stay.
        verbose: let through what Ray and the trials print.
        display: where progress is shown; None: on stderr.

    Returns:
        The content of search.json.

    Raises:
        InputError: job, data, weights, folder or cluster are wrong; nothing was begun.
        RunError: no trial came to an end, or a run of the race failed.
        Stopped: it was asked to stop.
    """
    uri = run_uri(job, run_dir)
    check_budget(job)
    check_trackers(job.run.trackers)
    space = Space(job)
    small = trial_job(job)
    if job.search.sampler == "optuna":
        ByOptuna(space, job.seed)  # is it installed?
    more = () if job.search.algorithm == "pbt" else ("search.trials",)

    def check(prepared: Prepared) -> None:
        if len(prepared.samples.val_ids) == 0:
            raise ConfigError("a search chooses by validation, and the task has none: set data.val_fraction above 0")
        check_model(small, prepared)

    means, free_to_change = Means(address, resume, verbose), (*_FREE_TO_CHANGE, *more)
    with (
        display or Display() as shown,
        begun(uri, job, CONFIG, means, shown, task=small, check=check, free_to_change=free_to_change) as experiment,
    ):
        return _Search(job, small, experiment.prepared, space, uri, shown, experiment.stop_is_asked).run()


class _Search:
    """A search, on a Ray that is up."""

    def __init__(
        self,
        job: Job,
        small: Job,
        prepared: Prepared,
        space: Space,
        uri: str,
        shown: Display,
        stop_is_asked: Callable[[], bool],
    ) -> None:
        self._job, self._small, self._prepared, self._space = job, small, prepared, space
        self._uri, self._shown, self._stop_is_asked = uri, shown, stop_is_asked
        self._storage = Storage(uri, retry_s=job.run.storage_retry_s, on_retry=shown.say)
        self._ledger = Ledger(self._storage)
        self._packed = str(prepared.dataset.path)
        self._baselines = baselines_of(job)
        self._race_uri = extend_uri(uri, "/race")

    def run(self) -> dict[str, Any]:
        """All of it, in order; what was done before is not done again."""
        room = self._room(self._small)
        search = self._job.search
        self._shown.say(
            f"{search.trials} trials of {self._small.train.epochs} epochs by {search.algorithm}, "
            f"{len(self._baselines)} of them baselines; {room}"
        )
        population = None
        if search.algorithm == "pbt":
            population = self._population(room)
        else:
            self._halving(room)
        chosen = self._ledger.best
        if self._stop_is_asked():
            raise Stopped(f"{self._uri}: stopped; what is done is kept: go on with --resume")
        if chosen is None:
            failed = next((trial.error for trial in self._ledger.trials if trial.error), "none was tried")
            raise RunError(f"{self._uri}: no trial came to an end: {failed}")
        self._storage.write(POLICY, Policy.from_config(chosen.policy).to_json().encode())
        race, checks = (self._race(chosen), self._checks(chosen)) if search.seeds else (None, {})
        fought = duels(self._job, race, self._race_uri) if race else []
        found = outcome(self._job, self._small, self._space, self._ledger, chosen, population, race, fought, checks)
        self._storage.write(SEARCH, (json.dumps(found, indent=1) + "\n").encode())
        write_summary(self._storage, summary(found))
        page = write_search_report(self._uri)
        self._shown.say(chosen.words)
        self._shown.say(found["text"])
        self._shown.say(f"policy: {self._storage.uri}/{POLICY}, for --set augment.policy=")
        self._shown.say(f"report: {page}")
        return found

    # ---- trials ----------------------------------------------------------------------------------------------------

    def _halving(self, room: Room) -> None:
        search, ledger = self._job.search, self._ledger
        proposer: Proposer = ByChance(self._space, self._job.seed)
        if search.sampler == "optuna":
            proposer = ByOptuna(self._space, self._job.seed, ledger.trials)

        def ended(trial: Trial) -> None:
            proposer.learn(trial)
            self._tell(trial)

        unfinished = sum(trial.status == "unfinished" for trial in ledger.trials)
        levels = (self._small.train.epochs, search.first_rung_epochs, search.reduction)
        self._bench(room, rungs(*levels)).run(
            self._works(proposer),
            unfinished + max(0, search.trials - len(ledger.trials)),
            self._small,
            scheduler=Halving(
                epochs=levels[0],
                first=levels[1],
                reduction=levels[2],
                trials=ledger.trials,
                exempt={f"{number:04d}" for number in range(len(self._baselines))},
            ),
            on_end=ended,
        )

    def _works(self, proposer: Proposer) -> Iterator[Work]:
        ledger = self._ledger
        for trial in list(ledger.trials):
            if trial.status == "unfinished":
                yield self._work(trial)
        yield from self._baseline_works()
        while len(ledger.trials) < self._job.search.trials:
            point, drawn = proposer.propose(f"{len(ledger.trials):04d}")
            policy = point.policy(self._space.base).to_config()
            trial = ledger.add(policy=policy, overrides=point.overrides, point=point.to_config(), drawn=drawn)
            ledger.save()
            yield self._work(trial)

    def _baseline_works(self) -> Iterator[Work]:
        """Of baselines that are not in the ledger yet: they come first, so their ids are the first."""
        known = {trial.name for trial in self._ledger.trials}
        for name, policy in self._baselines.items():
            if name not in known:
                trial = self._ledger.add(policy=policy.to_config(), overrides=[], name=name)
                self._ledger.save()
                yield self._work(trial)

    def _work(self, trial: Trial) -> Work:
        job = self._small.replace([f"augment.policy={json.dumps(trial.policy)}", *trial.overrides])
        return Work(trial, job, self._uri_of(trial.id))

    def _population(self, room: Room) -> Population | None:
        bench = self._bench(room)
        before = [trial for trial in self._ledger.trials if trial.name is not None and trial.status == "unfinished"]
        missing = len(self._baselines) - sum(trial.name is not None for trial in self._ledger.trials)
        works = (work for part in (map(self._work, before), self._baseline_works()) for work in part)
        bench.run(works, len(before) + missing, self._small, on_end=self._tell)
        if self._stop_is_asked():
            return None
        population = Population(
            self._storage, self._small, self._prepared.plan, self._space, self._ledger, self._uri_of
        )
        population.found(self._job.search.trials - len(self._baselines))
        population.train(bench, self._shown.say, self._tell)
        return population

    def _bench(self, room: Room, levels: list[int] | None = None) -> Bench:
        return Bench(
            self._uri,
            self._ledger,
            room,
            packed=self._packed,
            rungs=levels or [],
            stop_is_asked=self._stop_is_asked,
        )

    def _tell(self, trial: Trial) -> None:
        name = f"{trial.id} ({trial.name})" if trial.name else trial.id
        if trial.status == "failed":
            self._shown.say(f"trial {name} failed: {trial.error}")
            return
        best = self._ledger.best
        so_far = f"; best so far {best.val_top1:.4f} ({best.id})" if best and best.val_top1 is not None else ""
        at = trial.history[-1]["epoch"] if trial.history else 0
        self._shown.say(f"trial {name} {trial.status} after epoch {at}: val_top1 {trial.val_top1 or 0:.4f}{so_far}")

    # ---- the whole task --------------------------------------------------------------------------------------------

    def _race(self, chosen: Trial) -> dict[str, Any]:
        """What was found against the baselines, on seeds that the search has not seen."""
        contenders = {FOUND: [f"augment.policy={json.dumps(chosen.policy)}", *chosen.overrides]}
        for name, policy in self._baselines.items():
            contenders[name] = [f"augment.policy={json.dumps(policy.to_config())}"]
        if len(contenders) == 1:
            contenders["none"] = ["augment.policy=none"]
        search = self._job.search
        compare = self._job.compare.model_copy(
            update={"concurrent": search.concurrent, "gpus_per_trial": search.gpus_per_trial}
        )
        return compare_contenders(
            self._job.model_copy(update={"compare": compare}),
            contenders,
            self._fresh_seeds(search.seeds),
            self._race_uri,
            baseline=next(name for name in contenders if name != FOUND),
            packed=self._packed,
            shown=self._shown,
            stop_is_asked=self._stop_is_asked,
        )

    def _checks(self, chosen: Trial) -> dict[str, float]:
        """Trial → val_top1 on the whole task, of some more trials from all over the ranking."""
        others = sorted(
            (trial for trial in self._ledger.trials if trial.name is None and trial is not chosen and trial.history),
            key=lambda trial: (trial.val_top1 or 0.0, trial.id),
        )
        number = min(self._job.search.proxy_checks, len(others))
        picked = [others[(2 * place + 1) * len(others) // (2 * number)] for place in range(number)]
        [seed] = self._fresh_seeds(1)
        tasks = {}
        for trial in picked:
            texts = [
                f"augment.policy={json.dumps(trial.policy)}",
                *trial.overrides,
                f"seed={seed}",
                "run.baseline=null",
            ]
            uri = f"{extend_uri(self._uri, '/checks')}/{trial.id}"
            tasks[uri] = trial.id, Task(self._job.replace(texts), uri, self._packed)
        if not tasks:
            return {}
        self._shown.say(f"{len(tasks)} more trials on the whole task")
        trials = Trials(
            self._room(self._job),
            self._job.run.max_failures,
            self._job.scale.worker_label_selector,
            self._stop_is_asked,
        )
        found = {}
        for ended in trials.run([task for _, task in tasks.values()]):
            if ended.summary is not None and ended.summary["val_top1"] is not None:
                found[tasks[ended.task.uri][0]] = ended.summary["val_top1"]
        return found

    def _fresh_seeds(self, number: int) -> list[int]:
        """Seeds that no trial had: all have the job's own."""
        return [(self._job.seed + 1 + offset) % 2**63 for offset in range(number)]

    def _room(self, job: Job) -> Room:
        search = self._job.search
        return room_for(job, gpus_per_trial=search.gpus_per_trial, concurrent=search.concurrent)

    def _uri_of(self, trial_id: str) -> str:
        return f"{extend_uri(self._uri, '/trials')}/{trial_id}"
