"""comparison.json → report.html of a comparison: who is better, how sure that is, and how it was found."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from augft.report import bands, forest, text
from augft.report.bands import Band, band, band_chart
from augft.report.contenders import Cell, Comparison, Contender, Versus
from augft.report.document import document
from augft.report.forest import Spot, against_axis, forest_plot
from augft.report.lenient import mappings, mean, name, number, read_mapping
from augft.report.svg import Kind
from augft.run import REPORT
from augft.storage import Storage

COMPARISON = "comparison.json"

_QUANTITIES = (
    ("val_top1", "Validation top1", "val top1 (%)", 100.0),
    ("train_loss", "Training loss", "train loss", 1.0),
)
_MANY_CLASSES = 25


def write_comparison_report(folder_uri: str) -> str:
    """Write report.html into a comparison's folder.

    Returns:
        Path or URI of the report.

    Raises:
        RunDirectoryError: there is no comparison.
        StorageError: the folder cannot be read, or the report not be written.
    """
    storage = Storage(folder_uri)
    comparison = read_mapping(storage, COMPARISON, "give a folder that `augft compare` wrote")
    storage.write(REPORT, comparison_page(comparison, reports_below(storage, comparison)).encode())
    return f"{storage.uri}/{REPORT}"


def comparison_page(comparison: dict[str, Any], reports: Collection[str] = ()) -> str:
    """The page as text.

    Args:
        comparison: the content of comparison.json; whatever it lacks, the page does without.
        reports: URIs of the runs, as comparison.json has them, that have a report to link to.
    """
    read = Comparison.read(comparison, reports)
    cells = [CellView(cell, read, f"cell-{i}") for i, cell in enumerate(read.cells, 1)]
    return document(
        "comparison.html.j2",
        comparison=read,
        cells=cells,
        axes=list(_axes(read.cells)),
        confidence=per_cent(read.confidence),
    )


def reports_below(storage: Storage, comparison: dict[str, Any]) -> set[str]:
    """Which of a comparison's runs have a report of their own in its folder."""
    policies = [one for cell in mappings(comparison.get("cells")) for one in mappings(cell.get("policies"))]
    uris = {name(run.get("uri")) for one in policies for run in mappings(one.get("runs"))}
    return {uri for uri in uris if _is_below(uri) and storage.exists(f"{uri}/{REPORT}")}


def _is_below(uri: str) -> bool:
    return bool(uri) and "://" not in uri and not uri.startswith("/") and ".." not in uri.split("/")


def per_cent(share: float) -> str:
    """0.95 → 95 %."""
    return f"{100 * share:.4g} %"


@dataclass(frozen=True)
class Speed:
    """How quickly a policy's runs went, means over the seeds."""

    name: str
    images_per_s: float | None
    share: float
    """Of the fastest policy's images a second."""
    stall: float | None
    train_s: float | None
    time_ratio: float | None


class CellView:
    """What a page shows of a cell."""

    def __init__(self, cell: Cell, comparison: Comparison, identity: str, reference: str = "baseline") -> None:
        self.cell, self.id, self.reference = cell, identity, reference
        self.judged_on, self.seeds = comparison.judged_on, comparison.seeds
        self.confidence, self.num_comparisons = per_cent(comparison.confidence), comparison.num_comparisons
        self.speeds = list(_speeds(cell))

    @property
    def figures(self) -> Iterator[tuple[str, str, str]]:
        """Label, figure, remark."""
        chosen, baseline = self.cell.contender(self.cell.chosen), self.cell.contender(self.cell.baseline)
        if chosen:
            by = f"has the highest mean {self.cell.chosen_by} top1" if self.cell.chosen_by else ""
            yield "Chosen", chosen.name, by
            yield f"Its {self.judged_on} top1", text.percent(chosen.top1), self._over_seeds(chosen)
        if baseline and baseline is not chosen:
            label = f"{self.judged_on.capitalize()} top1 of {baseline.name}"
            yield label, text.percent(baseline.top1), self._over_seeds(baseline)
        if chosen and (versus := chosen.versus):
            interval = f"{self.confidence} interval {versus.interval_in_points}" if versus.interval else "no interval"
            yield "Difference", versus.in_points, f"points; {interval}"

    def roles(self, policy: str) -> str:
        """What a policy is in this cell, in a word or two."""
        roles = {self.reference: self.cell.baseline, "chosen": self.cell.chosen}
        return ", ".join(role for role, named in roles.items() if named == policy)

    def _over_seeds(self, one: Contender) -> str:
        num = sum(run.top1 is not None for run in one.runs)
        seeds = "1 seed" if num == 1 else f"mean of {num} seeds"
        pictures = f", {text.count(self.cell.num_pictures)} pictures" if self.cell.num_pictures else ""
        return f"{seeds}{pictures}"

    @property
    def forest(self) -> Markup | None:
        title = f"Difference to {self.cell.baseline}" + (
            f", with {self.confidence} intervals" if any(one.interval for one in self.cell.differences) else ""
        )
        about = _in_cell(title, self.cell)
        return forest_plot(title, self.cell.differences, self.cell.baseline, self.cell.seeds_apart, about=about)

    @property
    def curves(self) -> list[tuple[str, list[Markup]]]:
        """For each quantity a chart of each policy against the baseline, all on one scale."""
        shown = [(label, _panels(self.cell, key, label, unit, scale)) for key, label, unit, scale in _QUANTITIES]
        return [(label, charts) for label, charts in shown if charts]

    @property
    def has_bands(self) -> bool:
        return any(len(one.runs) > 1 for one in self.cell.contenders)

    @property
    def by_class(self) -> ClassChanges | None:
        judged = [one for one in self.cell.contenders if one.per_class]
        return ClassChanges(judged) if judged else None


class ClassChanges:
    """Gains and losses: a row a class, a column a policy."""

    def __init__(self, contenders: Sequence[Contender]) -> None:
        self.policies = [one.name for one in contenders]
        found = {(one.name, change.name): change for one in contenders for change in one.per_class}
        classes = list(dict.fromkeys(change.name for one in contenders for change in one.per_class))
        self.rows = [(name, [found.get((policy, name)) for policy in self.policies]) for name in classes]
        self.largest = max((abs(change.difference or 0.0) for change in found.values()), default=0.0) or 1.0
        self.is_long = len(classes) > _MANY_CLASSES

    def depth(self, change: Versus) -> str:
        """Share of the largest change, from 0 to 1."""
        return f"{abs(change.difference or 0.0) / self.largest:.3f}"


def _panels(cell: Cell, key: str, quantity: str, unit: str, scale: float) -> list[Markup]:
    curves: dict[str, Band] = {}
    for one in cell.contenders:
        kind: Kind = "other" if one.name == cell.baseline else "val"
        curves[one.name] = band(one.name, kind, one.curves.get("epoch"), one.curves.get(key), scale)
    limits = bands.bounds_of(list(curves.values()))
    if limits is None:
        return []
    behind = curves.pop(cell.baseline, None)
    if not curves and behind:
        curves, behind = {cell.baseline: behind}, None
    charts = [
        band_chart(
            one.label, unit, [behind, one] if behind else [one], limits, _in_cell(f"{quantity}, {one.label}", cell)
        )
        for one in curves.values()
    ]
    return [chart for chart in charts if chart]


def _in_cell(what: str, cell: Cell) -> str:
    """Names of charts are told apart by their cells."""
    return f"{what}, {cell.title}" if cell.title else what


def _speeds(cell: Cell) -> Iterator[Speed]:
    rates = {one.name: mean([run.images_per_s for run in one.runs]) for one in cell.contenders}
    fastest = max((rate for rate in rates.values() if rate), default=0.0)
    for one in cell.contenders:
        rate = rates[one.name]
        stall = mean([run.stall for run in one.runs])
        yield Speed(one.name, rate, (rate or 0.0) / fastest if fastest else 0.0, stall, one.train_s, one.time_ratio)


# ---- along the axes ------------------------------------------------------------------------------------


def _axes(cells: Sequence[Cell]) -> Iterator[tuple[str, list[Markup]]]:
    """An axis of several cells, and a chart of the differences along it for each policy and setting of the others."""
    for axis in dict.fromkeys(axis for cell in cells for axis in cell.key):
        values = {str(cell.key.get(axis)) for cell in cells}
        if len(values) > 1:
            yield _worded(axis), _along(axis, [cell for cell in cells if axis in cell.key])


def _along(axis: str, cells: Sequence[Cell]) -> list[Markup]:
    groups: dict[str, list[Spot]] = {}
    for cell in cells:
        others = ", ".join(text.plain(value) for other, value in cell.key.items() if other != axis)
        for versus in cell.differences:
            title = f"{versus.name}, {others}" if others else versus.name
            groups.setdefault(title, []).append(Spot(_place(cell.key[axis]), versus))
    limits = forest.bounds_of([spot.versus for spots in groups.values() for spot in spots])
    return [against_axis(title, _worded(axis), _in_order(spots), limits) for title, spots in groups.items()]


def _place(value: object) -> float | str:
    found = number(value)
    return text.plain(value) if found is None else found


def _in_order(spots: list[Spot]) -> list[Spot]:
    return sorted(spots, key=lambda spot: (isinstance(spot.at, str), spot.at if isinstance(spot.at, float) else 0.0))


def _worded(axis: str) -> str:
    return axis.replace("_", " ")
