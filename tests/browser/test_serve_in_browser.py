"""The page of `augft serve` in a real browser: a picture is dropped, the answer and the augmented copies are seen.

The routes are those that Ray Serve runs, here in a thread; tests/serve has the rest.
"""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.small_run import pictures_of_the_test, train_small

pytest.importorskip("python_multipart", reason="pip install 'augft[serve]'")
uvicorn = pytest.importorskip("uvicorn", reason="pip install 'augft[serve]'")

from augft.serve.app import Limits, build_app  # noqa: E402
from augft.serve.classifier import Classifier, read_recipe  # noqa: E402
from augft.serve.counts import Counts  # noqa: E402
from augft.serve.door import digest  # noqa: E402

TOKEN = "open sesame"
LEAST_CONTRAST = 4.5


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_small(tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture(scope="module")
def urls(run: Path) -> Iterator[dict[str, str]]:
    """Of a server that everybody may use, and of one that asks for a token."""
    classifier = Classifier(read_recipe(str(run)), torch.device("cpu"), max_pixels=10**6)
    classifier.warm_up()

    async def answer(picture: Any) -> Any:
        return classifier.probabilities(picture[None])[0]

    servers, threads, found = [], [], {}
    for name, token in (("open", None), ("closed", digest(TOKEN))):
        app = build_app(classifier, answer, Limits(10**6, 10**6, token), Counts(None))
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
        threads.append(threading.Thread(target=server.run))
        threads[-1].start()
        servers.append(server)
        while not server.started:
            assert threads[-1].is_alive()
            time.sleep(0.02)
        found[name] = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    yield found
    for server in servers:
        server.should_exit = True
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


@dataclass
class Seen:
    """A page that is open, and what it complained of or asked for."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def open_page(browser: Any, urls: dict[str, str]) -> Iterator[Any]:
    contexts = []

    def opened(name: str = "open", *, width: int = 1400, scheme: str = "light") -> Seen:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        context.set_default_timeout(20_000)
        contexts.append(context)
        seen = Seen(context.new_page())
        seen.page.on("console", lambda message: seen.complaints.append(message.text))
        seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        seen.page.on("request", lambda request: seen.requests.append(request.url))
        seen.page.goto(urls[name])
        return seen

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def picture(run: Path) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pictures_of_the_test(run, 3)[1]).save(content, "PNG")
    return content.getvalue()


def put(page: Any, content: bytes) -> None:
    """Drop a file on the page."""
    transfer = page.evaluate_handle(
        """text => {
          const transfer = new DataTransfer();
          const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
          transfer.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
          return transfer;
        }""",
        base64.b64encode(content).decode(),
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})


def best(run: Path) -> tuple[str, float]:
    """The model's own word on the picture."""
    classifier = Classifier(read_recipe(str(run)), torch.device("cpu"), max_pixels=10**6)
    row = classifier.probabilities(pictures_of_the_test(run, 3)[1:2])[0]
    return str(row.argmax()), float(row.max())


@pytest.mark.parametrize("width", [360, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_picture_is_dropped_and_answered(
    open_page: Any, urls: dict[str, str], run: Path, picture: bytes, width: int, scheme: str
) -> None:
    seen = open_page(width=width, scheme=scheme)
    page = seen.page
    put(page, picture)
    page.locator("#strip").wait_for()
    name, probability = best(run)
    shown = page.locator("#verdict").inner_text()
    assert shown.split(", ")[0] == name
    if probability <= 0.999:
        assert float(shown.split()[1]) == pytest.approx(100 * probability, abs=0.06)
    meters = page.locator("#bars meter").evaluate_all("meters => meters.map(meter => meter.value)")
    assert len(meters) == 5
    assert meters == sorted(meters, reverse=True)
    assert meters[0] == pytest.approx(probability, abs=1e-4)
    columns = page.locator("#strip").evaluate("image => Math.round(image.naturalWidth / image.naturalHeight)")
    assert columns == (1 if width == 360 else 9)
    assert page.locator("#shown").evaluate("image => image.complete && image.naturalWidth") == 16
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    page.wait_for_function("document.getElementById('status').textContent.startsWith('It is most likely')")
    page.locator("details").evaluate("details => details.open = true")
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    faint = [found for found in page.evaluate(CONTRASTS) if found["contrast"] < LEAST_CONTRAST]
    assert not faint
    assert not seen.complaints
    assert all(url.startswith((urls["open"], "blob:")) for url in seen.requests)


CONTRASTS = """
(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (css) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = css;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const ground = (element) => {
    if (element === null) return [255, 255, 255];
    const top = rgba(getComputedStyle(element).backgroundColor);
    return top[3] === 1 ? top.slice(0, 3) : ground(element.parentElement);
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || element.closest("script, style") || !element.checkVisibility()) continue;
    const ink = rgba(getComputedStyle(element).color).slice(0, 3);
    const pair = [light(ink), light(ground(element))].sort((a, b) => a - b);
    found.push({ text: texts.currentNode.data.trim().slice(0, 40), contrast: (pair[1] + 0.05) / (pair[0] + 0.05) });
  }
  return found;
})()
"""


def test_it_works_by_keyboard_alone(open_page: Any, picture: bytes) -> None:
    seen = open_page()
    page = seen.page
    # The browser is told to hand over its chooser when somebody listens, and nothing waits until it does so.
    page.on("filechooser", lambda _: None)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    assert page.locator("#drop").evaluate("drop => getComputedStyle(drop).outlineStyle") == "solid", "focus is seen"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files({"name": "chosen.png", "mimeType": "image/png", "buffer": picture})
    page.locator("#strip").wait_for()
    first, seed = page.locator("#strip").get_attribute("src"), page.locator("#seed").input_value()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "seed"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_function("before => document.getElementById('strip').src !== before", arg=first)
    assert page.locator("#seed").input_value() == str(int(seed) + 1)
    assert f"seed {int(seed) + 1}" in page.locator("#strip").get_attribute("alt")
    assert not seen.complaints


def test_what_is_no_picture_is_told_and_the_next_one_is_answered(open_page: Any, picture: bytes) -> None:
    page = open_page().page
    put(page, b"no picture")
    page.locator("#error").wait_for()
    assert page.get_by_role("alert").inner_text() == "This is not a picture of a known kind."
    assert not page.locator("#verdict").is_visible()
    put(page, picture)
    page.locator("#strip").wait_for()
    assert not page.get_by_role("alert").is_visible()


def test_a_token_is_asked_for_where_one_is_needed(open_page: Any, picture: bytes) -> None:
    page = open_page("closed").page
    put(page, picture)
    page.locator("#error").wait_for()
    assert "token" in page.get_by_role("alert").inner_text()
    page.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Enter")
    page.locator("#strip").wait_for()
    assert not page.get_by_role("alert").is_visible()


def test_the_strip_shows_the_picture_first(open_page: Any, run: Path, picture: bytes) -> None:
    page = open_page().page
    put(page, picture)
    page.locator("#strip").wait_for()
    corner = page.locator("#strip").evaluate(
        """image => {
          const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight).getContext("2d");
          canvas.drawImage(image, 0, 0);
          const side = image.naturalHeight;
          return [...canvas.getImageData(0, 0, side, side).data];
        }"""
    )
    side = round((len(corner) / 4) ** 0.5)
    pixels = np.array(corner, np.uint8).reshape(side, side, 4)[:: side // 16, :: side // 16, :3]
    np.testing.assert_array_equal(pixels, pictures_of_the_test(run, 3)[1])
