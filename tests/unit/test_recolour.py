"""The colour pass against plain float64 and whole numbers, in any batch, and its digests."""

from __future__ import annotations

import hashlib
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from augft.augment import draw
from augft.augment.ops.colour import Kind
from augft.augment.recolour import recolour

UInt8Array = npt.NDArray[np.uint8]
Float64Array = npt.NDArray[np.float64]

RAMP = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, 2)


def pictures(num: int, height: int = 16, width: int = 16) -> UInt8Array:
    """Noise that no library's generator can change."""
    words = draw.words(0, "test/pictures", 0, np.arange(num * height * width), 0, 3)
    return np.ascontiguousarray((words >> 24).astype(np.uint8).T).reshape(num, height, width, 3)


def one_step(image: UInt8Array, kind: Kind, argument: list[float]) -> UInt8Array:
    images = image[None].copy()
    arguments = np.zeros((1, 1, 21))
    arguments[0, 0, : len(argument)] = argument
    recolour(images, np.array([0]), np.array([[kind]], np.uint8), arguments)
    return images[0]


entries = st.floats(-8, 8)


@settings(max_examples=100)
@given(
    st.lists(entries, min_size=9, max_size=9),
    st.lists(st.one_of(st.just(0.0), entries), min_size=9, max_size=9),
    st.lists(st.floats(-500, 500), min_size=3, max_size=3),
    st.booleans(),
)
def test_a_linear_map_is_what_float64_gives(m: list[float], k: list[float], t: list[float], diagonal: bool) -> None:
    matrix = np.reshape(m, (3, 3)) * (np.eye(3) if diagonal else 1)
    image = pictures(1)[0]
    mean = image.reshape(-1, 3).mean(0)
    expected = image @ matrix.T + np.reshape(k, (3, 3)) @ mean + t
    got = one_step(image, Kind.LINEAR, [*matrix.reshape(9), *k, *t])
    assert np.abs(got - np.clip(expected, 0, 255)).max() <= 0.52


def test_numbers_beyond_what_fits_are_held_to_it() -> None:
    """And nothing wraps round."""
    image = pictures(1)[0]
    for sign in (1, -1):
        extreme = [sign * 1e9] * 9 + [sign * 1e9] * 9 + [sign * 1e9] * 3
        expected = 255 if sign > 0 else 0
        assert (one_step(image, Kind.LINEAR, extreme) == expected).all()
    white = np.full((4, 4, 3), 255, np.uint8)
    assert (one_step(white, Kind.LINEAR, [32.0] * 9 + [0.0] * 12) == 255).all()
    assert (one_step(white, Kind.LINEAR, [-32.0] * 9 + [0.0] * 12) == 0).all()


@settings(max_examples=60)
@given(st.floats(0.1, 10))
def test_gamma_is_float64_rounded(gamma: float) -> None:
    got = one_step(RAMP, Kind.GAMMA, [gamma])
    assert np.abs(got - 255 * (RAMP / 255.0) ** gamma).max() <= 0.502
    assert (np.diff(got[..., 0].reshape(-1).astype(int)) >= 0).all()


def test_every_stretch_is_rounded_as_the_exact_one() -> None:
    low, high = np.triu_indices(256)
    for first in range(0, len(low), 200):
        lows, highs = low[first : first + 200], high[first : first + 200]
        images = np.stack([np.linspace(a, b, 97).round() for a, b in zip(lows, highs, strict=True)]).astype(np.uint8)
        batch = np.repeat(images[:, None, :, None], 3, 3)
        num = len(batch)
        recolour(batch, np.arange(num), np.full((num, 1), Kind.AUTOCONTRAST, np.uint8), np.zeros((num, 1, 21)))
        span = (highs - lows).astype(np.int64)[:, None]
        levels = images.astype(np.int64)
        exact = np.where(span > 0, ((levels - lows[:, None]) * 510 + span) // np.maximum(2 * span, 1), levels)
        np.testing.assert_array_equal(batch[:, 0, :, 0], exact)
    half_up = Fraction(255 * 1, 2) + Fraction(1, 2)
    assert one_step(np.array([[[0] * 3, [1] * 3, [2] * 3]], np.uint8), Kind.AUTOCONTRAST, [])[0, 1, 0] == half_up


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 90), st.integers(1, 90), st.floats(0.2, 6))
def test_equalize_is_pillows_whatever_the_histogram(seed: int, height: int, width: int, bent: float) -> None:
    uniform = np.random.default_rng(seed).random((height, width, 3))
    image = np.floor(256 * uniform**bent).astype(np.uint8)
    np.testing.assert_array_equal(
        one_step(image, Kind.EQUALIZE, []), np.asarray(ImageOps.equalize(Image.fromarray(image)))
    )


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("level", [0, 1, 255])
def test_a_picture_of_one_colour_has_no_accidents(kind: Kind, level: int) -> None:
    flat = np.full((7, 5, 3), level, np.uint8)
    argument = {Kind.LINEAR: [1, 0, 0, 0, 1, 0, 0, 0, 1], Kind.POSTERIZE: [8], Kind.SOLARIZE: [256], Kind.GAMMA: [1]}
    got = one_step(flat, kind, [float(number) for number in argument.get(kind, [])])
    np.testing.assert_array_equal(got, flat)


def test_only_the_rows_that_are_named_change() -> None:
    images = pictures(6)
    changed = images.copy()
    rows = np.array([1, 4])
    kinds = np.array([[Kind.SOLARIZE, 0], [Kind.POSTERIZE, Kind.SOLARIZE]], np.uint8)
    arguments = np.zeros((2, 2, 21))
    arguments[0, 0, 0], arguments[1, 0, 0], arguments[1, 1, 0] = 0, 2, 100
    recolour(changed, rows, kinds, arguments)
    np.testing.assert_array_equal(changed[[0, 2, 3, 5]], images[[0, 2, 3, 5]])
    np.testing.assert_array_equal(changed[1], 255 - images[1])
    posterized = images[4] & 0b11000000
    np.testing.assert_array_equal(changed[4], np.where(posterized >= 100, 255 - posterized, posterized))


def test_arguments_are_left_as_they_were() -> None:
    arguments = np.full((1, 1, 21), 1e9)
    recolour(pictures(1), np.array([0]), np.array([[Kind.LINEAR]], np.uint8), arguments)
    assert (arguments == 1e9).all()


@pytest.mark.parametrize("shape", [(0, 4, 4, 3), (2, 0, 4, 3), (2, 4, 0, 3)])
def test_empty_batches_are_fine(shape: tuple[int, ...]) -> None:
    images = np.empty(shape, np.uint8)
    num = shape[0]
    recolour(images, np.arange(num), np.full((num, 1), Kind.EQUALIZE, np.uint8), np.zeros((num, 1, 21)))
    assert images.shape == shape


# Made once: with another bit, other pixels.
GOLDEN: dict[Kind, tuple[list[float], str]] = {
    Kind.LINEAR: (
        [0.9, 0.2, -0.1, 0.05, 1.1, 0.03, -0.2, 0.3, 0.7, 0.1, 0, 0, 0, -0.1, 0, 0, 0, 0.2, 9, -4, 0.5],
        "6d045a9a9bc6bccd",
    ),
    Kind.POSTERIZE: ([3], "57f43bf9c7f914fc"),
    Kind.SOLARIZE: ([90], "6d2ab37052dfe227"),
    Kind.GAMMA: ([1.37], "38de998a8e105a93"),
    Kind.AUTOCONTRAST: ([], "79fe75b3b66d4fc1"),
    Kind.EQUALIZE: ([], "ef3a636f015e19de"),
}


@pytest.mark.parametrize("kind", list(Kind))
def test_pixels_of_record(kind: Kind) -> None:
    argument, expected = GOLDEN[kind]
    digest = hashlib.blake2b(digest_size=8)
    for size in ((16, 16), (31, 45), (96, 96)):
        digest.update(one_step(pictures(1, *size)[0] // 3 + 20, kind, argument).tobytes())
    assert digest.hexdigest() == expected
