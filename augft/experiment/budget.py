"""The small form of a task that trials train on, and whether a search's keys go together."""

from __future__ import annotations

from pathlib import Path

from augft.augment.policy import Policy
from augft.config import Job
from augft.errors import ConfigError


def trial_job(job: Job) -> Job:
    """The job of a trial, but for its policy."""
    search = job.search
    data, train = job.data, job.train
    if search.labels_per_class is not None:
        data = data.model_copy(update={"labels_per_class": search.labels_per_class})
    if search.epochs is not None:
        train = train.model_copy(update={"epochs": search.epochs})
    run = job.run.model_copy(update={"baseline": None, "trackers": []})
    return Job.model_validate(job.model_copy(update={"data": data, "train": train, "run": run}).to_dict())


def baselines_of(job: Job) -> dict[str, Policy]:
    """Name → policy.

    Raises:
        ConfigError: two have one name, or one is called as what is found.
        PolicyError: one is no policy.
    """
    found: dict[str, Policy] = {}
    for given in job.search.baselines:
        policy = Policy.from_config(given)
        name = Path(given).stem if given.endswith((".json", ".yaml", ".yml")) else given
        if name in found or name == "found":
            raise ConfigError(f"search.baselines: the name {name} is taken; give the file of {given} another")
        found[name] = policy
    return found


def check_budget(job: Job) -> None:
    """Whether the keys of a search go together.

    Raises:
        ConfigError: they do not.
    """
    search, num = job.search, len(baselines_of(job))
    if search.trials <= num:
        raise ConfigError(
            f"search.trials {search.trials}: the {num} baselines are trials too, and leave none for the search; set it "
            f"above {num}"
        )
    if job.train.jsd_weight:
        raise ConfigError("train.jsd_weight wants each policy to end with aug_mix, a search tries others: set it to 0")
    if search.algorithm != "pbt":
        return
    if search.trials < num + 2:
        raise ConfigError(
            f"search.trials {search.trials}: {num} baselines leave a population of one; set it above {num + 1}"
        )
    if search.sampler != "random":
        raise ConfigError(f"search.sampler {search.sampler}: pbt changes policies itself; set search.sampler=random")
    if search.epochs not in (None, job.train.epochs):
        raise ConfigError(
            f"search.epochs {search.epochs}: pbt finds what is in force in which epoch, so its trials have the epochs "
            f"of the task ({job.train.epochs}); leave it out"
        )
    if search.interval_epochs >= job.train.epochs:
        raise ConfigError(
            f"search.interval_epochs {search.interval_epochs}: there are {job.train.epochs} epochs, so nothing would "
            "ever change; lower it"
        )
    if job.scale.max_workers > 1:
        raise ConfigError(
            "search.algorithm pbt: each member trains in one process; set scale.num_workers=1, or search.algorithm=asha"
        )
