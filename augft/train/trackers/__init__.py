"""Where a run is sent besides its directory: TensorBoard, MLflow, Weights & Biases.

    follow.py        the thread that sends, each line once, and survives a server that is gone
    ledger.py        trackers.json: what was sent where, so that a resumed run goes on there
    contents.py      what all of them are sent: parameters, figures, the confusion matrix as a picture
    folder.py        local files that end up in the run directory
    tensorboard.py, mlflow.py, wandb.py

A tracker reads the run directory and the lines of metrics as they are made; so it needs only the process that started
the run, and no training worker waits for it or has to know its keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module

from augft.errors import ConfigError
from augft.run import Run
from augft.train.trackers.follow import Followed, Tracker
from augft.train.trackers.mlflow import MLflow, check_server
from augft.train.trackers.tensorboard import TensorBoard
from augft.train.trackers.wandb import WandB

__all__ = ["Followed", "check_trackers", "follow"]

_PACKAGES = {
    "tensorboard": ("tensorboardX", "tensorboardX"),
    "mlflow": ("mlflow", "augft[mlflow]"),
    "wandb": ("wandb", "augft[wandb]"),
}
"""Tracker → its package, and what pip calls it."""
_MAKERS: dict[str, Callable[[Run, str | None], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WandB,
}


def check_trackers(names: Sequence[str]) -> None:
    """Whether the packages of all trackers are here, and their servers answer.

    Raises:
        ConfigError: one is not installed, or MLflow's server does not answer.
    """
    for name in names:
        _check_installed(*_PACKAGES[name])
    if "mlflow" in names:
        check_server()


def follow(names: Sequence[str], run: Run, say: Callable[[str], None], *, group: str | None = None) -> Followed:
    """Have trackers follow a run, from where they are with it.

        with follow(job.run.trackers, run, print) as followed:
            followed.log(line)      # each line of metrics.jsonl, as it is made
            followed.finish()       # once the run directory is complete

    Left without `finish`, the run counts there as stopped or failed, until it is gone on with.

    Args:
        names: of trackers, as in `run.trackers`.
        run: its directory holds its config.
        say: told in a line where the run can be seen, and what went wrong.
        group: what this run is to be compared with, MLflow's experiment and W&B's group; None: the job's name, which
            the runs of a comparison share.

    Raises:
        ConfigError: a tracker's package is not installed.
    """
    for name in names:
        _check_installed(*_PACKAGES[name])
    return Followed({name: _MAKERS[name](run, group) for name in names}, run, say)


def _check_installed(package: str, requirement: str) -> None:
    try:
        import_module(package)
    except ImportError:
        raise ConfigError(f"run.trackers: {package} is not installed; pip install '{requirement}'") from None
