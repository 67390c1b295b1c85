"""The kernel against plain float64 and plain Python, at any size, and its digests."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from augft.augment import compiled, kernel

UInt8Array = npt.NDArray[np.uint8]
Float64Array = npt.NDArray[np.float64]

FILL = (10, 200, 77)
IDENTITY = np.array([[1.0, 0, 0, 0, 1, 0]]).T


def noise(*shape: int, seed: int = 0) -> UInt8Array:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def positions(inverse: Float64Array, height: int, width: int) -> tuple[Float64Array, Float64Array]:
    a, b, c, d, e, f = inverse
    y, x = np.mgrid[:height, :width]
    return a * x + b * y + c, d * x + e * y + f


def pixel(image: UInt8Array, u: Any, v: Any) -> Float64Array:
    """The endless plane: the picture, and fill around it."""
    height, width, _ = image.shape
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    found = image[np.clip(v, 0, height - 1), np.clip(u, 0, width - 1)]
    return np.where(inside[..., None], found, FILL).astype(np.float64)


def bilinear(image: UInt8Array, u: Float64Array, v: Float64Array) -> Float64Array:
    left, top = np.floor(u).astype(int), np.floor(v).astype(int)
    fx, fy = (u - left)[..., None], (v - top)[..., None]
    upper = pixel(image, left, top) * (1 - fx) + pixel(image, left + 1, top) * fx
    lower = pixel(image, left, top + 1) * (1 - fx) + pixel(image, left + 1, top + 1) * fx
    return np.asarray(upper * (1 - fy) + lower * fy)


sides = st.integers(1, 70)
coefficients = st.floats(-2.5, 2.5)
shifts = st.floats(-100, 100)


@settings(max_examples=150, deadline=None)
@given(
    sides,
    sides,
    sides,
    sides,
    st.tuples(coefficients, coefficients, shifts, coefficients, coefficients, shifts),
)
def test_any_affine_map_is_what_float64_gives(
    height: int, width: int, out_height: int, out_width: int, numbers: tuple[float, ...]
) -> None:
    images = noise(1, height, width, 3)
    inverse = np.array(numbers).reshape(6, 1)
    u, v = positions(inverse[:, 0], out_height, out_width)

    got = kernel.warp(images, inverse, fill=FILL, out_size=(out_height, out_width))[0]
    near = 0.002  # a position may be this wrong: then the neighbour is as right
    tie = (np.abs(u % 1 - 0.5) < near) | (np.abs(v % 1 - 0.5) < near)
    expected = pixel(images[0], np.floor(u + 0.5).astype(int), np.floor(v + 0.5).astype(int))
    np.testing.assert_array_equal(got[~tie], expected[~tie])

    blended = kernel.warp(images, inverse, fill=FILL, bilinear=True, out_size=(out_height, out_width))[0]
    # Half a level of rounding, and half a weight (1/4096) on each axis across at most 255 levels.
    assert np.abs(blended - bilinear(images[0], u, v)).max() <= 0.5 + 2 * 255 * (1 / 4096 + 0.001)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (8, 8), (31, 33), (32, 32), (3, 1500), (224, 224)])
@pytest.mark.parametrize("blend", [False, True])
def test_whole_pixel_maps_copy_bit_for_bit(size: tuple[int, int], blend: bool) -> None:
    height, width = size
    images = noise(4, height, width, 3)
    inverse = np.repeat(IDENTITY, 4, 1)
    inverse[:, 1] = [-1, 0, width - 1, 0, 1, 0]
    inverse[:, 2] = [-1, 0, width - 1, 0, -1, height - 1]
    inverse[:, 3] = [1, 0, 1, 0, 1, 0]
    out = kernel.warp(images, inverse, fill=FILL, bilinear=blend)
    np.testing.assert_array_equal(out[0], images[0])
    np.testing.assert_array_equal(out[1], images[1, :, ::-1])
    np.testing.assert_array_equal(out[2], images[2, ::-1, ::-1])
    np.testing.assert_array_equal(out[3, :, :-1], images[3, :, 1:])
    assert (out[3, :, -1] == FILL).all()


def test_the_blend_itself_copies_where_the_fraction_is_zero() -> None:
    """One map of the batch has a fraction only in y, so x goes through the blend with weights 0 and 1."""
    images = np.broadcast_to(noise(1, 1, 32, 3), (1, 32, 32, 3)).copy()
    inverse = np.array([[1, 0, 3, 0, 1, 0.37]]).T
    out = kernel.warp(images, inverse, bilinear=True)
    np.testing.assert_array_equal(out[0, :-1, :29], images[0, :-1, 3:])


@pytest.mark.parametrize("shape", [(5, 32, 32, 3), (5, 31, 31, 3)])
@pytest.mark.parametrize("blend", [False, True])
def test_read_only_and_odd_memory_give_the_same(shape: tuple[int, ...], blend: bool) -> None:
    images = noise(*shape)
    inverse = np.repeat(np.array([[0.9, 0.2, 1.3, -0.2, 0.9, 2.1]]).T, 5, 1)
    expected = kernel.warp(images, inverse, bilinear=blend)
    odd = np.empty(images.size + 1, np.uint8)[1:].reshape(shape)  # not aligned to words
    odd[:] = images
    odd.setflags(write=False)
    np.testing.assert_array_equal(kernel.warp(odd, inverse, bilinear=blend), expected)


@pytest.mark.parametrize("shape", [(0, 32, 32, 3), (2, 0, 32, 3)])
def test_empty_batches_are_fine(shape: tuple[int, ...]) -> None:
    assert kernel.warp(np.empty(shape, np.uint8), np.repeat(IDENTITY, shape[0], 1)).shape == shape


@pytest.mark.parametrize("row", range(6))
@pytest.mark.parametrize("number", [1e6, float("nan"), float("inf")])
def test_a_position_too_far_is_refused(row: int, number: float) -> None:
    inverse = IDENTITY.copy()
    inverse[row] = number
    with pytest.raises(ValueError, match="beyond the 32,000 supported"):
        kernel.warp(noise(1, 8, 8, 3), inverse)


@pytest.mark.parametrize("shift", [-31_000, 31_000])
def test_a_position_just_within_is_fill(shift: int) -> None:
    inverse = IDENTITY.copy()
    inverse[2] = inverse[5] = shift + 0.5
    for blend in (False, True):
        assert (kernel.warp(noise(1, 32, 32, 3), inverse, fill=FILL, bilinear=blend) == FILL).all()


def test_without_a_folder_for_the_cache_it_still_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    real = compiled.njit

    def no_cache(*arguments: Any, cache: bool = False, **options: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return real(*arguments, **options)

    monkeypatch.setattr(compiled, "njit", no_cache)

    @compiled.compiled("int64(int64)")
    def twice(number: int) -> int:
        return 2 * number

    assert twice(21) == 42


# -- digests ---------------------------------------------------------------------------------------

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def absorb(lane: int, word: int) -> int:
    lane = (lane ^ word) * GOLDEN & MASK
    return lane ^ (lane >> 32)


def reference_digest(octets: bytes, header: int) -> int:
    seed = header ^ mix(len(octets))
    lanes = [mix((seed + k * GOLDEN) & MASK) for k in (1, 2, 3, 4)]
    full = len(octets) // 32 * 32
    for start in range(0, full, 8):
        k = start // 8 % 4
        lanes[k] = absorb(lanes[k], int.from_bytes(octets[start : start + 8], "little"))
    digest = mix(mix(mix(lanes[0]) ^ lanes[1]) ^ lanes[2]) ^ lanes[3]
    for start in range(full, len(octets), 8):
        digest = absorb(mix(digest), int.from_bytes(octets[start : start + 8], "little"))
    return mix(digest)


@given(st.lists(st.integers(0, MASK), max_size=3), st.integers(0, 12), st.integers(1, 12))
def test_digests_are_those_of_plain_python(headers: list[int], height: int, width: int) -> None:
    images = noise(len(headers), height, width, 3)
    digests = kernel.row_digests(images, np.array(headers, np.uint64))
    expected = [reference_digest(image.tobytes(), header) for image, header in zip(images, headers, strict=True)]
    assert digests.tolist() == expected


def test_every_bit_of_a_picture_changes_its_digest() -> None:
    image = noise(1, 5, 5, 3)
    octets = np.repeat(image.reshape(1, 75), 75 * 8 + 1, 0)
    for bit in range(75 * 8):
        octets[bit, bit // 8] ^= 1 << bit % 8
    digests = kernel.row_digests(octets.reshape(-1, 5, 5, 3), np.zeros(len(octets), np.uint64))
    assert len(np.unique(digests)) == 601
    flipped = np.bitwise_count(digests[:-1] ^ digests[-1])
    assert 31 < flipped.mean() < 33
    assert flipped.min() > 10


def test_header_length_and_order_change_a_digest() -> None:
    blank = np.zeros((3, 4, 4, 3), np.uint8)
    assert len(np.unique(kernel.row_digests(blank, np.arange(3, dtype=np.uint64)))) == 3
    sizes = [kernel.row_digests(np.zeros((1, 1, n, 3), np.uint8), np.zeros(1, np.uint64))[0] for n in range(1, 40)]
    assert len(set(sizes)) == 39
    image = noise(1, 4, 4, 3)
    swapped = np.roll(image.reshape(1, -1, 8), 1, axis=1).reshape(image.shape)
    zero = np.zeros(1, np.uint64)
    assert kernel.row_digests(image, zero) != kernel.row_digests(swapped, zero)


def test_a_digest_of_record() -> None:
    ramp = (np.arange(2 * 32 * 32 * 3) % 251).astype(np.uint8).reshape(2, 32, 32, 3)
    digests = kernel.row_digests(ramp, np.array([1, 2], np.uint64))
    assert [f"{digest:016x}" for digest in digests] == ["aed379edf2f38ca2", "5dea258eee5f2a54"]
