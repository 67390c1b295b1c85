"""The three kinds of report in a real browser: they fit, sort, switch, print and can be read, and load nothing.

Needs Chromium (`apt-get install chromium`) and playwright, which brings no browser of its own here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from augft.report.comparison import comparison_page
from augft.report.page import write_report
from augft.report.search import search_page
from tests.report_data import make_comparison, make_run, make_search

NAMES = ("run", "comparison", "cells", "search")
WIDTHS = (360, 1400)
SCHEMES = ("light", "dark")

A4_WIDTH = 687
"""Between margins of 14 mm, in CSS pixels."""
LEAST_CONTRAST = 4.5
"""WCAG 2.2, 1.4.3, for text of a common size."""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> dict[str, str]:
    """URLs by name."""
    folder = tmp_path_factory.mktemp("pages")
    made = {
        "comparison": comparison_page(make_comparison(labels=(40,)), {"runs/cutout-3"}),
        "cells": comparison_page(make_comparison(labels=(40, 400))),
        "search": search_page(make_search()),
    }
    paths = {"run": Path(write_report(str(make_run(folder / "digits", digits))))}
    for name, source in made.items():
        paths[name] = folder / f"{name}.html"
        paths[name].write_text(source, encoding="utf-8")
    return {name: path.as_uri() for name, path in paths.items()}


@dataclass
class Seen:
    """A page that is open, and what it complained of or asked for."""

    page: Any
    url: str
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def open_page(browser: Any, pages: dict[str, str]) -> Iterator[Any]:
    contexts = []

    def opened(name: str, *, width: int = 1400, scheme: str = "light", script: bool = True) -> Seen:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=script
        )
        context.set_default_timeout(20_000)
        contexts.append(context)
        seen = Seen(context.new_page(), pages[name])
        seen.page.on("console", lambda message: seen.complaints.append(message.text))
        seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        seen.page.on("request", lambda request: seen.requests.append(request.url))
        seen.page.goto(seen.url)
        return seen

    yield opened
    for context in contexts:
        context.close()


# ---- each page at each width, light and dark -----------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_page_loads_fits_and_can_be_read(open_page: Any, name: str, width: int, scheme: str) -> None:
    seen = open_page(name, width=width, scheme=scheme)
    for details in seen.page.locator("details").all():
        details.evaluate("details => details.open = true")
    assert seen.page.evaluate("document.scrollingElement.scrollWidth") <= width
    assert seen.page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert not seen.page.evaluate(OUT_OF_SIGHT), "text that no scrolling brings into sight"
    faint = [found for found in seen.page.evaluate(CONTRASTS) if found["contrast"] < LEAST_CONTRAST]
    assert not faint
    assert not seen.complaints
    assert {url for url in seen.requests if not url.startswith("data:")} == {seen.url}


OUT_OF_SIGHT = """
[...document.querySelectorAll("h1, h2, h3, h4, p, li, dd, dt, figcaption, summary, table, label, pre")]
  .filter(element => element.checkVisibility() && !element.closest(".scroll, pre"))
  .filter(element => {
    const { left, right } = element.getBoundingClientRect();
    return left < -1 || right > innerWidth + 1;
  })
  .map(element => element.outerHTML.slice(0, 80))
"""

CONTRASTS = """
(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const known = new Map();
  const rgba = (css) => {
    if (!known.has(css)) {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = css;
      canvas.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
      known.set(css, [r, g, b, a / 255]);
    }
    return known.get(css);
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
  const ground = (element) => {
    if (element === null) return [255, 255, 255];
    if (element.classList.contains("inside")) {  // words in a block of a chart
      let block = element;
      while (block.tagName !== "rect") block = block.previousElementSibling;
      return rgba(getComputedStyle(block).fill);
    }
    return over(rgba(getComputedStyle(element).backgroundColor), ground(element.parentElement));
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || element.closest("script, style, title, desc, [aria-hidden], .skip")) continue;
    if (!element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const below = ground(element);
    const ink = over(rgba(element.ownerSVGElement ? style.fill : style.color), below);
    const [dark, bright] = [light(ink), light(below)].sort((a, b) => a - b);
    found.push({ text: texts.currentNode.data.trim().slice(0, 40), contrast: (bright + 0.05) / (dark + 0.05) });
  }
  return found;
})()
"""


def test_the_measure_of_contrast_measures(open_page: Any) -> None:
    page = open_page("run").page
    page.evaluate("document.body.innerHTML = '<p style=\"color: #767676; background: #fff\">grey</p>'")
    [found] = page.evaluate(CONTRASTS)
    assert found["contrast"] == pytest.approx(4.54, abs=0.01)


# ---- sorting -------------------------------------------------------------------------------------------

_SORTED = {"run": "accuracy", "comparison": "difference", "cells": "difference", "search": "val top1"}


@pytest.mark.parametrize("name", NAMES)
def test_a_table_sorts_by_click_and_by_keyboard(open_page: Any, name: str) -> None:
    page = open_page(name).page
    table = page.locator("table.sortable").filter(has=page.get_by_role("columnheader", name=_SORTED[name], exact=True))
    table = table.first
    heading = table.get_by_role("columnheader", name=_SORTED[name], exact=True)
    column = heading.evaluate("heading => heading.cellIndex")

    def values() -> list[str]:
        cells = "(table, column) => [...table.tBodies[0].rows].map(row => row.cells[column].dataset.value)"
        found: list[str] = table.evaluate(cells, column)
        return found

    before = values()
    ascending = sorted((value for value in before if value), key=float)
    missing = [""] * (len(before) - len(ascending))
    assert before not in (ascending + missing, ascending[::-1] + missing), "the test would see nothing"
    assert heading.get_attribute("aria-sort") is None
    heading.get_by_role("button").click()
    assert values() == ascending + missing
    assert heading.get_attribute("aria-sort") == "ascending"
    heading.get_by_role("button").press("Enter")
    assert values() == ascending[::-1] + missing
    assert heading.get_attribute("aria-sort") == "descending"

    other = table.get_by_role("columnheader").first
    page.keyboard.press("Shift+Tab")
    for _ in range(column - 1):
        page.keyboard.press("Shift+Tab")
    page.keyboard.press("Space")
    assert other.get_attribute("aria-sort") == "ascending"
    assert heading.get_attribute("aria-sort") is None
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", "the focus is seen"


# ---- switching a plot ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["comparison", "cells", "search"])
@pytest.mark.parametrize("script", [True, False])
def test_a_plot_switches_by_click_and_by_keyboard(open_page: Any, name: str, script: bool) -> None:
    page = open_page(name, script=script).page
    switch = page.locator(".switch").first
    top1 = switch.get_by_role("group", name="Validation top1", include_hidden=True)
    loss = switch.get_by_role("group", name="Training loss", include_hidden=True)
    assert (top1.is_visible(), loss.is_visible()) == (True, False)
    switch.get_by_role("radio", name="Training loss").click()
    assert (top1.is_visible(), loss.is_visible()) == (False, True)
    page.keyboard.press("ArrowLeft")
    assert (top1.is_visible(), loss.is_visible()) == (True, False)
    assert switch.get_by_role("radio", name="Validation top1").is_checked()


def test_a_switch_works_for_its_own_cell_only(open_page: Any) -> None:
    page = open_page("cells").page
    first, second = page.locator(".switch").all()
    first.get_by_role("radio", name="Training loss").click()
    assert second.get_by_role("group", name="Validation top1").is_visible()
    assert second.get_by_role("radio", name="Validation top1").is_checked()


# ---- ways to read --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_outline_has_no_gap_and_the_links_lead_somewhere(open_page: Any, name: str) -> None:
    page = open_page(name).page
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].map(h => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below <= above + 1 for above, below in pairwise(levels)), levels
    assert page.evaluate("document.documentElement.lang") == "en"
    targets = "[...document.querySelectorAll('a[href^=\"#\"]')].every(link => document.querySelector(link.hash))"
    assert page.evaluate(targets)
    unnamed = "[...document.querySelectorAll('svg, [role=region], img')]"
    assert not page.evaluate(f"{unnamed}.filter(one => !(one.getAttribute('aria-label') || one.alt)).length")


@pytest.mark.parametrize("name", NAMES)
def test_the_first_tab_offers_to_skip_the_navigation(open_page: Any, name: str) -> None:
    page = open_page(name).page
    skip = page.get_by_role("link", name="Skip to the content")
    assert skip.bounding_box()["x"] < 0
    page.keyboard.press("Tab")
    assert skip.evaluate("link => link === document.activeElement")
    assert skip.bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.tagName") == "MAIN"


@pytest.mark.parametrize("name", NAMES)
def test_without_script_everything_is_there(open_page: Any, name: str) -> None:
    plain, whole = (open_page(name, script=script).page for script in (False, True))
    for what in ("table", "svg", "img", "details"):
        assert plain.locator(f"{what}:visible").count() == whole.locator(f"{what}:visible").count() > 0
    assert plain.locator("button").count() == 0, "a button that does nothing"
    plain.locator("details summary").first.click()
    assert plain.locator("details").first.get_attribute("open") is not None


@pytest.mark.parametrize("name", NAMES)
def test_a_page_prints(open_page: Any, name: str) -> None:
    page = open_page(name, scheme="dark").page
    printed = page.pdf(format="A4")
    assert printed.startswith(b"%PDF")
    assert len(printed) > 30_000
    assert page.locator("details[open]").count() == 0, "as it was before printing"
    page.emulate_media(media="print")
    assert not page.locator("nav:visible, .choice:visible").count()
    assert page.locator(".charts:visible").count() == page.locator(".charts").count(), "all quantities are printed"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not(.data):not([open])").count() == 0
    colours = "(style => [style.color, style.backgroundColor, style.colorScheme])"
    ink = page.evaluate(f"{colours}(getComputedStyle(document.documentElement))")
    assert ink == ["rgb(28, 32, 36)", "rgb(255, 255, 255)", "light"], "dark ink on white, also of a dark page"
    page.set_viewport_size({"width": A4_WIDTH, "height": 900})
    assert page.evaluate("document.scrollingElement.scrollWidth") <= A4_WIDTH, "nothing is cut off at the edge"
