"""The processes below a driver's own, which Ray titles by what they run, as `ray::RayTrainWorker`."""

from __future__ import annotations

from contextlib import suppress

import psutil


def titles(pid: int | None = None) -> dict[psutil.Process, str]:
    """The processes below one, by default this, with their titles."""
    found = {}
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.Error):
            found[process] = "".join(process.cmdline()[:1])
    return found
