"""The common corruptions against straightforward computations, and as pure functions."""

from __future__ import annotations

import colorsys
import math
from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from scipy.spatial import ConvexHull

from augft.assess.corrupt import CORRUPTIONS, GROUPS, SEVERITIES, corrupt
from augft.assess.corrupt.blur import DEFOCUS, GLASS, MOTION, ZOOM
from augft.assess.corrupt.digital import CONTRAST, ELASTIC, JPEG, PIXELATE
from augft.assess.corrupt.draws import Draws
from augft.assess.corrupt.noise import GAUSSIAN, IMPULSE, SHOT
from augft.assess.corrupt.weather import BRIGHTNESS, FOG, FROST, SNOW, plasma

GROWING = sorted(CORRUPTIONS.keys() - {"elastic_transform", "frost", "glass_blur"})
"""In the benchmark's strengths of the others one thing grows while another shrinks."""


@pytest.fixture(scope="module")
def photographs() -> np.ndarray:
    """uint8 (24, 32, 32, 3), parts of a real photograph."""
    from sklearn.datasets import load_sample_image

    whole = Image.fromarray(load_sample_image("china.jpg")).resize((192, 128), Image.Resampling.BOX)
    tiles = np.asarray(whole).reshape(4, 32, 6, 32, 3).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(tiles.reshape(24, 32, 32, 3))


def once(image: np.ndarray, name: str, severity: int, sample_id: int = 0) -> np.ndarray:
    return corrupt(image[None], name, severity, seed=0, sample_ids=np.array([sample_id]))[0]


def levels(x: np.ndarray) -> np.ndarray:
    """What the benchmark's program stores; a whole level stays one, whatever floats make of it."""
    return np.uint8(np.clip(255 * x + 1e-3, 0, 255))


def assert_like(found: np.ndarray, expected: np.ndarray) -> None:
    """A grey level apart where rounding falls on the other side of a whole one, and hardly anywhere."""
    off = np.abs(found.astype(int) - expected.astype(int))
    assert off.max() <= 1
    assert (off > 0).mean() < 0.02


def grey(value: int, num: int = 64) -> np.ndarray:
    return np.full((num, 32, 32, 3), value, np.uint8)


# ---- noise -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_noise_has_its_deviation(severity: int) -> None:
    noise = corrupt(grey(128), "gaussian_noise", severity, seed=3, sample_ids=np.arange(64)) - 128.0
    sigma = 255 * GAUSSIAN[severity - 1]
    assert noise.mean() == pytest.approx(-0.5, abs=4 * sigma / math.sqrt(noise.size))  # the fraction is cut off
    assert noise.std() == pytest.approx(sigma, rel=0.01)
    inside = np.abs(noise + 0.5) < sigma
    assert inside.mean() == pytest.approx(0.6827, abs=0.02)
    channels = noise.reshape(-1, 3)
    assert np.abs(np.corrcoef(channels.T) - np.eye(3)).max() < 0.02


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("value", [40, 128])
def test_shot_noise_is_poisson(severity: int, value: int) -> None:
    photons = SHOT[severity - 1]
    found = corrupt(grey(value), "shot_noise", severity, seed=3, sample_ids=np.arange(64))
    expected = levels(np.random.default_rng(0).poisson(value / 255 * photons, found.shape) / photons)
    error = 4 * expected.std() * math.sqrt(2 / found.size)
    assert found.mean() == pytest.approx(expected.mean(), abs=error)
    assert found.std() == pytest.approx(expected.std(), rel=0.01)
    assert set(np.unique(found)) <= set(levels(np.arange(3 * photons) / photons).tolist()) | {255}


def test_shot_noise_leaves_black_alone() -> None:
    assert not corrupt(grey(0, 4), "shot_noise", 5, seed=0, sample_ids=np.arange(4)).any()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_impulse_noise_hits_its_share(severity: int) -> None:
    found = corrupt(grey(100), "impulse_noise", severity, seed=1, sample_ids=np.arange(64))
    share = IMPULSE[severity - 1]
    error = 4 * math.sqrt(share / found.size)
    assert (found == 255).mean() == pytest.approx(share / 2, abs=error)
    assert (found == 0).mean() == pytest.approx(share / 2, abs=error)
    assert np.isin(found, [0, 100, 255]).all()


# ---- blur --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("severity", SEVERITIES)
def test_defocus_blur_is_a_soft_disk(photographs: np.ndarray, severity: int) -> None:
    cv2 = pytest.importorskip("cv2")
    radius, sigma = DEFOCUS[severity - 1]
    x, y = np.meshgrid(np.arange(-8, 9), np.arange(-8, 9))
    disk = (x**2 + y**2 <= radius**2).astype(np.float32)
    kernel = cv2.GaussianBlur(disk / disk.sum(), ksize=(3, 3), sigmaX=sigma)
    expected = levels(cv2.filter2D(photographs[3] / 255.0, -1, kernel))
    assert_like(once(photographs[3], "defocus_blur", severity), expected)


@pytest.mark.parametrize("severity", [1, 4])
def test_glass_blur_shows_near_pixels(photographs: np.ndarray, severity: int) -> None:
    sigma, reach, times = GLASS[severity - 1]
    image = photographs[np.argmax(photographs.std((1, 2, 3)))]  # not of the sky
    found = once(image, "glass_blur", severity)
    if severity == 1:  # so soft a blur changes a level at most
        near = [np.roll(image, (i, j), (0, 1)) for i in range(reach + 1) for j in range(reach + 1)]
        closest = np.min([np.abs(found.astype(int) - each).max(2) for each in near], axis=0)
        assert closest[2:31, 2:31].max() <= 2
    assert np.abs(found.astype(int) - image)[4:28, 4:28].mean() > 3
    soft = image
    for _ in range(2):
        soft = levels(ndimage.gaussian_filter(soft / 255, (sigma, sigma, 0), mode="nearest"))
    if severity == 1:  # the border stays where it is
        assert_like(found[0], soft[0])
    moved = np.abs(found.astype(int) - soft).max(2) > 8
    assert not moved[:1].any()
    assert moved[4:28, 4:28].mean() > 0.2 * times


@pytest.mark.parametrize("severity", SEVERITIES)
def test_motion_blur_is_half_a_gaussian_along_a_line(photographs: np.ndarray, severity: int) -> None:
    radius, sigma = MOTION[severity - 1]
    image = photographs[7]
    [degrees] = Draws(0, "motion_blur", severity, np.array([9])).uniform("angle", low=-45, high=45)
    weights = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(2 * radius + 1)]
    total = np.zeros((32, 32, 3))
    for i, weight in enumerate(weights):
        right = math.ceil(i * math.cos(math.radians(degrees)) - 0.5)
        down = math.ceil(i * math.sin(math.radians(degrees)) - 0.5)
        for y in range(32):
            for x in range(32):
                total[y, x] += weight * image[min(max(y + down, 0), 31), min(max(x + right, 0), 31)]
    assert_like(once(image, "motion_blur", severity, sample_id=9), levels(total / sum(weights) / 255))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_zoom_blur_is_scipys(photographs: np.ndarray, severity: int) -> None:
    image = photographs[9] / 255
    total = image.copy()
    factors = np.arange(1, ZOOM[severity - 1], 0.01)
    for factor in factors:
        kept = math.ceil(32 / factor)
        top = (32 - kept) // 2
        large = ndimage.zoom(image[top : top + kept, top : top + kept], (factor, factor, 1), order=1)
        trim = (len(large) - 32) // 2
        total += large[trim : trim + 32, trim : trim + 32]
    assert_like(once(photographs[9], "zoom_blur", severity), levels(total / (len(factors) + 1)))


# ---- weather -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness_raises_the_value_of_hsv(photographs: np.ndarray, severity: int) -> None:
    image = photographs[2].copy()
    image[0, :4] = [[0, 0, 0], [255, 255, 255], [0, 0, 200], [3, 0, 0]]
    expected = np.zeros((32, 32, 3))
    for place in np.ndindex(32, 32):
        hue, saturation, value = colorsys.rgb_to_hsv(*image[place] / 255)
        expected[place] = colorsys.hsv_to_rgb(hue, saturation, min(1, value + BRIGHTNESS[severity - 1]))
    assert_like(once(image, "brightness", severity), levels(expected))


def test_plasma_is_diamond_and_square() -> None:
    draws = Draws(5, "fog", 2, np.array([11]))
    noise = draws.uniform("fog", (32, 32), -1, 1)[0]
    field, step, strength = np.zeros((32, 32)), 32, 1.0
    while step > 1:
        half = step // 2
        for y in range(half, 32, step):
            for x in range(half, 32, step):
                around = [field[(y + i) % 32, (x + j) % 32] for i in (-half, half) for j in (-half, half)]
                field[y, x] = np.mean(around) + strength * noise[y, x]
        for y in range(0, 32, half):
            for x in range((y + half) % step, 32, step):
                around = [field[(y + i) % 32, (x + j) % 32] for i, j in ((-half, 0), (half, 0), (0, -half), (0, half))]
                field[y, x] = np.mean(around) + strength * noise[y, x]
        step, strength = half, strength / 2.5
    field -= field.min()
    np.testing.assert_allclose(plasma(draws, "fog", 32, 2.5)[0], field / field.max(), atol=1e-12)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_fog_is_added_and_the_brightest_kept(photographs: np.ndarray, severity: int) -> None:
    density, fading = FOG[severity - 1]
    x = photographs[4] / 255
    field = plasma(Draws(0, "fog", severity, np.array([0])), "fog", 32, fading)[0, ..., None]
    expected = (x + density * field) * x.max() / (x.max() + density)
    assert_like(once(photographs[4], "fog", severity), levels(expected))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_snow_whitens_and_adds_flakes(photographs: np.ndarray, severity: int) -> None:
    kept = SNOW[severity - 1][-1]
    x = photographs[6] / 255
    grey_of = x @ [0.299, 0.587, 0.114]
    white = levels(kept * x + (1 - kept) * np.maximum(x, 1.5 * grey_of[..., None] + 0.5))
    flakes = once(photographs[6], "snow", severity).astype(int) - white
    assert flakes.min() >= -1
    added = flakes.max(2)
    unsaturated = (white.max(2) < 150) & (white[::-1, ::-1].max(2) < 150) & (added < 100) & (added[::-1, ::-1] < 100)
    assert unsaturated.any()
    # Each flake falls twice: the field and itself turned by half a circle.
    assert np.abs(added - added[::-1, ::-1])[unsaturated].max() <= 1


@pytest.mark.parametrize("severity", SEVERITIES)
def test_frost_adds_at_most_its_weight_of_ice(photographs: np.ndarray, severity: int) -> None:
    kept, ice = FROST[severity - 1]
    added = once(photographs[6], "frost", severity) - np.floor(kept * photographs[6])
    assert added.min() >= -1
    assert added.max() <= 255 * ice + 1
    assert added.std() > 5


# ---- digital -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_is_about_the_mean_of_each_channel(photographs: np.ndarray, severity: int) -> None:
    x = photographs[8] / 255
    mean = x.mean((0, 1))
    assert_like(once(photographs[8], "contrast", severity), levels((x - mean) * CONTRAST[severity - 1] + mean))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_pixelate_and_jpeg_are_pillows(photographs: np.ndarray, severity: int) -> None:
    picture = Image.fromarray(photographs[1])
    side = int(32 * PIXELATE[severity - 1])
    coarse = picture.resize((side, side), Image.Resampling.BOX).resize((32, 32), Image.Resampling.BOX)
    assert np.array_equal(once(photographs[1], "pixelate", severity), np.asarray(coarse))
    file = BytesIO()
    picture.save(file, "JPEG", quality=JPEG[severity - 1])
    assert np.array_equal(once(photographs[1], "jpeg_compression", severity), np.asarray(Image.open(file)))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_elastic_transform_is_scipys(photographs: np.ndarray, severity: int) -> None:
    strength, sigma, reach = (32 * part for part in ELASTIC[severity - 1])
    draws = Draws(0, "elastic_transform", severity, np.array([0]))
    before = np.array([(26.0, 26), (26, 6), (6, 6)])
    after = before + draws.uniform("affine", (3, 2), -reach, reach)[0]
    # Where the corners go, the map takes their surroundings: x', y' = A (x, y, 1).
    back = np.linalg.solve(np.c_[after, np.ones(3)], before).T
    y, x = np.mgrid[:32, :32]
    at_x, at_y = (row[0] * x + row[1] * y + row[2] for row in back)

    def sampled(image: np.ndarray, rows: np.ndarray, columns: np.ndarray, mode: str) -> np.ndarray:
        planes = [ndimage.map_coordinates(image[..., c], [rows, columns], order=1, mode=mode) for c in range(3)]
        return np.stack(planes, 2)

    expected = sampled(photographs[0] / 255, at_y, at_x, "mirror")
    if strength:
        field = draws.uniform("field", (2, 32, 32), -1, 1)[0]
        down, right = (strength * ndimage.gaussian_filter(f, sigma, mode="reflect", truncate=3) for f in field)
        expected = sampled(expected, y + down, x + right, "reflect")
    assert_like(once(photographs[0], "elastic_transform", severity), levels(expected))
    assert len(ConvexHull(after).vertices) == 3


# ---- all of them -------------------------------------------------------------------------------------------


def test_there_are_the_benchmarks_fifteen() -> None:
    assert {group: len(members) for group, members in GROUPS.items()} == {
        "noise": 3, "blur": 4, "weather": 4, "digital": 4,
    }  # fmt: skip
    assert len(CORRUPTIONS) == 15


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_result_depends_on_its_own_picture_and_key_alone(photographs: np.ndarray, name: str) -> None:
    ids = np.arange(100, 124)
    before = photographs.copy()
    for severity in (1, 5):
        whole = corrupt(photographs, name, severity, seed=7, sample_ids=ids)
        order = np.random.default_rng(0).permutation(24)
        turned = corrupt(photographs[order], name, severity, seed=7, sample_ids=ids[order])
        assert np.array_equal(turned, whole[order])
        for i in (0, 23):
            alone = corrupt(photographs[i : i + 1], name, severity, seed=7, sample_ids=ids[i : i + 1])
            assert np.array_equal(alone[0], whole[i])
    assert np.array_equal(photographs, before)


RANDOM = ["gaussian_noise", "shot_noise", "impulse_noise", "glass_blur", "motion_blur", "snow", "frost", "fog",
          "elastic_transform"]  # fmt: skip


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_chance_comes_from_seed_and_sample_id(photographs: np.ndarray, name: str) -> None:
    same = np.repeat(photographs[3:4], 2, axis=0)
    first, second = corrupt(same, name, 3, seed=0, sample_ids=np.array([1, 2]))
    [other] = corrupt(same[:1], name, 3, seed=1, sample_ids=np.array([1]))
    assert np.array_equal(first, second) != (name in RANDOM)
    assert np.array_equal(first, other) != (name in RANDOM)


@pytest.mark.parametrize("name", GROWING)
def test_damage_grows_with_severity(photographs: np.ndarray, name: str) -> None:
    ids = np.arange(24)
    damage = [
        np.abs(corrupt(photographs, name, severity, seed=0, sample_ids=ids).astype(int) - photographs).mean()
        for severity in SEVERITIES
    ]
    assert damage[0] > 0.2
    # Of motion, the third and the fourth differ in where the kernel is cut off alone.
    assert all(after > 0.99 * before for before, after in pairwise(damage))
    assert damage[4] > 1.2 * damage[0]


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(8, 8), (40, 33), (1, 1), (65, 64)])
def test_any_size(name: str, shape: tuple[int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, *shape, 3), np.uint8)
    found = corrupt(images, name, 5, seed=0, sample_ids=np.arange(2))
    assert found.shape == images.shape
    assert found.dtype == np.uint8


def test_lengths_grow_with_the_picture(photographs: np.ndarray) -> None:
    """A picture twice as large, blurred and made small again, is the blurred small one."""
    large = np.stack([np.asarray(Image.fromarray(p).resize((64, 64), Image.Resampling.BICUBIC)) for p in photographs])
    ids = np.arange(24)
    for name in ("defocus_blur", "motion_blur"):
        small = corrupt(photographs, name, 5, seed=0, sample_ids=ids).astype(float)
        found = corrupt(large, name, 5, seed=0, sample_ids=ids).reshape(24, 32, 2, 32, 2, 3).mean((2, 4))
        assert np.abs(found - small).mean() < 0.5 * np.abs(small - photographs).mean()


def test_an_empty_batch_and_wrong_arguments() -> None:
    none = np.zeros((0, 32, 32, 3), np.uint8)
    assert corrupt(none, "fog", 1, seed=0, sample_ids=np.zeros(0, np.int64)).shape == none.shape
    with pytest.raises(ValueError, match="no corruption 'rain'"):
        corrupt(none, "rain", 1, seed=0, sample_ids=np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="severity 6"):
        corrupt(none, "fog", 6, seed=0, sample_ids=np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="2 sample ids for 0 pictures"):
        corrupt(none, "fog", 1, seed=0, sample_ids=np.zeros(2, np.int64))
