"""The masks against plain NumPy, at any size, and their digests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torchvision.transforms.v2 import functional as F

from augft.augment import draw, masks

UInt8Array = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int64]

FILL = np.array([[10, 200, 77]], np.uint8)
ONE = np.array([0])


def pictures(num: int, height: int = 32, width: int = 32) -> UInt8Array:
    """Noise that no library's generator can change."""
    words = draw.words(0, "test/pictures", 0, np.arange(num * height * width), 0, 3)
    return np.ascontiguousarray((words >> 24).astype(np.uint8).T).reshape(num, height, width, 3)


def boxed(image: UInt8Array, box: tuple[int, int, int, int], key: int | None = None) -> UInt8Array:
    images = image[None].copy()
    keys = None if key is None else np.array([key], np.uint64)
    masks.fill_boxes(images, ONE, np.array([box]).T, FILL, keys)
    return images[0]


def grid(
    height: int, width: int, period: float, keep: float, offset: tuple[float, float], angle: float
) -> npt.NDArray[np.bool_]:
    """Where it is filled."""
    images = np.zeros((1, height, width, 3), np.uint8)
    numbers = np.array([[period], [keep], [angle]], np.float64)
    masks.grid_mask(images, ONE, numbers[0], numbers[1], np.array([offset]).T, numbers[2], FILL)
    filled = (images[0] == FILL).all(-1)
    np.testing.assert_array_equal(images[0], filled[..., None] * FILL)
    return filled


# -- boxes -----------------------------------------------------------------------------------------

sides = st.integers(1, 60)
edges = st.integers(-20, 80)
boxes_anywhere = st.tuples(edges, edges, edges, edges)


@settings(max_examples=100, deadline=None)
@given(sides, sides, boxes_anywhere)
def test_a_box_is_filled_and_nothing_else(height: int, width: int, box: tuple[int, int, int, int]) -> None:
    image = pictures(1, height, width)[0]
    top, bottom, left, right = (max(edge, 0) for edge in box)
    expected = image.copy()
    expected[top:bottom, left:right] = FILL
    np.testing.assert_array_equal(boxed(image, box), expected)


def test_a_box_is_that_of_torchvision() -> None:
    image = pictures(1, 40, 50)[0]
    colour = torch.from_numpy(FILL).reshape(3, 1, 1)
    erased = F.erase(torch.from_numpy(image.copy()).permute(2, 0, 1), 5, 7, 20, 30, colour)
    np.testing.assert_array_equal(boxed(image, (5, 25, 7, 37)), erased.permute(1, 2, 0).numpy())


def reference_noise(height: int, width: int, key: int) -> UInt8Array:
    """From the docstring: a word a pixel, its three lowest bytes."""
    counter = np.zeros((4, (height * width + 3) // 4), np.uint64)
    counter[0] = np.arange(counter.shape[1])
    words = draw.philox(key, counter).T.reshape(-1)[: height * width]
    return np.stack([words >> shift & 255 for shift in (0, 8, 16)], -1).astype(np.uint8).reshape(height, width, 3)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**64 - 1), sides, sides, boxes_anywhere)
def test_noise_is_philox_by_place_whatever_the_box(
    key: int, height: int, width: int, box: tuple[int, int, int, int]
) -> None:
    image = pictures(1, height, width)[0]
    top, bottom, left, right = (max(edge, 0) for edge in box)
    expected = image.copy()
    expected[top:bottom, left:right] = reference_noise(height, width, key)[top:bottom, left:right]
    np.testing.assert_array_equal(boxed(image, box, key), expected)


def test_noise_reaches_every_run_of_a_large_picture() -> None:
    image = pictures(1, 230, 1501)[0]
    expected = image.copy()
    expected[3:229, 2:1500] = reference_noise(230, 1501, 99)[3:229, 2:1500]
    np.testing.assert_array_equal(boxed(image, (3, 229, 2, 1500), 99), expected)


def test_noise_is_uniform_and_independent() -> None:
    image = np.zeros((224, 224, 3), np.uint8)
    noise = boxed(image, (0, 224, 0, 224), 5)
    for channel in range(3):
        assert chisquare(np.bincount(noise[..., channel].ravel(), minlength=256)).pvalue > 0.001
    limit = 4 / 224
    flat = noise.reshape(-1, 3).T.astype(np.float64)
    assert np.abs(np.corrcoef(flat) - np.eye(3)).max() < limit
    other = boxed(image, (0, 224, 0, 224), 6).reshape(-1, 3).T.astype(np.float64)
    assert np.abs(np.corrcoef(flat, other)[:3, 3:]).max() < limit


# -- GridMask --------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    sides,
    sides,
    st.floats(1, 90),
    st.floats(0, 1),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.floats(-720, 720),
)
def test_a_grid_is_what_float64_gives(
    height: int, width: int, period: float, keep: float, offset: tuple[float, float], angle: float
) -> None:
    y, x = np.mgrid[:height, :width].astype(np.float64)
    x, y = x - (width - 1) / 2, y - (height - 1) / 2
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    phases = np.stack([(x * cos + y * sin) / period + offset[0], (y * cos - x * sin) / period + offset[1]]) % 1
    expected = (phases < 1 - keep).all(0)
    near = np.minimum(np.abs(phases - (1 - keep)), np.minimum(phases, 1 - phases)) < 2.0**-17
    sure = ~near.any(0)
    np.testing.assert_array_equal(grid(height, width, period, keep, offset, angle)[sure], expected[sure])


@pytest.mark.parametrize("period", [2, 3, 5, 7, 16, 30])
@pytest.mark.parametrize("quarter", [0, 1, 2, 3])
def test_edges_on_pixels_fall_as_in_exact_arithmetic(period: int, quarter: int) -> None:
    """Whole periods and parts of them, and quarter turns: every edge is on a pixel."""
    height, width = 96, 75
    for dropped in range(period + 1):
        for shift in range(period):
            # So that the phase at pixel (0, 0) is a whole number of pixels.
            turned = {0: (width, height), 1: (height, -width), 2: (-width, -height), 3: (-height, width)}[quarter]
            starts = [Fraction(side - (1 if side > 0 else -1), 2) + shift for side in turned]
            offset = [start / period % 1 for start in starts]
            filled = grid(
                height, width, period, 1 - dropped / period, (float(offset[0]), float(offset[1])), 90 * quarter
            )
            y, x = np.mgrid[:height, :width]
            u, v = {0: (x, y), 1: (y, -x), 2: (-x, -y), 3: (-y, x)}[quarter]
            expected = ((u + shift) % period < dropped) & ((v + shift) % period < dropped)
            np.testing.assert_array_equal(filled, expected)


def test_the_ends_of_keep() -> None:
    assert grid(50, 60, 7.3, 0.0, (0.2, 0.9), 33.0).all()
    assert not grid(50, 60, 7.3, 1.0, (0.2, 0.9), 33.0).any()
    share = grid(500, 400, 7.3, 0.4, (0.2, 0.9), 33.0).mean()
    assert abs(share - 0.36) < 0.003


# -- both ------------------------------------------------------------------------------------------

Mask = Callable[[UInt8Array, IntArray, IntArray], None]


def colours(items: IntArray) -> UInt8Array:
    return np.stack([items * 5 % 256, items * 77 % 256, items * 131 % 256], 1).astype(np.uint8)


def boxes(items: IntArray) -> IntArray:
    top, left = items * 5 % 29 - 4, items * 11 % 31 - 3
    return np.stack([top, top + 3 + items % 17, left, left + 2 + items % 19])


def apply_grid(images: UInt8Array, rows: IntArray, items: IntArray) -> None:
    offset = np.stack([items * 3 % 8 / 8, items * 5 % 16 / 16])
    masks.grid_mask(images, rows, 3 + items / 3, 0.3 + items / 60, offset, items * 17.25 - 180, colours(items))


MASKS: dict[str, Mask] = {
    "boxes": lambda images, rows, items: masks.fill_boxes(images, rows, boxes(items), colours(items)),
    "boxes of noise": lambda images, rows, items: masks.fill_boxes(
        images, rows, boxes(items), colours(items), items.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    ),
    "grid": apply_grid,
}
names = pytest.mark.parametrize("name", sorted(MASKS))


@names
@pytest.mark.parametrize("size", [(32, 32), (31, 45)])
def test_a_picture_does_not_depend_on_its_batch(name: str, size: tuple[int, int]) -> None:
    images, apply = pictures(24, *size), MASKS[name]
    together = images.copy()
    apply(together, np.arange(24), np.arange(24))
    assert (together != images).any((1, 2, 3)).sum() > 20

    chosen = np.array([22, 3, 4, 17, 0, 9])
    some = images.copy()
    apply(some, chosen, chosen)
    np.testing.assert_array_equal(some[chosen], together[chosen])
    others = np.setdiff1d(np.arange(24), chosen)
    np.testing.assert_array_equal(some[others], images[others])

    for i in chosen:
        alone = images[i : i + 1].copy()
        apply(alone, np.array([0]), np.array([i]))
        np.testing.assert_array_equal(alone[0], together[i])


@names
@pytest.mark.parametrize("shape", [(0, 32, 32, 3), (2, 0, 32, 3), (2, 32, 0, 3), (3, 8, 8, 3)])
def test_empty_batches_and_no_rows_are_fine(name: str, shape: tuple[int, ...]) -> None:
    images = np.full(shape, 9, np.uint8)
    none = np.empty(0, np.int64)
    MASKS[name](images, none, none)
    assert (images == 9).all()
    MASKS[name](images, np.arange(len(images)), np.arange(len(images)))


@names
def test_pictures_it_cannot_change_are_refused(name: str) -> None:
    apply, images, one = MASKS[name], pictures(4), np.array([1])
    with pytest.raises(ValueError, match="must be C-contiguous and writeable"):
        apply(images[:, ::2], one, one)
    with pytest.raises(ValueError, match=r"must be uint8 \(N, H, W, 3\), found float32 \(4, 8, 8, 3\)"):
        apply(np.zeros((4, 8, 8, 3), np.float32), one, one)
    for row in (-1, 4):
        with pytest.raises(ValueError, match=rf"rows must be in \[0, 4\), found {row} to {row}"):
            apply(images, np.array([row]), one)
    with pytest.raises(ValueError, match=r"rows must be integers \(K,\), found bool \(4,\)"):
        apply(images, np.ones(4, bool), one)
    with pytest.raises(ValueError, match=r"must be \((4, )?2.*, found \((4, )?1"):
        apply(images, np.arange(2), one)
    images.setflags(write=False)
    with pytest.raises(ValueError, match="must be C-contiguous and writeable"):
        apply(images, one, one)


@pytest.mark.parametrize(
    ("name", "number"),
    [("period", 0.5), ("period", np.nan), ("keep", -0.1), ("keep", 1.1), ("offset", 2.0), ("angle", np.inf)],
)
def test_a_number_out_of_range_is_refused(name: str, number: float) -> None:
    numbers = {"period": 4.0, "keep": 0.5, "offset": 0.1, "angle": 3.0} | {name: number}
    with pytest.raises(ValueError, match=f"{name} must be in"):
        grid(8, 8, numbers["period"], numbers["keep"], (0.1, numbers["offset"]), numbers["angle"])


# Made once. A change here means that no run ever made with this mask can be repeated.
GOLDEN = {
    "boxes": "69e39024a3c6e7f7",
    "boxes of noise": "f9b3f17c9af48d4e",
    "grid": "3514fa77df1c5828",
}


@names
def test_pixels_of_record(name: str) -> None:
    digest = hashlib.blake2b(digest_size=8)
    for height, width in ((32, 32), (31, 45), (96, 160)):
        images = pictures(24, height, width)
        MASKS[name](images, np.arange(24), np.arange(24))
        digest.update(images.tobytes())
    assert digest.hexdigest() == GOLDEN[name]
