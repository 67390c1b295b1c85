"""What a submitted job takes along: the job file, and the policies and weights that it names on this machine.

Policies and weights that are files here are sent. Weights by an absolute path or a URI that is not here are the
cluster's own, as data always is.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from augft.augment.policy import PRESETS, Policy
from augft.config import Job
from augft.errors import ConfigError, WeightsError
from augft.model.files import META_FILE, WEIGHTS_FILE
from augft.model.pretrained import BUNDLED

JOB_FILE, ENTRY_FILE = "job.yaml", "entry.py"

_MAX_BYTES = 95 * 2**20
"""Ray's dashboard takes no request above 100 MiB."""
_OWN_SOURCES = ("digits", "cifar10")


def run_of(job: Job, run_dir: str | None) -> str:
    """Where on the cluster the run will live.

    Raises:
        ConfigError: a relative path, which would be in a folder that Ray removes after the job.
    """
    named, place = ("--run-dir", run_dir) if run_dir else ("run.storage_path", job.run.storage_path)
    if not _is_clusters(place):
        raise ConfigError(
            f"{named} {place}: is relative; give a folder that each node of the cluster sees, or a URI, "
            f"for example --set run.storage_path=/shared/runs"
        )
    return run_dir or f"{job.run.storage_path.rstrip('/')}/{job.name}"


def fill(folder: Path, job: Job) -> None:
    """Lay into an empty folder what a job needs; paths in the job file become those inside it.

    Raises:
        ConfigError: data by a path of this machine, or more than can be sent.
        PolicyError, WeightsError: a file is missing, or is none.
    """
    source = job.data.source
    if source not in _OWN_SOURCES and not _is_clusters(source):
        raise ConfigError(
            f"data.source {source}: is relative, and data is not sent along; give its path or URI on the cluster"
        )
    data = job.to_dict()
    for section, key in (("augment", "policy"), ("run", "baseline")):
        data[section][key] = _policy(data[section][key], folder / key)
    data["model"]["weights"] = _weights(job.model.weights, folder)
    (folder / JOB_FILE).write_text(Job.model_validate(data).to_yaml(), encoding="utf-8")
    shutil.copy(Path(__file__).with_name(ENTRY_FILE), folder)
    _check_size(folder, job)


def _is_clusters(place: str) -> bool:
    """Whether a path or URI means the same wherever it is read."""
    return "://" in place or place.startswith("~") or Path(place).is_absolute()


def _policy(policy: Any, folder: Path) -> Any:
    if policy is None:
        return None
    Policy.from_config(policy)
    if not isinstance(policy, str) or policy in PRESETS or not Path(policy).is_file():
        return policy
    folder.mkdir()
    shutil.copy(policy, folder)
    return f"{folder.name}/{Path(policy).name}"


def _weights(weights: str, folder: Path) -> str:
    if weights in ("none", "imagenet") or weights.startswith(BUNDLED):
        return weights
    path = Path(weights).expanduser()
    if path.is_dir():
        files = [path / WEIGHTS_FILE, path / META_FILE]
    elif path.is_file():
        beside = path.with_suffix(".json")
        files = [path, *([beside] if path.suffix == ".safetensors" and beside.is_file() else [])]
    elif _is_clusters(weights):
        return weights
    else:
        raise WeightsError(
            f"model.weights {weights}: no such file here; give one, or the absolute path or URI of one on the cluster"
        )
    if missing := [file for file in files if not file.is_file()]:
        raise WeightsError(f"{missing[0]}: no such file; give the directory of a finished run, or a weights file")
    target = folder / "weights"
    target.mkdir()
    for file in files:
        shutil.copy(file, target)
    return target.name if path.is_dir() else f"{target.name}/{path.name}"


def _check_size(folder: Path, job: Job) -> None:
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if size > _MAX_BYTES:
        raise ConfigError(
            f"model.weights {job.model.weights}: {size / 2**20:,.0f} MiB are too large to be sent along (at most "
            f"{_MAX_BYTES / 2**20:.0f}); put them where each node sees them, and name them by that path"
        )
