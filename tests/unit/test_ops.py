"""Each op that moves pixels alone against torchvision, Pillow or scipy, and all together against exact geometry."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from PIL import Image
from scipy import ndimage, stats
from scipy.interpolate import BSpline

from augft.augment.apply import draw_parameters, inverse_maps, render
from augft.augment.drawn import Drawn, DrawnOp
from augft.augment.ops import (
    OPS,
    Affine,
    CenterCrop,
    Crop,
    Elastic,
    HorizontalFlip,
    Op,
    Perspective,
    ResizedCrop,
    Rotate,
    Rotate90,
    Scale,
    Shear,
    Size,
    Translate,
    VerticalFlip,
)
from augft.augment.policy import Policy

BILINEAR = tv.InterpolationMode.BILINEAR

UInt8Array = npt.NDArray[np.uint8]
Float64Array = npt.NDArray[np.float64]


def noise(num: int, height: int, width: int) -> UInt8Array:
    return np.random.default_rng(5).integers(0, 256, (num, height, width, 3), dtype=np.uint8)


def plane(x: Float64Array, y: Float64Array) -> Float64Array:
    """A smooth colour at any place: what a picture of it becomes under a map is known exactly."""
    return np.stack(
        [
            127 + 90 * np.sin(x / 8 + 1) * np.cos(y / 11),
            127 + 100 * np.cos(x / 13 - y / 9),
            60 + 2 * x + 1.5 * y,
        ],
        -1,
    )


def picture_of_plane(size: Size) -> UInt8Array:
    y, x = np.mgrid[: size.height, : size.width].astype(np.float64)
    return np.asarray(np.clip(np.rint(plane(x, y)), 0, 255).astype(np.uint8))


def drawn_alone(op: Op, values: npt.ArrayLike, num: int) -> Drawn:
    """One op with given values, one column a picture."""
    array = np.asarray(values, np.float64).reshape(op.num_values, num)
    return Drawn(num, (DrawnOp(op, np.arange(num), array),))


def alone(images: UInt8Array, op: Op, values: npt.ArrayLike, sampling: str = "nearest", fill: Any = 0) -> UInt8Array:
    policy = Policy.from_config({"ops": [op.name], "sampling": sampling, "fill": fill})
    return render(images, policy, drawn_alone(op, values, len(images)))


def difference(got: UInt8Array, expected: npt.ArrayLike) -> Float64Array:
    return np.asarray(np.abs(got.astype(np.float64) - np.asarray(expected, np.float64)))


def positions(op: Op, values: npt.ArrayLike, size: Size) -> tuple[Float64Array, Float64Array]:
    """Where each pixel of one picture comes from."""
    drawn = drawn_alone(op, values, 1)
    y, x = np.mgrid[: size.height, : size.width]
    m = np.vstack([exact_inverse(drawn, 0, size).reshape(9)])[0]
    below = m[6] * x + m[7] * y + m[8]
    return (m[0] * x + m[1] * y + m[2]) / below, (m[3] * x + m[4] * y + m[5]) / below


def near_a_tie(u: Float64Array, v: Float64Array, tolerance: float = 0.01) -> npt.NDArray[np.bool_]:
    """Where a position lies between two pixels, and either is as right."""
    return np.asarray((np.abs(u % 1 - 0.5) < tolerance) | (np.abs(v % 1 - 0.5) < tolerance))


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


SIZES = [(32, 32), (31, 47)]

AFFINE = [
    # degrees, x, y, scale, shear x, shear y
    (0, 0, 0, 1, 25, 0),
    (0, 0, 0, 1, -20, 0),
    (0, 0, 0, 1, 0, 15),
    (0, 0, 0, 1, 10, -30),
    (0, 0, 0, 1.6, 0, 0),
    (0, 0, 0, 0.75, 0, 0),
    (30, 0.1, -0.2, 1.2, 12, 0),
    (-75, -0.26, 0.1, 0.8, -9, 6),
    (180, 0.3, 0.3, 1, 0, 20),
]


def torchvision_affine(image: UInt8Array, numbers: tuple[float, ...], **options: Any) -> UInt8Array:
    """Its angle is clockwise."""
    degrees, x, y, scale, shear_x, shear_y = numbers
    height, width, _ = image.shape
    shift = [round(x * width), round(y * height)]
    return as_array(
        tv.affine(as_tensor(image), angle=-degrees, translate=shift, scale=scale, shear=[shear_x, shear_y], **options)
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("numbers", AFFINE)
def test_affine_is_torchvisions(numbers: tuple[float, ...], size: tuple[int, int]) -> None:
    """Bilinear within a grey level; nearest exactly but for ties."""
    images, op = noise(1, *size), Affine(degrees=180, x=1, y=1, factor=(0.1, 10), shear_x=60, shear_y=60)
    blended = alone(images, op, numbers, "bilinear")[0]
    assert difference(blended, torchvision_affine(images[0], numbers, interpolation=BILINEAR)).max() <= 1
    tie = near_a_tie(*positions(op, numbers, Size(*size)))
    got = alone(images, op, numbers)[0]
    np.testing.assert_array_equal(got[~tie], torchvision_affine(images[0], numbers)[~tie])
    assert (~tie).mean() > 0.4 or numbers[3:] == (1, 0, 0)


@pytest.mark.parametrize("sampling", ["nearest", "bilinear"])
@pytest.mark.parametrize("shears", [(25, 0), (-20, 0), (0, 15), (10, -30)])
def test_shear_and_scale_are_parts_of_affine(shears: tuple[float, float], sampling: str) -> None:
    images, whole = noise(1, 31, 47), Affine(factor=(0.1, 10), shear_x=60, shear_y=60)
    sheared = alone(images, Shear(x=60, y=60), shears, sampling, fill=9)
    np.testing.assert_array_equal(sheared, alone(images, whole, [0, 0, 0, 1, *shears], sampling, fill=9))
    assert (sheared != images).any()
    scale = 1 + shears[0] / 50
    scaled = alone(images, Scale(), [scale], sampling, fill=9)
    np.testing.assert_array_equal(scaled, alone(images, whole, [0, 0, 0, scale, 0, 0], sampling, fill=9))
    turned = alone(images, Rotate(), [shears[0]], sampling, fill=9)
    affine = alone(images, whole, [shears[0], 0, 0, 1, 0, 0], sampling, fill=9)
    assert difference(turned, affine).max() <= (1 if sampling == "bilinear" else 0)


@pytest.mark.parametrize("sampling", ["nearest", "bilinear"])
def test_rotate90_is_rot90_of_a_square_and_torchvisions_of_others(sampling: str) -> None:
    images = noise(3, 12, 12)
    got = alone(images, Rotate90(), [90, 180, 270], sampling)
    for turns in (1, 2, 3):
        np.testing.assert_array_equal(got[turns - 1], np.rot90(images[turns - 1], turns))
    images = noise(3, 20, 34)  # both sides even: the middle is between pixels on both axes
    got = alone(images, Rotate90(), [90, 180, 270], sampling, fill=7)
    for turns in (1, 2, 3):
        expected = np.full((34, 34, 3), 7, np.uint8)
        expected[7:27] = images[turns - 1]
        expected = np.rot90(expected, turns)[7:27]
        np.testing.assert_array_equal(got[turns - 1], expected)


def assert_enlarged(got: UInt8Array, images: UInt8Array, box: tuple[int, int, int, int]) -> None:
    """Crop and resize of torchvision, but at the border of the box: here it is blended with what lies beyond it.

    There, the whole picture is what is blended, its edge repeated.
    """
    top, left, height, width = box
    size = images.shape[1:3]
    expected = tv.resized_crop(as_tensor(images), top, left, height, width, list(size), BILINEAR, antialias=True)
    u = left + (np.arange(size[1]) + 0.5) * width / size[1] - 0.5
    v = top + (np.arange(size[0]) + 0.5) * height / size[0] - 0.5
    inside = ((u >= left) & (u <= left + width - 1)) & ((v >= top) & (v <= top + height - 1))[:, None]
    assert difference(got, as_array(expected))[:, inside].max() <= 1
    places = np.meshgrid(v, u, indexing="ij")
    for image, enlarged in zip(images, got, strict=True):
        for channel in range(3):
            whole = ndimage.map_coordinates(image[..., channel].astype(float), places, order=1, mode="nearest")
            assert difference(enlarged[..., channel], whole).max() <= 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("share", [1.0, 0.875, 0.5, 0.3])
def test_center_crop_is_torchvisions_crop_and_resize(share: float, size: tuple[int, int]) -> None:
    images = noise(2, *size)
    height, width = round(share * size[0]), round(share * size[1])
    box = (round((size[0] - height) / 2), round((size[1] - width) / 2), height, width)
    assert_enlarged(alone(images, CenterCrop(share=share), [], "bilinear"), images, box)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "values", [(0.5, 1.0, 0.3, 0.9), (0.08, 4 / 3, 0.99, 0.0), (0.3, 0.75, 0.0, 0.999), (1.0, 1.0, 0.5, 0.5)]
)
def test_resized_crop_is_torchvisions(values: tuple[float, ...], size: tuple[int, int]) -> None:
    (h, w), (area, ratio, across, down) = size, values
    height = min(h, round(math.sqrt(area * h * w / ratio)))
    width = min(w, round(math.sqrt(area * h * w * ratio)))
    top, left = math.floor(down * (h - height + 1)), math.floor(across * (w - width + 1))
    images = noise(2, *size)
    got = alone(images, ResizedCrop(), np.repeat([values], 2, 0).T, "bilinear")
    assert_enlarged(got, images, (top, left, height, width))


def corners(values: npt.ArrayLike, size: Size) -> tuple[Float64Array, Float64Array]:
    """The corners of a picture, and where perspective moves them."""
    right, bottom = size.width - 1, size.height - 1
    start = np.array([[0, 0], [right, 0], [right, bottom], [0, bottom]], np.float64)
    inwards = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    return start, start + inwards * np.reshape(values, (4, 2)) * [right, bottom]


PERSPECTIVES = [
    (0.1, 0.05, 0.0, 0.2, 0.15, 0.1, 0.2, 0.0),
    (0.25, 0.25, 0.25, 0.0, 0.0, 0.0, 0.0, 0.25),
    (0.0, 0.0, 0.3, 0.2, 0.0, 0.0, 0.2, 0.3),
    (0.3, 0.3, 0.3, 0.0, 0.0, 0.0, 0.0, 0.3),
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("values", PERSPECTIVES)
def test_perspective_is_torchvisions(values: tuple[float, ...], size: tuple[int, int]) -> None:
    """Among others where the first pixel lies behind the horizon; beyond that torchvision shows more, from behind."""
    image = picture_of_plane(Size(*size))
    start, end = corners(values, Size(*size))
    got = alone(image[None], Perspective(), values, "bilinear")[0]
    # torchvision counts from the edge of the first pixel.
    points: list[Any] = [(start + 0.5).tolist(), (end + 0.5).tolist()]
    expected = as_array(tv.perspective(as_tensor(image), *points, interpolation=BILINEAR))
    u, v = positions(Perspective(), values, Size(*size))
    inside = (u >= 0) & (u <= size[1] - 1) & (v >= 0) & (v <= size[0] - 1)
    assert inside.mean() > 0.25
    assert difference(got, expected)[inside].max() <= 1
    outside = (u < -1) | (u > size[1]) | (v < -1) | (v > size[0])
    assert (got[outside] == 0).all()


def test_perspective_shows_the_middle_whatever_is_drawn() -> None:
    op = Perspective(distortion=0.6)
    images = np.full((4000, 9, 9, 3), 255, np.uint8)
    extreme = np.array(np.meshgrid(*[[0.0, 0.3]] * 8)).reshape(8, 256)
    drawn = np.concatenate([extreme, op.values(np.random.default_rng(0).random((8, 4000 - 256)))], 1)
    assert (alone(images, op, drawn, "bilinear")[:, 4, 4] == 255).all()


@pytest.mark.parametrize("size", [(32, 32), (31, 47), (40, 24)])
@pytest.mark.parametrize("cells", [1, 4, 7])
def test_elastic_is_a_cubic_spline_of_the_lattice(cells: int, size: tuple[int, int]) -> None:
    height, width = size
    op, side = Elastic(strength=0.08, cells=cells), cells + 3
    values = op.values(np.random.default_rng(cells).random((op.num_values, 1)))
    down_across = values.reshape(2, side, side)
    knots = np.arange(-3.0, cells + 4)
    at_y, at_x = (BSpline.design_matrix((np.arange(n) + 0.5) * cells / n, knots, 3).toarray() for n in (height, width))
    dx, dy = (at_y @ lattice @ at_x.T for lattice in down_across)
    y, x = np.mgrid[:height, :width]
    image = picture_of_plane(Size(height, width))
    expected = np.stack(
        [
            ndimage.map_coordinates(
                image[..., channel].astype(float), [y + dy * height, x + dx * width], order=1, mode="grid-constant",
                cval=30,
            )
            for channel in range(3)
        ],
        -1,
    )  # fmt: skip
    got = alone(image[None], op, values, "bilinear", fill=30)[0]
    assert difference(got, expected).max() <= 1
    assert difference(got, image).max() > 20


def test_elastic_displaces_what_is_seen_before_the_maps() -> None:
    """Beside a flip: as if the flipped picture were displaced, whatever the order in the policy."""
    images, op = noise(1, 32, 32), Elastic()
    values = op.values(np.random.default_rng(0).random((op.num_values, 1)))
    flip, one = np.arange(1), np.empty((0, 1))
    drawn = (DrawnOp(HorizontalFlip(), flip, one), DrawnOp(op, flip, values))
    for ops in (drawn, drawn[::-1]):
        got = render(images, Policy(sampling="bilinear"), Drawn(1, ops))
        assert difference(got, alone(images[:, :, ::-1], op, values, "bilinear")).max() <= 1


# -- shrinking -------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.3, 0.2, 0.45])
def test_a_shrunken_picture_is_averaged_over_area(factor: float) -> None:
    size = Size(120, 160)
    got = alone(picture_of_plane(size)[None], Scale(factor=(0.1, 1)), [factor], "bilinear")[0]
    cx, cy = (size.width - 1) / 2, (size.height - 1) / 2
    steps = (np.arange(16) + 0.5) / 16 - 0.5
    y, x = np.mgrid[: size.height, : size.width].astype(np.float64)
    expected = np.mean(
        [np.clip(plane(cx + (x + i - cx) / factor, cy + (y + j - cy) / factor), 0, 255) for i in steps for j in steps],
        0,
    )
    u, v = cx + (x - cx) / factor, cy + (y - cy) / factor
    inside = (u > 5) & (u < size.width - 6) & (v > 5) & (v < size.height - 6)
    assert inside.sum() > 500
    assert difference(got, expected)[inside].max() <= 1.5


@pytest.mark.parametrize("period", [1, 2])
@pytest.mark.parametrize("factor", [0.15, 0.3, 0.37])
def test_fine_checks_shrink_to_grey_and_not_to_moire(factor: float, period: int) -> None:
    y, x = np.mgrid[:128, :128]
    checks = np.repeat((((x // period + y // period) % 2) * 255).astype(np.uint8)[..., None], 3, 2)[None]
    shrunk, aliased = (
        alone(checks, Scale(factor=(0.1, 1)), [factor], sampling)[0, 58:70, 58:70].astype(float)
        for sampling in ("bilinear", "nearest")
    )
    assert shrunk.std() < aliased.std() / 4
    assert abs(shrunk.mean() - 127.5) < 6


@pytest.mark.parametrize("size", [(65, 65), (64, 64)])
def test_a_shrink_by_whole_pixels_is_averaged_too(size: tuple[int, int]) -> None:
    """By a half about a middle pixel no position has a fraction: that must not read as a shift."""
    y, x = np.mgrid[: size[0], : size[1]]
    checks = np.repeat((((x + y) % 2) * 255).astype(np.uint8)[..., None], 3, 2)[None]
    shrunk = alone(checks, Scale(factor=(0.1, 1)), [0.5], "bilinear")[0, 28:36, 28:36]
    assert difference(shrunk, 127.5).max() <= 1


def test_a_box_inside_the_picture_never_meets_the_fill() -> None:
    white = np.full((500, 20, 28, 3), 255, np.uint8)
    for name in ("resized_crop", "center_crop", {"scale": {"factor": [1, 3]}}):
        policy = Policy.from_config([name])
        drawn = draw_parameters(policy, seed=0, epoch=0, sample_ids=np.arange(500))
        assert (render(white, policy, drawn) == 255).all()


# -- what lies outside -----------------------------------------------------------------------------

TURNED = [(20.0, 0, 0, 1, 0, 0), (-70, 0.3, 0.2, 0.8, 10, 0), (180, -0.5, 0.4, 1, 0, 15), (5, 0.9, 0, 1.3, 0, 0)]


@pytest.mark.parametrize("numbers", TURNED)
@pytest.mark.parametrize(
    ("fill", "mode"),
    [("edge", "nearest"), ("reflect", "mirror"), ("mean", "grid-constant"), ([9, 90, 200], "grid-constant")],
)
def test_fills_are_scipys(fill: Any, mode: str, numbers: tuple[float, ...]) -> None:
    image = noise(1, 30, 42)[0]
    op = Affine(degrees=180, x=1, y=1, factor=(0.1, 10), shear_x=60, shear_y=60)
    u, v = positions(op, numbers, Size(30, 42))
    levels = np.rint(image.mean((0, 1))) if fill == "mean" else fill if isinstance(fill, list) else [0] * 3
    got = alone(image[None], op, numbers, "bilinear", fill)[0]
    for channel in range(3):
        expected = ndimage.map_coordinates(
            image[..., channel].astype(float), [v, u], order=1, mode=mode, cval=levels[channel]
        )
        assert difference(got[..., channel], expected).max() <= 1
    tie = near_a_tie(u, v)
    near = alone(image[None], op, numbers, "nearest", fill)[0]
    for channel in range(3):
        expected = ndimage.map_coordinates(
            image[..., channel].astype(float), [np.floor(v + 0.5), np.floor(u + 0.5)], order=0, mode=mode,
            cval=levels[channel],
        )  # fmt: skip
        np.testing.assert_array_equal(near[~tie, channel], expected[~tie])


@pytest.mark.parametrize("sampling", ["nearest", "bilinear"])
@pytest.mark.parametrize(("fill", "mode"), [("edge", "edge"), ("reflect", "reflect")])
def test_a_crop_is_numpys_pad_and_crop(fill: str, mode: Any, sampling: str) -> None:
    images = noise(2, 12, 16)
    padded = np.pad(images, ((0, 0), (6, 6), (6, 6), (0, 0)), mode)
    got = alone(images, Crop(padding=6), [[6, -5], [-4, 6]], sampling, fill)
    np.testing.assert_array_equal(got[0], padded[0, 2:14, 12:28])
    np.testing.assert_array_equal(got[1], padded[1, 12:24, 1:17])


# -- composition -----------------------------------------------------------------------------------


def exact_forward(op: Op, v: Float64Array, size: Size) -> Float64Array:
    """The map of a picture's pixels to the output's, by the textbook."""
    cx, cy = (size.width - 1) / 2, (size.height - 1) / 2
    to_middle = np.array([[1, 0, -cx], [0, 1, -cy], [0, 0, 1]])
    back = np.array([[1, 0, cx], [0, 1, cy], [0, 0, 1]])

    def turn(degrees: float) -> Float64Array:
        """Counter-clockwise to the eye, with y pointing down."""
        t = math.radians(degrees)
        return np.array([[math.cos(t), math.sin(t), 0], [-math.sin(t), math.cos(t), 0], [0, 0, 1]])

    def slant(x: float, y: float) -> Float64Array:
        across = np.array([[1, -math.tan(math.radians(x)), 0], [0, 1, 0], [0, 0, 1]])
        down = np.array([[1, 0, 0], [-math.tan(math.radians(y)), 1, 0], [0, 0, 1]])
        return np.asarray(down @ across)

    def shift(x: float, y: float) -> Float64Array:
        return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])

    match op.name:
        case "horizontal_flip":
            return np.asarray(back @ np.diag([-1, 1, 1]) @ to_middle)
        case "vertical_flip":
            return np.asarray(back @ np.diag([1, -1, 1]) @ to_middle)
        case "rotate" | "rotate90":
            return np.asarray(back @ turn(v[0]) @ to_middle)
        case "translate":
            return shift(round(v[0] * size.width), round(v[1] * size.height))
        case "crop":
            return shift(-v[0], -v[1])
        case "shear":
            return np.asarray(back @ slant(v[0], v[1]) @ to_middle)
        case "scale":
            return np.asarray(back @ np.diag([v[0], v[0], 1]) @ to_middle)
        case "affine":
            moved = shift(round(v[1] * size.width), round(v[2] * size.height))
            return np.asarray(moved @ back @ turn(v[0]) @ slant(v[4], v[5]) @ np.diag([v[3], v[3], 1]) @ to_middle)
        case "perspective":
            start, end = corners(v, size)
            rows = []
            for (x, y), (u, w) in zip(start, end, strict=True):
                rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -w * x, -w * y]]
            return np.append(np.linalg.solve(np.array(rows), end.reshape(8)), 1).reshape(3, 3)
    raise AssertionError(op.name)


def exact_inverse(drawn: Drawn, index: int, size: Size) -> Float64Array:
    """Forward maps multiplied and inverted as 3×3 matrices."""
    forward = np.eye(3)
    for one in drawn.ops:
        [places] = np.nonzero(one.rows == index)
        for place in places:
            forward = exact_forward(one.op, one.values[:, place], size) @ forward
    return np.asarray(np.linalg.inv(forward))


ALL_OPS = ["rotate", "horizontal_flip", "crop", "vertical_flip", "translate", "rotate", "horizontal_flip"]

LONG_POLICIES: list[list[Any]] = [
    ALL_OPS,
    ["affine", "shear", {"scale": {"factor": [0.9, 1.3]}}, "horizontal_flip", "rotate", "translate"],
    ["rotate90", {"shear": {"x": 10, "y": 10}}, "crop", "scale", {"affine": {"p": 0.5}}, {"rotate": {"degrees": 180}}],
    ["rotate", {"perspective": {"distortion": 0.3}}, "horizontal_flip", "crop", {"rotate": {"degrees": 180}}],
    [{"perspective": {"distortion": 0.2, "p": 0.5}}, "affine", {"perspective": {"distortion": 0.2}}, "vertical_flip"],
]


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


@pytest.mark.parametrize("ops", LONG_POLICIES, ids=lambda ops: f"{len(ops)} ops")
def test_many_ops_compose_to_the_exact_transform_of_a_smooth_picture(ops: list[Any]) -> None:
    """Within a rounding of the picture, one of the result, and what lies between a curve and its chord."""
    size = Size(60, 52)
    y, x = np.mgrid[: size.height, : size.width]
    images = np.repeat(picture_of_plane(size)[None], 40, 0)
    policy = Policy.from_config(ops)
    drawn = draw_parameters(policy, seed=6, epoch=0, sample_ids=np.arange(40))
    out = render(images, policy, drawn)
    compared = 0
    for i in range(40):
        u, v, w = np.tensordot(exact_inverse(drawn, i, size), np.stack([x, y, np.ones_like(x)]), 1)
        u, v = u / w, v / w
        inside = (u >= 1) & (u <= size.width - 2) & (v >= 1) & (v <= size.height - 2)
        assert difference(out[i], plane(u, v))[inside].max() <= 1.7
        compared += int(inside.sum())
    assert compared > 40 * 800


def test_maps_agree_with_matrices() -> None:
    size = Size(33, 20)
    for ops in LONG_POLICIES:
        drawn = draw_parameters(Policy.from_config(ops), seed=1, epoch=2, sample_ids=np.arange(50))
        maps = inverse_maps(drawn.ops, 50, size)
        assert maps is not None
        for i in range(50):
            exact = exact_inverse(drawn, i, size)
            if len(maps) == 6:
                np.testing.assert_allclose(maps[:, i].reshape(2, 3), exact[:2], atol=1e-11)
            else:
                found = maps[:, i].reshape(3, 3)
                np.testing.assert_allclose(found / found[2, 2], exact / exact[2, 2], atol=1e-11, rtol=1e-9)


def test_one_sampling_is_nearer_to_the_truth_than_three() -> None:
    size, angles = Size(48, 48), (21.0, 32.0, -17.0)
    y, x = np.mgrid[:48, :48]

    def fine(x: Float64Array, y: Float64Array) -> Float64Array:
        return np.repeat((127 + 100 * np.sin(x) * np.cos(y))[..., None], 3, -1)  # six pixels a wave

    image = np.rint(fine(x, y)).astype(np.uint8)[None]
    zero = np.arange(1)
    turns = tuple(DrawnOp(Rotate(degrees=180), zero, np.array([[angle]])) for angle in angles)
    together = render(image, Policy(), Drawn(1, turns))[0]
    one_by_one = image
    for turn in turns:
        one_by_one = render(one_by_one, Policy(), Drawn(1, (turn,)))
    u, v = positions(Rotate(degrees=180), [sum(angles)], size)
    seen = np.hypot(x - 23.5, y - 23.5) < 20  # of all three
    wrong, more_wrong = (difference(got, fine(u, v))[seen] for got in (together, one_by_one[0]))
    assert wrong.mean() < 0.6 * more_wrong.mean()
    assert wrong.max() < more_wrong.max()


# -- draws -----------------------------------------------------------------------------------------

IDS = np.arange(20_000)


def drawn_values(entry: dict[str, dict[str, Any]]) -> DrawnOp:
    [one] = draw_parameters(Policy.from_config([entry]), seed=17, epoch=0, sample_ids=IDS).ops
    return one


def assert_uniform(numbers: Float64Array, low: float, high: float) -> None:
    assert low <= numbers.min()
    assert numbers.max() <= high
    assert stats.kstest(numbers, stats.uniform(low, high - low).cdf).pvalue > 0.001


def assert_independent(*numbers: Float64Array) -> None:
    for i, one in enumerate(numbers):
        for other in numbers[:i]:
            assert stats.pearsonr(one, other).pvalue > 0.001


@pytest.mark.parametrize("name", sorted(OPS))
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_p_is_the_share_of_samples(name: str, p: float) -> None:
    one = drawn_values({name: {"p": p}})
    applied = len(one.rows)
    assert one.values.shape == (one.op.num_values, applied)
    if p in (0, 1):
        assert applied == p * len(IDS)
    else:
        assert stats.binomtest(applied, len(IDS), p).pvalue > 0.001


UNIFORM: list[tuple[str, dict[str, Any], list[tuple[float, float]]]] = [
    ("rotate", {"degrees": 30}, [(-30, 30)]),
    ("translate", {"x": 0.2, "y": 0.4}, [(-0.2, 0.2), (-0.4, 0.4)]),
    ("translate", {"x": 3, "y": 9, "unit": "pixel"}, [(-3, 3), (-9, 9)]),
    ("shear", {"x": 20, "y": 5}, [(-20, 20), (-5, 5)]),
    (
        "affine",
        {"degrees": 9, "x": 0.1, "y": 0.2, "factor": [0.5, 2], "shear_x": 7, "shear_y": 3},
        [(-9, 9), (-0.1, 0.1), (-0.2, 0.2), (0.5, 2), (-7, 7), (-3, 3)],
    ),
    ("perspective", {"distortion": 0.5}, [(0, 0.25)] * 8),
    ("brightness", {"factor": [0.2, 1.7]}, [(0.2, 1.7)]),
    ("contrast", {"factor": [0.2, 1.7]}, [(0.2, 1.7)]),
    ("saturation", {"factor": [0, 1]}, [(0, 1)]),
    ("hue", {"degrees": 90}, [(-90, 90)]),
    (
        "color_jitter",
        {"brightness": [0.5, 1], "contrast": [1, 2], "saturation": [0, 3], "hue": 20},
        [(0.5, 1), (1, 2), (0, 3), (-20, 20)],
    ),
    ("solarize", {"threshold": [10, 200]}, [(10, 200)]),
    ("color_temperature", {"mired": 50}, [(-50, 50)]),
    ("sharpness", {"factor": [0, 3]}, [(0, 3)]),
    ("gaussian_blur", {"sigma": [0.5, 3]}, [(0.5, 3)]),
    ("gaussian_noise", {"sigma": [0.1, 0.3]}, [(0.1, 0.3)]),
    ("cutout", {}, [(0, 1), (0, 1)]),
    ("grid_mask", {"period": [0.2, 0.5], "degrees": 30}, [(0.2, 0.5), (0, 1), (0, 1), (-30, 30)]),
]


@pytest.mark.parametrize(("name", "parameters", "ends"), UNIFORM, ids=[name for name, _, _ in UNIFORM])
def test_values_are_uniform_and_independent(
    name: str, parameters: dict[str, Any], ends: list[tuple[float, float]]
) -> None:
    values = drawn_values({name: parameters}).values
    for numbers, (low, high) in zip(values, ends, strict=True):
        assert_uniform(numbers, low, high)
    assert_independent(*values)


def test_elastic_displacements_are_uniform() -> None:
    values = drawn_values({"elastic": {"strength": 0.2, "cells": 2}}).values
    assert len(values) == 2 * 5 * 5
    assert_uniform(values[:, :400].reshape(-1), -0.2, 0.2)
    assert_independent(values[0], values[1], values[25], values[49])


@pytest.mark.parametrize(("name", "key", "low", "high"), [("scale", "factor", 0.5, 3), ("gamma", "gamma", 0.3, 2)])
def test_factors_are_uniform_in_their_logarithm(name: str, key: str, low: float, high: float) -> None:
    assert_uniform(np.log(drawn_values({name: {key: [low, high]}}).values[0]), math.log(low), math.log(high))


@pytest.mark.parametrize("name", ["resized_crop", "erasing"])
def test_boxes_are_uniform_in_area_shape_and_place(name: str) -> None:
    area, ratio, across, down = drawn_values({name: {"scale": [0.1, 0.6], "ratio": [0.5, 3]}}).values
    assert_uniform(area, 0.1, 0.6)
    assert_uniform(np.log(ratio), math.log(0.5), math.log(3))
    assert_uniform(across, 0, 1)
    assert_uniform(down, 0, 1)
    assert_independent(area, ratio, across, down)


def test_crop_offsets_are_uniform_whole_numbers() -> None:
    x, y = drawn_values({"crop": {"padding": 3}}).values
    pairs, counts = np.unique(np.stack([x, y]), axis=1, return_counts=True)
    assert pairs.shape == (2, 49)
    assert set(np.unique(pairs)) == set(range(-3, 4))
    assert stats.chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize(
    ("name", "parameters", "known"),
    [
        ("rotate90", {}, [90, 180, 270]),
        ("channel_shuffle", {}, range(6)),
        ("posterize", {"bits": [2, 7]}, range(2, 8)),
        ("jpeg", {"quality": [5, 24]}, range(5, 25)),
    ],
)
def test_choices_are_equally_likely(name: str, parameters: dict[str, Any], known: Any) -> None:
    numbers, counts = np.unique(drawn_values({name: parameters}).values, return_counts=True)
    assert numbers.tolist() == list(known)
    assert stats.chisquare(counts).pvalue > 0.001


def test_every_op_that_draws_is_tested_here() -> None:
    tested = {name for name, _, _ in UNIFORM} | {"elastic", "scale", "gamma", "resized_crop", "erasing", "crop"}
    tested |= {"rotate90", "channel_shuffle", "posterize", "jpeg"}
    assert tested == {name for name, op in OPS.items() if op().num_values}


def test_a_range_of_one_number_always_holds() -> None:
    for name, key in (("scale", "factor"), ("gamma", "gamma"), ("brightness", "factor"), ("posterize", "bits")):
        values = drawn_values({name: {key: 3}}).values
        np.testing.assert_allclose(values, 3, rtol=1e-15)


@pytest.mark.parametrize("name", sorted(OPS))
def test_parameters_do_not_depend_on_being_applied(name: str) -> None:
    """Else a policy with another `p` would not be a paired comparison."""
    half, all_of_them = (drawn_values({name: {"p": p}}) for p in (0.5, 1.0))
    assert 0 < len(half.rows) < len(IDS)
    np.testing.assert_array_equal(half.values, all_of_them.values[:, half.rows])
    if len(all_of_them.keys):
        np.testing.assert_array_equal(half.keys, all_of_them.keys[half.rows])


def test_a_key_a_pixel_is_each_samples_own() -> None:
    keyed = {name for name in OPS if len(drawn_values({name: {}}).keys)}
    assert keyed == {"gaussian_noise", "erasing"}
    for name in keyed:
        assert len(np.unique(drawn_values({name: {}}).keys)) == len(IDS)


@pytest.mark.parametrize("name", sorted(OPS))
def test_defaults_visibly_do_something(name: str) -> None:
    images = noise(100, 32, 32)
    images[:, :, :, 0] = images[:, :, :, 0] // 2 + 30  # or autocontrast and equalize had nothing to do
    policy = Policy.from_config([name])
    out = render(images, policy, draw_parameters(policy, seed=0, epoch=0, sample_ids=np.arange(100)))
    changed = (out != images).reshape(100, -1).mean(1)
    often = 0.35 if "flip" in name else 0.7 if name == "channel_shuffle" else 0.95
    # Factors near 1, and what covers a part or inverts what is bright, change less than half of the values.
    where = {"autocontrast": 0.3, "equalize": 0.3, "erasing": 0.01, "cutout": 0.04, "grid_mask": 0.05, "solarize": 0.1}
    where |= {"color_temperature": 0.2, "saturation": 0.2, "gaussian_blur": 0.01}
    assert (changed > where.get(name, 0.5)).mean() > often - (0.1 if name == "gaussian_blur" else 0)


def test_labels_say_what_is_done() -> None:
    assert HorizontalFlip().label(np.empty(0)) == "flip ↔"
    assert VerticalFlip().label(np.empty(0)) == "flip ↕"
    assert Rotate().label(np.array([7.26])) == "rotate +7.3°"
    assert Rotate().label(np.array([-0.04])) == "rotate 0.0°"
    assert Crop().label(np.array([2.0, -3.0])) == "crop (+2, −3)"
    assert Translate().label(np.array([0.1, -0.05])) == "translate (+10 %, −5 %)"
    assert Translate(unit="pixel").label(np.array([3.0, -0.4])) == "translate (+3, 0)"
    assert Rotate90().label(np.array([270.0])) == "rotate 270°"
    assert Shear().label(np.array([-12.4, 0.0])) == "shear x −12°"
    assert Shear().label(np.array([0.0, 0.0])) == "shear 0°"
    assert Scale().label(np.array([1.234])) == "scale ×1.23"
    assert Affine().label(np.array([-5.0, 0, 0, 0.9, 0, 0])) == "affine −5° (0 %, 0 %) ×0.90"
    assert Affine().label(np.array([7.0, 0.01, 0.04, 1, 3, 0])) == "affine +7° (+1 %, +4 %) ×1.00 shear x +3°"
    assert CenterCrop(share=0.5).label(np.empty(0)) == "center crop 50%"
    assert ResizedCrop().label(np.array([0.3, 1.2, 0, 0.5])) == "resized crop 30% 1.20:1 at (0%, 50%)"
    assert Perspective().label(np.full(8, 0.1)) == "perspective 10%"
    assert Elastic().label(np.array([0.02, -0.07])) == "elastic 7%"


@pytest.mark.parametrize("name", sorted(OPS))
def test_every_op_has_a_label_and_a_source(name: str) -> None:
    one = drawn_values({name: {}})
    label = one.op.label(one.values[:, 0])
    assert 3 < len(label) < 60
    assert "nan" not in label
    assert len(one.op.source) > 10
    assert one.op.__doc__
