"""augft: fine-tune an image classifier with data augmentation, on one machine or on a Ray cluster.

    errors, config          what may go wrong; the typed job file
    data/                   pictures → packed Parquet → the plan → the batches of a rank
    augment/                keyed draws, ops, policies, the kernel that makes the pixels, mixing
    model/                  networks, weights, stages
    train/                  learner, loop, checkpoints; launch.py starts it on Ray, solo.py in one process
    experiment/             many runs: policies compared, policies searched
    evaluate, report/       exact metrics; one page that shows a run
    assess/, prediction/    a finished model: examined; many pictures through it
    export/, serve/         the same taken elsewhere, asked over HTTP
    prepare, run, storage   a job on its data; a run directory; its files
    cli                     the commands

From Python, with the names below: what the command line does is these calls.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from augft.augment.apply import augment_batch
    from augft.augment.policy import Policy
    from augft.config import Job, load_job
    from augft.errors import AugftError
    from augft.experiment.compare import compare
    from augft.experiment.tune import tune
    from augft.prediction.predict import predict
    from augft.run import Run, open_run
    from augft.train.launch import train

__version__ = "0.1.0"

__all__ = [
    "AugftError",
    "Job",
    "Policy",
    "Run",
    "augment_batch",
    "compare",
    "load_job",
    "open_run",
    "predict",
    "train",
    "tune",
]

_HOMES = {
    "AugftError": "augft.errors",
    "Job": "augft.config",
    "Policy": "augft.augment.policy",
    "Run": "augft.run",
    "augment_batch": "augft.augment.apply",
    "compare": "augft.experiment.compare",
    "load_job": "augft.config",
    "open_run": "augft.run",
    "predict": "augft.prediction.predict",
    "tune": "augft.experiment.tune",
}


def __getattr__(name: str) -> Any:
    # Loaded when asked for: torch and Ray take seconds, and most uses need neither or one.
    if name == "train":  # the package, which can be called
        return import_module("augft.train")
    if name not in _HOMES:
        raise AttributeError(f"module 'augft' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
