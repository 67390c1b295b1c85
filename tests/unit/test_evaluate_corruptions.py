"""The common corruptions against straightforward computations, and as pure functions."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from augft.assess.corrupt import CORRUPTIONS, GROUPS, SEVERITIES, corrupt
from augft.assess.corrupt.noise import GAUSSIAN, IMPULSE, SHOT
from augft.assess.corrupt.weather import FROST
from tests.unit import hendrycks

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


def assert_like(found: np.ndarray, expected: np.ndarray, most_off: float = 0.02) -> None:
    """A grey level apart where rounding falls on the other side of a whole one, and hardly anywhere."""
    off = np.abs(found.astype(int) - expected.astype(int))
    assert off.max() <= 1
    assert (off > 0).mean() < most_off


def grey(value: int, num: int = 64) -> np.ndarray:
    return np.full((num, 32, 32, 3), value, np.uint8)


# ---- against the benchmark's program -----------------------------------------------------------------------


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", hendrycks.ALL)
def test_a_corruption_is_the_benchmarks(photographs: np.ndarray, name: str, severity: int) -> None:
    if name == "defocus_blur":
        pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    for number in (3, 9, 22):
        image = photographs[number].copy()
        image[0, :4] = [[0, 0, 0], [255, 255, 255], [0, 0, 200], [3, 0, 0]]
        expected = hendrycks.corrupted(image, name, severity, seed=7, sample_id=number)
        [found] = corrupt(image[None], name, severity, seed=7, sample_ids=np.array([number]))
        # A tap of a Gaussian of 0.25 px is 1/3000: three levels' difference beside a pixel is a thousandth of one,
        # which is just what decides whether it still is a whole one.
        assert_like(found, expected, most_off=0.15 if name == "glass_blur" else 0.02)


def test_all_but_frost_are_compared() -> None:
    assert hendrycks.ALL.keys() == CORRUPTIONS.keys() - {"frost"}


# ---- what chance has to be like ----------------------------------------------------------------------------


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
    expected = hendrycks.stored(np.random.default_rng(0).poisson(value / 255 * photons, found.shape) / photons)
    error = 4 * expected.std() * math.sqrt(2 / found.size)
    assert found.mean() == pytest.approx(expected.mean(), abs=error)
    assert found.std() == pytest.approx(expected.std(), rel=0.01)
    assert set(np.unique(found)) <= set(hendrycks.stored(np.arange(3 * photons) / photons).tolist()) | {255}


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
def test_frost_adds_at_most_its_weight_of_ice(photographs: np.ndarray, severity: int) -> None:
    kept, ice = FROST[severity - 1]
    added = once(photographs[6], "frost", severity) - np.floor(kept * photographs[6])
    assert added.min() >= -1
    assert added.max() <= 255 * ice + 1
    assert added.std() > 5


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
