"""The report of a run: its numbers, its page, and runs that lack something."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from augft.augment.policy import ALL_OPS, Policy
from augft.data.pack import pack
from augft.errors import RunDirectoryError
from augft.report import text
from augft.report.confusion import Confusion
from augft.report.interval import Score, difference
from augft.report.mistakes import data_uri
from augft.report.page import wilson, write_report
from augft.report.plots import Series, line_chart
from augft.report.svg import HEIGHT, WIDTH
from tests.report_data import change, make_run

HOSTILE = "<script>alert('7')</script>"


# ---- a run directory, clearly synthetic ----------------------------------------------------------------


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real digits, so that mistakes have pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUGFT_CACHE", str(tmp_path_factory.mktemp("cache")))
        return pack("digits", tmp_path_factory.mktemp("digits") / "packed", image_size=32)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUGFT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def original(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("original") / "quickstart", packed)


@pytest.fixture
def run(tmp_path: Path, original: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "runs" / "quickstart"))


class Page(HTMLParser):
    """Tags with their attributes, and the text a reader sees."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self, run: Path, baseline: Path | None = None) -> None:
        super().__init__()
        path = write_report(str(run), str(baseline) if baseline else None)
        assert path == str(run / "report.html")
        self.source = Path(path).read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(self.source)
        assert not self.open
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


# ---- numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 20), (20, 20), (19, 20), (328, 360), (9_123, 10_000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilson_is_scipys(successes: int, n: int, confidence: float) -> None:
    oracle = stats.binomtest(successes, n).proportion_ci(confidence, "wilson")
    assert wilson(successes, n, confidence) == pytest.approx((oracle.low, oracle.high), abs=1e-12)


def test_wilson_by_hand() -> None:
    # 81 of 263, Newcombe (1998), table I, method 3
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@pytest.mark.parametrize("args", [(1, 0), (-1, 5), (6, 5), (1, 2, 1.0)])
def test_wilson_refuses(args: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="needs 0 <= successes"):
        wilson(*args)


def test_difference_by_hand() -> None:
    # 56 of 70 against 48 of 80, Newcombe (1998), table II, method 10
    assert difference(Score(56, 70), Score(48, 80)) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (3.14, "3.1 s"),
        (9.99, "10 s"),
        (59.7, "1 min 0 s"),
        (75, "1 min 15 s"),
        (4530.2, "1 h 16 min"),
        (None, "–"),
    ],
)
def test_duration(seconds: float | None, words: str) -> None:
    assert text.duration(seconds) == words


def test_points_have_a_true_minus_and_zero_no_sign() -> None:
    assert [text.points(share) for share in (0.042, -0.042, -0.0001)] == [
        "+4.2 points",
        "−4.2 points",
        "0.0 points",
    ]


def test_the_comparison_of_a_terminal(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    console = Console(file=io.StringIO(), width=100)
    console.print(
        text.comparison(
            summary | {"test_top1": 0.9, "test_num_samples": 360},
            summary | {"test_top1": 0.8, "test_num_samples": 360, "val_top1": None},
        )
    )
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"test top1 +90\.0 % +80\.0 % +\+10\.0 points", shown)
    assert re.search(r"val top1 +\d+\.\d % +– +–", shown)
    assert "One seed each" in shown


def test_confusion_per_class_and_pairs() -> None:
    confusion = Confusion(["a", "b", "none"], np.array([[8, 2, 0], [1, 9, 0], [0, 0, 0]]))
    a, b, none = confusion.rows()
    assert (a.score, a.precision, a.mostly_taken_for, a.num_taken) == (Score(8, 10), 8 / 9, "b", 2)
    assert (b.mostly_taken_for, none.score, none.precision) == ("a", None, None)
    assert confusion.pairs() == [("a", "b", 2, 0.2), ("b", "a", 1, 0.1)]
    assert confusion.majority == 0.5


@pytest.mark.parametrize("values", [[0.5], [0.0, 0.0], [1e-5, 2e-5], [1e6, 3e6], [2.0, math.nan, 1.0], [-3.0, 5.0]])
@pytest.mark.parametrize("bars", [False, True])
def test_a_chart_of_any_values_stays_in_its_frame(values: list[float], bars: bool) -> None:
    chart = line_chart("T", "loss", [Series("train", "train", list(enumerate(values, 1)))], bars=bars)
    assert chart is not None
    assert "nan" not in chart
    xs = [float(x) for x in re.findall(r'\bc?x="(-?[\d.]+)"', chart)]
    ys = [float(y) for y in re.findall(r'\bc?y="(-?[\d.]+)"', chart)]
    assert min(xs + ys) >= 0
    assert max(xs) <= WIDTH
    assert max(ys) <= HEIGHT


def test_a_chart_of_nothing_is_none() -> None:
    assert line_chart("T", "loss", [Series("train", "train", [(1, math.nan)]), Series("val", "val", [])]) is None


# ---- the page ------------------------------------------------------------------------------------------


def test_the_page_says_what_was_found(run: Path) -> None:
    page = Page(run)
    summary = json.loads((run / "summary.json").read_text())
    num, n = round(summary["test_top1"] * summary["test_num_samples"]), summary["test_num_samples"]
    low, high = wilson(num, n)
    assert f"Shown {n} test pictures that it had never seen, the model names {num} correctly" in page.text
    assert f"95 % interval {100 * low:.1f} to {100 * high:.1f} %, n = {n}" in page.text
    assert "ended because its epochs were done" in page.text
    assert "degrees = 12" in page.text
    assert "and 3 augmented copies of each training picture" in page.text
    assert "augft train config.yaml --set name=quickstart-again" in page.text
    assert "5e1f5e1f" in page.text
    assert len(page.all("svg")) == 5
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))
    wrong = json.loads((run / "evaluation.json").read_text())["worst"]
    pictures = page.all("img")
    assert len(pictures) == len(wrong) + 1
    assert all(img["alt"] and (img["src"] or "").startswith("data:image/png;base64,") for img in pictures)


def test_the_page_loads_nothing(run: Path) -> None:
    page = Page(run)
    links = [attrs.get(key) or "" for _, attrs in page.tags for key in ("src", "href")]
    assert not [link for link in links if link and not link.startswith(("data:", "#"))]
    assert "@import" not in page.source
    assert "url(" not in page.source
    [policy] = [meta["content"] or "" for meta in page.all("meta") if "http-equiv" in meta]
    assert "default-src 'none'" in policy
    targets = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {(a["href"] or "")[1:] for a in page.all("a")} <= targets


def test_hostile_names_are_only_text(run: Path) -> None:
    classes = [str(i) for i in range(10)]
    classes[7] = HOSTILE
    change(run / "evaluation.json", classes=classes)
    change(run / "environment.json", hardware={HOSTILE: '"><img src=x onerror=alert(1)>'})
    (run / "config.yaml").write_text(f"name: \"{HOSTILE}\"\nseed: 0\ndata: {{source: '</code>{HOSTILE[:8]}'}}\n")
    page = Page(run, run)
    assert len(page.all("script")) == 1
    assert not [attrs for _, attrs in page.tags if any(key.startswith("on") for key in attrs)]
    assert HOSTILE in page.text


def test_many_classes_show_pairs_instead_of_a_matrix(run: Path) -> None:
    rng = np.random.default_rng(0)
    confusion = np.diag(rng.integers(5, 20, 100)) + (rng.random((100, 100)) < 0.02)
    classes = [f"class {i}" for i in range(100)]
    change(run / "evaluation.json", classes=classes, confusion=confusion.tolist())
    page = Page(run)
    assert "Most confused" in page.text
    assert not [table for table in page.all("table") if "heat" in (table.get("class") or "")]


def test_the_baseline_comes_first_and_is_no_proof(run: Path, packed: Path) -> None:
    page = Page(run, make_run(run.with_name("quickstart-none"), packed, policy="none", skill=0.8))
    assert page.text.index("Against the baseline") < page.text.index("Key figures")
    assert re.search(r"policy digits against policy none: \+\d+\.\d points", page.text)
    assert "more than chance in which pictures were tested, and says nothing of other seeds" in page.text
    assert "One seed each: this is an example, not proof. Proof takes several seeds of each." in page.text
    assert re.search(r"augment\.policy ?digits ?none", page.text)
    assert len(page.all("svg")) == 6


def test_a_small_difference_may_be_chance(run: Path, packed: Path) -> None:
    page = Page(run, make_run(run.with_name("other"), packed, policy="none", skill=0.925))
    assert "That could be chance in which pictures were tested" in page.text


def test_other_test_data_is_not_compared(run: Path, packed: Path) -> None:
    other = make_run(run.with_name("other"), packed)
    change(other / "environment.json", data={"digest": "another"})
    pages = [Page(run, other)]
    for folder in (run, other):
        change(folder / "environment.json", data={})
    pages.append(Page(run, other))
    for page in pages:
        assert "not known to be tested on the same data" in page.text
        assert not re.search(r"\d points", page.text)


def test_a_policy_of_ranges_schedules_phases_and_automatic_ops(run: Path) -> None:
    policy = Policy.from_config(
        {
            "name": "curriculum",
            "fill": "mean",
            "epochs": 10,
            "ops": [
                {"brightness": {"factor": [0.5, 1.5]}},
                {"contrast": {"factor": 1.2}},
                {"rotate": {"degrees": {"schedule": [[0, 5], [0.5, 30]]}}},
                {"scale": {"factor": {"schedule": [[0, [1, 1]], [1, [0.5, 2]]]}, "p": 0.5}},
                {"erasing": {"noise": False}},
            ],
            "phases": [{"from_epoch": 4, "ops": ["trivial", "aug_mix"]}, {"from_epoch": 8, "ops": []}],
        }
    )
    (run / "policy.json").write_text(policy.to_json())
    page = Page(run)
    for words in (
        "filled with each picture's average colour",
        "factor = 0.5 to 1.5 smallest and largest factor",
        "factor = 1.2 smallest",
        "degrees = 5 at 0 %, 30 at 50 % of the run largest angle either way",
        "p = 0.5 probability that a sample gets this op",
        "factor = 1 at 0 %, 0.5 to 2 at 100 % of the run",
        "noise = false",
        "At first",
        "From epoch 4 on",
        "From epoch 8 on Pictures as they are.",
        "severity = 3",
    ):
        assert words in page.text, words
    assert "p = 1 " not in page.text
    assert page.text.index("trivial_augment") > page.text.index("From epoch 4 on")


def test_every_op_has_words(run: Path) -> None:
    for name in ALL_OPS:
        (run / "policy.json").write_text(Policy.from_config([name]).to_json())
        page = Page(run)
        words = page.text[page.text.index("What it learned from") : page.text.index("Augmented samples")]
        assert name in words
        assert "np.float" not in words
        assert not re.search(r"= [\[(]", words)  # a tuple as Python writes it


def test_what_befell_the_run_is_told(run: Path) -> None:
    assert "What befell it" not in Page(run).text
    lines = [
        {"time": 1.8e9, "step": 17, "what": "restart", "text": "worker 1: <b>ActorDiedError</b>"},
        {"time": 1.8e9 + 30, "step": None, "what": "actor", "text": "an augmentation actor was lost"},
    ]
    (run / "incidents.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = Page(run)
    assert "What befell it" in page.text
    assert "2027-01-15 08:00:00" in page.text
    assert "worker 1: <b>ActorDiedError</b>" in page.text, "it is text, not markup"


def test_much_stall_comes_with_the_number_of_actors(run: Path) -> None:
    change(run / "summary.json", data_stall_fraction=0.4, actors_needed=5)
    assert "5 augmentation actors (scale.augment_actors)" in Page(run).text


# ---- runs that lack something --------------------------------------------------------------------------


def test_only_a_job_makes_a_page(run: Path) -> None:
    for path in run.iterdir():
        if path.name != "config.yaml":
            path.unlink()
    page = Page(run)
    assert "This run has not finished" in page.text
    assert "No epoch was recorded." in page.text
    assert "There is no preview.png" in page.text
    assert not page.all("svg")


def test_no_run_no_page(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="no run there"):
        write_report(str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_without_test_and_validation(run: Path) -> None:
    (run / "evaluation.json").unlink()
    change(run / "summary.json", test_top1=None, test_num_samples=0)
    page = Page(run)
    assert "There is no test result. Of 140 validation pictures" in page.text
    assert "There is no evaluation on a test split" in page.text
    lines = [line for line in (run / "metrics.jsonl").read_text().splitlines() if '"train"' in line]
    (run / "metrics.jsonl").write_text("\n".join(lines))
    change(run / "summary.json", val_top1=None)
    page = Page(run)
    assert "measured on no pictures but those it learned from" in page.text
    assert "This run had no validation." in page.text


def test_one_epoch_and_nan(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()[:2]]
    lines[1]["loss"] = math.nan
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = Page(run)
    assert "left out of the charts: 1 of the recorded numbers" in page.text
    assert "nan" not in re.sub(r'"data:[^"]*"', "", page.source.split("</style>")[1])


@pytest.mark.parametrize(
    "name", ["policy.json", "summary.json", "evaluation.json", "environment.json", "metrics.jsonl"]
)
@pytest.mark.parametrize("content", ['{"cut sho', "[1]", '{"ops": 3, "data": 4, "worst": [{}], "top1": "x"}'])
def test_a_damaged_file_costs_its_section_only(run: Path, name: str, content: str) -> None:
    (run / name).write_text(content)
    page = Page(run)
    if content == '{"cut sho':
        assert f"{name}" in page.text
        assert "cannot be read" in page.text


def test_a_data_set_that_is_gone_leaves_a_line(run: Path) -> None:
    environment = json.loads((run / "environment.json").read_text())
    for data in ({"path": "/nowhere"}, {"digest": "another"}):
        change(run / "environment.json", data=environment["data"] | data)
        page = Page(run)
        assert "The pictures cannot be shown, their data set is not at hand" in page.text
        assert len(page.all("img")) == 1


def test_large_pictures_are_shrunk() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (500, 300, 3), np.uint8)
    assert data_uri(noise).startswith("data:image/jpeg")
    assert len(data_uri(noise)) < 40_000
