"""What trackers are sent: the job as parameters, lines and summary as figures, the confusion matrix as a picture."""

from __future__ import annotations

import io
import json
import re
from typing import Any

from augft.report.confusion import Confusion, confusion_of
from augft.run import EVALUATION, Run
from augft.storage import Storage
from augft.train.trackers.ledger import Line

_NOT_METRICS = ("kind", "step", "epoch", "split")
_SYSTEM = re.compile(r"""\[Errno -?\d+\] ([^'"()]+)|(?<!\w)(\w[\w ]* timed out)""")
_LONGEST_REASON = 200


def run_name(run: Run) -> str:
    """The last part of the run directory's name: unlike the job's name it tells runs of one job apart."""
    return run.uri.partition("?")[0].rstrip("/").rpartition("/")[2] or run.job.name


def metrics(line: Line) -> dict[str, float]:
    """A line of metrics.jsonl: `{"val/top1": 0.9, …}`."""
    return {f"{line['split']}/{key}": value for key, value in _numbers(line).items() if key not in _NOT_METRICS}


def summary_metrics(summary: dict[str, Any]) -> dict[str, float]:
    """The numbers of summary.json: `{"summary/val_top1": 0.9, …}`."""
    return {f"summary/{key}": value for key, value in _numbers(summary).items()}


def parameters(job: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """A job with dotted keys, as `--set` takes them; what is no text is JSON."""
    flat: dict[str, str] = {}
    for key, value in job.items():
        if isinstance(value, dict) and value:
            flat |= parameters(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return flat


def read_confusion(storage: Storage) -> Confusion | None:
    """Of the test split; None where it was not tested."""
    return confusion_of(json.loads(storage.read(EVALUATION))) if storage.exists(EVALUATION) else None


def confusion_png(confusion: Confusion) -> bytes:
    """Shares of each class that are given each name: the content of a PNG file; with few classes also the counts."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # not at the top: it takes half a second
    from matplotlib.figure import Figure

    num, named = len(confusion.classes), confusion.fits_heat_map
    figure = Figure(figsize=(side := 3.5 + 0.5 * num if named else 9.0, side), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(confusion.shares(), cmap="Blues", vmin=0, vmax=1)
    axes.set_xlabel("named")
    axes.set_ylabel("is")
    if named:
        axes.set_xticks(range(num), confusion.classes, rotation=90)
        axes.set_yticks(range(num), confusion.classes)
        for i, j in zip(*confusion.counts.nonzero(), strict=True):
            ink = "white" if confusion.shares()[i, j] > 0.5 else "black"
            axes.text(j, i, str(confusion.counts[i, j]), ha="center", va="center", color=ink, fontsize=8)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def reason(error: BaseException) -> str:
    """Why another program failed, in a line: of a connection only what the system says."""
    text = " ".join(str(error).split())
    if said := _SYSTEM.search(text):
        return (said[1] or said[2]).strip()
    return f"{type(error).__name__}: {text[:_LONGEST_REASON]}" if text else type(error).__name__


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    return {
        key: value for key, value in values.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
