"""search.json → report.html of a search: what was found, whether it beats the baselines, and how it was looked for."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from augft.augment.policy import Policy
from augft.errors import PolicyError
from augft.report import text
from augft.report.comparison import CellView, per_cent, reports_below
from augft.report.contenders import Comparison, Versus, relative_link, without_name
from augft.report.document import document
from augft.report.forest import forest_plot
from augft.report.lenient import items, mapping, mappings, name, number, read_mapping
from augft.report.op_words import fill_in_words, phases_in_words
from augft.report.timeline import Span, spans_of, timeline
from augft.report.trials import Trial, best_chart, history_chart, proxy_chart
from augft.run import REPORT
from augft.storage import Storage

SEARCH = "search.json"

_ALGORITHMS = {
    "asha": "ASHA: trials start one after another, and one that falls behind others of its age is stopped early "
    "(Li et al., 2020)",
    "pbt": "population-based training: trials run side by side, and those at the bottom go on from the weights of "
    "those at the top, with a policy changed a little (Jaderberg et al., 2017; Ho et al., 2019)",
}
_SAMPLERS = {"random": "at random", "optuna": "by Optuna, from how earlier trials went"}


def write_search_report(folder_uri: str) -> str:
    """Write report.html into a search's folder.

    Returns:
        Path or URI of the report.

    Raises:
        RunDirectoryError: there is no search.
        StorageError: the folder cannot be read, or the report not be written.
    """
    storage = Storage(folder_uri)
    search = read_mapping(storage, SEARCH, "give a folder that `augft tune` wrote")
    storage.write(REPORT, search_page(search, reports_below(storage, mapping(search.get("race")))).encode())
    return f"{storage.uri}/{REPORT}"


def search_page(search: dict[str, Any], reports: set[str] | frozenset[str] = frozenset()) -> str:
    """The page as text.

    Args:
        search: the content of search.json; whatever it lacks, the page does without.
        reports: URIs of the race's runs, as search.json has them, that have a report to link to.
    """
    found = Found.read(mapping(search.get("chosen")))
    trials = [Trial.read(one, found.trial) for one in mappings(search.get("trials"))]
    race = Comparison.read(mapping(search.get("race")), reports)
    duels = [Versus.read(one, name(one.get("against"))) for one in mappings(search.get("duels"))]
    num_epochs = number(mapping(search.get("budget")).get("epochs")) or 0.0
    charts = [history_chart(trials), best_chart(trials)]
    return document(
        "search.html.j2",
        name=name(search.get("name"), "search"),
        created=name(search.get("created")),
        text=name(search.get("text")),
        found=found,
        figures=list(_figures(search, found, trials)),
        duels=duels,
        duels_plot=forest_plot(_duels_title(duels, race), duels, "the baseline", of="baseline"),
        race=race,
        race_view=CellView(race.cells[0], race, "race", "reference") if race.cells else None,
        confidence=per_cent(race.confidence),
        trials=trials,
        charts=[chart for chart in charts if chart],
        timeline=_timeline(search, found, num_epochs),
        schedule=[(number(one.get("from_epoch")), name(one.get("words"))) for one in mappings(search.get("schedule"))],
        proxy=mapping(search.get("proxy")),
        proxy_plot=proxy_chart(mapping(search.get("proxy"))),
        correlation=_correlation(mapping(search.get("proxy"))),
        space=[name(line) for line in items(search.get("space"))],
        way=list(_way(search)),
    )


@dataclass(frozen=True)
class Found:
    """What the search chose."""

    trial: str
    name: str
    words: str
    policy: Policy | None
    link: str | None
    file: str
    overrides: list[str]
    val_top1: float | None

    @classmethod
    def read(cls, raw: dict[str, Any]) -> Found:
        file = name(raw.get("policy_file"))
        try:
            policy = Policy.from_config(raw["policy"]) if isinstance(raw.get("policy"), dict) else None
        except PolicyError:
            policy = None  # its words are still there
        return cls(
            trial=name(raw.get("trial")),
            name=name(raw.get("name"), "found"),
            words=without_name(name(raw.get("words")), name(mapping(raw.get("policy")).get("name"))),
            policy=policy,
            link=relative_link(file) if file else None,
            file=file,
            overrides=[name(one) for one in items(raw.get("overrides"))],
            val_top1=number(raw.get("val_top1")),
        )

    @property
    def phases(self) -> list[Any]:
        return list(phases_in_words(self.policy)) if self.policy else []

    @property
    def command(self) -> str:
        """What trains with it."""
        keys = [f"augment.policy={self.file}", *self.overrides]
        return shlex.join(["augft", "train", "job.yaml", *(word for key in keys for word in ("--set", key))])

    @property
    def fill(self) -> str:
        return fill_in_words(self.policy) if self.policy else ""


def _figures(search: dict[str, Any], found: Found, trials: list[Trial]) -> Iterator[tuple[str, str, str]]:
    """Label, figure, remark."""
    budget = mapping(search.get("budget"))
    if found.trial:
        yield "Found in the search", text.percent(found.val_top1), f"val top1 of trial {found.trial}, which chose it"
    baselines = [one for one in trials if one.baseline and one.val_top1 is not None]
    if best := max(baselines, key=lambda one: one.val_top1 or 0.0, default=None):
        yield "Best baseline in it", text.percent(best.val_top1), f"val top1 of {best.baseline}, trained alike"
    yield "Trials", text.count(len(trials)), _fates(trials)
    if (epochs := number(budget.get("epochs"))) is not None:
        labels = number(budget.get("labels_per_class"))
        on = f"on {text.count(labels)} labels a class" if labels else "on all labels"
        yield "Epochs of a trial", text.count(epochs), on
    if (wall_s := number(budget.get("wall_s"))) is not None:
        spent = [one.train_s for one in trials if one.train_s is not None]
        yield "Wall time", text.duration(wall_s), f"{text.duration(sum(spent))} of training in all" if spent else ""


def _fates(trials: list[Trial]) -> str:
    """How the trials ended: "11 finished, 4 stopped early, 1 failed"."""
    return ", ".join(f"{num} {status}" for status, num in Counter(one.status for one in trials).items())


def _duels_title(duels: list[Versus], race: Comparison) -> str:
    intervals = f", with {per_cent(race.confidence)} intervals" if any(duel.interval for duel in duels) else ""
    return f"The found policy’s difference to each baseline{intervals}"


def _way(search: dict[str, Any]) -> Iterator[str]:
    """How it was looked for, in sentences."""
    algorithm, sampler = name(search.get("algorithm")), name(search.get("sampler"))
    if algorithm:
        yield f"By {_ALGORITHMS.get(algorithm, algorithm)}."
    if sampler:
        yield f"Policies are proposed {_SAMPLERS.get(sampler, f'by {sampler}')}."


def _timeline(search: dict[str, Any], found: Found, num_epochs: float) -> Markup | None:
    """Of a schedule; a policy that does not change needs no picture."""
    if not mappings(search.get("schedule")) or found.policy is None or not found.policy.phases:
        return None
    lineage = [
        Span(start, until, "weights of trial", name(one.get("trial")), None, f"trial {name(one.get('trial'))}")
        for one in mappings(search.get("lineage"))
        if (start := number(one.get("from_epoch"))) is not None and (until := number(one.get("to_epoch"))) is not None
    ]
    ends = [span.until for span in lineage]
    spans = spans_of(found.policy, max([num_epochs, found.policy.epochs or 0.0, *ends]))
    return timeline("What was in force when", spans, lineage)


def _correlation(proxy: dict[str, Any]) -> str:
    rho, low, high = (number(proxy.get(key)) for key in ("spearman", "low", "high"))
    if rho is None:
        return ""
    interval = f" (interval {_two(low)} to {_two(high)})" if low is not None and high is not None else ""
    policies = f" over {text.count(num)} policies" if (num := number(proxy.get("num_policies"))) else ""
    early = number(proxy.get("stopped_early"))
    said = f" Trials that were stopped early, {early:.0f} of them, count with what they had reached." if early else ""
    return f"Spearman’s rank correlation{policies}: {_two(rho)}{interval}.{said}"


def _two(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")
