"""preview.png: some of a job's own training pictures, and what its policy makes of them."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt

from augft.augment.draw import words
from augft.prepare import Prepared
from augft.report.pictures import preview_grid

NUM_ROWS = 6


def preview_png(prepared: Prepared, *, epoch: int = 0) -> bytes:
    """Some training samples, one of each class as far as rows go, with their first copies of an epoch.

    They are what a run of this job sees, and the same whenever they are drawn.

    Args:
        prepared: policy, pictures and plan of a job.
        epoch: of the plan.

    Returns:
        The content of a PNG file.
    """
    split = prepared.dataset.split("train")
    classes = prepared.dataset.manifest.classes
    seed = prepared.plan.seed
    sample_ids = _one_of_each(prepared.samples.train_ids, split.labels[prepared.samples.train_ids], seed)
    images, labels = split.gather(sample_ids)
    grid = preview_grid(
        images,
        [classes[label] for label in labels],
        prepared.policy,
        seed=seed,
        epoch=epoch,
        sample_ids=sample_ids,
    )
    png = io.BytesIO()
    grid.save(png, "PNG", optimize=True)
    return png.getvalue()


def _one_of_each(sample_ids: npt.NDArray[np.int64], labels: npt.NDArray[np.int32], seed: int) -> npt.NDArray[np.int64]:
    """A keyed sample of each of the first classes."""
    order = np.argsort(words(seed, "preview", 0, sample_ids, 0, 1)[0], kind="stable")
    _, first = np.unique(labels[order], return_index=True)
    return sample_ids[order[first[:NUM_ROWS]]]
