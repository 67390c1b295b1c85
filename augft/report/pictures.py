"""Pictures of what augmentation does: a labelled grid of originals and what a policy makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from augft.augment.apply import draw_parameters, render
from augft.augment.policy import Policy

UInt8Array = npt.NDArray[np.uint8]

INK, QUIET, PAPER, EDGE = "#1b1f24", "#6b737d", "#ffffff", "#d5d9de"
_GAP = 14
_MARGIN = 28
_LINE = 17


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

    Returns:
        An RGB picture.
    """
    num, height, width, _ = images_u8.shape
    ids = np.asarray(sample_ids, np.int64)
    zoom = max(1, -(-tile // max(height, width)))
    cell_width, cell_height = max(width * zoom, tile), height * zoom
    title_font, class_font = _font("Sans-Bold", 20), _font("Sans-Bold", 13)
    heading_font, line_font, label_font = _font("Sans-Bold", 11), _font("Sans", 12), _font("Sans", 11)

    rows = _augmented(images_u8, policy, seed, epoch, ids, num_copies)
    num_lines = max((len(label) for row in rows for _, label in row), default=1)
    row_height = cell_height + 6 + max(2, num_lines) * _LINE + _GAP
    header = _MARGIN + 74
    page_width = 2 * _MARGIN + (num_copies + 1) * (cell_width + _GAP)
    page = Image.new("RGB", (page_width, header + num * row_height + _MARGIN - _GAP), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((_MARGIN, _MARGIN - 6), f"Policy {policy.name}", INK, title_font)
    ops = str(policy).removeprefix(f"{policy.name}: ")
    line = _fit(f"{ops}   ·   seed {seed}, epoch {epoch}", line_font, page_width - 2 * _MARGIN)
    draw.text((_MARGIN, _MARGIN + 24), line, QUIET, line_font)
    first_copy = _MARGIN + cell_width + 2 * _GAP
    for x, heading in ((_MARGIN, "original"), (first_copy, f"copies 0 to {num_copies - 1}")):
        draw.text((x, header - 22), heading, QUIET, heading_font)

    for row, (original, name, cells) in enumerate(zip(images_u8, class_names, rows, strict=True)):
        y = header + row * row_height
        _place(page, original, _MARGIN, y, zoom)
        draw.text((_MARGIN, y + cell_height + 6), _fit(name, class_font, cell_width), INK, class_font)
        draw.text((_MARGIN, y + cell_height + 7 + _LINE), f"sample {ids[row]}", QUIET, label_font)
        for column, (picture, labels) in enumerate(cells):
            x = first_copy + column * (cell_width + _GAP)
            _place(page, picture, x, y, zoom)
            for k, label in enumerate(labels or ["unchanged"]):
                colour = INK if labels else QUIET
                text = _fit(label, label_font, cell_width)
                draw.text((x, y + cell_height + 6 + k * _LINE), text, colour, label_font)
    rule = first_copy - _GAP
    draw.line([(rule, header), (rule, page.height - _MARGIN)], EDGE)
    return page


def _augmented(
    images: UInt8Array, policy: Policy, seed: int, epoch: int, ids: npt.NDArray[np.int64], num_copies: int
) -> list[list[tuple[UInt8Array, list[str]]]]:
    """Per row the copies, each with its labels."""
    rows: list[list[tuple[UInt8Array, list[str]]]] = [[] for _ in ids]
    for copy in range(num_copies):
        drawn = draw_parameters(policy, seed=seed, epoch=epoch, sample_ids=ids, copy=copy)
        for i, picture in enumerate(render(images, policy, drawn)):
            rows[i].append((picture, _lines(drawn.describe(i))))
    return rows


def _lines(labels: list[str]) -> list[str]:
    """Short labels share a line: "flip ↔ · flip ↕"."""
    lines: list[str] = []
    for label in labels:
        if lines and len(lines[-1]) + len(label) < 20:
            lines[-1] += f" · {label}"
        else:
            lines.append(label)
    return lines


def _place(page: Image.Image, picture: UInt8Array, x: int, y: int, zoom: int) -> None:
    image = Image.fromarray(picture)
    page.paste(image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST), (x, y))
    # A hair line, or black fill and white paper would hide where a picture ends.
    frame = (x - 1, y - 1, x + image.width * zoom, y + image.height * zoom)
    ImageDraw.Draw(page).rectangle(frame, outline=EDGE)


def _fit(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, or its beginning and an ellipsis where it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _font(face: str, size: int) -> ImageFont.FreeTypeFont:
    """DejaVu as matplotlib carries it: on every machine, with arrows and the true minus."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"DejaVu{face}.ttf", size)
