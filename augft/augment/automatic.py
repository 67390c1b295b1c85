"""Ops that choose among ops, for each sample anew: RandAugment, TrivialAugment, AutoAugment, AugMix.

Each has a space of choices, and of each choice a table of the values that its magnitudes stand for, after the papers
and torchvision. What is chosen becomes plain drawn ops, so all of it composes as if it had been written down.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from augft.augment.auto_tables import LEARNED
from augft.augment.draw import Float64Array, IntArray
from augft.augment.drawn import DrawnOp, Draws
from augft.augment.ops import (
    Autocontrast,
    Brightness,
    Contrast,
    Equalize,
    Invert,
    Op,
    Posterize,
    Rotate,
    Saturation,
    Sharpness,
    Shear,
    Solarize,
    Translate,
)
from augft.augment.portable import log

NUM_BINS = 31
"""Magnitudes of RandAugment and TrivialAugment: 0 to 30."""


@dataclass(frozen=True)
class Choice:
    """An op of a space.

    Args:
        label: its name there.
        op: None leaves the picture as it is.
        table: float64 (2, bins, num_values): the op's values at each magnitude, as they are and with the sign turned.
    """

    label: str
    op: Op | None
    table: Float64Array

    def drawn(self, rows: IntArray, bins: IntArray, turned: npt.NDArray[np.bool_]) -> DrawnOp | None:
        """The op at some magnitudes, for some samples."""
        if self.op is None or len(rows) == 0:
            return None
        return DrawnOp(self.op, rows, np.ascontiguousarray(self.table[turned.astype(np.int64), bins].T))


class AutoOp(Op):
    """An op that becomes others when it is drawn."""

    def choose(self, stream: str, draws: Draws) -> list[DrawnOp]:
        """What the samples get, in the order in which it is done."""
        raise NotImplementedError

    def label(self, values: Float64Array) -> str:
        return self.name


class RandAugment(AutoOp):
    """`num_ops` ops in a row, each one of 14 at random, all of one magnitude; signs are drawn."""

    name = "rand_augment"
    num_values = 0
    source = "Cubuk et al., RandAugment, NeurIPS 2020; torchvision RandAugment"

    num_ops: int = Field(default=2, ge=1, le=8, description="ops in a row")
    magnitude: float = Field(default=9, ge=0, le=30, description="strength of each, 0 to 30, rounded to a whole number")

    def choose(self, stream: str, draws: Draws) -> list[DrawnOp]:
        drawn: list[DrawnOp] = []
        for slot in range(self.num_ops):
            which, sign = draws.uniform(f"{stream}/{slot}", 2)
            bins = np.full(len(which), round(self.magnitude))
            drawn += _one_of(_rand_space(), which, bins, sign < 0.5, draws.rows)
        return drawn


class TrivialAugment(AutoOp):
    """One op of 14 at random, of a magnitude at random, from a wide space."""

    name = "trivial_augment"
    num_values = 0
    source = "Müller and Hutter, TrivialAugment, ICCV 2021 (Wide); torchvision TrivialAugmentWide"

    def choose(self, stream: str, draws: Draws) -> list[DrawnOp]:
        which, magnitude, sign = draws.uniform(f"{stream}/0", 3)
        bins = np.floor(NUM_BINS * magnitude).astype(np.int64)
        return _one_of(_trivial_space(), which, bins, sign < 0.5, draws.rows)


class AutoAugment(AutoOp):
    """One of 25 learned pairs of ops at random, each of the two with its own probability and magnitude."""

    name = "auto_augment"
    num_values = 0
    source = "Cubuk et al., AutoAugment, CVPR 2019; torchvision AutoAugment"

    learned_on: Literal["cifar10", "svhn", "imagenet"] = Field(
        default="cifar10", description="the data set that the pairs were learned on"
    )

    def choose(self, stream: str, draws: Draws) -> list[DrawnOp]:
        uniforms = draws.uniform(f"{stream}/0", 5)
        space = {choice.label: choice for choice in _learned_space()}
        pairs = LEARNED[self.learned_on]
        pair = np.floor(len(pairs) * uniforms[0]).astype(np.int64)
        drawn = []
        for place in range(2):
            chance, sign = uniforms[1 + 2 * place], uniforms[2 + 2 * place]
            names = np.array([parts[place][0] for parts in pairs])
            applied = chance < np.array([parts[place][1] for parts in pairs])[pair]
            bins = np.array([parts[place][2] for parts in pairs])[pair]
            for label, choice in space.items():
                here = np.flatnonzero(applied & (names[pair] == label))
                if one := choice.drawn(draws.rows[here], bins[here], sign[here] < 0.5):
                    drawn.append(one)
        return drawn


class AugMix(Op):
    """Several short chains of ops, mixed with each other and with the picture itself by random weights.

    A chain has one to `depth` ops, each of nine at random, of a magnitude up to `severity`. Weights are Dirichlet(1)
    among chains, and uniform between them and the picture. It is a policy's last op; what stands before it is part of
    each chain, so every chain too is sampled once.
    """

    name = "aug_mix"
    num_values = 0
    source = "Hendrycks et al., AugMix, ICLR 2020; torchvision AugMix"

    severity: int = Field(default=3, ge=1, le=10, description="largest magnitude, 1 to 10")
    width: int = Field(default=3, ge=1, le=8, description="chains")
    depth: int = Field(default=3, ge=1, le=8, description="most ops of a chain")

    def label(self, values: Float64Array) -> str:
        return self.name

    def mix(self, stream: str, draws: Draws, num: int) -> tuple[tuple[tuple[DrawnOp, ...], ...], Float64Array]:
        """Chains and weights, as `Drawn` has them, for `num` samples of a batch."""
        weights = np.zeros((1 + self.width, num))
        weights[0] = 1
        uniforms = draws.uniform(stream, 3 + self.width)  # the first number decides `p`, as everywhere
        chosen = np.flatnonzero(uniforms[0] < self.p)
        draws = draws.part(chosen)
        own = uniforms[1, chosen]
        exponential = -log(1 - uniforms[2 : 2 + self.width, chosen])
        total = exponential[0].copy()
        for one in exponential[1:]:
            total += one
        weights[0, draws.rows] = own
        weights[1:, draws.rows] = (1 - own) * (exponential / np.maximum(total, 1e-300))
        return tuple(tuple(self._chain(f"{stream}/{chain}", draws)) for chain in range(self.width)), weights

    def _chain(self, stream: str, draws: Draws) -> Iterable[DrawnOp]:
        length = 1 + np.floor(self.depth * draws.uniform(stream, 1)[0])
        for slot in range(self.depth):
            part = draws.part(np.flatnonzero(length > slot))
            which, magnitude, sign = part.uniform(f"{stream}/{slot}", 3)
            bins = 1 + np.floor(self.severity * magnitude).astype(np.int64)
            yield from _one_of(_mix_space(), which, bins, sign < 0.5, part.rows)


AUTO_OPS: dict[str, type[Op]] = {op.name: op for op in (RandAugment, TrivialAugment, AutoAugment, AugMix)}
"""Every op that chooses among others, by name."""


def familiar(name: str) -> Op | None:
    """An op by the short name that people know it by: `rand-m9-n2`, `trivial`, `auto-cifar10`, `augmix-m3-w3-d3`.

    Raises:
        ValueError: it begins like one, and goes on with something else.
    """
    begin, *parts = name.lower().split("-")
    if begin == "trivial" and not parts:
        return TrivialAugment()
    if begin == "auto" and len(parts) == 1 and parts[0] in LEARNED:
        return AutoAugment(learned_on=parts[0])  # type: ignore[arg-type]
    known = {"rand": {"m": "magnitude", "n": "num_ops"}, "augmix": {"m": "severity", "w": "width", "d": "depth"}}
    if begin not in known:
        return None
    settings = {}
    for part in parts:
        found = re.fullmatch(r"([a-z]+)(\d+)", part)
        if found is None or found[1] not in known[begin]:
            letters = ", ".join(f"{letter} ({field})" for letter, field in known[begin].items())
            raise ValueError(f"{name!r}: {part!r} is not understood; after {begin}- come {letters}, each with a number")
        settings[known[begin][found[1]]] = int(found[2])
    return RandAugment(**settings) if begin == "rand" else AugMix(**settings)


def _one_of(
    space: tuple[Choice, ...], which: Float64Array, bins: IntArray, turned: npt.NDArray[np.bool_], rows: IntArray
) -> list[DrawnOp]:
    """Each sample's choice of a space, uniform numbers deciding, grouped by op."""
    number = np.floor(len(space) * which).astype(np.int64)
    order = np.argsort(number, kind="stable")
    ends = np.searchsorted(number[order], np.arange(len(space) + 1))
    drawn = []
    for choice, first, end in zip(space, ends[:-1], ends[1:], strict=True):
        here = order[first:end]
        if one := choice.drawn(rows[here], bins[here], turned[here]):
            drawn.append(one)
    return drawn


# -- spaces ----------------------------------------------------------------------------------------

_MOST_SHIFT = 150 / 331  # of ImageNet's 331 pixels in the paper


def _magnitudes(strongest: float, num_bins: int) -> Float64Array:
    return np.arange(float(num_bins)) * (strongest / (num_bins - 1))


def _slopes(strongest: float, num_bins: int) -> Float64Array:
    """Shears by slope, in degrees; rounded, for the platform's arc tangent may differ in the last bit."""
    return np.array([round(math.degrees(math.atan(slope)), 9) for slope in _magnitudes(strongest, num_bins)])


def _along(axis: int, values: Float64Array) -> Float64Array:
    """Values of an op of two axes that acts along one, float64 (2, bins, 2)."""
    table = np.zeros((2, len(values), 2))
    table[0, :, axis], table[1, :, axis] = values, -values
    return table


def _either_way(values: Float64Array, middle: float = 0.0) -> Float64Array:
    return np.stack([middle + values, middle - values])[:, :, None]


def _one_way(values: Float64Array) -> Float64Array:
    return np.stack([values, values])[:, :, None]


def _no_values(num_bins: int) -> Float64Array:
    return np.zeros((2, num_bins, 0))


def _posterize(fewest: int, num_bins: int, most: int = 8) -> Float64Array:
    return _one_way(most - np.rint(np.arange(num_bins) / ((num_bins - 1) / (most - fewest))))


def _geometric(num_bins: int, slope: float, shift: float, degrees: float, translate: Translate) -> list[Choice]:
    slopes, shifts = _slopes(slope, num_bins), _magnitudes(shift, num_bins)
    return [
        Choice("shear_x", Shear(), _along(0, slopes)),
        Choice("shear_y", Shear(), _along(1, slopes)),
        Choice("translate_x", translate, _along(0, shifts)),
        Choice("translate_y", translate, _along(1, shifts)),
        Choice("rotate", Rotate(), _either_way(_magnitudes(degrees, num_bins))),
    ]


def _enhancing(num_bins: int, strongest: float) -> list[Choice]:
    table = _either_way(_magnitudes(strongest, num_bins), 1.0)
    ops = (Brightness(), Saturation(), Contrast(), Sharpness())
    return [Choice(op.name, op, table) for op in ops]


def _tables(num_bins: int, fewest_bits: int, most_bits: int = 8) -> list[Choice]:
    return [
        Choice("posterize", Posterize(), _posterize(fewest_bits, num_bins, most_bits)),
        Choice("solarize", Solarize(), _one_way(255 - _magnitudes(255, num_bins))),
        Choice("autocontrast", Autocontrast(), _no_values(num_bins)),
        Choice("equalize", Equalize(), _no_values(num_bins)),
    ]


@cache
def _rand_space() -> tuple[Choice, ...]:
    n = NUM_BINS
    return (
        Choice("identity", None, _no_values(n)),
        *_geometric(n, 0.3, _MOST_SHIFT, 30, Translate()),
        *_enhancing(n, 0.9),
        *_tables(n, 4),
    )


@cache
def _trivial_space() -> tuple[Choice, ...]:
    n = NUM_BINS
    return (
        Choice("identity", None, _no_values(n)),
        *_geometric(n, 0.99, 32, 135, Translate(unit="pixel")),
        *_enhancing(n, 0.99),
        *_tables(n, 2),
    )


@cache
def _learned_space() -> tuple[Choice, ...]:
    n = 10
    return (
        *_geometric(n, 0.3, _MOST_SHIFT, 30, Translate()),
        *_enhancing(n, 0.9),
        *_tables(n, 4),
        Choice("invert", Invert(), _no_values(n)),
    )


@cache
def _mix_space() -> tuple[Choice, ...]:
    n = 11  # severities 0 to 10
    return (*_geometric(n, 0.3, 1 / 3, 30, Translate()), *_tables(n, 0, 4))


SPACES: dict[str, Callable[[], tuple[Choice, ...]]] = {
    "rand_augment": _rand_space,
    "trivial_augment": _trivial_space,
    "auto_augment": _learned_space,
    "aug_mix": _mix_space,
}
"""What each chooses among."""
