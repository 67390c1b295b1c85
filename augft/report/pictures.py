"""Pictures of what augmentation does: a labelled grid of originals and what a policy makes of them.

And what such pages are drawn with: pictures whose pixels stay squares, text that fits.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from augft.augment.apply import draw_parameters, render
from augft.augment.drawn import Drawn
from augft.augment.policy import Policy

UInt8Array = npt.NDArray[np.uint8]
Font = ImageFont.FreeTypeFont

INK, QUIET, PAPER, EDGE = "#1b1f24", "#6b737d", "#ffffff", "#d5d9de"
MARGIN = 28
_GAP = 14
_LINE = 17
_INDENT = 8
_MOST_HEADER_LINES = 4


def preview_grid(
    images_u8: UInt8Array,
    class_names: Sequence[str],
    policy: Policy,
    *,
    seed: int,
    epoch: int,
    sample_ids: npt.NDArray[np.int64] | Sequence[int],
    num_copies: int = 6,
    tile: int = 136,
    make: Callable[[Drawn], UInt8Array] | None = None,
) -> Image.Image:
    """Rows of one original and its augmented copies, each with the ops and values that made it.

    They are the very pictures that a run of this seed sees in this epoch, as copies 0, 1, 2, …

    Args:
        images_u8: uint8 (N, H, W, 3), a row each.
        class_names: (N,), the name of each picture's class.
        policy: what to show.
        seed: of the run.
        epoch: of the run.
        sample_ids: int64 (N,).
        num_copies: augmented pictures a row.
        tile: least side of a picture on the page, in pixels; small ones are enlarged by a whole number, so
            that each of their pixels stays a square.
        make: the pictures of a draw, where they are not made of the originals' pixels.

    Returns:
        An RGB picture.
    """
    make = make or (lambda drawn: render(images_u8, policy, drawn))
    num, height, width, _ = images_u8.shape
    ids = np.asarray(sample_ids, np.int64)
    zoom = whole_zoom(height, width, tile)
    cell_width, cell_height = max(width * zoom, tile), height * zoom
    title_font, class_font = font("Sans-Bold", 20), font("Sans-Bold", 13)
    heading_font, line_font, label_font = font("Sans-Bold", 11), font("Sans", 12), font("Sans", 11)
    page_width = 2 * MARGIN + (num_copies + 1) * (cell_width + _GAP)

    rows = [
        [(picture, wrap_labels(labels, label_font, cell_width)) for picture, labels in row]
        for row in _augmented(make, policy, seed, epoch, ids, num_copies)
    ]
    heights = [cell_height + 6 + max([2, *(len(label) for _, label in row)]) * _LINE + _GAP for row in rows]
    ops = str(policy.at(epoch)).removeprefix(f"{policy.name}: ")
    about = wrap(f"{ops}   ·   seed {seed}, epoch {epoch}", line_font, page_width - 2 * MARGIN)
    about = [*about[: _MOST_HEADER_LINES - 1], " ".join(about[_MOST_HEADER_LINES - 1 :])]
    about = [fit(line, line_font, page_width - 2 * MARGIN) for line in about if line]
    header = MARGIN + 57 + len(about) * _LINE

    page = Image.new("RGB", (page_width, header + sum(heights) + MARGIN - _GAP), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN - 6), f"Policy {policy.name}", INK, title_font)
    write(draw, about, MARGIN, MARGIN + 24, line_font, QUIET)
    first_copy = MARGIN + cell_width + 2 * _GAP
    for x, heading in ((MARGIN, "original"), (first_copy, f"copies 0 to {num_copies - 1}")):
        draw.text((x, header - 22), heading, QUIET, heading_font)

    y = header
    for i in range(num):
        place(page, images_u8[i], MARGIN, y, zoom)
        draw.text((MARGIN, y + cell_height + 6), fit(class_names[i], class_font, cell_width), INK, class_font)
        draw.text((MARGIN, y + cell_height + 7 + _LINE), f"sample {ids[i]}", QUIET, label_font)
        for column, (picture, lines) in enumerate(rows[i]):
            x = first_copy + column * (cell_width + _GAP)
            place(page, picture, x, y, zoom)
            write(draw, lines or ["unchanged"], x, y + cell_height + 6, label_font, INK if lines else QUIET)
        y += heights[i]
    rule = first_copy - _GAP
    draw.line([(rule, header), (rule, page.height - MARGIN)], EDGE)
    return page


def two_rows(above_u8: UInt8Array, below_u8: UInt8Array, tile: int) -> Image.Image:
    """Pictures side by side, and others below them: both uint8 (N, H, W, 3), each enlarged to `tile` pixels or more."""
    num, height, width, _ = above_u8.shape
    zoom, gap = whole_zoom(height, width, tile), 4
    page = Image.new("RGB", (num * (width * zoom + gap) + gap, 2 * (height * zoom + gap) + gap), PAPER)
    for row, pictures in enumerate((above_u8, below_u8)):
        for column, picture in enumerate(pictures):
            place(page, picture, gap + column * (width * zoom + gap), gap + row * (height * zoom + gap), zoom)
    return page


def replay_page(
    original: UInt8Array,
    picture: UInt8Array,
    *,
    title: str,
    about: Sequence[str],
    labels: Sequence[str],
    tile: int = 320,
) -> Image.Image:
    """An original and what became of it, large, beside each other, with all that was done to it.

    Args:
        original, picture: uint8 (H, W, 3).
        title: of the page.
        about: lines under the original.
        labels: lines under the other, an op each.
        tile: least side of a picture on the page, in pixels; both are enlarged by a whole number.

    Returns:
        An RGB picture.
    """
    height, width, _ = original.shape
    zoom = whole_zoom(height, width, tile)
    cell_width, cell_height = max(width * zoom, tile), height * zoom
    title_font, line_font, label_font = font("Sans-Bold", 20), font("Sans", 12), font("Sans", 14)
    left = [line for text in about for line in wrap(text, line_font, cell_width)]
    right = [line for text in labels for line in wrap(text, label_font, cell_width)]
    line = _LINE + 5
    top = MARGIN + 42
    bottom = max(len(left) * _LINE, max(1, len(right)) * line)
    page = Image.new("RGB", (2 * MARGIN + 2 * cell_width + 2 * _GAP, top + cell_height + 10 + bottom + MARGIN), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN - 6), fit(title, title_font, page.width - 2 * MARGIN), INK, title_font)
    second = MARGIN + cell_width + 2 * _GAP
    place(page, original, MARGIN, top, zoom)
    place(page, picture, second, top, zoom)
    write(draw, left, MARGIN, top + cell_height + 12, line_font, QUIET)
    write(draw, right or ["unchanged"], second, top + cell_height + 10, label_font, INK if right else QUIET, line)
    return page


def _augmented(
    make: Callable[[Drawn], UInt8Array],
    policy: Policy,
    seed: int,
    epoch: int,
    ids: npt.NDArray[np.int64],
    num_copies: int,
) -> list[list[tuple[UInt8Array, list[str]]]]:
    """Per row the copies, each with its labels."""
    rows: list[list[tuple[UInt8Array, list[str]]]] = [[] for _ in ids]
    for copy in range(num_copies):
        drawn = draw_parameters(policy, seed=seed, epoch=epoch, sample_ids=ids, copy=copy)
        for i, picture in enumerate(make(drawn)):
            rows[i].append((picture, drawn.describe(i)))
    return rows


# -- drawing ---------------------------------------------------------------------------------------


def png_bytes(page: Image.Image) -> bytes:
    """The content of a PNG file."""
    png = io.BytesIO()
    page.save(png, "PNG", optimize=True)
    return png.getvalue()


def whole_zoom(height: int, width: int, tile: int) -> int:
    """By what whole number a picture is enlarged to have no longer side below `tile`."""
    return max(1, -(-tile // max(height, width)))


def place(page: Image.Image, picture: UInt8Array, x: int, y: int, zoom: int) -> None:
    """A picture on a page, its top left corner at (x, y)."""
    image = Image.fromarray(picture)
    page.paste(image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST), (x, y))
    # A hair line, or black fill and white paper would hide where a picture ends.
    frame = (x - 1, y - 1, x + image.width * zoom, y + image.height * zoom)
    ImageDraw.Draw(page).rectangle(frame, outline=EDGE)


def write(
    draw: ImageDraw.ImageDraw, lines: Sequence[str], x: int, y: int, face: Font, colour: str, line: int = _LINE
) -> None:
    """Lines under each other; one that `wrap` broke off begins with a space, and is indented."""
    for k, text in enumerate(lines):
        draw.text((x + (_INDENT if text.startswith(" ") else 0), y + k * line), text.lstrip(), colour, face)


def wrap_labels(labels: Sequence[str], face: Font, width: int) -> list[str]:
    """Labels as lines that fit; short ones share a line: "flip ↔ · flip ↕"."""
    shared: list[str] = []
    for label in labels:
        if shared and len(shared[-1]) + len(label) < 20 and face.getlength(f"{shared[-1]} · {label}") <= width:
            shared[-1] += f" · {label}"
        else:
            shared.append(label)
    return [line for label in shared for line in wrap(label, face, width)]


def wrap(text: str, face: Font, width: int) -> list[str]:
    """The text as lines no wider than `width` pixels; all but the first begin with a space."""
    lines: list[str] = []
    for word in re.sub(" (?=[%K](?![a-z]))", "\u00a0", text).split(" "):
        indent = _INDENT if len(lines) > 1 else 0
        if lines and face.getlength(f"{lines[-1]} {word}".strip()) <= width - indent:
            lines[-1] += f" {word}"
        else:
            lines.append(f" {word}" if lines else word)
    return [fit(line, face, width) for line in lines]


def fit(text: str, face: Font, width: int) -> str:
    """The text, or its beginning and an ellipsis where it is wider than `width` pixels."""
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


@lru_cache(maxsize=16)
def font(face: str, size: int) -> Font:
    """DejaVu as matplotlib carries it: on every machine, with arrows and the true minus."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"DejaVu{face}.ttf", size)
