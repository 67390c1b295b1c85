"""The page of an evaluation, and the same as a table for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from markupsafe import Markup
from rich import box
from rich.table import Table

from augft.report import text
from augft.report.confusion import confusion_of
from augft.report.document import document
from augft.report.plots import Series, line_chart
from augft.report.reliability import reliability_plot
from augft.report.svg import Kind
from augft.storage import Storage

ALPHA = 0.05
_PARTS = {
    "trained on": " It was trained on these very pictures: of others it will name fewer.",
    "chose the weights": " Its weights were chosen by these pictures, which flatters them a little.",
}


def write_assessment(found: dict[str, Any], storage: Storage, name: str) -> None:
    """Write the page of an evaluation; `found` is the content of its JSON file.

    Raises:
        StorageError: it cannot be written.
    """
    storage.write(name, render(found).encode())


def render(found: dict[str, Any]) -> str:
    """The page as text."""
    return document(
        "assessment.html.j2",
        name=f"{found['run'].rstrip('/').rsplit('/', 1)[-1]} on {found['data']['source']}, {found['data']['split']}",
        verdict=_verdict(found),
        figures=list(_figures(found)),
        tta=_tta(found["tta"]) if "tta" in found else None,
        against={**found["against"], "words": against_in_words(found["against"])} if "against" in found else None,
        calibration=_calibration(found["calibration"]),
        corruptions=_corruptions(found["corruptions"]) if "corruptions" in found else None,
        sweeps=list(_sweeps(found["sweeps"], found["num_samples"])) if "sweeps" in found else None,
        confusion=confusion_of(found),
    )


def tables(found: dict[str, Any]) -> Iterator[Table | str]:
    """What is printed: tables and lines, for Rich."""
    yield _verdict(found)
    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    table.add_column("")
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("", style="dim")
    for label, figure, remark in _figures(found):
        table.add_row(label, figure, remark)
    yield table
    if "corruptions" in found:
        corrupted = found["corruptions"]
        errors = Table(title="error (%) under corruption", box=box.SIMPLE_HEAD, title_justify="left")
        errors.add_column("severity")
        for severity in corrupted["severities"]:
            errors.add_column(str(severity), justify="right")
        errors.add_column("mean", justify="right")
        for row in _corruptions(corrupted)["rows"]:
            errors.add_row(row["name"], *(f"{100 * error:.1f}" for error in row["errors"]))
        yield errors
    if "tta" in found:
        yield _tta(found["tta"])
    if "against" in found:
        yield against_in_words(found["against"])


def against_in_words(against: dict[str, Any]) -> str:
    """Two models on the same pictures."""
    return (
        f"{against['run']} gets {text.percent(against['top1'])} right; this one {_more(against)}. This one alone is "
        f"right on {against['only_ours']:,} pictures, the other alone on {against['only_theirs']:,}: {_chance(against)}"
    )


def _more(paired: dict[str, Any]) -> str:
    return f"{text.points(paired['difference'])} (95 % interval {text.points_range(paired['interval'])})"


def _chance(paired: dict[str, Any]) -> str:
    if not paired["only_ours"] + paired["only_theirs"]:
        return "both are right on exactly the same ones."
    p_value = paired["p_value"]
    shown = f"p {'< 0.001' if p_value < 0.001 else f'= {p_value:.3f}'}, McNemar's exact test"
    if p_value < ALPHA:
        return f"more uneven than chance in these pictures ({shown}); other seeds may tell otherwise."
    return f"that may well be chance ({shown})."


def _verdict(found: dict[str, Any]) -> str:
    return (
        f"Of {found['num_samples']:,} pictures the model names {found['num_correct']:,} correctly: "
        f"{text.percent(found['top1'])} (95 % interval {text.percent_range(found['top1_interval'])})."
        f"{_PARTS.get(found['data']['part'], '')}"
    )


def _figures(found: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Label, figure, remark."""
    plain, scaled = found["calibration"]["plain"], found["calibration"]["scaled"]
    yield "top1", text.percent(found["top1"]), f"95 % interval {text.percent_range(found['top1_interval'])}"
    if found["top5"] is not None:
        yield "top5", text.percent(found["top5"]), "among the five most likely"
    yield "loss", text.loss(found["loss"]), "cross-entropy, nats"
    yield "calibration error", text.percent(plain["ece"]), f"95 % interval {text.percent_range(plain['ece_interval'])}"
    if scaled is not None:
        remark = (
            f"with temperature {scaled['temperature']:.3f}; 95 % interval {text.percent_range(scaled['ece_interval'])}"
        )
        yield "the same, scaled", text.percent(scaled["ece"]), remark
    if "corruptions" in found:
        remark = "mean error under 15 corruptions at 5 severities"
        yield "corruption error", text.percent(found["corruptions"]["mean_error"]), remark
    if "tta" in found:
        remark = f"{found['tta']['copies']} copies by {found['tta']['policy_name']}"
        yield "top1 with TTA", text.percent(found["tta"]["top1"]), remark


def _tta(tta: dict[str, Any]) -> str:
    paired = tta["against_none"]
    return (
        f"Averaged over {tta['copies']} copies by {tta['policy_name']}, the model names {text.percent(tta['top1'])} "
        f"correctly, {_more(paired)} against none. It is right on {paired['only_ours']:,} pictures "
        f"that it was wrong about, and wrong about {paired['only_theirs']:,} that it was right on: "
        f"{_chance(paired)}"
    )


def _calibration(found: dict[str, Any]) -> dict[str, Any]:
    plain, scaled = found["plain"], found["scaled"]
    mean_gap = sum(each["num"] * (each["confidence"] - each["accuracy"]) for each in plain["bins"])
    mean_gap /= sum(each["num"] for each in plain["bins"])
    if plain["ece"] <= plain["ece_by_chance"]:
        words = "Its probabilities cannot be told from perfect ones on these pictures."
    else:
        way = "too sure" if mean_gap > 0 else "not sure enough"
        words = f"On the mean it is {text.percent(abs(mean_gap))} {way}."
    judged: list[tuple[str, Kind, dict[str, Any]]] = [("as trained", "train", plain)]
    if scaled is not None:
        judged.append((f"temperature {scaled['temperature']:.3f}", "val", scaled))
        if found["fitted_on"] is not None:
            words += f" The temperature is fitted on {found['fitted_on']:,} validation pictures."
        if found["judged_on_the_same"]:
            words += " Here it is judged on the same ones, which flatters it: judge it on a test split."
    forms: dict[str, tuple[str, Callable[[Any], str]]] = {
        "expected calibration error": ("ece", text.percent),
        "95 % interval": ("ece_interval", text.percent_range),
        "by chance": ("ece_by_chance", text.percent),
        "with bins of equal width": ("ece_equal_width", text.percent),
        "loss (nats)": ("loss", text.loss),
    }
    return {
        "words": words,
        "num_bins": len(plain["bins"]),
        "labels": [label for label, _, _ in judged],
        "plot": reliability_plot([(label, kind, one["bins"]) for label, kind, one in judged]),
        "rows": [(name, [form(one[key]) for _, _, one in judged]) for name, (key, form) in forms.items()],
    }


def _corruptions(found: dict[str, Any]) -> dict[str, Any]:
    rows = [
        {"name": name.replace("_", " "), "errors": [*row["error"], row["mean_error"]]}
        for name, row in found["rows"].items()
    ]
    worst = max(found["rows"], key=lambda name: found["rows"][name]["mean_error"])
    return {
        "words": f"Over all of them the model errs on {text.percent(found['mean_error'])}; worst is "
        f"{worst.replace('_', ' ')}, {text.percent(found['rows'][worst]['mean_error'])}.",
        "severities": found["severities"],
        "rows": [*rows, {"name": "mean", "errors": [*found["mean_error_by_severity"], found["mean_error"]]}],
    }


def _sweeps(found: dict[str, Any], num_samples: int) -> Iterator[Markup]:
    def series(key: str, label: str, kind: Kind) -> Series:
        sweep = found[key]
        return Series(
            label,
            kind,
            [(x, 100 * right / num_samples) for x, right in zip(sweep["amounts"], sweep["num_correct"], strict=True)],
        )

    charts = [
        line_chart(
            "Rotation", "top1 (%)", [series("rotation", "rotation", "val")], x_label="degrees, counter-clockwise"
        ),
        line_chart(
            "Shift",
            "top1 (%)",
            [series("shift_x", "to the right", "train"), series("shift_y", "down", "val")],
            x_label="per cent of the side",
        ),
    ]
    yield from (chart for chart in charts if chart is not None)
