"""What each sample of a batch gets, as data: drawn from keys, to be rendered, told in words, or kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from augft.augment import draw
from augft.augment.draw import Float64Array, IntArray, UInt64Array
from augft.augment.ops import FinishOp, Op

_NO_KEYS = np.empty(0, np.uint64)


@dataclass(frozen=True)
class DrawnOp:
    """What one op does to the samples that get it."""

    op: Op
    rows: IntArray
    """int64 (K,), ascending: which samples of the batch get the op."""
    values: Float64Array
    """(num_values, K): the drawn parameters in physical units."""
    keys: UInt64Array = field(default_factory=_NO_KEYS.copy)
    """uint64 (K,): each sample's key of draws a pixel, of an op that has such; else empty."""


@dataclass(frozen=True)
class Drawn:
    """What a policy does to each sample of a batch.

    Args:
        num: samples of the batch, N.
        ops: in the policy's order.
        chains: of AugMix, what each of its chains does after `ops`.
        weights: of AugMix, float64 (1 + number of chains, N): how much of the picture that `ops` make, and of each
            chain's, is mixed; the columns sum to 1.
    """

    num: int
    ops: tuple[DrawnOp, ...] = ()
    chains: tuple[tuple[DrawnOp, ...], ...] = ()
    weights: Float64Array | None = None

    def spread(self, rows: IntArray, num: int) -> Drawn:
        """The same for samples that stand at `rows`, ascending, of a batch of `num`; nothing happens to the others."""
        weights = None
        if self.weights is not None:
            weights = np.zeros((len(self.weights), num))
            weights[0] = 1
            weights[:, rows] = self.weights

        def moved(ops: tuple[DrawnOp, ...]) -> tuple[DrawnOp, ...]:
            return tuple(replace(op, rows=rows[op.rows]) for op in ops)

        return Drawn(num, moved(self.ops), tuple(moved(chain) for chain in self.chains), weights)

    def describe(self, index: int) -> list[str]:
        """What the sample at `index` of the batch gets, an entry an op: ["flip ↔", "rotate +7.3°"]."""
        lines = _labels(self.ops, index)
        if self.weights is not None and self.weights[0, index] < 1:
            for chain, weight in zip(self.chains, self.weights[1:, index], strict=True):
                if weight == 0:  # a chain that only samples of other epochs have
                    continue
                lines.append(f"{weight:.0%} {' → '.join(_labels(chain, index)) or 'unchanged'}")
        return lines


def _labels(ops: Sequence[DrawnOp], index: int) -> list[str]:
    labels = []
    for one in ops:
        place = int(np.searchsorted(one.rows, index))
        if place < len(one.rows) and one.rows[place] == index:
            labels.append(one.op.label(one.values[:, place]))
    return labels


@dataclass(frozen=True)
class Draws:
    """Where the numbers of some samples of a batch come from.

    Args:
        seed: of the run.
        counter: uint64 (4, K), of `draw.counter`.
        rows: int64 (K,), ascending: their places in the batch.
    """

    seed: int
    counter: UInt64Array
    rows: IntArray

    @classmethod
    def of_batch(cls, seed: int, epoch: int | IntArray, sample_ids: IntArray, copy: int | IntArray) -> Draws:
        """Of all samples of a batch; arguments as in `augment_batch`."""
        return cls(seed, draw.counter(epoch, sample_ids, copy), np.arange(len(sample_ids)))

    def uniform(self, stream: str, num_draws: int) -> Float64Array:
        """Uniform numbers in [0, 1), float64 (num_draws, K)."""
        from augft.augment import kernel  # not at the top: it loads the compiler

        return kernel.uniform(draw.stream_key(self.seed, stream), self.counter, num_draws)

    def keys(self, stream: str) -> UInt64Array:
        """A key of each sample's own, uint64 (K,), for draws a pixel."""
        low, high = (self.uniform(f"{stream}/pixels", 2) * 2.0**32).astype(np.uint64)
        keys: UInt64Array = low | (high << np.uint64(32))
        return keys

    def part(self, chosen: npt.NDArray[np.intp]) -> Draws:
        """Of some of these samples."""
        return Draws(self.seed, np.ascontiguousarray(self.counter[:, chosen]), self.rows[chosen])


def draw_op(op: Op, stream: str, draws: Draws) -> DrawnOp:
    """The first number of an op's stream decides `p`, the following are its parameters."""
    uniforms = draws.uniform(stream, 1 + op.num_values)
    if op.p < 1:
        chosen = np.flatnonzero(uniforms[0] < op.p)
        uniforms, draws = uniforms[:, chosen], draws.part(chosen)
    keys = draws.keys(stream) if isinstance(op, FinishOp) and op.keyed else _NO_KEYS
    return DrawnOp(op, draws.rows, op.values(uniforms[1:]), keys)
