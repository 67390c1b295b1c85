"""Some of a job's own training pictures, and what augmentation makes of them: policy, ops, or one sample's one copy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from augft.augment.apply import draw_parameters
from augft.augment.draw import words
from augft.augment.samples import render_samples
from augft.errors import InputError
from augft.prepare import Prepared
from augft.report.pictures import png_bytes, preview_grid, replay_page, two_rows

NUM_ROWS = 6
NUM_ORIGINALS = 3

IntArray = npt.NDArray[np.int64]


def preview_png(prepared: Prepared, *, epoch: int = 0) -> bytes:
    """Some training samples, one of each class as far as rows go, with their first copies of an epoch.

    They are what a run of this job sees, and the same whenever they are drawn.

    Args:
        prepared: policy, pictures and plan of a job.
        epoch: of the plan.

    Returns:
        The content of a PNG file.

    Raises:
        InputError: the run has no such epoch.
    """
    _check_epoch(prepared, epoch)
    split = prepared.dataset.split("train")
    classes = prepared.dataset.manifest.classes
    sample_ids = _one_of_each(prepared, NUM_ROWS)
    images, labels = split.gather(sample_ids)
    grid = preview_grid(
        images,
        [classes[label] for label in labels],
        prepared.policy,
        seed=prepared.plan.draw_seed,
        epoch=epoch,
        sample_ids=sample_ids,
        make=lambda drawn: render_samples(split, sample_ids, prepared.policy, drawn),
    )
    return png_bytes(grid)


def strip_png(prepared: Prepared, *, epoch: int = 0, num: int = 8, tile: int = 64) -> bytes:
    """A few training samples in a row, and below each its first copy of an epoch: the content of a PNG file.

    Runs of one seed show the same samples, whatever their policies: strips stand side by side.
    """
    split = prepared.dataset.split("train")
    sample_ids = _one_of_each(prepared, num)
    images, _ = split.gather(sample_ids)
    drawn = draw_parameters(prepared.policy, seed=prepared.plan.draw_seed, epoch=epoch, sample_ids=sample_ids)
    return png_bytes(two_rows(images, render_samples(split, sample_ids, prepared.policy, drawn), tile))


def ops_png(prepared: Prepared) -> bytes:
    """Every op at its defaults on a few training samples, and MixUp and CutMix: the content of a PNG file."""
    from augft.report.ops_sheet import ops_sheet  # not at the top: it loads PyTorch

    sample_ids = _one_of_each(prepared, NUM_ORIGINALS)
    images, labels = prepared.dataset.split("train").gather(sample_ids)
    names = [prepared.dataset.manifest.classes[label] for label in labels]
    seed = prepared.plan.draw_seed
    return png_bytes(ops_sheet(images, names, prepared.policy, seed=seed, epoch=0, sample_ids=sample_ids))


@dataclass(frozen=True)
class Replay:
    """One copy of one sample, as training sees it."""

    picture: npt.NDArray[np.uint8]
    """uint8 (H, W, 3)."""
    lines: list[str]
    """What it is, and below it what was done to the original, an op a line."""
    png: bytes
    """Original and picture on a page: the content of a PNG file."""


def replay(prepared: Prepared, *, sample_id: int, epoch: int = 0, copy: int = 0) -> Replay:
    """Make a picture of a run again.

    Args:
        prepared: policy, pictures and plan of a job.
        sample_id: of the split `train`.
        epoch: of the plan.
        copy: which of the sample's augmented copies, from 0.

    Raises:
        InputError: the run does not train on this sample, or has no such epoch or copy.
    """
    plan = prepared.plan
    _check_epoch(prepared, epoch)
    position = _position(prepared, sample_id, epoch, copy)
    split, ids = prepared.dataset.split("train"), np.array([sample_id])
    original, labels = split.gather(ids)
    drawn = draw_parameters(prepared.policy, seed=plan.draw_seed, epoch=epoch, sample_ids=[sample_id], copy=copy)
    picture = render_samples(split, ids, prepared.policy, drawn)[0]
    done = drawn.describe(0)
    what = f"sample {sample_id}, {prepared.dataset.manifest.classes[labels[0]]}"
    about = [
        f"epoch {epoch}, copy {copy}: in step {position // plan.global_batch_size + 1:,} of {plan.num_steps:,} "
        f"of a run with seed {plan.seed}",
        f"policy {prepared.policy.at(epoch)}",
    ]
    page = replay_page(original[0], picture, title=what, about=about, labels=done)
    lines = [what, *about, *(f"  {label}" for label in done or ["unchanged"])]
    return Replay(picture, lines, png_bytes(page))


def _check_epoch(prepared: Prepared, epoch: int) -> None:
    if not 0 <= epoch < prepared.plan.epochs:
        raise InputError(f"epoch {epoch}: the run has epochs 0 to {prepared.plan.epochs - 1} (train.epochs)")


def _position(prepared: Prepared, sample_id: int, epoch: int, copy: int) -> int:
    """Where in the run's sequence a copy stands."""
    plan, train_ids = prepared.plan, prepared.samples.train_ids
    place = int(np.searchsorted(train_ids, sample_id))
    if place == len(train_ids) or train_ids[place] != sample_id:
        raise InputError(_not_trained_on(prepared, sample_id))
    if not 0 <= copy < plan.copies:
        known = f"has copies 0 to {plan.copies - 1}" if plan.copies else "has none"
        raise InputError(f"copy {copy}: a selected sample {known} in each epoch (augment.copies)")
    first = epoch * plan.epoch_length
    items = plan.items(np.arange(first, first + plan.epoch_length))
    at = np.flatnonzero(items.augmented & (items.sample == place) & (items.copy == copy))
    if not len(at):
        raise InputError(
            f"sample {sample_id} has no augmented copy in epoch {epoch}: augment.select {plan.select:g} "
            "took others there; give another epoch"
        )
    return first + int(at[0])


def _not_trained_on(prepared: Prepared, sample_id: int) -> str:
    train_ids, num = prepared.samples.train_ids, prepared.dataset.split("train").num_rows
    if not 0 <= sample_id < num:
        return f"sample id {sample_id}: the split train has the ids 0 to {num - 1}"
    validates = prepared.samples.val_split == "train" and sample_id in prepared.samples.val_ids
    why = "is set apart for validation (data.val_fraction)" if validates else "is left out by data.labels_per_class"
    near = train_ids[np.argsort(np.abs(train_ids - sample_id), kind="stable")[:3]]
    nearest = ", ".join(map(str, sorted(near.tolist())))
    return (
        f"sample id {sample_id} of the split train {why}; {len(train_ids):,} ids from {train_ids[0]} to "
        f"{train_ids[-1]} are trained on, the nearest are {nearest}"
    )


def _one_of_each(prepared: Prepared, num: int) -> IntArray:
    """A keyed sample of each of the first `num` classes that there are."""
    sample_ids = prepared.samples.train_ids
    labels = prepared.dataset.split("train").labels[sample_ids]
    order = np.argsort(words(prepared.plan.seed, "preview", 0, sample_ids, 0, 1)[0], kind="stable")
    _, first = np.unique(labels[order], return_index=True)
    chosen: IntArray = sample_ids[order[first[:num]]]
    return chosen
