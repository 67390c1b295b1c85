"""The kernel against plain float64 and plain Python, at any size, and its digests."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from augft.augment import compiled, draw, kernel

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


def pixel(image: UInt8Array, u: Any, v: Any, fill: Any = FILL) -> Float64Array:
    """The endless plane: the picture, and fill around it, or its edge without end."""
    height, width, _ = image.shape
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    found = image[np.clip(v, 0, height - 1), np.clip(u, 0, width - 1)]
    return np.where(inside[..., None] | (fill == "edge"), found, 0 if fill == "edge" else fill).astype(np.float64)


def bilinear(image: UInt8Array, u: Float64Array, v: Float64Array, fill: Any = FILL) -> Float64Array:
    left, top = np.floor(u).astype(int), np.floor(v).astype(int)
    fx, fy = (u - left)[..., None], (v - top)[..., None]
    upper = pixel(image, left, top, fill) * (1 - fx) + pixel(image, left + 1, top, fill) * fx
    lower = pixel(image, left, top + 1, fill) * (1 - fx) + pixel(image, left + 1, top + 1, fill) * fx
    return np.asarray(upper * (1 - fy) + lower * fy)


def over_the_border(inverse: Float64Array, source: tuple[int, int], out: tuple[int, int]) -> float:
    """By how many pixels the farthest corner of the output, its outer edge, lies outside the source's outer edge."""
    a, b, c, d, e, f = inverse
    x, y = np.meshgrid([-0.5, out[1] - 0.5], [-0.5, out[0] - 0.5])
    u, v = a * x + b * y + c, d * x + e * y + f
    return float(max((-0.5 - u).max(), (-0.5 - v).max(), (u - source[1] + 0.5).max(), (v - source[0] + 0.5).max()))


def averaged(image: UInt8Array, inverse: Float64Array, out: tuple[int, int], fill: Any) -> tuple[Float64Array, int]:
    """The average of samples spread over each output pixel: their number on an axis is by how much it shrinks."""
    a, b, _, d, e, _ = inverse
    num_x, num_y = (int(np.clip(np.rint(np.hypot(*column)), 1, kernel.MAX_SAMPLES)) for column in ((a, d), (b, e)))
    u, v = positions(inverse, *out)
    total = np.zeros((*out, 3))
    for j in (np.arange(num_y) + 0.5) / num_y - 0.5:
        for i in (np.arange(num_x) + 0.5) / num_x - 0.5:
            total += bilinear(image, u + a * i + b * j, v + d * i + e * j, fill)
    return total / (num_x * num_y), num_x * num_y


sides = st.integers(1, 70)
coefficients = st.floats(-4.5, 4.5)
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

    out_size = (out_height, out_width)
    blended = kernel.warp(images, inverse, fill=FILL, bilinear=True, out_size=out_size)[0]
    outside = over_the_border(inverse[:, 0], (height, width), out_size)
    assume(abs(outside) > 1e-4)  # or whether the fill is met is a matter of the last bit
    expected, num_samples = averaged(images[0], inverse[:, 0], out_size, FILL if outside > 0 else "edge")
    # Half a level of rounding, and half a weight (1/4096) on each axis across at most 255 levels.
    tolerance = 0.5 + 2 * 255 * (1 / 4096 + 0.001)
    # Of more than one sample each is rounded, and so is their average, by a reciprocal of 16 bits.
    if num_samples > 1:
        tolerance += 0.5 + 255 * num_samples / 2**17
    assert np.abs(blended - expected).max() <= tolerance


@pytest.mark.parametrize("scale", [1.0, 0.7, 0.25, 2.5, 6.0])
def test_a_map_that_stays_inside_never_meets_the_fill(scale: float) -> None:
    """And one that leaves by as little as a hundredth of a pixel does, within half of its pixels of the edge."""
    white = np.full((1, 30, 40, 3), 255, np.uint8)
    out_size = (int(30 / scale), int(40 / scale))
    a, e = 40 / out_size[1], 30 / out_size[0]
    whole = np.array([[a, 0, 0.5 * a - 0.5, 0, e, 0.5 * e - 0.5]]).T  # edges onto edges
    for blend in (False, True):
        assert (kernel.warp(white, whole, fill=FILL, bilinear=blend, out_size=out_size) == 255).all()
    if scale < 1:
        whole[2] += 0.01
        met = (kernel.warp(white, whole, fill=FILL, bilinear=True, out_size=out_size) != 255).any((0, 3))
        band = int(np.ceil(0.5 / scale))
        assert met[:, -1].all()
        assert not met[band:-band, band:-band].any()


small = st.floats(-0.004, 0.004)


@settings(max_examples=100, deadline=None)
@given(
    sides,
    sides,
    st.tuples(coefficients, coefficients, shifts, coefficients, coefficients, shifts, small, small),
    st.booleans(),
)
def test_any_projective_map_is_what_float64_gives(
    height: int, width: int, numbers: tuple[float, ...], blend: bool
) -> None:
    images = noise(1, height, width, 3)
    inverse = np.array([*numbers, 1.0]).reshape(9, 1)
    g, h = inverse[6:8, 0]
    assume(abs(g) > 1e-6 or abs(h) > 1e-6)
    y, x = np.mgrid[:height, :width]
    below = g * x + h * y + 1
    seen = below > 0.2
    u, v = (one / np.where(seen, below, 1) for one in positions(inverse[:6, 0], height, width))
    got = kernel.warp(images, inverse, fill=FILL, bilinear=blend)[0]
    if blend:
        assert np.abs(got - bilinear(images[0], u, v))[seen].max(initial=0) <= 0.5 + 2 * 255 * (1 / 4096 + 0.001)
    else:
        near = 0.002
        sure = seen & (np.abs(u % 1 - 0.5) > near) & (np.abs(v % 1 - 0.5) > near)
        expected = pixel(images[0], np.floor(u + 0.5).astype(int), np.floor(v + 0.5).astype(int))
        np.testing.assert_array_equal(got[sure], expected[sure])


def test_behind_the_horizon_is_fill() -> None:
    inverse = np.array([[1.0, 0, 0, 0, 1, 0, -0.1, 0, 1.05]]).T  # past the eleventh column
    for blend in (False, True):
        out = kernel.warp(noise(1, 20, 30, 3), inverse, fill=FILL, bilinear=blend)[0]
        assert (out[:, 11:] == FILL).all()
        assert (out[:10, :6] != FILL).any(-1).all()


@pytest.mark.parametrize("fill", [FILL, "mean", "edge", "reflect"])
@pytest.mark.parametrize("blend", [False, True])
def test_nine_numbers_of_an_affine_map_are_as_good_as_six(fill: Any, blend: bool) -> None:
    images = noise(3, 20, 30, 3)
    six = np.array([[0.9, 0.2, 1.3, -0.2, 0.9, 2.1], [2.4, 0.3, -9, 0.1, 3.2, 5], [-1, 0, 29, 0, 1, 0]]).T
    nine = np.concatenate([six, np.array([[0.0, 0, 1]] * 3).T])
    found = kernel.warp(images, nine, fill=fill, bilinear=blend)
    np.testing.assert_array_equal(found, kernel.warp(images, six, fill=fill, bilinear=blend))


@pytest.mark.parametrize("fill", [FILL, "mean", "edge", "reflect"])
@pytest.mark.parametrize("blend", [False, True])
@pytest.mark.parametrize("kind", ["affine", "projective", "elastic"])
def test_pictures_of_many_sizes_are_each_as_if_alone(kind: str, fill: Any, blend: bool) -> None:
    shapes = [(7, 9), (1, 1), (64, 32), (31, 5), (32, 32), (33, 47)]
    pictures = [noise(*shape, 3, seed=number) for number, shape in enumerate(shapes)]
    rng = np.random.default_rng(1)
    maps = np.stack([rng.uniform(-1.5, 1.5, 6) * [1, 1, 9, 1, 1, 9] for _ in shapes], 1)
    if kind == "projective":
        maps = np.concatenate([maps, rng.uniform(-0.01, 0.01, (2, 6)), np.ones((1, 6))])
    displacement = None
    if kind == "elastic":
        displacement = kernel.Displacement(np.array([4, 1, 2]), rng.uniform(-3, 3, (2, 5, 5, 3)))
    together = kernel.warp_each(pictures, maps, (20, 26), fill=fill, bilinear=blend, displacement=displacement)
    for i, picture in enumerate(pictures):
        mine = None
        if displacement is not None and i in displacement.rows:
            [place] = np.flatnonzero(displacement.rows == i)
            mine = kernel.Displacement(np.array([0]), displacement.lattices[..., place : place + 1])
        alone = kernel.warp(
            picture[None], maps[:, i : i + 1], fill=fill, bilinear=blend, out_size=(20, 26), displacement=mine
        )
        np.testing.assert_array_equal(together[i], alone[0])


def test_many_sizes_may_be_none_and_may_be_strided() -> None:
    assert kernel.warp_each([], np.empty((6, 0)), (4, 5)).shape == (0, 4, 5, 3)
    picture = noise(20, 30, 3)
    found = kernel.warp_each([picture[::2, ::3]], IDENTITY, (10, 10))
    np.testing.assert_array_equal(found[0], picture[::2, ::3])
    with pytest.raises(ValueError, match="a picture of no pixels cannot be sampled"):
        kernel.warp_each([picture, picture[:0]], np.repeat(IDENTITY, 2, 1), (4, 4))


def test_the_border_is_laid_anew_where_it_changes() -> None:
    """Pictures that meet the fill after such that do not, and averages that differ."""
    images = noise(5, 16, 16, 3)
    images[3] //= 3
    inside, across = [0.5, 0, 4, 0, 0.5, 4], [1, 0, 5.5, 0, 1, -3.5]
    maps = np.array([across, inside, across, across, inside]).T.astype(np.float64)
    for fill in (FILL, "mean"):
        together = kernel.warp(images, maps, fill=fill, bilinear=True)
        for i in range(5):
            alone = kernel.warp(images[i : i + 1], maps[:, i : i + 1], fill=fill, bilinear=True)
            np.testing.assert_array_equal(together[i], alone[0])


def test_what_is_written_to_is_what_is_returned() -> None:
    images = noise(3, 9, 9, 3)
    out = np.zeros_like(images)
    assert kernel.warp(images, np.repeat(IDENTITY, 3, 1), out=out) is out
    np.testing.assert_array_equal(out, images)


@pytest.mark.parametrize("num", [1, 3, 4, 5, 17, 1024])
def test_compiled_draws_are_those_of_draw(num: int) -> None:
    ids = np.array([0, 5, 2**40, 2**63 - 1])
    key, at = draw.stream_key(3, "a"), draw.counter(7, ids, 2)
    np.testing.assert_array_equal(kernel.uniform(key, at, num), draw.uniform(3, "a", 7, ids, 2, num))


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
