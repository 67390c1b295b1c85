"""Each op alone against torchvision at the same parameters, and all together against exact geometry."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from augft.augment.apply import DrawnOp, draw_parameters, inverse_maps, render
from augft.augment.ops import (
    OPS,
    Crop,
    HorizontalFlip,
    Op,
    Rotate,
    Size,
    Translate,
    VerticalFlip,
    sin_cos_degrees,
)
from augft.augment.policy import Policy

BILINEAR = tv.InterpolationMode.BILINEAR

UInt8Array = npt.NDArray[np.uint8]


def noise(num: int, height: int, width: int) -> UInt8Array:
    return np.random.default_rng(5).integers(0, 256, (num, height, width, 3), dtype=np.uint8)


def alone(images: UInt8Array, op: Op, values: npt.ArrayLike, sampling: str = "nearest", fill: int = 0) -> UInt8Array:
    """One op with given values, one column a picture."""
    array = np.asarray(values, np.float64).reshape(op.num_values, len(images))
    drawn = DrawnOp(op, np.ones(len(images), bool), array)
    return render(images, Policy.from_config({"ops": [op.name], "sampling": sampling, "fill": fill}), [drawn])


def as_tensor(images: UInt8Array) -> torch.Tensor:
    return torch.from_numpy(images).movedim(-1, -3)


def as_array(tensor: torch.Tensor) -> UInt8Array:
    return np.asarray(tensor.movedim(-3, -1).numpy())


# -- one op against torchvision --------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["nearest", "bilinear"])
@pytest.mark.parametrize("size", [(8, 8), (32, 32), (31, 47)])
def test_flips_are_exact(size: tuple[int, int], sampling: str) -> None:
    images = noise(3, *size)
    across = alone(images, HorizontalFlip(), np.empty((0, 3)), sampling)
    np.testing.assert_array_equal(across, as_array(tv.horizontal_flip(as_tensor(images))))
    over = alone(images, VerticalFlip(), np.empty((0, 3)), sampling)
    np.testing.assert_array_equal(over, as_array(tv.vertical_flip(as_tensor(images))))


@pytest.mark.parametrize("sampling", ["nearest", "bilinear"])
@pytest.mark.parametrize("offset", [(0, 0), (4, 4), (-4, 3), (1, -4), (9, 0), (40, 2)])
def test_crop_is_exactly_pad_and_crop(offset: tuple[int, int], sampling: str) -> None:
    images = noise(2, 32, 32)
    (dx, dy), padding = offset, 40
    padded = tv.pad(as_tensor(images), [padding], fill=9)
    expected = as_array(tv.crop(padded, padding + dy, padding + dx, 32, 32))
    got = alone(images, Crop(padding=padding), [[dx, dx], [dy, dy]], sampling, fill=9)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("sampling", ["nearest", "bilinear"])
@pytest.mark.parametrize("fraction", [(0.1, -0.1), (0.26, 0.0), (-1.0, 0.5)])
def test_translate_is_exactly_that_of_torchvision(fraction: tuple[float, float], sampling: str) -> None:
    images = noise(2, 24, 40)
    x, y = fraction
    pixels = [round(x * 40), round(y * 24)]
    expected = as_array(tv.affine(as_tensor(images), angle=0, translate=pixels, scale=1, shear=[0, 0], fill=[7, 7, 7]))
    got = alone(images, Translate(x=1, y=1), [[x, x], [y, y]], sampling, fill=7)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(("size", "bound"), [((32, 32), 0.0005), ((31, 47), 0.0005), ((224, 224), 0.0015)])
def test_rotate_nearest_is_pillows(size: tuple[int, int], bound: float) -> None:
    """Equal but where a position falls between two pixels within Pillow's own 16 bits of fraction."""
    images = noise(40, *size)
    angles = np.linspace(-179, 180, 40)
    got = alone(images, Rotate(degrees=180), angles)
    expected = np.stack(
        [np.asarray(tv.rotate(Image.fromarray(image), float(a))) for image, a in zip(images, angles, strict=True)]
    )
    assert (got != expected).any(-1).mean() <= bound


@pytest.mark.parametrize("size", [(32, 32), (31, 47), (224, 224)])
def test_rotate_bilinear_is_torchvisions_within_a_grey_level(size: tuple[int, int]) -> None:
    """Without `fill` torchvision blends with black at the edge, as here; with one it blends twice."""
    images = noise(20, *size)
    angles = np.linspace(-179, 180, 20)
    got = alone(images, Rotate(degrees=180), angles, "bilinear").astype(int)
    expected = np.stack(
        [
            as_array(tv.rotate(as_tensor(image), float(a), interpolation=BILINEAR))
            for image, a in zip(images, angles, strict=True)
        ]
    ).astype(int)
    assert np.abs(got - expected).max() <= 1
    assert (got != expected).mean() < 0.05


@pytest.mark.parametrize("sampling", ["nearest", "bilinear"])
def test_quarter_turns_of_a_square_are_exact(sampling: str) -> None:
    images = noise(4, 9, 9)
    got = alone(images, Rotate(degrees=180), [90, 180, -90, 0], sampling)
    for turned, image, turns in zip(got, images, (1, 2, 3, 0), strict=True):
        np.testing.assert_array_equal(turned, np.rot90(image, turns))


# -- composition -----------------------------------------------------------------------------------


def exact_inverse(drawn: tuple[DrawnOp, ...], index: int, size: Size) -> npt.NDArray[np.float64]:
    """Forward maps by the textbook, multiplied and inverted as 3×3 matrices."""
    cx, cy = (size.width - 1) / 2, (size.height - 1) / 2
    to_middle, back = (
        np.array([[1, 0, -cx], [0, 1, -cy], [0, 0, 1]]),
        np.array([[1, 0, cx], [0, 1, cy], [0, 0, 1]]),
    )
    forward = np.eye(3)
    for one in drawn:
        if not one.applied[index]:
            continue
        v = one.values[:, index]
        step = np.eye(3)
        match one.op.name:
            case "horizontal_flip":
                step = back @ np.diag([-1, 1, 1]) @ to_middle
            case "vertical_flip":
                step = back @ np.diag([1, -1, 1]) @ to_middle
            case "rotate":  # counter-clockwise to the eye, with y pointing down
                t = math.radians(v[0])
                turn = np.array([[math.cos(t), math.sin(t), 0], [-math.sin(t), math.cos(t), 0], [0, 0, 1]])
                step = back @ turn @ to_middle
            case "translate":
                step[:2, 2] = round(v[0] * size.width), round(v[1] * size.height)
            case "crop":
                step[:2, 2] = -v[0], -v[1]
        forward = step @ forward
    return np.asarray(np.linalg.inv(forward))


ALL_OPS = ["rotate", "horizontal_flip", "crop", "vertical_flip", "translate", "rotate", "horizontal_flip"]


def test_many_ops_compose_to_the_exact_transform_of_a_plane() -> None:
    """A brightness linear in the position survives bilinear sampling exactly, up to the last rounding."""
    size = Size(40, 48)
    y, x = np.mgrid[: size.height, : size.width]
    picture = np.stack([3 * x + 2 * y, 5 * x, 6 * y], -1).astype(np.uint8)
    images = np.repeat(picture[None], 64, 0)
    policy = Policy.from_config(ALL_OPS)
    drawn = draw_parameters(policy, seed=3, epoch=0, sample_ids=np.arange(64))
    out = render(images, policy, drawn)
    compared = 0
    for i in range(64):
        u, v, _ = np.tensordot(exact_inverse(drawn, i, size), np.stack([x, y, np.ones_like(x)]), 1)
        inside = (u >= 0) & (u <= size.width - 1) & (v >= 0) & (v <= size.height - 1)
        expected = np.stack([3 * u + 2 * v, 5 * u, 6 * v], -1)
        assert np.abs(out[i] - expected)[inside].max() <= 0.51
        compared += int(inside.sum())
        outside = (u < -1) | (u > size.width) | (v < -1) | (v > size.height)
        assert (out[i][outside] == 0).all()
    assert compared > 64 * 1000


def test_maps_agree_with_matrices() -> None:
    size = Size(33, 20)
    drawn = draw_parameters(Policy.from_config(ALL_OPS), seed=1, epoch=2, sample_ids=np.arange(50))
    maps = inverse_maps(drawn, size)
    for i in range(50):
        np.testing.assert_allclose(maps[:, i].reshape(2, 3), exact_inverse(drawn, i, size)[:2], atol=1e-11)


@given(st.floats(-720, 720))
def test_sine_and_cosine_are_right_to_the_last_bit_or_two(angle: float) -> None:
    sin, cos = sin_cos_degrees(np.array([angle]))
    assert sin[0] == pytest.approx(math.sin(math.radians(angle)), abs=2e-15)
    assert cos[0] == pytest.approx(math.cos(math.radians(angle)), abs=2e-15)
    assert sin[0] ** 2 + cos[0] ** 2 == pytest.approx(1, abs=5e-16)


def test_sine_and_cosine_are_exact_at_quarter_turns() -> None:
    sin, cos = sin_cos_degrees(np.arange(-360.0, 361, 90))
    assert sin.tolist() == [0, 1, 0, -1, 0, 1, 0, -1, 0]
    assert cos.tolist() == [1, 0, -1, 0, 1, 0, -1, 0, 1]


# -- draws -----------------------------------------------------------------------------------------

IDS = np.arange(40_000)


def drawn_values(entry: dict[str, dict[str, float]]) -> DrawnOp:
    [one] = draw_parameters(Policy.from_config([entry]), seed=17, epoch=0, sample_ids=IDS)
    return one


@pytest.mark.parametrize("name", sorted(OPS))
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_p_is_the_share_of_samples(name: str, p: float) -> None:
    applied = int(drawn_values({name: {"p": p}}).applied.sum())
    if p in (0, 1):
        assert applied == p * len(IDS)
    else:
        assert stats.binomtest(applied, len(IDS), p).pvalue > 0.001


def test_angles_are_uniform() -> None:
    angles = drawn_values({"rotate": {"degrees": 30}}).values[0]
    assert stats.kstest(angles, stats.uniform(-30, 60).cdf).pvalue > 0.001


def test_translations_are_uniform_in_each_axis_and_independent() -> None:
    x, y = drawn_values({"translate": {"x": 0.2, "y": 0.4}}).values
    assert stats.kstest(x, stats.uniform(-0.2, 0.4).cdf).pvalue > 0.001
    assert stats.kstest(y, stats.uniform(-0.4, 0.8).cdf).pvalue > 0.001
    assert stats.pearsonr(x, y).pvalue > 0.001


def test_crop_offsets_are_uniform_whole_numbers() -> None:
    x, y = drawn_values({"crop": {"padding": 3}}).values
    pairs, counts = np.unique(np.stack([x, y]), axis=1, return_counts=True)
    assert pairs.shape == (2, 49)
    assert set(np.unique(pairs)) == set(range(-3, 4))
    assert stats.chisquare(counts).pvalue > 0.001


def test_parameters_do_not_depend_on_being_applied() -> None:
    """Else a policy with another `p` would not be a paired comparison."""
    half, all_of_them = (drawn_values({"rotate": {"p": p}}) for p in (0.5, 1.0))
    np.testing.assert_array_equal(half.values, all_of_them.values)


@pytest.mark.parametrize("name", sorted(OPS))
def test_defaults_visibly_do_something(name: str) -> None:
    images = noise(100, 32, 32)
    policy = Policy.from_config([name])
    out = render(images, policy, draw_parameters(policy, seed=0, epoch=0, sample_ids=np.arange(100)))
    changed = (out != images).reshape(100, -1).mean(1) > 0.5
    assert changed.mean() > 0.35 if "flip" in name else changed.mean() > 0.95


def test_labels_say_what_is_done() -> None:
    assert HorizontalFlip().label(np.empty(0)) == "flip ↔"
    assert VerticalFlip().label(np.empty(0)) == "flip ↕"
    assert Rotate().label(np.array([7.26])) == "rotate +7.3°"
    assert Rotate().label(np.array([-0.04])) == "rotate 0.0°"
    assert Crop().label(np.array([2.0, -3.0])) == "crop (+2, −3)"
    assert Translate().label(np.array([0.1, -0.05])) == "translate (+10 %, −5 %)"
