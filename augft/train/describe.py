"""What a run directory says before the first step: what is run, and on what."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import Any

from augft.config import Job
from augft.prepare import Prepared
from augft.report.preview import preview_png
from augft.run import CONFIG, ENVIRONMENT, POLICY, PREVIEW
from augft.storage import Storage


def describe_run(
    storage: Storage,
    job: Job,
    prepared: Prepared,
    *,
    hardware: Mapping[str, Any],
    placement: Mapping[str, Any],
    with_preview: bool = True,
) -> None:
    """Write config, policy, environment and preview.

    Args:
        storage: the run directory.
        job: resolved.
        prepared: its policy, pictures and plan.
        hardware: what there is, as Ray counts it.
        placement: what the run takes of it.
        with_preview: whether the preview is drawn.
    """
    dataset, samples = prepared.dataset, prepared.samples
    manifest = dataset.manifest
    environment = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **versions(),
        "git_revision": _git_revision(),
        "hardware": dict(hardware),
        "placement": dict(placement),
        "data": {
            "path": str(dataset.path),
            "digest": manifest.digest,
            "source": manifest.source,
            "classes": manifest.classes,
            "image_shape": manifest.image_shape,
            "num_train": len(samples.train_ids),
            "num_val": len(samples.val_ids),
            "num_test": dataset.split("test").num_rows if dataset.has("test") else 0,
        },
    }
    storage.write(POLICY, prepared.policy.to_json().encode())
    storage.write(ENVIRONMENT, (json.dumps(environment, indent=2, default=str) + "\n").encode())
    if with_preview:
        storage.write(PREVIEW, preview_png(prepared))
    # Last: its presence makes the folder a run.
    storage.write(CONFIG, job.to_yaml().encode())


@cache
def versions() -> dict[str, str]:
    """Of what decides how a run comes out."""
    names = ("augft", "ray", "torch", "torchvision", "pyarrow", "numpy", "numba")
    found = {name: version(name) for name in names}
    return {**found, "python": platform.python_version(), "platform": platform.platform()}


@cache
def _git_revision() -> str | None:
    """Of the working folder, where it is a repository."""
    try:
        asked = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout.strip()
