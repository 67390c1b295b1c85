"""A batch through a policy: draw, compose, sample once.

Drawing is apart from pixels: `draw_parameters` says what each sample gets, `render` makes it, and
`augment_batch` is the one after the other. So what training saw can be listed, told in words and made again.

Pixels are made a few pictures at a time, so that a picture stays in the processor's cache from its sampling to the last
op on it: `render_parts` hands them out as they are ready.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from augft.augment.automatic import AugMix, AutoOp
from augft.augment.draw import Float64Array, IntArray, UInt64Array
from augft.augment.drawn import Drawn, DrawnOp, Draws, draw_op
from augft.augment.ops import ColourOp, Elastic, FinishOp, GeometryOp, LinearOp, Size, compose, identity
from augft.augment.ops.colour import Kind, compose_linear
from augft.augment.ops.maps import projective
from augft.augment.policy import Fill, Policy
from augft.errors import PolicyError

if TYPE_CHECKING:
    from augft.augment.kernel import Displacement

UInt8Array = npt.NDArray[np.uint8]

NUM_VIEWS = 3
"""Of a picture, for AugMix's consistency loss."""

PART_BYTES = 2**22
"""Bytes of the pictures that are made at a time: few enough for the last cache, enough for the cost of a part."""


def augment_batch(
    images_u8: UInt8Array,
    policy: Policy,
    *,
    seed: int,
    epoch: int | IntArray,
    sample_ids: IntArray | Sequence[int],
    copy: int | IntArray = 0,
) -> UInt8Array:
    """Augment each picture as its own (seed, epoch, sample id, copy) says.

    A picture's result does not depend on the others in the batch, on their order or number. Samples that are
    only flipped or shifted by whole pixels, or left alone, are copied bit for bit.

    Args:
        images_u8: uint8 (N, H, W, 3); not changed.
        policy: what to do.
        seed: of the run.
        epoch: one for all, or int64 (N,).
        sample_ids: int64 (N,).
        copy: which of a sample's copies, one for all or int64 (N,).

    Returns:
        uint8 (N, H, W, 3), a new array.

    Raises:
        ValueError: a wrong shape or dtype, or an id, epoch or copy out of range.
        PolicyError: the policy moves pixels further than the kernel can follow.
    """
    ids = np.asarray(sample_ids)
    images = np.asarray(images_u8)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"images_u8 must be uint8 (N, H, W, 3), found {images.dtype} {images.shape}")
    if ids.ndim != 1 or len(ids) != len(images):
        raise ValueError(f"sample_ids must be ({len(images)},), one for each picture, found {ids.shape}")
    return render(images, policy, draw_parameters(policy, seed=seed, epoch=epoch, sample_ids=ids, copy=copy))


def draw_parameters(
    policy: Policy,
    *,
    seed: int,
    epoch: int | IntArray,
    sample_ids: IntArray | Sequence[int],
    copy: int | IntArray = 0,
    mixture: int = 0,
) -> Drawn:
    """What each sample gets of each op of the policy, in the policy's order. Arguments as in `augment_batch`.

    `mixture` numbers independent draws of AugMix's chains and weights for the same sample.
    """
    ids = np.asarray(sample_ids, np.int64)
    for name, numbers in (("epoch", epoch), ("copy", copy)):
        if np.shape(numbers) not in ((), ids.shape):
            raise ValueError(f"{name} must be one number or {ids.shape}, found {np.shape(numbers)}")
    draws = Draws.of_batch(seed, epoch, ids, copy)
    if not policy.changes:
        return _draw(policy, draws, len(ids), mixture)
    epochs = np.broadcast_to(epoch, ids.shape)
    parts = [
        _draw(policy.at(int(e)), draws.part(np.flatnonzero(epochs == e)), len(ids), mixture) for e in np.unique(epochs)
    ]
    return _join(parts, len(ids))


def draw_copies(
    policy: Policy, *, seed: int, epochs: IntArray, sample_ids: IntArray, copies: IntArray, mixture: int = 0
) -> Drawn:
    """What each item of a batch gets: originals nothing, and copies what `draw_parameters` says.

    Args:
        policy: what to do.
        seed: of the run.
        epochs, sample_ids: int64 (N,).
        copies: int64 (N,), 0 for an original, c + 1 for copy c of its sample.
        mixture: as in `draw_parameters`.
    """
    rows = np.flatnonzero(copies)
    drawn = draw_parameters(
        policy,
        seed=seed,
        epoch=epochs[rows],
        sample_ids=sample_ids[rows],
        copy=copies[rows] - 1,
        mixture=mixture,
    )
    return drawn if len(rows) == len(copies) else drawn.spread(rows, len(copies))


def draw_views(
    policy: Policy, *, seed: int, epochs: IntArray, sample_ids: IntArray, copies: IntArray, num_views: int
) -> list[Drawn]:
    """One view of each item, or `NUM_VIEWS`: before AugMix's mixing, and two mixtures of the same picture.

    Arguments as in `draw_copies`; the views of an original are all the original.
    """
    if num_views == 1:
        return [draw_copies(policy, seed=seed, epochs=epochs, sample_ids=sample_ids, copies=copies)]
    first, second = (
        draw_copies(policy, seed=seed, epochs=epochs, sample_ids=sample_ids, copies=copies, mixture=mixture)
        for mixture in range(2)
    )
    return [replace(first, chains=(), weights=None), first, second]


def _draw(policy: Policy, draws: Draws, num: int, mixture: int) -> Drawn:
    drawn: list[DrawnOp] = []
    for op, stream in zip(policy.plain_ops, policy.streams, strict=True):
        if isinstance(op, AugMix):
            return Drawn(num, tuple(drawn), *op.mix(f"{stream}/{mixture}" if mixture else stream, draws, num))
        if isinstance(op, AutoOp):
            chosen = np.flatnonzero(draws.uniform(stream, 1)[0] < op.p) if op.p < 1 else None
            drawn += op.choose(stream, draws if chosen is None else draws.part(chosen))
        else:
            drawn.append(draw_op(op, stream, draws))
    return Drawn(num, tuple(drawn))


def _join(parts: Sequence[Drawn], num: int) -> Drawn:
    """Draws of disjoint samples of a batch as one."""
    ops = tuple(op for part in parts for op in part.ops)
    num_chains = max((len(part.chains) for part in parts), default=0)
    if not num_chains:
        return Drawn(num, ops)
    weights = np.zeros((1 + num_chains, num))
    weights[0] = 1
    chains: list[tuple[DrawnOp, ...]] = [()] * num_chains
    for part in parts:
        if part.weights is not None:
            weights[0] -= 1 - part.weights[0]
            weights[1 : len(part.weights)] += part.weights[1:]
            for number, chain in enumerate(part.chains):
                chains[number] += chain
    return Drawn(num, ops, tuple(chains), weights)


def render(images_u8: UInt8Array, policy: Policy, drawn: Drawn) -> UInt8Array:
    """The pictures that drawn parameters make: uint8 (N, H, W, 3) → uint8 (N, H, W, 3).

    Of the policy only sampling and fill are used here.

    Raises:
        PolicyError: the policy moves pixels further than the kernel can follow.
    """
    images = np.ascontiguousarray(images_u8)
    out = np.empty_like(images)
    for _ in render_parts(lambda first, end: images[first:end], policy, drawn, out):
        pass
    return out


def render_parts(
    fetch: Callable[[int, int], UInt8Array], policy: Policy, drawn: Drawn, out: UInt8Array
) -> Iterator[slice]:
    """As `render`, into `out` and a part at a time.

    Args:
        fetch: gives the pictures from the first up to, not including, the second: uint8 (M, H, W, 3), C-contiguous.
        policy: its sampling and fill.
        drawn: what happens.
        out: uint8 (N, H, W, 3), C-contiguous.

    Yields:
        Which pictures of `out` are finished, part by part.
    """
    plans = compose_drawn(drawn, Size(out.shape[1], out.shape[2]))
    weights = None if drawn.weights is None else fixed_weights(drawn.weights)
    step = max(1, PART_BYTES // max(1, out[:1].size))
    for first in range(0, drawn.num, step):
        part = slice(first, min(first + step, drawn.num))
        images = fetch(part.start, part.stop)

        def move(chain: int, into: UInt8Array, images: UInt8Array = images, part: slice = part) -> None:
            _move(images, plans[chain], part, policy, into)

        finish_part(move, plans, weights, part, policy, out[part])
        yield part


def finish_part(
    move: Callable[[int, UInt8Array], None],
    plans: Sequence[Composed],
    weights: IntArray | None,
    part: slice,
    policy: Policy,
    out: UInt8Array,
) -> None:
    """Make the pictures `part` of the batch: what is done to moved pixels, and AugMix's blend of several such pictures.

    Args:
        move: puts the pictures, moved as the plan of a number says, into uint8 (M, H, W, 3).
        plans: of the ops, and of each chain of AugMix.
        weights: of `fixed_weights`; None where there are no chains.
        part: which of the batch.
        policy: its fill.
        out: uint8 (M, H, W, 3).
    """
    move(0, out)
    _colour(plans[0], part, policy, out)
    if weights is None:
        return
    total = out * weights[0, part].astype(np.uint32)[:, None, None, None]
    scratch = np.empty_like(out)
    for chain in range(1, len(plans)):
        move(chain, scratch)
        _colour(plans[chain], part, policy, scratch)
        total += scratch * weights[chain, part].astype(np.uint32)[:, None, None, None]
    out[:] = (total + np.uint32(2**15)) >> np.uint32(16)


def _move(images: UInt8Array, plan: Composed, part: slice, policy: Policy, out: UInt8Array) -> None:
    """The geometry of the pictures `part` of the batch, from `images` into `out`, uint8 (M, H, W, 3) both."""
    from augft.augment import kernel  # not at the top: it loads the compiler

    if not plan.moves:
        out[:] = images
        return
    try:
        kernel.warp(
            images,
            plan.maps_of(part),
            fill=policy.fill,
            bilinear=policy.sampling == "bilinear",
            displacement=plan.displacement(part),
            out=out,
        )
    except ValueError as error:
        raise too_far(policy, Size(out.shape[1], out.shape[2]), error) from error


def _colour(plan: Composed, part: slice, policy: Policy, out: UInt8Array) -> None:
    """All that follows the geometry of the pictures `part` of the batch, in `out`, uint8 (M, H, W, 3)."""
    from augft.augment.recolour import recolour  # not at the top: it loads the compiler

    rows, kinds, arguments = plan.colours(part)
    if len(rows):
        recolour(out, rows, kinds, arguments)
    for op, rows, values, keys in plan.finish(part):
        op.apply(out, rows, values, fill_colours(out, rows, policy.fill), keys)


def too_far(policy: Policy, size: Size, error: ValueError) -> PolicyError:
    """What a position beyond the kernel's reach is told as."""
    return PolicyError(f"policy {policy.name!r} on pictures of {size.width}×{size.height}: {error}")


def fixed_weights(weights: Float64Array) -> IntArray:
    """AugMix's weights in 2^-16, int64 of their shape; each sample's sum to 2^16."""
    fixed: IntArray = np.rint(weights * 2.0**16).astype(np.int64)
    fixed[0] += 2**16 - fixed.sum(0)
    return fixed


def compose_drawn(drawn: Drawn, size: Size) -> list[Composed]:
    """What is done to pixels by the ops, and by the ops and each chain of AugMix."""
    return [Composed((*drawn.ops, *chain), drawn.num, size) for chain in ((), *drawn.chains)]


class Composed:
    """Drawn ops as what is done to pixels: one map, one run of colour steps, and what cannot be composed.

    All is given for a part of the batch, a slice of its rows; rows are counted from the part's first.
    """

    def __init__(self, ops: Sequence[DrawnOp], num: int, size: Size) -> None:
        self.ops = ops
        self._maps = inverse_maps(ops, num, size)
        # More than one where a batch holds several epochs: their samples are disjoint.
        self._elastic = [(one.op, one) for one in ops if isinstance(one.op, Elastic)]
        self._size = size
        self._colours = colour_steps(ops, num)
        finish = [(one.op, one) for one in ops if isinstance(one.op, FinishOp) and len(one.rows)]
        self._finish = sorted(finish, key=lambda pair: pair[0].covers)  # stable: the policy's order otherwise

    @property
    def moves(self) -> bool:
        """Whether any pixel moves."""
        return self._maps is not None or bool(self._elastic)

    def maps_of(self, part: slice) -> Float64Array:
        """The maps, float64 (6, M) or (9, M)."""
        return identity(part.stop - part.start) if self._maps is None else self._maps[:, part]

    def displacement(self, part: slice) -> Displacement | None:
        """What elastic deformation adds to the maps."""
        from augft.augment.kernel import Displacement

        if not self._elastic:
            return None
        here = [_within(one.rows, part) for _, one in self._elastic]
        rows = [one.rows[at] - part.start for (_, one), at in zip(self._elastic, here, strict=True)]
        lattices = [
            op.lattice(one.values[:, at], self._size) for (op, one), at in zip(self._elastic, here, strict=True)
        ]
        return Displacement(np.concatenate(rows), np.concatenate(lattices, axis=-1))

    def colours(self, part: slice) -> tuple[IntArray, UInt8Array, Float64Array]:
        """Rows, kinds and arguments as `colour_steps` has them."""
        rows, kinds, arguments = self._colours
        here = _within(rows, part)
        return rows[here] - part.start, kinds[here], arguments[here]

    def finish(self, part: slice) -> Iterator[tuple[FinishOp, IntArray, Float64Array, UInt64Array]]:
        """In order, each op with its rows, values and keys, where it has rows."""
        for op, one in self._finish:
            here = _within(one.rows, part)
            if here.stop > here.start:
                keys = one.keys[here] if len(one.keys) else one.keys
                yield op, one.rows[here] - part.start, one.values[:, here], keys


def _within(rows: IntArray, part: slice) -> slice:
    """Where in ascending `rows` those of a part of the batch stand."""
    first, end = np.searchsorted(rows, (part.start, part.stop))
    return slice(int(first), int(end))


def fill_colours(images: UInt8Array, rows: IntArray, fill: Fill) -> UInt8Array:
    """What covers parts of some pictures, uint8 (K, 3): the fill, or each picture's average where it is no colour."""
    if not isinstance(fill, str):
        return np.broadcast_to(np.array(fill, np.uint8), (len(rows), 3))
    pixels = images.shape[1] * images.shape[2]
    sums = images[rows].sum((1, 2), dtype=np.int64)
    averages: UInt8Array = ((sums + pixels // 2) // max(1, pixels)).astype(np.uint8)
    return averages


def inverse_maps(ops: Sequence[DrawnOp], num: int, size: Size) -> Float64Array | None:
    """All geometry of each sample as one map of `ops/maps.py`, float64 (6, N) or (9, N); None where there is none."""
    total: Float64Array | None = None
    for one in ops:
        if not isinstance(one.op, GeometryOp) or not len(one.rows):
            continue
        inverse = one.op.inverse(one.values, size)
        if len(one.rows) == num:
            total = inverse if total is None else compose(total, inverse)
            continue
        if total is None:
            total = identity(num)
        if len(inverse) == 9:
            total = projective(total)
        total[:, one.rows] = compose(total[:, one.rows], inverse)
    return total


def colour_steps(ops: Sequence[DrawnOp], num: int) -> tuple[IntArray, UInt8Array, Float64Array]:
    """All colour of each sample as a run of steps: linear ops that follow each other are composed to one.

    Returns:
        int64 (K,), the samples that have any; their kinds uint8 (K, S) and arguments float64 (K, S, 21), as
        `recolour.recolour` takes them.
    """
    colours = [one for one in ops if isinstance(one.op, ColourOp) and len(one.rows)]
    if not colours:
        return np.empty(0, np.int64), np.empty((0, 0), np.uint8), np.empty((0, 0, 21))
    rows = np.unique(np.concatenate([one.rows for one in colours]))
    place = np.zeros(num, np.int64)
    place[rows] = np.arange(len(rows))
    length = np.zeros(len(rows), np.int64)
    kinds = np.zeros((len(colours), len(rows)), np.uint8)
    arguments = np.zeros((len(colours), 21, len(rows)))
    for one in colours:
        assert isinstance(one.op, ColourOp)
        at = place[one.rows]
        argument = one.op.argument(one.values)
        if isinstance(one.op, LinearOp):
            last = np.maximum(length[at] - 1, 0)
            joins = kinds[last, at] == Kind.LINEAR
            if joins.any():
                step, where = last[joins], at[joins]
                arguments[step, :, where] = compose_linear(argument[:, joins], arguments[step, :, where].T).T
                at, argument = at[~joins], argument[:, ~joins]
        step = length[at]
        kinds[step, at] = one.op.kind
        arguments[step, : len(argument), at] = argument.T
        length[at] += 1
    most = int(length.max())
    return (
        rows,
        np.ascontiguousarray(kinds[:most].T),
        np.ascontiguousarray(np.moveaxis(arguments[:most], 2, 0)),
    )
