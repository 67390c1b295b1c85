"""The filters against Pillow, torchvision and plain float64, at any size; and their digests."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, features
from scipy.ndimage import correlate
from scipy.stats import norm
from sklearn.datasets import load_digits
from torchvision.transforms.v2 import functional as F

from augft.augment import draw, filters

UInt8Array = npt.NDArray[np.uint8]
Float64Array = npt.NDArray[np.float64]


def pictures(num: int, height: int = 32, width: int = 32) -> UInt8Array:
    """Noise that no library's generator can change."""
    words = draw.words(0, "test/pictures", 0, np.arange(num * height * width), 0, 3)
    return np.ascontiguousarray((words >> 24).astype(np.uint8).T).reshape(num, height, width, 3)


def scene(height: int, width: int) -> UInt8Array:
    """A smooth gradient with a little noise, and hard edges across it."""
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([x * 255 / width, y * 255 / height, (x + 2 * y) * 255 / (width + 2 * height)], -1)
    noisy = smooth + pictures(1, height, width)[0] / 16 - 8
    noisy[height // 3 : height // 2, width // 4 :] = (250, 20, 40)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def checks(side: int, period: int) -> UInt8Array:
    """Black and white, whose levels go furthest past the limits of a sample."""
    y, x = np.mgrid[:side, :side]
    return np.repeat((((x // period + y // period) % 2) * 255).astype(np.uint8)[..., None], 3, 2)


def digits(num: int, side: int) -> UInt8Array:
    images = [Image.fromarray((digit * 15.9).astype(np.uint8)) for digit in load_digits().images[:num]]
    return np.stack(
        [np.asarray(image.resize((side, side), Image.Resampling.BICUBIC).convert("RGB")) for image in images]
    )


def tensor(image: UInt8Array) -> torch.Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)


def array(image: torch.Tensor) -> Float64Array:
    return image.permute(1, 2, 0).numpy().astype(np.float64)


def difference(image: UInt8Array, expected: npt.ArrayLike) -> float:
    return float(np.abs(image - np.asarray(expected, np.float64)).max())


def sharpened(image: UInt8Array, factor: float) -> UInt8Array:
    images = image[None].copy()
    filters.sharpen(images, np.array([0]), np.array([factor]))
    return images[0]


def blurred(image: UInt8Array, sigma: float) -> UInt8Array:
    images = image[None].copy()
    filters.gaussian_blur(images, np.array([0]), np.array([sigma]))
    return images[0]


def compressed(image: UInt8Array, quality: int) -> UInt8Array:
    images = image[None].copy()
    filters.jpeg(images, np.array([0]), np.array([quality]))
    return images[0]


def noisy(image: UInt8Array, sigma: float, key: int) -> UInt8Array:
    images = image[None].copy()
    filters.add_gaussian_noise(images, np.array([0]), np.array([sigma]), np.array([key], np.uint64))
    return images[0]


SIZES = [(1, 1), (2, 9), (3, 3), (8, 8), (31, 45), (32, 32), (3, 900), (96, 96)]
sides = st.integers(1, 50)


# -- sharpening ------------------------------------------------------------------------------------


def reference_sharpened(image: UInt8Array, factor: float) -> Float64Array:
    """Before rounding."""
    p = image.astype(np.float64)
    smooth = correlate(p, np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]])[..., None] / 13)
    result = np.clip(smooth + factor * (p - smooth), 0, 255)
    for border in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        result[border] = p[border]
    return result


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.floats(0, 8))
def test_sharpening_is_what_float64_gives(height: int, width: int, factor: float) -> None:
    image = pictures(1, height, width)[0]
    assert difference(sharpened(image, factor), reference_sharpened(image, factor)) <= 0.52


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("factor", [0.0, 0.1, 0.5, 1.0, 1.9])
def test_sharpening_is_that_of_pillow_and_torchvision(size: tuple[int, int], factor: float) -> None:
    image = scene(*size)
    out = sharpened(image, factor)
    assert difference(out, np.asarray(ImageEnhance.Sharpness(Image.fromarray(image)).enhance(factor))) <= 1
    assert difference(out, array(F.adjust_sharpness(tensor(image), factor))) <= 1


def test_sharpening_by_one_changes_nothing() -> None:
    image = pictures(1, 40, 41)[0]
    np.testing.assert_array_equal(sharpened(image, 1.0), image)
    assert (sharpened(image, 0.9) != image).any()


# -- Gaussian blur ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("sigma", [0.01, 0.3, 1.0, 1.7, 2.0, 5.0, 40.0])
def test_blur_is_that_of_torchvision(size: tuple[int, int], sigma: float) -> None:
    for image in (scene(*size), pictures(1, *size)[0]):
        radius_y, radius_x = (min(int(np.ceil(3 * sigma)), side - 1) for side in size)
        # One axis after the other is the same in float64, and much sooner for a large kernel.
        along = F.gaussian_blur(tensor(image).double(), [2 * radius_x + 1, 1], [sigma, sigma])
        expected = F.gaussian_blur(along, [1, 2 * radius_y + 1], [sigma, sigma])
        assert difference(blurred(image, sigma), array(expected)) <= 0.55


@pytest.mark.parametrize("level", [0, 1, 127, 254, 255])
@pytest.mark.parametrize("sigma", [0.2, 1.0, 6.5, 1e6])
def test_blur_keeps_what_is_even(level: int, sigma: float) -> None:
    image = np.full((60, 33, 3), level, np.uint8)
    np.testing.assert_array_equal(blurred(image, sigma), image)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(1e-4, 100), min_size=1, max_size=5), st.integers(1, 300))
def test_weights_sum_to_one_exactly(sigmas: list[float], side: int) -> None:
    sigma = np.array(sigmas)
    radius = np.minimum(np.ceil(3 * sigma), side - 1).astype(np.int64)
    weights = filters._gaussian_weights(sigma, radius)
    assert (weights.sum(1, dtype=np.int64) == 2**15).all()
    for k in range(len(sigma)):
        x = np.arange(weights.shape[1])
        exact = np.exp(-0.5 * (x / sigma[k]) ** 2) * (x <= radius[k])
        exact[0] /= 2
        assert np.abs(weights[k] - exact / exact.sum() * 2**15).max() <= 1


# -- Gaussian noise --------------------------------------------------------------------------------


def reference_noise(num: int, key: int) -> Float64Array:
    """`num` values of the standard normal distribution, from the docstring."""
    counter = np.zeros((4, (num + 7) // 8), np.uint64)
    counter[0] = np.arange(counter.shape[1])
    words = draw.philox(key, counter).T.reshape(-1)
    cells = np.stack([words & 4095, words >> 20], 1).reshape(-1)[:num]
    quantiles = [NormalDist().inv_cdf((i + 0.5) / 4096) for i in range(4096)]
    return np.rint(np.array(quantiles) * 1024)[cells] / 1024


@settings(max_examples=40, deadline=None)
@given(sides, sides, st.floats(0, 1), st.integers(0, 2**64 - 1))
def test_noise_is_philox_through_the_quantiles(height: int, width: int, sigma: float, key: int) -> None:
    image = pictures(1, height, width)[0]
    expected = np.clip(image + 255 * sigma * reference_noise(image.size, key).reshape(image.shape), 0, 255)
    assert difference(noisy(image, sigma, key), expected) <= 0.51


def test_noise_is_normal_and_independent() -> None:
    image = np.full((224, 224, 3), 128, np.uint8)
    sigma = 0.1 * 255
    noise = noisy(image, 0.1, 2**63 + 5).astype(np.float64) - 128
    assert abs(noise.mean()) < 4 * sigma / np.sqrt(noise.size)
    assert abs(noise.std() / sigma - 1) < 0.006  # the tails of the table end at 3.67
    levels = np.arange(-127, 127)
    below = np.searchsorted(np.sort(noise, axis=None), levels, side="right") / noise.size
    assert np.abs(below - norm.cdf((levels + 0.5) / sigma)).max() < 1.63 / np.sqrt(noise.size)  # Kolmogorov, 1 %
    limit = 4 / np.sqrt(224 * 224)
    flat = noise.reshape(-1, 3)
    assert np.abs(np.corrcoef(flat.T) - np.eye(3)).max() < limit
    for shift in (1, 2, 3, 8, 224):  # and with any neighbour's
        assert np.abs(np.corrcoef(flat[:-shift].T, flat[shift:].T)[:3, 3:]).max() < limit
    other = noisy(image, 0.1, 2**63 + 6).astype(np.float64) - 128
    assert abs(np.corrcoef(noise.ravel(), other.ravel())[0, 1]) < limit


def test_no_noise_changes_nothing() -> None:
    image = pictures(1)[0]
    np.testing.assert_array_equal(noisy(image, 0.0, 1), image)


# -- JPEG ------------------------------------------------------------------------------------------

pillow_is_turbo = pytest.mark.skipif(not features.check("libjpeg_turbo"), reason="Pillow without libjpeg-turbo")


def through_pillow(image: UInt8Array, quality: int) -> UInt8Array:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=0)
    return np.asarray(Image.open(file).convert("RGB"))


@pillow_is_turbo
@pytest.mark.parametrize("quality", [1, 2, 5, 10, 24, 25, 26, 49, 50, 51, 75, 80, 90, 95, 99, 100])
def test_jpeg_is_pillow_to_the_bit(quality: int) -> None:
    sizes = [*SIZES, (7, 130), (130, 7), (17, 150), (24, 136), (224, 224)]
    images = [scene(*size) for size in sizes] + [pictures(1, *size)[0] for size in sizes]
    images += [*digits(8, 45), *(checks(24, period) for period in (2, 3, 5, 8))]
    for image in images:
        np.testing.assert_array_equal(compressed(image, quality), through_pillow(image, quality))


@pillow_is_turbo
def test_every_quality_of_jpeg_is_pillow_to_the_bit() -> None:
    images = np.stack([scene(20, 28)] * 100)
    filters.jpeg(images, np.arange(100), np.arange(1, 101))
    for quality in range(1, 101):
        np.testing.assert_array_equal(images[quality - 1], through_pillow(scene(20, 28), quality))


# -- all of them -----------------------------------------------------------------------------------

Filter = Callable[[UInt8Array, npt.NDArray[np.int64], npt.NDArray[np.int64]], None]


def spread(items: npt.NDArray[np.int64], low: float, high: float) -> Float64Array:
    return low + (high - low) * (items * 7 % 24) / 24


FILTERS: dict[str, Filter] = {
    "sharpen": lambda images, rows, items: filters.sharpen(images, rows, spread(items, 0, 3)),
    "gaussian_blur": lambda images, rows, items: filters.gaussian_blur(images, rows, spread(items, 0.1, 4)),
    "add_gaussian_noise": lambda images, rows, items: filters.add_gaussian_noise(
        images, rows, spread(items, 0, 0.5), items.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    ),
    "jpeg": lambda images, rows, items: filters.jpeg(images, rows, np.rint(spread(items, 1, 100)).astype(np.int64)),
}
names = pytest.mark.parametrize("name", sorted(FILTERS))


@names
@pytest.mark.parametrize("size", [(32, 32), (17, 45)])
def test_a_picture_does_not_depend_on_its_batch(name: str, size: tuple[int, int]) -> None:
    images, apply = pictures(24, *size), FILTERS[name]
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
    FILTERS[name](images, none, none)
    assert (images == 9).all()
    if len(images):
        FILTERS[name](images, np.arange(len(images)), np.arange(1, len(images) + 1))


@names
def test_pictures_it_cannot_change_are_refused(name: str) -> None:
    apply, images, one = FILTERS[name], pictures(4), np.array([1])
    with pytest.raises(ValueError, match="must be C-contiguous and writeable"):
        apply(images[:, ::2], one, one)
    with pytest.raises(ValueError, match=r"must be uint8 \(N, H, W, 3\), found float32 \(4, 8, 8, 3\)"):
        apply(np.zeros((4, 8, 8, 3), np.float32), one, one)
    for row in (-1, 4):
        with pytest.raises(ValueError, match=rf"rows must be in \[0, 4\), found {row} to {row}"):
            apply(images, np.array([row]), one)
    with pytest.raises(ValueError, match=r"rows must be integers \(K,\), found bool \(4,\)"):
        apply(images, np.ones(4, bool), one)
    with pytest.raises(ValueError, match=r"must be \(2,\), found \(1,\)"):
        apply(images, np.arange(2), one)
    images.setflags(write=False)
    with pytest.raises(ValueError, match="must be C-contiguous and writeable"):
        apply(images, one, one)


@pytest.mark.parametrize("number", [-0.1, 100.5, float("nan")])
def test_a_number_out_of_range_is_refused(number: float) -> None:
    images, one, key = pictures(1), np.array([0]), np.zeros(1, np.uint64)
    with pytest.raises(ValueError, match=r"factor must be in \[0, 100\]"):
        filters.sharpen(images, one, np.array([number]))
    with pytest.raises(ValueError, match=r"sigma must be in \[0, 1\]"):
        filters.add_gaussian_noise(images, one, np.array([number]), key)
    with pytest.raises(ValueError, match="sigma must be above 0 and finite"):
        filters.gaussian_blur(images, one, np.array([number if number < 0 or np.isnan(number) else np.inf]))
    for quality in (0, 101):
        with pytest.raises(ValueError, match=r"quality must be in \[1, 100\]"):
            filters.jpeg(images, one, np.array([quality]))
    np.testing.assert_array_equal(images, pictures(1))


# Made once. A change here means that no run ever made with this filter can be repeated.
GOLDEN = {
    "add_gaussian_noise": "cb8bea7d2313511d",
    "gaussian_blur": "7f546283dbed6670",
    "jpeg": "f05b0c07bbe15c77",
    "sharpen": "279b90ec1eb91513",
}


@names
def test_pixels_of_record(name: str) -> None:
    digest = hashlib.blake2b(digest_size=8)
    for height, width in ((32, 32), (31, 45), (96, 160)):
        images = pictures(24, height, width)
        FILTERS[name](images, np.arange(24), np.arange(24))
        digest.update(images.tobytes())
    assert digest.hexdigest() == GOLDEN[name]
