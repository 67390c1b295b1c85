"""Bytes to floats: scaled, normalised, resized."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms import v2

from augft.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess

CPU = torch.device("cpu")


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 6, 5, 3), np.uint8)


def test_is_torchvisions_normalise(images: np.ndarray) -> None:
    x = Preprocess(IMAGENET_MEAN, IMAGENET_STD, None, CPU)(images)
    chw = torch.from_numpy(images).permute(0, 3, 1, 2)
    scaled = v2.functional.to_dtype(chw, torch.float32, scale=True)
    reference = v2.functional.normalize(scaled, IMAGENET_MEAN, IMAGENET_STD)
    assert x.dtype == torch.float32
    assert x.shape == (3, 3, 6, 5)
    torch.testing.assert_close(x, reference, rtol=1e-6, atol=1e-6)


def test_the_pictures_are_left_alone_and_may_be_read_only(images: np.ndarray) -> None:
    before = images.copy()
    writable = Preprocess((0.5,) * 3, (0.25,) * 3, None, CPU)(images)
    assert np.array_equal(images, before)
    images.flags.writeable = False
    assert torch.equal(Preprocess((0.5,) * 3, (0.25,) * 3, None, CPU)(images), writable)
    strided = np.repeat(images, 2, axis=2)[:, :, ::2]
    assert torch.equal(Preprocess((0.5,) * 3, (0.25,) * 3, None, CPU)(strided), writable)


def test_a_channel_that_never_varies(images: np.ndarray) -> None:
    images[..., 1] = 51
    x = Preprocess((0.5, 0.2, 0.5), (0.25, 0.0, 0.25), None, CPU)(images)
    assert torch.isfinite(x).all()
    assert x[:, 1].abs().max() < 1e-6


def test_resizes_after_normalising(images: np.ndarray) -> None:
    plain = Preprocess(IMAGENET_MEAN, IMAGENET_STD, None, CPU)(images)
    for size in (4, 12):
        x = Preprocess(IMAGENET_MEAN, IMAGENET_STD, size, CPU)(images)
        torch.testing.assert_close(x, F.interpolate(plain, size=(size, size), mode="bilinear", antialias=True))
    square = images[:, :5]
    assert torch.equal(Preprocess(IMAGENET_MEAN, IMAGENET_STD, 5, CPU)(square), plain[:, :, :5])


def test_memory_format(images: np.ndarray) -> None:
    for channels_last in (True, False):
        x = Preprocess(IMAGENET_MEAN, IMAGENET_STD, None, CPU, channels_last)(images)
        assert x.is_contiguous(memory_format=torch.channels_last) is channels_last
        assert x.is_contiguous() is not channels_last
