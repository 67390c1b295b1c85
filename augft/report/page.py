"""A run directory → report.html: one file, nothing loaded from elsewhere, also for a run that broke off."""

from __future__ import annotations

import html
import math
import re
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

from augft.errors import AugftError
from augft.report import text
from augft.report.confusion import Confusion, confusion_of
from augft.report.document import document
from augft.report.interval import Score
from augft.report.interval import wilson as wilson
from augft.report.lenient import mapping, number
from augft.report.mistakes import encode, gallery
from augft.report.op_words import fill_in_words, phases_in_words
from augft.report.plots import Series, finite, line_chart
from augft.report.record import Record, read_record
from augft.report.versus import Versus
from augft.run import EVALUATIONS, PREVIEW, REPORT
from augft.storage import Storage

FEW_SAMPLES = 100
"""A validation split below this is called small."""
MUCH_STALL = 0.1


def write_report(run_uri: str, baseline_uri: str | None = None) -> str:
    """Write report.html into a run directory.

    Args:
        run_uri: a run directory; what it lacks, the report says in a line.
        baseline_uri: another run to hold this one against, tested on the same samples.

    Returns:
        Path or URI of the report.

    Raises:
        RunDirectoryError: there is no run.
        StorageError: the report cannot be written.
    """
    record = read_record(run_uri)
    baseline = read_record(baseline_uri) if baseline_uri is not None else None
    storage = Storage(run_uri)
    storage.write(REPORT, render(record, baseline).encode())
    return f"{storage.uri}/{REPORT}"


def refresh_report(run_uri: str) -> None:
    """Write a run's report again, held against the same baseline, if it has one.

    Raises:
        RunDirectoryError: there is no run.
        StorageError: the report cannot be read or written.
    """
    storage = Storage(run_uri)
    if not storage.exists(REPORT):
        return
    before = storage.read(REPORT).decode(errors="replace")
    held = re.search(r'<main [^>]*data-baseline="([^"]*)"', before)
    try:
        write_report(run_uri, html.unescape(held[1]) if held else None)
    except AugftError:
        if held is None:
            raise
        write_report(run_uri)  # the baseline is gone


def render(record: Record, baseline: Record | None = None) -> str:
    """The page as text."""
    confusion = confusion_of(record.evaluation)
    return document(
        "report.html.j2",
        record=record,
        verdict=_verdict(record),
        versus=Versus(record, baseline) if baseline else None,
        baseline_uri=baseline.uri if baseline else None,
        examined=list(_examined(record)),
        figures=list(_key_figures(record)),
        notes=list(_notes(record, confusion)),
        confusion=confusion,
        gallery=gallery(record),
        preview=encode(record.preview, "image/png") if record.preview else None,
        preview_name=PREVIEW,
        curves=_curves(record, baseline),
        speed=_speed(record),
        epochs=list(_epochs(record)),
        incidents=list(_incidents(record)),
        regime=_regime(record),
        phases=phases_in_words(record.policy) if record.policy else [],
        fill=fill_in_words(record.policy) if record.policy else "",
        facts=list(_facts(record.environment)),
        command=_command(record),
    )


# ---- the result in words -------------------------------------------------------------------------------


def _verdict(record: Record) -> str:
    if record.test:
        test = record.test
        return (
            f"Shown {test.num_samples:,} test pictures that it had never seen, "
            f"the model names {test.num_correct:,} correctly: {text.percent(test.top1)}."
        )
    unfinished = "" if record.summary else "This run has not finished; here is what it had recorded. "
    if record.val:
        return (
            f"{unfinished}There is no test result. "
            f"Of {record.val.num_samples:,} validation pictures the model names "
            f"{record.val.num_correct:,} correctly, {text.percent(record.val.top1)}; its weights were chosen "
            "by these, so on new pictures expect less."
        )
    return f"{unfinished}The model was measured on no pictures but those it learned from."


def _key_figures(record: Record) -> Iterator[tuple[str, str, str]]:
    """Label, figure, remark."""
    summary, test, val = record.summary, record.test, record.val
    stop = record.section("train", "stop")
    missing = "not measured" if summary else "not finished"
    if test:
        remark = f"95 % interval {text.percent_range(test.interval)}, n = {test.num_samples:,}"
    yield "Test top1", text.percent(test and test.top1), remark if test else missing
    remark = f"n = {val.num_samples:,}; chose the weights" if val else missing
    yield "Validation top1", text.percent(val and val.top1), remark
    if not summary:
        return
    chosen = "best in validation" if val else "the last, without validation"
    yield "Weights kept", f"step {text.count(summary.get('best_step'))}", chosen
    reason = text.stop_reason(summary.get("stop_reason"), stop)
    yield "Wall time", text.duration(summary.get("wall_s")), f"ended because {reason}"
    spent = f"{text.count(summary.get('steps'))} steps in {text.duration(summary.get('train_s'))}"
    yield "Images a second", text.rate(summary.get("images_per_s")), spent
    yield "Data stall", text.percent(summary.get("data_stall_fraction")), "of that time waiting for pictures"
    if needed := summary.get("actors_needed"):
        yield "Actors needed", text.count(needed), "augmentation actors that keep up with training"


def _notes(record: Record, confusion: Confusion | None) -> Iterator[str]:
    """What a reader of the figures ought to know."""
    yield from record.problems
    if record.test and confusion:
        least = text.percent(confusion.majority)
        yield f"Always naming the most frequent class would get {least} of the test pictures right."
    if record.val and record.val.num_samples < FEW_SAMPLES:
        num = record.val.num_samples
        yield f"Validation has {num} pictures only: which weights are best by it is partly chance."
    if (num_restarts := record.summary.get("num_restarts")) and isinstance(num_restarts, int):
        again = "once" if num_restarts == 1 else f"{num_restarts} times"
        yield f"The run went on from a checkpoint {again}; no sample was lost or seen twice."
    stall = record.summary.get("data_stall_fraction")
    if isinstance(stall, float) and stall > MUCH_STALL:
        needed = record.summary.get("actors_needed")
        enough = f"{text.count(needed)} augmentation actors (scale.augment_actors)" if needed else "more actors"
        yield f"Training often waited for pictures: {enough}, each with a CPU of its own, would remove that."
    numbers = [value for line in record.metrics for value in line.values() if isinstance(value, float)]
    if num := sum(not math.isfinite(number) for number in numbers):
        yield f"Not finite, and left out of the charts: {num} of the recorded numbers."


def _examined(record: Record) -> Iterator[tuple[str, list[str]]]:
    """Of each evaluation since: where its page is, and a row of the table."""
    for name, found in record.evaluations.items():
        data, plain = mapping(found.get("data")), mapping(mapping(found.get("calibration")).get("plain"))
        score = Score.of(found.get("top1"), found.get("num_samples"))
        corrupted = number(mapping(found.get("corruptions")).get("mean_error"))
        yield (
            f"{EVALUATIONS}/{name}.html",
            [
                f"{text.plain(data.get('source'))}, {text.plain(data.get('split'))}",
                text.count(found.get("num_samples")),
                text.percent(score and score.top1),
                text.percent_range(score.interval) if score else text.NOTHING,
                text.percent(number(plain.get("ece"))),
                text.percent(corrupted),
            ],
        )


# ---- curves --------------------------------------------------------------------------------------------


def _points(lines: list[dict[str, Any]], key: str, scale: float = 1.0) -> list[tuple[float, float]]:
    """A quantity over epochs; the first epoch is 1."""
    return finite(((line.get("epoch", 0) + 1, line.get(key)) for line in lines), scale)


def _curves(record: Record, baseline: Record | None) -> list[Markup]:
    """Loss, top1, learning rate; of a baseline the validation curve."""
    train, val = record.lines("train"), record.lines("val")
    best_step = record.summary.get("best_step")
    kept_at = next((line.get("epoch", 0) + 1 for line in val if line.get("step") == best_step), None)

    def lines(key: str, scale: float = 1.0) -> list[Series]:
        both = [
            Series("train", "train", _points(train, key, scale)),
            Series("val", "val", _points(val, key, scale)),
        ]
        if baseline:
            both.append(Series("val, baseline", "other", _points(baseline.lines("val"), key, scale)))
        return both

    rate = Series("learning rate", "train", _points(train, "lr"))
    charts = [
        line_chart("Loss", "loss (nats)" if _is_entropy(record) else "loss", lines("loss"), kept_at=kept_at),
        line_chart("Accuracy", "top1 (%)", lines("top1", 100), kept_at=kept_at),
        line_chart("Learning rate", "learning rate", [rate], from_zero=True),
    ]
    return [chart for chart in charts if chart]


def _is_entropy(record: Record) -> bool:
    return record.section("train").get("loss") == "cross_entropy"


def _speed(record: Record) -> list[Markup]:
    train = record.lines("train")
    rate = Series("train", "train", _points(train, "images_per_s"))
    wait = Series("train", "train", _points(train, "data_wait_s"))
    charts = [
        line_chart("Throughput of training", "images/s", [rate], from_zero=True),
        line_chart("Waiting for pictures", "seconds in the epoch", [wait], bars=True),
    ]
    return [chart for chart in charts if chart]


def _epochs(record: Record) -> Iterator[list[str]]:
    """The charts as a table: what a screen reader, or a sceptic, reads."""
    val = {line.get("epoch", 0): line for line in record.lines("val")}
    for line in record.lines("train"):
        judged = val.get(line.get("epoch", 0), {})
        rates = [f"{lr:.3g}" if isinstance(lr := line.get("lr"), float) else text.NOTHING]
        yield [
            str(line.get("epoch", 0) + 1),
            text.count(line.get("step")),
            *(text.loss(part.get("loss")) for part in (line, judged)),
            *(text.percent(part.get("top1")) for part in (line, judged)),
            *rates,
            text.rate(line.get("images_per_s")),
            text.duration(line.get("data_wait_s")),
        ]


def _incidents(record: Record) -> Iterator[tuple[str, str, str]]:
    """When, after which step, and what befell the run."""
    for line in record.incidents:
        at = line.get("time")
        when = datetime.fromtimestamp(at, UTC).isoformat(" ", "seconds")[:19] if isinstance(at, float) else text.NOTHING
        yield when, text.count(line.get("step")), text.plain(line.get("text"))


# ---- what ran ------------------------------------------------------------------------------------------


def _regime(record: Record) -> str:
    """What an epoch holds, in words."""
    augment = record.section("augment")
    copies, select = augment.get("copies", 1), augment.get("select", 1.0)
    of = "each training picture" if select == 1 else f"each of {text.percent(select)} of them, drawn anew each epoch"
    made = f"{copies} augmented {'copy' if copies == 1 else 'copies'} of {of}"
    if copies == 0 or select == 0:
        words = "An epoch holds each training picture once, as it is."
    elif augment.get("keep_original"):
        words = f"An epoch holds each training picture once, as it is, and {made}."
    else:
        words = f"An epoch holds {made.replace('of them', 'of the training pictures')}, and no original."
    mixing = {"MixUp": augment.get("mixup_alpha"), "CutMix": augment.get("cutmix_alpha")}
    mixed = [f"{name} (alpha {alpha:g})" for name, alpha in mixing.items() if alpha]
    return f"{words} Pictures are mixed by {' and '.join(mixed)}." if mixed else words


def _facts(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """environment.json as rows; the names of classes are counted, not listed."""
    for key, value in tree.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, dict):
            yield from _facts(value, f"{name}, ")
        elif key == "classes" and isinstance(value, list):
            yield name, text.count(len(value))
        else:
            yield name, text.plain(value)


def _command(record: Record) -> str:
    """What repeats the run, typed in its directory."""
    policy = record.section("augment").get("policy")
    words = ["augft", "train", "config.yaml", "--set", f"name={record.name}-again"]
    if isinstance(policy, str) and policy.endswith((".json", ".yaml", ".yml")):
        words += ["--set", "augment.policy=policy.json"]
    return shlex.join(words)
