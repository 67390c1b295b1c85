"""The preview: what it shows are the pictures that training sees, each of their pixels a square."""

from __future__ import annotations

import numpy as np
import pytest

from augft.augment.apply import augment_batch
from augft.augment.policy import PRESETS
from augft.report.pictures import preview_grid


def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)


def count_of(page: np.ndarray, picture: np.ndarray, zoom: int) -> int:
    """How often the enlarged picture stands on the page."""
    block = picture.repeat(zoom, 0).repeat(zoom, 1)
    height, width, _ = block.shape
    starts = np.argwhere((page == block[0, 0]).all(-1))
    return sum(np.array_equal(page[y : y + height, x : x + width], block) for y, x in starts)


@pytest.mark.parametrize("preset", ["basic", "digits"])
def test_each_original_and_each_copy_is_there_once(preset: str) -> None:
    ids = np.array([4, 7, 1_000_000])
    page = np.asarray(
        preview_grid(images(), ["a", "b", "c"], PRESETS[preset], seed=3, epoch=2, sample_ids=ids, num_copies=2, tile=40)
    )
    shown = [images()] + [
        augment_batch(images(), PRESETS[preset], seed=3, epoch=2, sample_ids=ids, copy=copy) for copy in (0, 1)
    ]
    for picture in np.concatenate(shown):
        assert count_of(page, picture, zoom=5) == 1


def test_the_same_arguments_make_the_same_bytes() -> None:
    first, second = (
        preview_grid(images(), ["a" * 99, "b", "c"], PRESETS["none"], seed=0, epoch=0, sample_ids=[0, 1, 2])
        for _ in range(2)
    )
    assert first.tobytes() == second.tobytes()
