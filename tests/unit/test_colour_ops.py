"""Each op on colours alone against torchvision, Pillow or plain float64; runs of them against one after the other."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from augft.augment import draw
from augft.augment.apply import colour_steps, draw_parameters, render
from augft.augment.drawn import Drawn, DrawnOp
from augft.augment.ops import (
    Autocontrast,
    Brightness,
    ChannelShuffle,
    ColorJitter,
    ColorTemperature,
    Contrast,
    Equalize,
    Gamma,
    Greyscale,
    Hue,
    Invert,
    LinearOp,
    Op,
    Posterize,
    Saturation,
    Solarize,
)
from augft.augment.ops.colour import ColourOp, Kind
from augft.augment.policy import Policy

UInt8Array = npt.NDArray[np.uint8]
Float64Array = npt.NDArray[np.float64]

LUMA = np.array([0.299, 0.587, 0.114])
ROUNDING = 0.51
"""Half a level, and what the kernel's 2^-16 leaves."""


def pictures(num: int, height: int = 24, width: int = 31) -> UInt8Array:
    """Noise that no library's generator can change."""
    words = draw.words(0, "test/pictures", 0, np.arange(num * height * width), 0, 3)
    return np.ascontiguousarray((words >> 24).astype(np.uint8).T).reshape(num, height, width, 3)


def scene() -> UInt8Array:
    """Few colours of few levels in each channel, so that histograms are uneven and stretching has something to do."""
    noise = pictures(1)[0].astype(np.int64)
    return np.asarray(
        np.stack([40 + noise[..., 0] // 3, noise[..., 1] ** 2 // 400, 200 - noise[..., 2] // 8], -1), np.uint8
    )


def applied(image: UInt8Array, *steps: tuple[Op, list[float]]) -> UInt8Array:
    """Some ops with given values, one after the other in one pass."""
    row = np.arange(1)
    ops = tuple(DrawnOp(op, row, np.array(values, np.float64).reshape(op.num_values, 1)) for op, values in steps)
    return render(image[None], Policy(), Drawn(1, ops))[0]


def difference(image: UInt8Array, expected: npt.ArrayLike) -> float:
    return float(np.abs(image - np.asarray(expected, np.float64)).max())


def fractions(image: UInt8Array) -> torch.Tensor:
    return torch.from_numpy(image / 255.0).movedim(-1, 0)


def levels(tensor: torch.Tensor) -> Float64Array:
    return np.asarray(tensor.movedim(0, -1).numpy() * 255)


def octets(image: UInt8Array) -> torch.Tensor:
    return torch.from_numpy(image.copy()).movedim(-1, 0)


IMAGES = [pictures(1)[0], scene(), np.full((5, 3, 3), 77, np.uint8), pictures(1, 1, 1)[0]]
FACTORS = [0.0, 0.3, 1.0, 1.4, 2.0]


# -- linear ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("image", IMAGES, ids=["noise", "scene", "flat", "one pixel"])
@pytest.mark.parametrize("factor", [*FACTORS, 7.0])
@pytest.mark.parametrize(
    ("op", "torchvisions", "pillows"),
    [
        (Brightness(), tv.adjust_brightness, ImageEnhance.Brightness),
        (Contrast(), tv.adjust_contrast, ImageEnhance.Contrast),
        (Saturation(), tv.adjust_saturation, ImageEnhance.Color),
    ],
    ids=["brightness", "contrast", "saturation"],
)
def test_enhancements_are_those_of_torchvision_and_pillow(
    op: Op, torchvisions: Any, pillows: Any, factor: float, image: UInt8Array
) -> None:
    """torchvision weighs red by 0.2989; Pillow rounds the grey before it blends, and cuts off what is left over."""
    got = applied(image, (op, [factor]))
    expected = levels(torchvisions(fractions(image), factor))
    assert difference(got, expected) <= ROUNDING + 0.03 * abs(1 - factor)
    if factor <= 2:
        assert difference(got, np.asarray(pillows(Image.fromarray(image)).enhance(factor))) <= 1


@pytest.mark.parametrize("image", IMAGES, ids=["noise", "scene", "flat", "one pixel"])
def test_greyscale_is_torchvisions(image: UInt8Array) -> None:
    got = applied(image, (Greyscale(), []))
    assert difference(got, levels(tv.rgb_to_grayscale(fractions(image), 3))) <= ROUNDING + 0.03
    assert (got == got[..., :1]).all()
    np.testing.assert_array_equal(got, applied(image, (Saturation(), [0])))


def test_invert_is_exact() -> None:
    image = pictures(1)[0]
    np.testing.assert_array_equal(applied(image, (Invert(), [])), tv.invert(octets(image)).movedim(0, -1).numpy())


def test_channels_are_shuffled_exactly_and_each_order_once() -> None:
    image = pictures(1)[0]
    found = []
    for number in range(6):
        got = applied(image, (ChannelShuffle(), [number]))
        [order] = [o for o in permutations(range(3)) if np.array_equal(image[..., o], got)]
        found.append(order)
        expected = tv.permute_channels(octets(image), list(order)).movedim(0, -1).numpy()
        np.testing.assert_array_equal(got, expected)
        assert ChannelShuffle().label(np.array([number])) == f"channels {''.join('RGB'[c] for c in order)}"
    assert sorted(found) == sorted(permutations(range(3)))
    assert found[0] == (0, 1, 2)


YIQ = np.array([LUMA, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])


def hue_matrix(degrees: float) -> Float64Array:
    """The chroma as a complex number, turned."""
    t = np.deg2rad(degrees)
    turn = np.array([[1, 0, 0], [0, np.cos(t), -np.sin(t)], [0, np.sin(t), np.cos(t)]])
    return np.asarray(np.linalg.inv(YIQ) @ turn @ YIQ)


@pytest.mark.parametrize("degrees", [-180, -97.3, -30, 0, 12.5, 90, 180])
def test_hue_is_a_turn_of_the_chroma_plane(degrees: float) -> None:
    for image in IMAGES:
        got = applied(image, (Hue(), [degrees]))
        assert difference(got, np.clip(image @ hue_matrix(degrees).T, 0, 255)) <= ROUNDING
    argument = Hue().argument(np.array([[degrees]]))[:9, 0].reshape(3, 3)
    np.testing.assert_allclose(argument, hue_matrix(degrees), atol=1e-12)
    np.testing.assert_allclose(LUMA @ argument, LUMA, atol=1e-12)  # the luminance stays
    np.testing.assert_allclose(argument.sum(1), 1, atol=1e-5)  # and so does grey


def black_body_rgb(kelvin: float) -> Float64Array:
    """Linear sRGB from Planck's law and the matching functions of Wyman, Sloan and Shirley (JCGT 2013)."""
    nm = np.arange(380.0, 781)
    light = nm**-5.0 / np.expm1(1.4388e7 / (nm * kelvin))

    def lobe(middle: float, left: float, right: float) -> Float64Array:
        return np.asarray(np.exp(-0.5 * ((nm - middle) * np.where(nm < middle, left, right)) ** 2))

    x = 0.362 * lobe(442, 0.0624, 0.0374) + 1.056 * lobe(599.8, 0.0264, 0.0323) - 0.065 * lobe(501.1, 0.0490, 0.0382)
    y = 0.821 * lobe(568.8, 0.0213, 0.0247) + 0.286 * lobe(530.9, 0.0613, 0.0322)
    z = 1.217 * lobe(437, 0.0845, 0.0278) + 0.681 * lobe(459, 0.0385, 0.0725)
    to_rgb = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])
    xyz = np.array([(light * one).sum() for one in (x, y, z)])
    return np.asarray(to_rgb @ (xyz / xyz[1]))


@pytest.mark.parametrize("mired", [-100, -60, -20, 0, 20, 60, 100])
def test_color_temperature_is_that_of_a_black_body(mired: float) -> None:
    kelvin = 1e6 / (1e6 / 6504 + mired)
    gains = (black_body_rgb(kelvin) / black_body_rgb(6504)) ** (1 / 2.2)
    gains /= LUMA @ gains
    argument = ColorTemperature().argument(np.array([[float(mired)]]))[:, 0]
    matrix = argument[:9].reshape(3, 3)
    np.testing.assert_array_equal(matrix, np.diag(np.diag(matrix)))
    assert not argument[9:].any()
    np.testing.assert_allclose(np.diag(matrix), gains, rtol=0.02)
    assert LUMA @ np.diag(matrix) == pytest.approx(1, abs=1e-12)
    image = pictures(1)[0]
    got = applied(image, (ColorTemperature(), [mired]))
    assert difference(got, np.clip(image * np.diag(matrix), 0, 255)) <= ROUNDING


def test_warm_is_red_and_cold_is_blue() -> None:
    gains = [np.diag(ColorTemperature().argument(np.array([[m]]))[:9, 0].reshape(3, 3)) for m in (60.0, 0.0, -60.0)]
    warm, same, cold = gains
    np.testing.assert_allclose(same, 1, atol=1e-12)
    assert warm[0] > 1 > warm[2]
    assert cold[0] < 1 < cold[2]


def float_linear(op: Op, numbers: list[float], image: Float64Array) -> Float64Array:
    """Each op by its definition, nothing clipped."""
    grey = (image @ LUMA)[..., None]
    match op.name:
        case "brightness":
            return image * numbers[0]
        case "contrast":
            return grey.mean() + (image - grey.mean()) * numbers[0]
        case "saturation":
            return np.asarray(grey + (image - grey) * numbers[0])
        case "hue":
            return np.asarray(image @ hue_matrix(numbers[0]).T)
        case "greyscale":
            return np.asarray(np.repeat(grey, 3, -1))
        case "invert":
            return 255 - image
    raise AssertionError(op.name)


@settings(max_examples=20)
@given(st.floats(0, 2), st.floats(0, 2), st.floats(0, 2), st.floats(-180, 180))
def test_color_jitter_is_its_parts_in_any_order(b: float, c: float, s: float, h: float) -> None:
    image = scene().astype(np.float64)
    parts: list[tuple[Op, list[float]]] = [(Brightness(), [b]), (Contrast(), [c]), (Saturation(), [s]), (Hue(), [h])]
    got = applied(scene(), (ColorJitter(), [b, c, s, h]))
    for order in permutations(parts):
        expected = image
        for op, numbers in order:
            expected = float_linear(op, numbers, expected)
        assert difference(got, np.clip(expected, 0, 255)) <= ROUNDING + 0.01


linear_steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([Brightness(), Contrast(), Saturation()]), st.floats(0.3, 1.6).map(lambda f: [f])),
        st.tuples(st.just(Hue()), st.floats(-180, 180).map(lambda f: [f])),
        st.tuples(st.sampled_from([Greyscale(), Invert()]), st.just([])),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60)
@given(linear_steps, st.sampled_from([0, 1, 2]))
def test_a_run_of_linear_ops_is_what_float64_gives_without_clipping(
    steps: list[tuple[Op, list[float]]], which: int
) -> None:
    expected = IMAGES[which].astype(np.float64)
    for op, numbers in steps:
        expected = float_linear(op, numbers, expected)
    assert difference(applied(IMAGES[which], *steps), np.clip(expected, 0, 255)) <= ROUNDING + 0.02


def test_what_one_op_would_clip_the_next_brings_back() -> None:
    image = pictures(1)[0]
    np.testing.assert_array_equal(applied(image, (Brightness(), [4.0]), (Brightness(), [0.25])), image)
    one_by_one = applied(applied(image, (Brightness(), [4.0])), (Brightness(), [0.25]))
    assert one_by_one.max() == 64


def test_the_average_of_contrast_is_that_of_the_picture_before_it() -> None:
    """Inverted and darkened before: about another grey than the source's."""
    image = scene()
    before = image * -0.5 + 127.5
    mean = (before @ LUMA).mean()
    got = applied(image, (Invert(), []), (Brightness(), [0.5]), (Contrast(), [1.7]))
    assert difference(got, np.clip(mean + 1.7 * (before - mean), 0, 255)) <= ROUNDING
    assert abs(mean - (image @ LUMA).mean()) > 5


# -- tables ----------------------------------------------------------------------------------------

RAMP = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, 2)


@pytest.mark.parametrize("threshold", [0, 0.4, 1, 63.2, 128, 254.5, 255, 255.1, 256])
def test_solarize_is_pillows_and_torchvisions(threshold: float) -> None:
    for image in (RAMP, scene()):
        got = applied(image, (Solarize(), [threshold]))
        np.testing.assert_array_equal(got, np.asarray(ImageOps.solarize(Image.fromarray(image), threshold)))
        np.testing.assert_array_equal(got, np.where(image >= threshold, 255 - image, image))


@pytest.mark.parametrize("bits", range(1, 9))
def test_posterize_is_pillows_and_torchvisions(bits: int) -> None:
    for image in (RAMP, scene()):
        got = applied(image, (Posterize(), [bits]))
        np.testing.assert_array_equal(got, np.asarray(ImageOps.posterize(Image.fromarray(image), bits)))
        np.testing.assert_array_equal(got, tv.posterize(octets(image), bits).movedim(0, -1).numpy())


@pytest.mark.parametrize("gamma", [0.1, 0.45, 1.0, 1.7, 2.2, 10.0])
def test_gamma_is_torchvisions(gamma: float) -> None:
    got = applied(RAMP, (Gamma(), [gamma]))
    assert difference(got, levels(tv.adjust_gamma(fractions(RAMP), gamma))) <= ROUNDING
    if gamma == 1:
        np.testing.assert_array_equal(got, RAMP)


@pytest.mark.parametrize("image", IMAGES, ids=["noise", "scene", "flat", "one pixel"])
def test_autocontrast_is_torchvisions_rounded(image: UInt8Array) -> None:
    """Pillow cuts off what is left over."""
    got = applied(image, (Autocontrast(), []))
    assert difference(got, levels(tv.autocontrast(fractions(image)))) <= 0.5 + 1e-9
    assert difference(got, np.asarray(ImageOps.autocontrast(Image.fromarray(image)))) <= 1


@pytest.mark.parametrize("image", IMAGES, ids=["noise", "scene", "flat", "one pixel"])
def test_equalize_is_pillows(image: UInt8Array) -> None:
    got = applied(image, (Equalize(), []))
    np.testing.assert_array_equal(got, np.asarray(ImageOps.equalize(Image.fromarray(image))))
    np.testing.assert_array_equal(got, tv.equalize(octets(image)).movedim(0, -1).numpy())


def one_by_one(image: UInt8Array, steps: list[tuple[Op, list[float]]]) -> UInt8Array:
    """By Pillow, but for what it does not round as we do."""
    for op, numbers in steps:
        pillow = Image.fromarray(image)
        match op.name:
            case "equalize":
                pillow = ImageOps.equalize(pillow)
            case "posterize":
                pillow = ImageOps.posterize(pillow, int(numbers[0]))
            case "solarize":
                pillow = ImageOps.solarize(pillow, numbers[0])
            case "gamma":
                pillow = Image.fromarray(np.rint(255 * (image / 255) ** numbers[0]).astype(np.uint8))
            case "autocontrast":
                low, high = image.min((0, 1)).astype(int), image.max((0, 1)).astype(int)
                span = np.where(high > low, high - low, 255)
                stretched = ((image - np.where(high > low, low, 0)) * 510 + span) // (2 * span)
                pillow = Image.fromarray(stretched.astype(np.uint8))
        image = np.asarray(pillow)
    return image


table_steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([Equalize(), Autocontrast()]), st.just([])),
        st.tuples(st.just(Posterize()), st.integers(1, 8).map(lambda bits: [float(bits)])),
        st.tuples(st.just(Solarize()), st.integers(0, 256).map(lambda level: [float(level)])),
        st.tuples(st.just(Gamma()), st.sampled_from([0.5, 0.8, 1.3, 2.0]).map(lambda gamma: [gamma])),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=100)
@given(table_steps, st.sampled_from([0, 1, 2, 3]))
def test_a_run_of_tables_is_one_after_the_other(steps: list[tuple[Op, list[float]]], which: int) -> None:
    """Histograms too: of what the ops before them make."""
    np.testing.assert_array_equal(applied(IMAGES[which], *steps), one_by_one(IMAGES[which], steps))


MIXED: list[tuple[Op, list[float]]] = [
    (Brightness(), [1.6]),
    (Contrast(), [0.7]),
    (Posterize(), [3]),
    (Equalize(), []),
    (Saturation(), [1.8]),
    (Solarize(), [100]),
    (Autocontrast(), []),
    (Hue(), [40]),
]


def test_runs_of_both_kinds_follow_each_other_in_order() -> None:
    image = scene()
    parts = [MIXED[:2], MIXED[2:4], MIXED[4:5], MIXED[5:7], MIXED[7:]]
    expected = image
    for part in parts:
        expected = applied(expected, *part)
    got = applied(image, *MIXED)
    np.testing.assert_array_equal(got, expected)
    assert (got != applied(image, *MIXED[::-1])).mean() > 0.5
    steps = colour_steps(
        [DrawnOp(op, np.arange(1), np.array(v, np.float64).reshape(op.num_values, 1)) for op, v in MIXED], 1
    )
    linear = Kind.LINEAR
    assert steps[1].tolist() == [
        [linear, Kind.POSTERIZE, Kind.EQUALIZE, linear, Kind.SOLARIZE, Kind.AUTOCONTRAST, linear]
    ]


def test_each_sample_has_a_run_of_its_own() -> None:
    """With `p` below 1 every combination occurs, and each is as if it had been alone."""
    entries = [{op.name: {"p": 0.5}} for op, _ in MIXED] + [{"gamma": {"p": 0.5}}, {"color_jitter": {"p": 0.5}}]
    images = np.repeat(scene()[None], 200, 0)
    policy = Policy.from_config(entries)
    drawn = draw_parameters(policy, seed=0, epoch=0, sample_ids=np.arange(200))
    out = render(images, policy, drawn)
    combinations = set()
    for i in range(200):
        steps = [
            (one.op, one.values[:, place].tolist()) for one in drawn.ops for place in np.flatnonzero(one.rows == i)
        ]
        combinations.add(tuple(op.name for op, _ in steps))
        np.testing.assert_array_equal(out[i], applied(images[i], *steps))
    assert len(combinations) > 150


IDENTITIES: list[tuple[Op, list[float]]] = [
    (Brightness(), [1.0]),
    (Contrast(), [1.0]),
    (Saturation(), [1.0]),
    (Hue(), [0.0]),
    (ColorJitter(), [1.0, 1.0, 1.0, 0.0]),
    (ColorTemperature(), [0.0]),
    (ChannelShuffle(), [0.0]),
    (Gamma(), [1.0]),
    (Solarize(), [256.0]),
    (Posterize(), [8.0]),
]


@pytest.mark.parametrize(("op", "values"), IDENTITIES, ids=[op.name for op, _ in IDENTITIES])
def test_at_magnitude_zero_every_colour_stays_bit_for_bit(op: Op, values: list[float]) -> None:
    cube = np.stack(np.meshgrid(*[np.arange(0, 256, 5)] * 3), -1).astype(np.uint8).reshape(52, -1, 3)
    np.testing.assert_array_equal(applied(cube, (op, values)), cube)
    np.testing.assert_array_equal(applied(RAMP, (op, values), (op, values)), RAMP)


def test_every_colour_op_is_tested_here() -> None:
    from augft.augment.ops import OPS

    tested = {op for op, _ in IDENTITIES} | {Greyscale(), Invert(), Autocontrast(), Equalize()}
    assert {op.name for op in tested} == {name for name, op in OPS.items() if issubclass(op, ColourOp)}
    assert sum(issubclass(op, LinearOp) for op in OPS.values()) == 9


def test_labels_say_what_is_done() -> None:
    one = np.array([1.456])
    assert Brightness().label(one) == "brightness ×1.46"
    assert Contrast().label(one) == "contrast ×1.46"
    assert Saturation().label(one) == "saturation ×1.46"
    assert Gamma().label(one) == "gamma 1.46"
    assert Hue().label(np.array([-12.0])) == "hue −12°"
    assert ColorJitter().label(np.array([1, 0.5, 2, 3])) == "jitter ×1.00 ×0.50 ×2.00 +3°"
    assert ColorTemperature().label(np.array([0.0])) == "temperature 6,504 K"
    assert Solarize().label(np.array([63.2])) == "solarize ≥ 64"
    assert Posterize().label(np.array([3.0])) == "posterize 3 bits"
    none = np.empty(0)
    assert [op.label(none) for op in (Greyscale(), Invert(), Autocontrast(), Equalize())] == [
        "greyscale",
        "invert",
        "autocontrast",
        "equalize",
    ]
