"""Where metrics are sent besides metrics.jsonl: TensorBoard, MLflow, Weights & Biases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Protocol

from augft.errors import ConfigError

_NOT_METRICS = ("step", "epoch", "split")
_PACKAGES = {
    "tensorboard": ("tensorboardX", "tensorboardX"),
    "mlflow": ("mlflow", "augft[mlflow]"),
    "wandb": ("wandb", "augft[wandb]"),
}
"""Tracker → its package, and what pip calls it."""


class Tracker(Protocol):
    """Takes the lines of metrics.jsonl as they come."""

    def log(self, line: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


def open_trackers(names: list[str], run_uri: str, run_name: str, config: dict[str, Any], step: int) -> list[Tracker]:
    """The trackers of a run that goes on from `step`.

    Raises:
        ConfigError: a tracker's package is not installed.
    """
    makers: dict[str, Callable[..., Tracker]] = {
        "tensorboard": _TensorBoard,
        "mlflow": _MLflow,
        "wandb": _WandB,
    }
    return [makers[name](run_uri, run_name, config, step) for name in names]


def check_trackers(names: Sequence[str]) -> None:
    """Whether the packages of all trackers are here.

    Raises:
        ConfigError: one is not installed.
    """
    for name in names:
        _package(*_PACKAGES[name])


def _scalars(line: dict[str, Any]) -> dict[str, float]:
    return {f"{line['split']}/{key}": value for key, value in line.items() if key not in _NOT_METRICS}


class _TensorBoard:
    def __init__(self, run_uri: str, run_name: str, config: dict[str, Any], step: int) -> None:
        # What an earlier process wrote beyond the cursor is dropped by TensorBoard.
        self._writer = _package(*_PACKAGES["tensorboard"]).SummaryWriter(f"{run_uri}/events", purge_step=step)

    def log(self, line: dict[str, Any]) -> None:
        for name, value in _scalars(line).items():
            self._writer.add_scalar(name, value, line["step"])
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _MLflow:
    def __init__(self, run_uri: str, run_name: str, config: dict[str, Any], step: int) -> None:
        self._mlflow = _package(*_PACKAGES["mlflow"])
        self._mlflow.start_run(run_name=run_name)
        self._mlflow.log_params({key: str(value)[:500] for key, value in _flat(config)})

    def log(self, line: dict[str, Any]) -> None:
        self._mlflow.log_metrics(_scalars(line), step=line["step"])

    def close(self) -> None:
        self._mlflow.end_run()


class _WandB:
    def __init__(self, run_uri: str, run_name: str, config: dict[str, Any], step: int) -> None:
        self._run = _package(*_PACKAGES["wandb"]).init(project="augft", name=run_name, config=config)

    def log(self, line: dict[str, Any]) -> None:
        self._run.log({**_scalars(line), "global_step": line["step"]})

    def close(self) -> None:
        self._run.finish()


def _package(name: str, requirement: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise ConfigError(f"run.trackers: {name} is not installed; pip install '{requirement}'") from None


def _flat(config: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in config.items():
        pairs += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return pairs
