"""comparison.json as the pages show it: cells, the policies in each, and each one's difference to the baseline.

All shares and differences are fractions of 1; whatever was not measured is None or an empty list.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from augft.report import text
from augft.report.lenient import items, mapping, mappings, name, number

SIGNS = {"better": "▲", "worse": "▼", "the same": "=", "cannot tell": "?"}
"""What stands before a verdict, so that it is told by more than a colour."""


@dataclass(frozen=True)
class Versus:
    """A difference with its interval: of a policy, or of one of its classes, to the baseline."""

    name: str
    difference: float | None
    interval: tuple[float, float] | None
    """None where one seed, or none, was run."""
    probability_better: float | None = None
    verdict: str = ""
    further_seeds: float | None = None
    text: str = ""

    @classmethod
    def read(cls, raw: dict[str, Any], named: str) -> Versus:
        low, high = number(raw.get("low")), number(raw.get("high"))
        return cls(
            name=named,
            difference=number(raw.get("difference")),
            interval=(low, high) if low is not None and high is not None else None,
            probability_better=number(raw.get("probability_better")),
            verdict=name(raw.get("verdict")),
            further_seeds=number(raw.get("further_seeds")),
            text=name(raw.get("text")),
        )

    @property
    def sign(self) -> str:
        return SIGNS.get(self.verdict, "")

    @property
    def side(self) -> str:
        """`better` or `worse` where the interval excludes zero, else empty."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return ""
        return "better" if self.interval[0] > 0 else "worse"

    @property
    def in_points(self) -> str:
        return text.NOTHING if self.difference is None else text.signed(100 * self.difference)

    @property
    def interval_in_points(self) -> str:
        return text.points_range(self.interval) if self.interval else text.NOTHING

    @property
    def seeds_to_go(self) -> str:
        """How many further seeds would tell."""
        if self.interval is None:
            return text.NOTHING
        if self.further_seeds is None:
            return "no number tells"
        return text.count(self.further_seeds) if self.further_seeds else "none needed"


@dataclass(frozen=True)
class RunRow:
    """A run, for the table of runs."""

    policy: str
    seed: str
    val_top1: float | None
    top1: float | None
    train_s: float | None
    images_per_s: float | None
    stall: float | None
    steps: float | None
    stop_reason: str
    digest: str
    link: str | None
    """To its own report, relative; None where there is none."""


@dataclass(frozen=True)
class Contender:
    """A policy in a cell."""

    name: str
    words: str
    top1: float | None
    spread: float | None
    val_top1: float | None
    train_s: float | None
    time_ratio: float | None
    versus: Versus | None
    per_class: list[Versus]
    runs: list[RunRow]
    curves: dict[str, Any]
    preview: str | None
    """A picture as a data URI."""

    @classmethod
    def read(cls, raw: dict[str, Any], reports: Collection[str]) -> Contender:
        named = name(raw.get("name"), "unnamed")
        versus, preview = raw.get("versus"), raw.get("preview")
        return cls(
            name=named,
            words=without_name(name(raw.get("words")), named),
            top1=number(raw.get("top1")),
            spread=number(raw.get("top1_spread")),
            val_top1=number(raw.get("val_top1")),
            train_s=number(raw.get("train_s")),
            time_ratio=number(raw.get("time_ratio")),
            versus=Versus.read(versus, named) if isinstance(versus, dict) else None,
            per_class=[Versus.read(one, name(one.get("class"))) for one in mappings(raw.get("per_class"))],
            runs=[_run(one, named, reports) for one in mappings(raw.get("runs"))],
            curves=mapping(raw.get("curves")),
            preview=preview if isinstance(preview, str) and preview.startswith("data:image/") else None,
        )


def without_name(words: str, named: str) -> str:
    """A policy in words, without the name before them, which is said anyway."""
    return words.removeprefix(f"{named}:").strip() if words != named else ""


def _run(raw: dict[str, Any], policy: str, reports: Collection[str]) -> RunRow:
    uri = raw.get("uri")
    return RunRow(
        policy=policy,
        seed=name(raw.get("seed"), text.NOTHING),
        val_top1=number(raw.get("val_top1")),
        top1=number(raw.get("top1")),
        train_s=number(raw.get("train_s")),
        images_per_s=number(raw.get("images_per_s")),
        stall=number(raw.get("data_stall_fraction")),
        steps=number(raw.get("steps")),
        stop_reason=name(raw.get("stop_reason"), text.NOTHING),
        digest=name(raw.get("stream_digest"))[:8] or text.NOTHING,
        link=relative_link(f"{uri}/report.html") if uri in reports else None,
    )


def relative_link(target: str) -> str:
    """A link to a file below the page, whatever its name looks like."""
    return f"./{quote(target)}"


@dataclass(frozen=True)
class Cell:
    """The policies on the same data and model."""

    key: dict[str, Any]
    title: str
    text: str
    baseline: str
    num_pictures: float | None
    contenders: list[Contender]
    chosen: str
    chosen_by: str

    @classmethod
    def read(cls, raw: dict[str, Any], baseline: str, reports: Collection[str]) -> Cell:
        key = mapping(raw.get("key"))
        return cls(
            key=key,
            title=name(raw.get("title")) or ", ".join(f"{axis} {text.plain(at)}" for axis, at in key.items()),
            text=name(raw.get("text")),
            baseline=baseline,
            num_pictures=number(raw.get("num_pictures")),
            contenders=[Contender.read(one, reports) for one in mappings(raw.get("policies"))],
            chosen=name(raw.get("chosen")),
            chosen_by=name(raw.get("chosen_by")),
        )

    def contender(self, named: str) -> Contender | None:
        return next((one for one in self.contenders if one.name == named), None)

    @property
    def differences(self) -> list[Versus]:
        """Of the policies to the baseline, best first."""
        found = [one.versus for one in self.contenders if one.versus and one.versus.difference is not None]
        return sorted(found, key=lambda versus: -(versus.difference or 0.0))

    @property
    def runs(self) -> list[RunRow]:
        return [run for one in self.contenders for run in one.runs]

    def seeds_apart(self, named: str) -> list[float]:
        """What a policy's runs score above the baseline's runs of the same seeds; of one seed that is no spread."""
        policy, baseline = self.contender(named), self.contender(self.baseline)
        if policy is None or baseline is None:
            return []
        theirs = {run.seed: run.top1 for run in baseline.runs}
        pairs = [(run.top1, theirs.get(run.seed)) for run in policy.runs]
        apart = [ours - other for ours, other in pairs if ours is not None and other is not None]
        return apart if len(apart) > 1 else []


@dataclass(frozen=True)
class Comparison:
    """The whole of comparison.json."""

    name: str
    created: str
    baseline: str
    seeds: list[str]
    confidence: float
    judged_on: str
    num_comparisons: float | None
    cells: list[Cell]

    @classmethod
    def read(cls, raw: dict[str, Any], reports: Collection[str] = ()) -> Comparison:
        baseline = name(raw.get("baseline"))
        return cls(
            name=name(raw.get("name"), "compare"),
            created=name(raw.get("created")),
            baseline=baseline or "the baseline",
            seeds=[name(seed) for seed in items(raw.get("seeds"))],
            confidence=number(raw.get("confidence")) or 0.95,
            judged_on="val" if raw.get("judged_on") == "val" else "test",
            num_comparisons=number(raw.get("num_comparisons")),
            cells=[Cell.read(one, baseline, reports) for one in mappings(raw.get("cells"))],
        )
