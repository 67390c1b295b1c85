"""All ops on one page: what each makes of the same few pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw

from augft.augment.apply import draw_parameters, render
from augft.augment.mix import draw_mix, mix, partners
from augft.augment.ops import ColourOp, Elastic, FinishOp, GeometryOp, Op
from augft.augment.policy import ALL_OPS, Policy
from augft.report.pictures import (
    EDGE,
    INK,
    MARGIN,
    PAPER,
    QUIET,
    Font,
    UInt8Array,
    fit,
    font,
    place,
    whole_zoom,
    wrap,
    wrap_labels,
    write,
)

NUM_DRAWS = 9
"""Draws of an op from which those that are shown are taken."""

_COLUMNS = 5
_TILE, _LARGEST = 96, 144
_BETWEEN = 5
_GAP = 26
_LINE = 14
_TITLE = 20

KINDS = ("geometry", "colour", "filters", "covering", "automatic")


def kind_of(op: type[Op]) -> str:
    """Which of `KINDS` an op is."""
    if issubclass(op, GeometryOp | Elastic):
        return "geometry"
    if issubclass(op, ColourOp):
        return "colour"
    if issubclass(op, FinishOp):
        return "covering" if op.covers else "filters"
    return "automatic"


def ops_of(kind: str) -> list[type[Op]]:
    """All ops of a kind, in the order of their table."""
    return [op for op in ALL_OPS.values() if kind_of(op) == kind]


@dataclass(frozen=True)
class Draw:
    """What one draw makes of some pictures: uint8 (N, H, W, 3), and labels of each."""

    pictures: UInt8Array
    labels: list[list[str]]


def draws_of(
    op: Op, images_u8: UInt8Array, policy: Policy, *, seed: int, epoch: int, sample_ids: npt.NDArray[np.int64], num: int
) -> list[Draw]:
    """The first `num` copies that a policy of this op alone makes, with the sampling and fill of `policy`."""
    alone = Policy((op,), policy.sampling, policy.fill)
    draws = []
    for copy in range(num):
        drawn = draw_parameters(alone, seed=seed, epoch=epoch, sample_ids=sample_ids, copy=copy)
        labels = [drawn.describe(i) for i in range(len(images_u8))]
        draws.append(Draw(render(images_u8, alone, drawn), labels))
    return draws


def always(op: type[Op]) -> Op:
    """An op with its defaults, that every sample gets."""
    return op(p=1.0)


def spread(images_u8: UInt8Array, draws: Sequence[Draw], shares: Sequence[float]) -> list[tuple[UInt8Array, list[str]]]:
    """Of each picture one draw: that of rank `share` when draws are sorted by how much they change it."""
    chosen = []
    for i, share in enumerate(shares):
        change = [int(np.abs(draw.pictures[i].astype(np.int16) - images_u8[i]).sum()) for draw in draws]
        draw = draws[int(np.argsort(change, kind="stable")[round(share * (len(draws) - 1))])]
        chosen.append((draw.pictures[i], draw.labels[i]))
    return chosen


@dataclass(frozen=True)
class _Card:
    """A title, a remark, and pictures with lines of text."""

    title: str
    remark: str
    cells: list[tuple[UInt8Array, list[str]]]


def ops_sheet(
    images_u8: UInt8Array,
    class_names: Sequence[str],
    policy: Policy,
    *,
    seed: int,
    epoch: int,
    sample_ids: npt.NDArray[np.int64],
) -> Image.Image:
    """Every op at its defaults, grouped by kind, on the same few pictures; then MixUp and CutMix.

    Of nine draws that each picture has, the first picture shows a weak one, the last a strong one.

    Args:
        images_u8: uint8 (N, H, W, 3), a few; large ones are shown smaller.
        class_names: (N,), the name of each picture's class.
        policy: whose sampling and fill are taken.
        seed: of the run.
        epoch: of the run.
        sample_ids: int64 (N,).

    Returns:
        An RGB picture.
    """
    num, height, width, _ = images_u8.shape
    shares = [(i + 1) / (num + 1) for i in range(num)]
    sections: list[tuple[str, list[_Card]]] = []
    for kind in KINDS:
        cards = [_Card("original", "", [(images_u8[i], [class_names[i]]) for i in range(num)])]
        for op_class in ops_of(kind):
            op = always(op_class)
            draws = draws_of(op, images_u8, policy, seed=seed, epoch=epoch, sample_ids=sample_ids, num=NUM_DRAWS)
            cells = spread(images_u8, draws, shares)
            cards.append(_Card(op.name, _parameters(op), _say_if_nothing_changes(images_u8, cells)))
        sections.append((kind, cards))
    mixes = [sections[0][1][0]]
    for title, alphas in MIXES.items():
        draws = mixing_draws(
            images_u8, class_names, alphas, seed=seed, epoch=epoch, sample_ids=sample_ids, num=NUM_DRAWS
        )
        remark = ", ".join(f"augment.{key} {value:g}" for key, value in alphas.items() if value)
        mixes.append(_Card(title, remark, spread(images_u8, draws, shares)))
    sections.append(("mixing, on the device that trains", mixes))

    zoom = whole_zoom(height, width, _TILE)
    shrink = min(1.0, _LARGEST / max(height, width))
    cell_width, cell_height = round(width * zoom * shrink), round(height * zoom * shrink)
    column = max(_TILE, cell_width)
    card_width = max(num * (column + _BETWEEN) - _BETWEEN, 2 * _TILE)
    fill = policy.fill if isinstance(policy.fill, str) else ", ".join(map(str, policy.fill))
    about = (
        "each at its defaults, on the same pictures; of nine draws the first picture shows a weak one, the last a "
        f"strong one   ·   sampling {policy.sampling}, fill {fill}   ·   seed {seed}, epoch {epoch}"
    )
    label_font = font("Sans", 10)
    rows: list[tuple[str, list[tuple[_Card, list[list[str]]]], int]] = []
    for heading, cards in sections:
        for first in range(0, len(cards), _COLUMNS):
            row = [
                (card, [wrap_labels(labels, label_font, column) for _, labels in card.cells])
                for card in cards[first : first + _COLUMNS]
            ]
            most = max(len(lines) for _, cell_lines in row for lines in cell_lines)
            rows.append((heading if first == 0 else "", row, _TITLE + cell_height + 5 + most * _LINE))
    page_width = 2 * MARGIN + _COLUMNS * (card_width + _GAP) - _GAP
    about_lines = wrap(about, font("Sans", 12), page_width - 2 * MARGIN)
    top = MARGIN + 32 + 17 * len(about_lines)
    page_height = top + sum(row_height + 16 + (40 if heading else 0) for heading, _, row_height in rows) + MARGIN
    page = Image.new("RGB", (page_width, page_height), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN - 6), f"All {len(ALL_OPS)} ops", INK, font("Sans-Bold", 20))
    write(draw, about_lines, MARGIN, MARGIN + 24, font("Sans", 12), QUIET)

    y = top
    for heading, row, row_height in rows:
        if heading:
            draw.line([(MARGIN, y + 6), (page_width - MARGIN, y + 6)], EDGE)
            draw.text((MARGIN, y + 12), heading, INK, font("Sans-Bold", 15))
            y += 40
        for place_in_row, (card, cell_lines) in enumerate(row):
            x = MARGIN + place_in_row * (card_width + _GAP)
            _title(draw, card, x, y, card_width)
            for (picture, _), lines in zip(card.cells, cell_lines, strict=True):
                shown = _shrunk(picture, cell_width, cell_height) if shrink < 1 else picture
                place(page, shown, x, y + _TITLE, zoom if shrink == 1 else 1)
                colour = QUIET if card.title == "original" else INK
                write(draw, lines, x, y + _TITLE + cell_height + 5, label_font, colour, _LINE)
                x += column + _BETWEEN
        y += row_height + 16
    return page


def _title(draw: ImageDraw.ImageDraw, card: _Card, x: int, y: int, width: int) -> None:
    bold: Font = font("Sans-Bold", 12)
    colour = QUIET if card.title == "original" else INK
    draw.text((x, y), card.title, colour, bold)
    begin = round(bold.getlength(card.title)) + 8
    remark = fit(card.remark, font("Sans", 10), width - begin)
    draw.text((x + begin, y + 2), remark, QUIET, font("Sans", 10))


def _shrunk(picture: UInt8Array, width: int, height: int) -> UInt8Array:
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BOX))


def _parameters(op: Op) -> str:
    """The parameters but `p`, short: "factor 0.6–1.4"."""
    words = []
    for name, value in op.model_dump(exclude={"p"}).items():
        if isinstance(value, tuple):
            words.append(f"{name} {value[0]:.3g}–{value[1]:.3g}")
        else:
            words.append(f"{name} {value}" if isinstance(value, str | bool) else f"{name} {value:g}")
    return ", ".join(words)


def _say_if_nothing_changes(
    images: UInt8Array, cells: list[tuple[UInt8Array, list[str]]]
) -> list[tuple[UInt8Array, list[str]]]:
    """Grey pictures have no hue to turn: say so, or it would look like a fault."""
    return [
        (picture, [*labels, "as the original"] if np.array_equal(picture, original) else labels)
        for original, (picture, labels) in zip(images, cells, strict=True)
    ]


def mixing_draws(
    images_u8: UInt8Array,
    names: Sequence[str],
    alphas: dict[str, float],
    *,
    seed: int,
    epoch: int,
    sample_ids: npt.NDArray[np.int64],
    num: int,
) -> list[Draw]:
    """What MixUp or CutMix makes of some pictures, each mixed with the next one, as copies 0 to `num` - 1.

    Args:
        images_u8: uint8 (N, H, W, 3), at most a group of `mix.GROUP_SIZE`.
        names: (N,), what the labels call each picture.
        alphas: `mixup_alpha` and `cutmix_alpha`.
        seed, epoch, sample_ids: of the run.
        num: copies.
    """
    partner = partners(0, len(images_u8))
    pixels = torch.from_numpy(images_u8).permute(0, 3, 1, 2).float()
    draws = []
    for copy in range(num):
        drawn = draw_mix(seed, epoch, sample_ids, copy, **alphas)
        mixed, targets = mix(pixels, torch.arange(len(images_u8)), len(images_u8), drawn, partner)
        own = targets.diagonal().tolist()
        labels = [
            [f"{share:.0%} {name}", f"{1 - share:.0%} {names[other]}"]
            for share, name, other in zip(own, names, partner, strict=True)
        ]
        draws.append(Draw(mixed.permute(0, 2, 3, 1).round().to(torch.uint8).numpy(), labels))
    return draws


MIXES: dict[str, dict[str, float]] = {
    "MixUp": {"mixup_alpha": 1.0, "cutmix_alpha": 0.0},
    "CutMix": {"mixup_alpha": 0.0, "cutmix_alpha": 1.0},
}
"""What is shown of the two: their alphas."""
