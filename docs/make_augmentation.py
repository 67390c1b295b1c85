"""Makes what docs/augmentation.md holds of each op, and its pictures, from the ops themselves.

    python docs/make_augmentation.py

writes docs/images/all-ops.jpg, docs/images/ops/*.png and all that stands between the two markers of the page; what
stands outside of them is written by hand. A test holds the page against the code.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_sample_image

from augft.augment.automatic import SPACES, AugMix, Choice
from augft.augment.ops import ColourOp, Elastic, FinishOp, GeometryOp, LinearOp, Op, Size
from augft.augment.policy import ALL_OPS, Policy
from augft.report.ops_sheet import KINDS, MIXES, always, draws_of, kind_of, mixing_draws, ops_of, ops_sheet, spread
from augft.schema import Schema, op_schema

HERE = Path(__file__).parent
PAGE = HERE / "augmentation.md"
SHEET = HERE / "images" / "all-ops.jpg"
IMAGES = HERE / "images" / "ops"
BEGIN, END = "<!-- made by docs/make_augmentation.py: begin -->", "<!-- end -->"

Pictures = npt.NDArray[np.uint8]

SIDE, GAP, NUM_COLOURS = 96, 6, 48
SHARES = (0.2, 0.45, 0.7, 0.9)
"""Of nine draws by how much they change the picture: the ones that are shown."""

HEADINGS = {
    "geometry": "Geometry",
    "colour": "Colour",
    "filters": "Filters",
    "covering": "Covering",
    "automatic": "Automatic",
}
CROPS = {
    "temple": ("china.jpg", 0, 30, 380),
    "flower": ("flower.jpg", 110, 0, 420),
    "lake": ("china.jpg", 250, 40, 380),
}
"""File, left, top and side."""
FIRST_BIN = {"aug_mix": 1}
"""The weakest magnitude that is drawn, where it is not 0."""


# -- pictures --------------------------------------------------------------------------------------


@cache
def photo(name: str) -> Pictures:
    """A part of a photograph that comes with scikit-learn, shrunk, uint8 (SIDE, SIDE, 3)."""
    file, left, top, side = CROPS[name]
    whole = Image.fromarray(load_sample_image(file)).crop((left, top, left + side, top + side))
    return np.asarray(whole.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def op_pictures(op_class: type[Op]) -> tuple[list[Pictures], list[str]]:
    """An original and what the op makes of it, with what each is."""
    op = always(op_class)
    policy = Policy()
    names = ("flower", "temple") if kind_of(op_class) in ("colour", "filters") else ("temple", "flower")
    settings = {"seed": 0, "epoch": 0}
    if op.num_values == 0 and kind_of(op_class) != "automatic":  # always the same: two originals
        originals = np.stack([photo(name) for name in names])
        [draw] = draws_of(op, originals, policy, **settings, sample_ids=np.arange(2), num=1)
        pictures = [originals[0], draw.pictures[0], originals[1], draw.pictures[1]]
        return pictures, ["an original", *draw.labels[0], "another", *draw.labels[1]]
    originals = np.stack([photo(names[0])] * len(SHARES))
    draws = draws_of(op, originals, policy, **settings, sample_ids=np.arange(len(SHARES)), num=9)
    results = spread(originals, draws, SHARES)
    labels = [", ".join(labels) or "unchanged" for _, labels in results]
    return [originals[0], *(picture for picture, _ in results)], ["the original", *labels]


def mix_pictures(alphas: dict[str, float]) -> tuple[list[Pictures], list[str]]:
    """Two originals and what mixing makes of them."""
    originals = np.stack([photo("temple"), photo("flower")])
    draws = mixing_draws(originals, ["first", "second"], alphas, seed=0, epoch=0, sample_ids=np.arange(2), num=9)
    mixed = [spread(originals, draws, shares)[i] for shares, i in (((0.3, 0.3), 0), ((0.6, 0.6), 0), ((0.6, 0.6), 1))]
    return [*originals, *(picture for picture, _ in mixed)], [
        "the first original",
        "the second",
        *(" and ".join(labels) for _, labels in mixed),
    ]


def strip(pictures: list[Pictures]) -> Image.Image:
    """Pictures beside each other, in a palette."""
    page = np.full((SIDE, len(pictures) * (SIDE + GAP) - GAP, 3), 255, np.uint8)
    for place, picture in enumerate(pictures):
        page[:, place * (SIDE + GAP) : place * (SIDE + GAP) + SIDE] = picture
    return Image.fromarray(page).quantize(NUM_COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


def sheet() -> Image.Image:
    """All ops on one page, as `augft preview --all-ops` draws them."""
    photos = np.stack([photo(name) for name in CROPS])
    return ops_sheet(photos, list(CROPS), Policy(), seed=0, epoch=0, sample_ids=np.arange(len(CROPS)))


# -- text ------------------------------------------------------------------------------------------


def made() -> str:
    """All that stands between the markers."""
    parts = [BEGIN]
    for kind in KINDS:
        parts.append(f"### {HEADINGS[kind]}")
        parts += [section(op) for op in ops_of(kind)]
    parts += [automatic_table(), END]
    return "\n\n".join(parts)


def section(op: type[Op]) -> str:
    """What the page says of one op."""
    _, labels = op_pictures(op)
    paragraphs = [" ".join(part.split()) for part in (op.__doc__ or "").split("\n\n")]
    rows = [parameter_row(name, entry) for name, entry in op_schema(op)["properties"].items()]
    table = "\n".join(["| parameter | default | bounds | what it is |", "|---|---|---|---|", *rows])
    last = f"{runs(op)} {chosen_by(op)}Source: {op.source}.".replace("  ", " ")
    labels = [label if len(label) <= 60 else f"{label[:57].rstrip()} …" for label in labels]
    image = f"![{'; '.join(labels)}](images/ops/{op.name}.png)"
    return "\n\n".join([f"#### `{op.name}`", *paragraphs, image, table, last])


def parameter_row(name: str, entry: Schema) -> str:
    """A parameter as a row of a table."""
    default = entry["default"]
    if isinstance(default, list):
        shown = " to ".join(number(end) for end in default)
    else:
        shown = str(default).lower() if isinstance(default, bool) else number(default)
    return f"| `{name}` | {shown} | {bounds(entry)} | {entry['description']} |"


def bounds(entry: Schema) -> str:
    """What a parameter may be."""
    if "enum" in entry:
        return ", ".join(f"`{value}`" for value in entry["enum"])
    if entry.get("type") == "boolean":
        return "`true`, `false`"
    form = entry["anyOf"][0]
    whole = ", whole" if form["type"] == "integer" else ""
    if "exclusiveMinimum" in form:
        return f"above {number(form['exclusiveMinimum'])}, to {number(form['maximum'])}{whole}"
    if "maximum" not in form:
        return f"from {number(form['minimum'])} on{whole}"
    ends = ", both ends" if isinstance(entry["default"], list) else ""
    return f"{number(form['minimum'])} to {number(form['maximum'])}{whole}{ends}"


def number(value: object) -> str:
    """Three digits, or a word."""
    return f"`{value}`" if isinstance(value, str) else f"{value:.4g}"


def runs(op: type[Op]) -> str:
    """When it is done, and what it composes to."""
    if issubclass(op, Elastic):
        return "Composes to a displacement in the one resample."
    if issubclass(op, GeometryOp):
        projective = len(op().inverse(op().values(np.full((op.num_values, 1), 0.5)), Size(8, 8))) == 9
        return f"Composes to the one map{', a projective one' if projective else ''}."
    if issubclass(op, LinearOp):
        return "Composes to a linear map of colours."
    if issubclass(op, ColourOp):
        return "Composes to a table a channel."
    if issubclass(op, FinishOp):
        return "Runs after geometry and colour, on the whole picture" + (", last of all." if op.covers else ".")
    if issubclass(op, AugMix):
        return "Each chain is sampled once, and all that stands before it with it; then the pictures are mixed."
    return "Becomes other ops when it is drawn, which compose as if they had been written down."


def chosen_by(op: type[Op]) -> str:
    """Which automatic ops choose it."""
    names = [f"`{name}`" for name, space in SPACES.items() if any(type(choice.op) is op for choice in space())]
    return f"Chosen by {', '.join(names)} ([how strong](#how-strong))." + " " if names else ""


def automatic_table() -> str:
    """How strong each choice is at the weakest and the strongest magnitude."""
    spaces = {name: {choice.label: choice for choice in space()} for name, space in SPACES.items()}
    labels = list(dict.fromkeys(label for space in spaces.values() for label in space))
    rows = ["| choice | " + " | ".join(f"`{name}`" for name in spaces) + " |", "|---|" + "---|" * len(spaces)]
    for label in labels:
        cells = [
            strength(space[label], FIRST_BIN.get(name, 0)) if label in space else "–" for name, space in spaces.items()
        ]
        rows.append(f"| {label} | {' | '.join(cells)} |")
    return "\n\n".join(
        [
            '<a id="how-strong"></a>What each may choose, from its weakest magnitude to its strongest; two values at '
            "the end where the sign is drawn:",
            "\n".join(rows),
        ]
    )


def strength(choice: Choice, first: int) -> str:
    """From the weakest magnitude to the strongest."""
    if choice.op is None or choice.table.shape[2] == 0:
        return "yes"
    ends = [choice.table[0, first], choice.table[0, -1], choice.table[1, -1]]
    weak, strong, turned = (re.sub(r"^[a-z]+ ", "", choice.op.label(values)) for values in ends)
    return f"{weak} to {strong}" + (f" or {turned}" if turned != strong else "")


def with_made_part(page: str) -> str:
    """The page with all between the markers made anew."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + made() + after


def main() -> None:
    """Write pictures and page."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, op in ALL_OPS.items():
        strip(op_pictures(op)[0]).save(IMAGES / f"{name}.png", optimize=True)
    for title, alphas in MIXES.items():
        strip(mix_pictures(alphas)[0]).save(IMAGES / f"{title.lower()}.png", optimize=True)
    sheet().save(SHEET, quality=80, optimize=True)
    PAGE.write_text(with_made_part(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
