"""The reports of a comparison and of a search: their numbers, hostile names, and what is missing."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from augft.augment.policy import Policy
from augft.errors import RunDirectoryError
from augft.report import text
from augft.report.bands import band
from augft.report.comparison import comparison_page, write_comparison_report
from augft.report.contenders import Comparison, Versus
from augft.report.forest import forest_plot
from augft.report.search import search_page, write_search_report
from augft.report.svg import WIDTH
from augft.report.timeline import spans_of
from tests.report_data import CLASSES, NUM_EPOCHS, SKILLS, make_comparison, make_search

HOSTILE = "</title></script><script>alert('7')</script><img src=x onerror=alert(8)>"


class Page(HTMLParser):
    """Tags with their attributes, headings, tables by their region's name, and the text a reader sees."""

    VOID = ("meta", "link", "img", "br", "input")

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.levels: list[int] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._rows: list[list[str]] | None = None
        self.feed(source)
        assert not self.open
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag not in self.VOID:
            self.open.append(tag)
        if re.fullmatch(r"h\d", tag):
            self.levels.append(int(tag[1]))
        if found.get("role") == "region":
            self._rows = self.tables.setdefault(str(found["aria-label"]), [])
        if self._rows is not None and tag == "tr":
            self._rows.append([])
        if self._rows is not None and tag in ("th", "td"):
            self._rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += data
        if self._rows and self._rows[-1] and {"th", "td"} & set(self.open):
            self._rows[-1][-1] = " ".join(f"{self._rows[-1][-1]}{data}".split(" "))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    def row(self, table: str, start: str) -> list[str]:
        [row] = [row for row in self.tables[table] if row and row[0].split()[:1] == [start]]
        return [" ".join(cell.split()) for cell in row]


def single() -> dict[str, Any]:
    return make_comparison(labels=(40,))


PAGES: list[Callable[[], str]] = [
    lambda: comparison_page(make_comparison()),
    lambda: comparison_page(single()),
    lambda: comparison_page(make_comparison(labels=(40,), seeds=(0,))),
    lambda: search_page(make_search("pbt")),
    lambda: search_page(make_search("asha")),
    lambda: comparison_page({}),
    lambda: search_page({}),
]


# ---- what holds for every page -------------------------------------------------------------------------


@pytest.mark.parametrize("make", PAGES)
def test_a_page_is_sound(make: Callable[[], str]) -> None:
    page = Page(make())
    assert page.levels[0] == 1
    assert page.levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(page.levels, page.levels[1:], strict=False)), page.levels
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    labels = {attrs["aria-labelledby"] for _, attrs in page.tags if "aria-labelledby" in attrs}
    links = {(a["href"] or "")[1:] for a in page.all("a") if (a["href"] or "").startswith("#")}
    assert labels | links <= set(ids)
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))
    assert len(page.all("desc")) == len(page.all("svg"))
    assert page.all("html")[0]["lang"] == "en"
    named = [svg["aria-label"] for svg in page.all("svg")]
    assert len(named) == len(set(named)), "charts are told apart by their names"


@pytest.mark.parametrize("make", PAGES)
def test_a_page_loads_nothing(make: Callable[[], str]) -> None:
    page = Page(make())
    sources = [attrs.get("src") or "" for _, attrs in page.tags if "src" in attrs]
    assert all(source.startswith("data:image/") for source in sources)
    assert "@import" not in page.source
    assert "url(" not in page.source
    assert len(page.all("script")) == 1


@pytest.mark.parametrize("make", PAGES)
def test_no_python_shows(make: Callable[[], str]) -> None:
    shown = Page(make()).text
    assert not re.search(r"\b(None|nan|inf|True|False)\b|\[\]|\{\}|Undefined|object at", shown)


def test_marks_stay_in_their_frame() -> None:
    for make in PAGES:
        for chart in re.findall(r"<svg.*?</svg>", make(), re.DOTALL):
            height = float(re.search(r'viewBox="0 0 \d+ (\d+)"', chart).group(1))  # type: ignore[union-attr]
            xs = [float(x) for x in re.findall(r'\bc?x="(-?[\d.]+)"', chart)]
            ys = [float(y) for y in re.findall(r'\bc?y="(-?[\d.]+)"', chart)]
            assert min(xs + ys) >= 0
            assert max(xs) <= WIDTH
            assert max(ys) <= height


# ---- a comparison --------------------------------------------------------------------------------------


def test_the_numbers_are_those_of_the_file() -> None:
    comparison = single()
    page = Page(comparison_page(comparison))
    [cell] = comparison["cells"]
    assert cell["text"] in page.text
    assert page.text.index(cell["text"]) < page.text.index("Gains and losses by class")
    for policy in cell["policies"]:
        name, *row = page.row("Policies against the baseline", policy["name"])
        versus = policy["versus"]
        assert row[0] == f"{100 * policy['top1']:.1f} %"
        assert row[1] == f"{100 * policy['top1_spread']:.1f} %"
        assert row[-1] == f"× {policy['time_ratio']:.2f}"
        assert ("baseline" in name) == (policy["name"] == "none")
        assert ("chosen" in name) == (policy["name"] == cell["chosen"])
        if versus is None:
            assert row[2:-1] == ["–"] * 5
            continue
        ends = [f"{100 * versus[end]:+.1f}".replace("-", "−") for end in ("low", "high")]
        assert row[2] == f"{100 * versus['difference']:+.1f}".replace("-", "−")
        assert row[3] == " to ".join(ends)
        assert versus["verdict"] in row[5]
        assert row[6] == ("none needed" if versus["further_seeds"] == 0 else str(versus["further_seeds"]))
        forest = page.row("Difference to none, with 95 % intervals, as a table", policy["name"])
        assert forest[1:4] == [row[2], *ends]
        assert len(forest[4].split(", ")) == 5


def test_each_run_has_a_row_and_a_link_where_it_has_a_report() -> None:
    comparison = single()
    page = Page(comparison_page(comparison, {"runs/cutout-3"}))
    rows = page.tables["All runs"][1:]
    runs = [(policy["name"], run) for policy in comparison["cells"][0]["policies"] for run in policy["runs"]]
    assert len(rows) == len(runs) == 25
    for row, (name, run) in zip(rows, runs, strict=True):
        top1s = [f"{100 * run[key]:.1f} %" for key in ("val_top1", "top1")]
        assert [cell.strip() for cell in row[:4]] == [name, str(run["seed"]), *top1s]
    assert [a["href"] for a in page.all("a") if "runs/" in (a["href"] or "")] == ["./runs/cutout-3/report.html"]


def test_classes_are_marked_where_the_interval_excludes_zero() -> None:
    comparison = single()
    page = Page(comparison_page(comparison))
    for i, name in enumerate(CLASSES):
        row = page.row("Gains and losses by class", name)
        changes = [policy["per_class"][i] for policy in comparison["cells"][0]["policies"] if policy["per_class"]]
        assert [cell.endswith("*") for cell in row[1:]] == [one["low"] > 0 or one["high"] < 0 for one in changes]
        assert [cell.rstrip("*") for cell in row[1:]] == [text.signed(100 * one["difference"]) for one in changes]


def test_cells_come_with_a_chart_along_their_axis() -> None:
    page = Page(comparison_page(make_comparison(labels=(4, 40, 400))))
    assert set(re.findall(r"\d+ labels a class", page.text)) == {f"{num} labels a class" for num in (4, 40, 400)}
    table = page.tables["Difference of randaugment against labels per class, as a table"]
    assert [row[0] for row in table] == ["labels per class", "4", "40", "400"]
    assert "labels per class (log scale)" in page.text


def test_axes_of_names_are_not_on_a_scale() -> None:
    comparison = make_comparison()
    for cell, model in zip(comparison["cells"], ("resnet18", "vit_b_16"), strict=True):
        cell |= {"key": {"model": model}, "title": ""}
    page = Page(comparison_page(comparison))
    assert "log scale" not in page.text
    table = page.tables["Difference of cutout against model, as a table"]
    assert [row[0] for row in table] == ["model", "resnet18", "vit_b_16"]
    assert "model vit_b_16" in page.text


def test_judged_on_validation_is_said() -> None:
    page = Page(comparison_page(single() | {"judged_on": "val"}))
    assert "There was no test split" in page.text
    assert "test top1" not in page.text
    assert "each seed has validation pictures of its own" in page.text


def test_one_comparison_needs_no_widening() -> None:
    page = Page(comparison_page(single() | {"num_comparisons": 1}))
    assert "One comparison is made, so its 95 % interval needs no widening." in page.text
    assert "comparisons together" not in page.text
    assert "hold for all 4 comparisons together" in Page(comparison_page(single())).text


def test_one_seed_has_no_interval() -> None:
    comparison = make_comparison(labels=(40,), seeds=(0,))
    page = Page(comparison_page(comparison))
    row = page.row("Policies against the baseline", "cutout")
    assert row[2] == "–"
    assert row[4] == "–"
    assert "cannot tell" in row[6]
    assert row[7] == "–"
    assert "bands go" not in page.text
    assert 'class="line open"' not in page.source


def small(comparison: dict[str, Any]) -> dict[str, Any]:
    """Two policies, three classes and four epochs: pages of it are made many times."""
    [cell] = comparison["cells"]
    cell["policies"] = [cell["policies"][0], cell["policies"][2]]
    for policy in cell["policies"]:
        policy["per_class"] = policy["per_class"][:3]
        policy["curves"] = {
            "epoch": policy["curves"]["epoch"][:4],
            **{key: [seed[:4] for seed in policy["curves"][key]] for key in ("val_top1", "train_loss")},
        }
    return comparison


def each_damaged(tree: Any, paths: Iterable[tuple[Any, ...]], by: object) -> Iterator[Any]:
    for path in paths:
        damaged = json.loads(json.dumps(tree))
        inner = damaged
        for key in path[:-1]:
            inner = inner[key]
        assert path[-1] in inner if isinstance(inner, dict) else path[-1] < len(inner)
        inner[path[-1]] = by
        yield damaged


@pytest.mark.parametrize("broken", [None, "x", [3]])
def test_a_comparison_is_shown_whatever_is_missing(broken: object) -> None:
    comparison = small(make_comparison((40,), (0, 1)))
    cell, policy = ("cells", 0), ("cells", 0, "policies", 1)
    paths = [
        *((key,) for key in comparison),
        *((*cell, key) for key in comparison["cells"][0]),
        *((*policy, key) for key in comparison["cells"][0]["policies"][1]),
        *((*policy, "versus", key) for key in ("difference", "low", "high", "verdict", "further_seeds")),
        *((*policy, "curves", key) for key in ("epoch", "val_top1", "train_loss")),
        (*policy, "curves", "val_top1", 1),
        (*policy, "per_class", 1),
        (*policy, "runs", 0),
        (*policy, "runs", 0, "top1"),
    ]
    for damaged in each_damaged(comparison, paths, broken):
        assert "How this was computed" in comparison_page(damaged)


@pytest.mark.parametrize("broken", [None, "x", [3]])
def test_a_search_is_shown_whatever_is_missing(broken: object) -> None:
    search = make_search() | {"race": None}
    paths = [
        *((key,) for key in search),
        *(("budget", key) for key in search["budget"]),
        *(("chosen", key) for key in search["chosen"]),
        *(("trials", 4, key) for key in search["trials"][4]),
        *(("proxy", key) for key in search["proxy"]),
        ("trials", 4, "history", 2),
        ("schedule", 1),
        ("lineage", 1),
        ("duels", 0),
    ]
    for damaged in each_damaged(search, paths, broken):
        assert "How this was computed" in search_page(damaged)


def test_hostile_names_are_only_text() -> None:
    hostile = HOSTILE.replace("'", "\\'")
    for source, page_of in ((make_comparison(), comparison_page), (make_search(), search_page)):
        renamed = json.dumps(source)
        for name in ("randaugment", "standard", "cat", "test data, nothing trained", "augment.copies=2", "policy.json"):
            renamed = renamed.replace(f'"{name}"', json.dumps(HOSTILE))
        raw = json.loads(renamed)
        page = Page(page_of(raw))
        assert HOSTILE in page.text
        assert len(page.all("script")) == 1
        assert not [attrs for _, attrs in page.tags if any(key.startswith("on") for key in attrs)]
        assert hostile not in page.source


def test_hostile_uris_and_pictures_are_not_followed() -> None:
    comparison = single()
    policy = comparison["cells"][0]["policies"][0]
    policy["preview"] = "https://example.org/track.png"
    for run, uri in zip(
        policy["runs"], ("javascript:alert(1)//", "//example.org", "/etc", "s3://a", "a b"), strict=True
    ):
        run["uri"] = uri
    reports = {run["uri"] for run in policy["runs"]}
    page = Page(comparison_page(comparison, reports))
    targets = [a["href"] for a in page.all("a") if not (a["href"] or "").startswith("#")]
    assert len(targets) == 5
    assert all((target or "").startswith("./") and ":" not in (target or "") for target in targets)
    assert "example.org/track" not in page.source


def test_reports_of_runs_are_found_below_the_folder_only(tmp_path: Path) -> None:
    comparison = single()
    runs = comparison["cells"][0]["policies"][0]["runs"]
    for uri in ("runs/none-0", "runs/none-1", "../outside"):
        folder = tmp_path / "compared" / uri
        folder.mkdir(parents=True)
        (folder / "report.html").write_text("")
    runs[2]["uri"] = "../outside"
    folder = tmp_path / "compared"
    (folder / "comparison.json").write_text(json.dumps(comparison))
    path = write_comparison_report(str(folder))
    assert path == str(folder / "report.html")
    page = Page(Path(path).read_text())
    linked = [a["href"] for a in page.all("a") if not (a["href"] or "").startswith("#")]
    assert linked == ["./runs/none-0/report.html", "./runs/none-1/report.html"]


@pytest.mark.parametrize(
    ("write", "file"), [(write_comparison_report, "comparison.json"), (write_search_report, "search.json")]
)
@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no {file} there"), ("{", "{file}: cannot be read"), ("[1]", "{file}: holds no mapping")],
)
def test_no_page_without_its_file(
    tmp_path: Path, write: Callable[[str], str], file: str, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / file).write_text(content)
    with pytest.raises(RunDirectoryError, match=re.escape(message.format(file=file))):
        write(str(tmp_path))
    assert not (tmp_path / "report.html").exists()


# ---- a search ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["pbt", "asha"])
def test_a_search_shows_its_trials_and_what_it_found(tmp_path: Path, algorithm: str) -> None:
    search = make_search(algorithm)
    (tmp_path / "search.json").write_text(json.dumps(search))
    page = Page(Path(write_search_report(str(tmp_path))).read_text())
    assert search["text"] in page.text
    assert search["chosen"]["words"] in page.text
    assert "augft train job.yaml --set augment.policy=policy.json --set augment.copies=2" in page.text
    assert "./policy.json" in [a["href"] for a in page.all("a")]
    for trial in search["trials"]:
        row = page.row("All trials", trial["id"])
        assert row[1] == text.percent(trial["val_top1"])
        assert row[2] == " ".join(filter(None, (trial["status"], trial["error"])))
        assert row[3] == str(len(trial["history"]))
    for duel in search["duels"]:
        row = page.row("The found policy against each baseline", duel["against"])
        assert row[1] == text.signed(100 * duel["difference"])
    best = page.tables["The best so far, as a table"][-1]
    assert best[3] == f"{max(100 * (trial['val_top1'] or 0) for trial in search['trials']):.1f}"
    assert "Spearman’s rank correlation over 6 policies: 0.77 (interval −0.10 to 0.97). " in page.text
    assert "Trials that were stopped early, 2 of them, count with what they had reached." in page.text
    assert ("What was in force when" in page.text) == (algorithm == "pbt")


def test_a_search_without_a_race_promises_nothing() -> None:
    page = Page(search_page(make_search() | {"race": None, "duels": [], "proxy": None}))
    assert "whether it is better is not known" in page.text
    assert "The race" not in page.text
    assert "rank correlation" not in page.text


def test_a_policy_that_cannot_be_read_still_has_words() -> None:
    search = make_search()
    search["chosen"]["policy"] = {"ops": ["of another version"]}
    page = Page(search_page(search))
    assert search["chosen"]["words"] in page.text
    assert search["schedule"][1]["words"] in page.text


# ---- parts ---------------------------------------------------------------------------------------------


def test_spans_cover_each_phase_once() -> None:
    policy = Policy.from_config(
        {
            "epochs": NUM_EPOCHS,
            "ops": [{"rotate": {"degrees": 5, "p": 0.3}}, {"rotate": {"degrees": 9}}],
            "phases": [{"from_epoch": 4, "ops": []}, {"from_epoch": 7, "ops": ["horizontal_flip"]}],
        }
    )
    spans = [(span.row, span.start, span.until, span.strength, span.p) for span in spans_of(policy, NUM_EPOCHS)]
    assert spans == [
        ("rotate", 0, 4, "5", 0.3),
        ("rotate 2", 0, 4, "9", 1.0),
        ("horizontal_flip", 7, 10, "", 0.5),
    ]


def test_a_band_is_over_the_seeds_that_got_there() -> None:
    found = band("a", "val", [1, 2, 3], [[0.1, 0.4], [0.3, None, 0.7], None, [math.nan]], 100)
    assert [(p.epoch, p.num_seeds) for p in found.points] == [(1, 2), (2, 1), (3, 1)]
    assert [number for p in found.points for number in (p.mean, p.low, p.high)] == pytest.approx(
        [20, 10, 30, 40, 40, 40, 70, 70, 70]
    )


def test_seeds_are_paired_by_number_and_not_by_place() -> None:
    comparison = single()
    none = comparison["cells"][0]["policies"][0]
    none["runs"].reverse()
    expected = [
        a["top1"] - b["top1"]
        for a, b in zip(comparison["cells"][0]["policies"][1]["runs"], none["runs"][::-1], strict=True)
    ]
    assert Comparison.read(comparison).cells[0].seeds_apart("standard") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("interval", "side"),
    [((0.01, 0.02), "better"), ((-0.02, -0.01), "worse"), ((-0.01, 0.02), ""), ((0.0, 0.0), ""), (None, "")],
)
def test_the_side_of_zero(interval: tuple[float, float] | None, side: str) -> None:
    assert Versus("x", 0.0, interval).side == side


def test_a_forest_of_nothing_is_none() -> None:
    assert forest_plot("T", [Versus("x", None, None)], "none") is None
    assert forest_plot("T", [Versus("x", 0.0, (0.0, 0.0))], "none") is not None


@pytest.mark.parametrize(
    ("share", "words"),
    [
        *[(0.5, "50 %"), (0.987, "99 %"), (0.995, "99.5 %"), (0.004, "0.4 %")],
        *[(1.0, "> 99.9 %"), (0.0, "< 0.1 %"), (None, "–")],
    ],
)
def test_a_probability_is_never_quite_certain(share: float | None, words: str) -> None:
    assert text.probability(share) == words


def test_moments() -> None:
    assert text.moment("2026-01-31T10:20:30+00:00") == "2026-01-31 10:20 UTC"
    assert text.moment("once") == "once"


def test_the_test_data_is_what_it_says() -> None:
    comparison = make_comparison()
    assert [len(cell["policies"]) for cell in comparison["cells"]] == [len(SKILLS)] * 2
    assert comparison == make_comparison()
