"""Filters and masks as ops: through `render`, with the values that were drawn, in the order that is promised."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from PIL import Image, ImageEnhance

from augft.augment import apply, draw, filters, masks
from augft.augment.apply import draw_parameters, render
from augft.augment.drawn import Drawn, DrawnOp
from augft.augment.ops import (
    OPS,
    Brightness,
    Cutout,
    Erasing,
    FinishOp,
    GaussianBlur,
    GaussianNoise,
    GridMask,
    HorizontalFlip,
    Invert,
    Jpeg,
    Op,
    Sharpness,
)
from augft.augment.policy import Policy

UInt8Array = npt.NDArray[np.uint8]
FILL = (10, 200, 77)


def pictures(num: int, height: int = 32, width: int = 32) -> UInt8Array:
    """Noise that no library's generator can change."""
    words = draw.words(0, "test/pictures", 0, np.arange(num * height * width), 0, 3)
    return np.ascontiguousarray((words >> 24).astype(np.uint8).T).reshape(num, height, width, 3)


def drawn_op(op: Op, values: npt.ArrayLike, rows: list[int], keys: list[int] | None = None) -> DrawnOp:
    array = np.asarray(values, np.float64).reshape(op.num_values, len(rows))
    return DrawnOp(op, np.array(rows), array, np.array(keys or [], np.uint64))


def alone(image: UInt8Array, op: Op, values: npt.ArrayLike, fill: Any = FILL, key: int = 5) -> UInt8Array:
    keys = [key] if isinstance(op, FinishOp) and op.keyed else None
    return render(image[None], Policy(fill=fill), Drawn(1, (drawn_op(op, values, [0], keys),)))[0]


def octets(image: UInt8Array) -> torch.Tensor:
    return torch.from_numpy(image.copy()).movedim(-1, 0)


def difference(image: UInt8Array, expected: npt.ArrayLike) -> float:
    return float(np.abs(image - np.asarray(expected, np.float64)).max())


# -- filters ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 1.9])
def test_sharpness_is_torchvisions_and_pillows(factor: float) -> None:
    image = pictures(1, 20, 31)[0]
    got = alone(image, Sharpness(), [factor])
    assert difference(got, tv.adjust_sharpness(octets(image), factor).movedim(0, -1).numpy()) <= 1
    assert difference(got, np.asarray(ImageEnhance.Sharpness(Image.fromarray(image)).enhance(factor))) <= 1
    if factor == 1:
        np.testing.assert_array_equal(got, image)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.0])
def test_blur_is_torchvisions(sigma: float) -> None:
    image = pictures(1, 20, 31)[0]
    side = 2 * math.ceil(3 * sigma) + 1
    expected = tv.gaussian_blur(octets(image).double(), [side, side], [sigma, sigma]).movedim(0, -1).numpy()
    assert difference(alone(image, GaussianBlur(), [sigma]), expected) <= 1


@pytest.mark.parametrize("quality", [1, 10, 50, 95, 100])
def test_jpeg_is_pillows(quality: int) -> None:
    y, x = np.mgrid[:24, :40]
    image = np.stack([x * 6, y * 10, (x + y) * 3], -1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=0)
    assert difference(alone(image, Jpeg(), [quality]), np.asarray(Image.open(file))) <= 2


def test_noise_is_normal_and_each_samples_own() -> None:
    grey = np.full((2, 64, 64, 3), 128, np.uint8)
    out = render(grey, Policy(), Drawn(2, (drawn_op(GaussianNoise(), [0.08, 0.08], [0, 1], [3, 4]),)))
    noise = out.astype(np.float64) - 128
    np.testing.assert_allclose(noise.std((1, 2, 3)), 0.08 * 255, rtol=0.03)
    np.testing.assert_allclose(noise.mean((1, 2, 3)), 0, atol=0.8)
    assert abs(np.corrcoef(noise[0].reshape(-1), noise[1].reshape(-1))[0, 1]) < 0.04
    np.testing.assert_array_equal(out[1], alone(grey[0], GaussianNoise(), [0.08], key=4))
    np.testing.assert_array_equal(alone(grey[0], GaussianNoise(), [0.0]), grey[0])


# -- masks -----------------------------------------------------------------------------------------


def covered(image: UInt8Array, got: UInt8Array) -> npt.NDArray[np.bool_]:
    """Where it is the fill; elsewhere it is as it was."""
    where = np.asarray((got == FILL).all(-1))
    np.testing.assert_array_equal(got[~where], image[~where])
    return where


@pytest.mark.parametrize("size", [(32, 32), (20, 44)])
@pytest.mark.parametrize(
    "values",
    [(0.2, 1.0, 0.0, 0.0), (0.2, 1.0, 0.999, 0.999), (0.1, 3.0, 0.4, 0.7), (1.0, 1.0, 0.5, 0.5), (0.33, 0.3, 0.2, 0.9)],
)
def test_erasing_covers_its_box_and_nothing_else(values: tuple[float, ...], size: tuple[int, int]) -> None:
    image, (height, width), (area, ratio, across, down) = pictures(1, *size)[0], size, values
    wide = min(width, round(math.sqrt(area * ratio * height * width)))
    high = min(height, round(math.sqrt(area / ratio * height * width)))
    left, top = math.floor(across * (width - wide + 1)), math.floor(down * (height - high + 1))
    colour = torch.tensor(FILL, dtype=torch.uint8).reshape(3, 1, 1)
    expected = tv.erase(octets(image), top, left, high, wide, colour).movedim(0, -1).numpy()
    np.testing.assert_array_equal(alone(image, Erasing(noise=False), values), expected)
    box = np.s_[top : top + high, left : left + wide]
    noisy = alone(image, Erasing(), values, key=9)
    reference = image[None].copy()
    masks.fill_boxes(
        reference,
        np.array([0]),
        np.array([[top], [top + high], [left], [left + wide]]),
        np.array([FILL], np.uint8),
        np.array([9], np.uint64),
    )
    np.testing.assert_array_equal(noisy, reference[0])
    assert (noisy[box] != image[box]).mean() > 0.95


@pytest.mark.parametrize(("across", "down"), [(0.0, 0.0), (0.5, 0.5), (0.999, 0.3), (0.2, 0.999)])
@pytest.mark.parametrize("share", [0.5, 0.3, 1.0])
def test_cutout_is_a_square_about_a_pixel_of_the_picture(share: float, across: float, down: float) -> None:
    height, width = 24, 40
    image = pictures(1, height, width)[0]
    side = round(share * 24)
    y, x = math.floor(down * height), math.floor(across * width)
    top, left = y - side // 2, x - side // 2
    expected = np.zeros((height, width), bool)
    expected[max(0, top) : top + side, max(0, left) : left + side] = True
    np.testing.assert_array_equal(covered(image, alone(image, Cutout(size=share), [across, down])), expected)
    assert expected[y, x]


def test_grid_mask_covers_a_square_of_each_period() -> None:
    image = pictures(1, 40, 60)[0]
    # Periods of 10 pixels, of which 6 stay on either axis; neither shifted nor turned.
    where = covered(image, alone(image, GridMask(keep=0.6), [0.25, 0, 0, 0]))
    assert where.mean() == pytest.approx(0.16, abs=0.02)
    np.testing.assert_array_equal(where[:30], where[10:])
    np.testing.assert_array_equal(where[:, :50], where[:, 10:])
    assert not covered(image, alone(image, GridMask(keep=1.0), [0.25, 0.3, 0.6, 20])).any()
    assert covered(image, alone(image, GridMask(keep=0.0), [0.25, 0.3, 0.6, 20])).all()
    turned = covered(image, alone(image, GridMask(keep=0.6), [0.25, 0, 0, 30]))
    assert turned.mean() == pytest.approx(0.16, abs=0.03)
    assert (turned != where).any()


@pytest.mark.parametrize(
    ("fill", "expected"), [((1, 2, 3), (1, 2, 3)), ("mean", None), ("edge", None), ("reflect", None)]
)
def test_what_covers_is_the_fill_or_the_average(fill: Any, expected: tuple[int, ...] | None) -> None:
    image = pictures(1)[0]
    got = alone(image, Cutout(size=1), [0.5, 0.5], fill=fill)
    average = np.floor(image.mean((0, 1)) + 0.5)
    np.testing.assert_array_equal(got[16, 16], expected or average)


# -- order -----------------------------------------------------------------------------------------


def test_filters_come_before_what_covers_whatever_the_policy_says() -> None:
    """So a filter never smears a mask; and colours come before both, geometry before colours."""
    image = pictures(1)
    ops = [
        drawn_op(Cutout(), [0.4, 0.4], [0]),
        drawn_op(GaussianBlur(), [1.3], [0]),
        drawn_op(Invert(), [], [0]),
        drawn_op(Jpeg(), [30], [0]),
        drawn_op(HorizontalFlip(), [], [0]),
    ]
    expected = np.ascontiguousarray(255 - image[:, :, ::-1])
    row = np.array([0])
    filters.gaussian_blur(expected, row, np.array([1.3]))
    filters.jpeg(expected, row, np.array([30]))
    expected = render(expected, Policy(fill=FILL), Drawn(1, (ops[0],)))
    np.testing.assert_array_equal(render(image, Policy(fill=FILL), Drawn(1, tuple(ops))), expected)


def test_filters_keep_the_order_of_the_policy() -> None:
    image = pictures(1)
    blur, jpeg = drawn_op(GaussianBlur(), [1.3], [0]), drawn_op(Jpeg(), [10], [0])
    first, second = (render(image, Policy(), Drawn(1, ops)) for ops in ((blur, jpeg), (jpeg, blur)))
    by_hand = render(render(image, Policy(), Drawn(1, (jpeg,))), Policy(), Drawn(1, (blur,)))
    np.testing.assert_array_equal(second, by_hand)
    assert (first != second).mean() > 0.3


FINISH = {name: op for name, op in OPS.items() if issubclass(op, FinishOp)}


@pytest.mark.parametrize("name", sorted(FINISH))
def test_only_the_rows_that_are_drawn_change(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In batches of more pictures than are made at a time, too."""
    images = pictures(20, 40, 50)
    monkeypatch.setattr(apply, "PART_BYTES", 3 * images[0].size)
    policy = Policy.from_config([{name: {"p": 0.4}}])
    drawn = draw_parameters(policy, seed=0, epoch=0, sample_ids=np.arange(20))
    [one] = drawn.ops
    out = render(images, policy, drawn)
    changed = (out != images).any((1, 2, 3))
    others = np.setdiff1d(np.arange(20), one.rows)
    assert 0 < len(one.rows) < 20
    assert not changed[others].any()
    assert changed[one.rows].mean() > 0.6
    for place, row in enumerate(one.rows):
        keys = one.keys[place : place + 1]
        single = DrawnOp(one.op, np.array([0]), one.values[:, place : place + 1], keys)
        np.testing.assert_array_equal(out[row], render(images[row : row + 1], policy, Drawn(1, (single,)))[0])


@pytest.mark.parametrize("name", sorted(FINISH))
@pytest.mark.parametrize("size", [(1, 1), (2, 7), (1, 40)])
def test_small_pictures_are_fine(name: str, size: tuple[int, int]) -> None:
    policy = Policy.from_config([name])
    drawn = draw_parameters(policy, seed=0, epoch=0, sample_ids=np.arange(30))
    assert render(pictures(30, *size), policy, drawn).shape == (30, *size, 3)


def test_ops_do_not_write_to_the_source() -> None:
    images = pictures(3)
    images.setflags(write=False)
    ops = [drawn_op(Brightness(), [0.5], [1]), drawn_op(Cutout(), [0.5, 0.5], [2])]
    out = render(images, Policy(), Drawn(3, tuple(ops)))
    np.testing.assert_array_equal(out[0], images[0])
    assert (out[1:] != images[1:]).any((1, 2, 3)).all()


def test_labels_say_what_is_done() -> None:
    assert Sharpness().label(np.array([1.456])) == "sharpness ×1.46"
    assert GaussianBlur().label(np.array([1.456])) == "blur σ 1.5"
    assert GaussianNoise().label(np.array([0.0812])) == "noise σ 8.1%"
    assert Jpeg().label(np.array([34.0])) == "jpeg 34"
    assert Erasing().label(np.array([0.2, 1, 0, 0.5])) == "erase 20% 1.00:1 at (0%, 50%)"
    assert Cutout(size=0.25).label(np.array([0.1, 0.9])) == "cutout 25% at (10%, 90%)"
    assert GridMask().label(np.array([0.4, 0, 0.2, -12.0])) == "grid 40% at (0%, 20%) −12°"
