"""The second way to pixels makes the bytes of the first: each comparison here is for equality."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from augft.augment import device, draw
from augft.augment.apply import draw_copies, draw_parameters, render
from augft.augment.draw import Float64Array
from augft.augment.drawn import Drawn, DrawnOp
from augft.augment.ops import OPS, ColourOp, FinishOp, GeometryOp, Size
from augft.augment.policy import ALL_OPS, PRESETS, Policy
from augft.errors import PolicyError

UInt8Array = npt.NDArray[np.uint8]

SIZES = [(32, 32), (31, 47), (65, 65)]
FILLS: list[Any] = [(0, 0, 0), (250, 3, 99), "mean", "edge", "reflect"]
SHORT_NAMES = ["rand-m15-n4", "trivial", "auto-cifar10", "auto-imagenet", "auto-svhn", "augmix-m9-w4-d3"]
CASES: dict[str, Any] = {
    **{name: [name] for name in ALL_OPS},
    **{f"preset {name}": name for name in PRESETS if name != "none"},
    **{name: name for name in SHORT_NAMES},
    "enlarge": [{"scale": {"factor": [1.2, 3.0]}}, {"rotate": {"degrees": 3}}],
    "shrink": [{"scale": {"factor": [0.15, 0.7]}}, "rotate"],
    "to a half": [{"scale": {"factor": 0.5}}],
    "strongest contrast": [{"contrast": {"factor": 10}}, {"contrast": {"factor": 10}}, {"brightness": {"factor": 10}}],
    "far away": [{"translate": {"x": 4, "y": 4}}, {"rotate": {"degrees": 180}}],
    "strong perspective": [{"perspective": {"distortion": 0.6}}, "elastic"],
    "fine elastic": [{"elastic": {"cells": 16, "strength": 0.5}}],
    "large blur": [{"gaussian_blur": {"sigma": [0.05, 20]}}],
    "all qualities": [{"jpeg": {"quality": [1, 100]}}],
    "loud": [{"gaussian_noise": {"sigma": [0, 1]}}],
    "grey box": [{"erasing": {"noise": False}}],
    "any gamma": [{"gamma": {"gamma": [0.1, 10]}}, "equalize"],
    "strong colours": [{"brightness": {"factor": [0, 10]}}, {"contrast": {"factor": [0, 10]}}],
    "colours": [name for name, op in OPS.items() if issubclass(op, ColourOp)],
    "finish": [name for name, op in OPS.items() if issubclass(op, FinishOp)],
    "everything": list(OPS),
}


def pictures(num: int, height: int, width: int) -> UInt8Array:
    """Noise, smooth slopes, and one flat picture, that no library's generator can change."""
    words = draw.words(0, "test/device", 0, np.arange(num * height * width), 0, 3)
    images = np.ascontiguousarray((words >> 24).astype(np.uint8).T).reshape(num, height, width, 3)
    slope = np.add.outer(np.arange(height) * 2, np.arange(width) * 3)[:, :, None] + np.array([0, 40, 90])
    images[1::2] = (images[1::2] // 16 + slope % 240).astype(np.uint8)
    images[2:3] = (7, 200, 200)
    return images


def drawn_of(policy: Policy, num: int, epoch: int = 2) -> Drawn:
    return draw_parameters(policy, seed=3, epoch=epoch, sample_ids=np.arange(num) + 11)


def on_device(images: UInt8Array, policy: Policy, drawn: Drawn) -> UInt8Array:
    made = device.render(torch.from_numpy(images), policy, drawn)
    assert made.dtype == torch.uint8
    return made.numpy()


def assert_same(images: UInt8Array, policy: Policy, drawn: Drawn | None = None) -> UInt8Array:
    """Both ways; what they made."""
    drawn = drawn or drawn_of(policy, len(images))
    expected = render(images, policy, drawn)
    np.testing.assert_array_equal(on_device(images, policy, drawn), expected)
    return expected


def test_every_kind_of_op_is_a_case() -> None:
    kinds = (GeometryOp, ColourOp, FinishOp)
    assert {name for name, op in OPS.items() if not issubclass(op, kinds)} == {"elastic"}
    assert set(OPS) < set(CASES)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_the_kernels_bytes(case: str, size: tuple[int, int]) -> None:
    images = pictures(16, *size)
    policy = Policy.from_config(CASES[case])
    made = assert_same(images, policy)
    assert (made != images).any((1, 2, 3)).mean() >= 0.2


@pytest.mark.parametrize("sampling", ["nearest", "bilinear"])
@pytest.mark.parametrize("fill", FILLS, ids=str)
@pytest.mark.parametrize(
    "case",
    ["rotate", "affine", "crop", "resized_crop", "enlarge", "shrink", "far away", "perspective", "strong perspective",
     "elastic", "rotate90", "cutout", "erasing", "grid_mask", "preset augmix", "everything"],
)  # fmt: skip
def test_each_sampling_and_fill(case: str, fill: Any, sampling: Any) -> None:
    policy = replace(Policy.from_config(CASES[case]), fill=fill, sampling=sampling)
    assert_same(pictures(8, 31, 47), policy)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 2), (3, 9), (8, 8), (5, 1100), (130, 70)], ids=str)
@pytest.mark.parametrize("fill", ["mean", "reflect"])
def test_unusual_sizes(size: tuple[int, int], fill: Any) -> None:
    """A line longer than one of the kernel's runs, and sides that are no multiple of eight, among them."""
    for case in ("everything", "affine", "finish", "preset augmix"):
        assert_same(pictures(4, *size), replace(Policy.from_config(CASES[case]), fill=fill))


STRONGER = {"elastic": {"strength": {"schedule": [[0, 0.0], [1, 0.2]]}}}


class Given(GeometryOp):
    """The map that its values are."""

    name = "given"
    num_values = 9
    source = "here"

    def inverse(self, values: Float64Array, size: Size) -> Float64Array:
        return values if values[6:8].any() else values[:6]


@pytest.mark.parametrize("fill", FILLS, ids=str)
@pytest.mark.parametrize("sampling", ["nearest", "bilinear"])
@pytest.mark.parametrize("perspective", [0.0, 0.1], ids=["affine", "projective"])
def test_any_map(perspective: float, sampling: Any, fill: Any) -> None:
    """Also maps whose horizon crosses the picture, that shrink past the most samples, and that mirror and shear."""
    num = 40
    uniforms = 2 * draw.uniform(0, "test/maps", 0, np.arange(num), 0, 9) - 1
    scale = np.array([8, 8, 30, 8, 8, 30, perspective, perspective, 1.0])[:, None]
    maps = uniforms * np.where(np.arange(num) % 2, 1, 0.25) ** (np.arange(9) % 3 < 2)[:, None] * scale
    maps[8] = 1
    maps[:2, 0] = 25, 19  # more than 15 samples
    policy = Policy(sampling=sampling, fill=fill)
    if perspective:
        assert (maps[6] * 31 + maps[7] * 31 < -1).any()
    assert_same(pictures(num, 31, 47), policy, Drawn(num, (DrawnOp(Given(), np.arange(num), maps),)))


@settings(max_examples=40)
@given(
    names=st.lists(st.sampled_from([name for name in OPS if name != "elastic"]), max_size=6),
    size=st.sampled_from([*SIZES, (9, 6)]),
    fill=st.sampled_from(FILLS),
    sampling=st.sampled_from(["nearest", "bilinear"]),
    ids=st.lists(st.integers(0, 2**63 - 1), max_size=6),
    p=st.sampled_from([0.4, 1.0]),
)
def test_any_ops_in_any_order(
    names: list[str], size: tuple[int, int], fill: Any, sampling: Any, ids: list[int], p: float
) -> None:
    policy = replace(Policy.from_config([{name: {"p": p}} for name in names]), fill=fill, sampling=sampling)
    drawn = draw_parameters(policy, seed=0, epoch=1, sample_ids=np.array(ids, np.int64))
    assert_same(pictures(len(ids), *size), policy, drawn)


@pytest.mark.parametrize("num", [0, 1])
@pytest.mark.parametrize("case", ["everything", "preset standard", "preset augmix"])
def test_small_batches(case: str, num: int) -> None:
    assert assert_same(pictures(16, 32, 32)[:num], Policy.from_config(CASES[case])).shape == (num, 32, 32, 3)


def test_pictures_without_pixels() -> None:
    made = device.render(torch.empty((3, 0, 4, 3), dtype=torch.uint8), PRESETS["standard"], drawn_of(Policy(), 3))
    assert made.shape == (3, 0, 4, 3)


def test_nothing_drawn_is_a_copy() -> None:
    images = pictures(3, 8, 8)
    made = assert_same(images, PRESETS["none"])
    np.testing.assert_array_equal(made, images)


def test_the_parts_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    images, policies = pictures(13, 16, 16), [Policy.from_config(CASES[c]) for c in ("everything", "preset augmix")]
    for pixels in (1, 3 * 256, 2**20):
        monkeypatch.setitem(device._PART_PIXELS, "cpu", pixels)
        for policy in policies:
            assert_same(images, policy)


def test_the_batch_does_not_matter_and_is_not_changed() -> None:
    images, policy = pictures(12, 32, 32), Policy.from_config(CASES["everything"])
    before = images.copy()
    together = on_device(images, policy, drawn_of(policy, 12))
    np.testing.assert_array_equal(images, before)
    strided = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)[::3]
    some = draw_parameters(policy, seed=3, epoch=2, sample_ids=np.arange(12)[::3] + 11)
    np.testing.assert_array_equal(device.render(strided, policy, some).numpy(), together[::3])


@pytest.mark.parametrize("case", ["everything", "preset augmix", "preset basic"])
def test_originals_stay_among_copies(case: str) -> None:
    images, policy = pictures(12, 32, 32), Policy.from_config(CASES[case])
    copies = np.array([0, 1, 0, 2, 3, 0, 1, 1, 0, 0, 2, 0])
    drawn = draw_copies(policy, seed=3, epochs=np.full(12, 2), sample_ids=np.arange(12), copies=copies)
    made = assert_same(images, policy, drawn)
    np.testing.assert_array_equal(made[copies == 0], images[copies == 0])
    rows = np.flatnonzero(copies)
    alone = draw_parameters(policy, seed=3, epoch=2, sample_ids=rows, copy=copies[rows] - 1)
    np.testing.assert_array_equal(made[rows], render(images[rows], policy, alone))


def test_a_policy_that_changes() -> None:
    """Epochs of different ops and strengths in one batch."""
    policy = Policy.from_config(
        {
            "epochs": 10,
            "phases": [
                {
                    "from_epoch": 0,
                    "ops": [{"rotate": {"degrees": {"schedule": [[0, 0], [1, 90]]}}}, STRONGER, "cutout"],
                },
                {"from_epoch": 5, "ops": ["horizontal_flip", STRONGER, "aug_mix"]},
            ],
        }
    )
    images, epochs = pictures(12, 32, 32), np.arange(12) % 10
    assert_same(images, policy, draw_parameters(policy, seed=0, epoch=epochs, sample_ids=np.arange(12)))


def test_too_far_is_told_as_the_kernel_tells_it() -> None:
    policy = Policy.from_config([{"translate": {"x": 40_000.0, "unit": "pixel"}}])
    drawn, images = drawn_of(policy, 4), pictures(4, 8, 8)
    messages = []
    for make in (render, on_device):
        with pytest.raises(PolicyError, match=r"'custom' on pictures of 8×8: a position .* is beyond") as caught:
            make(images, policy, drawn)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("case", ["everything", "shrink", "grey box", "preset basic", "preset augmix"])
def test_nothing_is_read_back(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's tensors without content: to read one, or to meet one of the host, would fail."""

    def contentless(numbers: npt.NDArray[Any], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor(numbers, dtype=dtype).to(device)  # page-locked memory needs a GPU

    monkeypatch.setattr("augft.augment.device.tensors.upload", contentless)
    policy = Policy.from_config(CASES[case])
    drawn = drawn_of(policy, 8)
    with FakeTensorMode():
        images = torch.empty((8, 32, 32, 3), dtype=torch.uint8, device="cuda")
        for fill in ((0, 0, 0), "mean"):
            made = device.render(images, replace(policy, fill=fill), drawn)
            assert (made.device.type, made.shape, made.dtype) == ("cuda", images.shape, torch.uint8)


def test_an_op_without_pixels_here_says_so() -> None:
    class Sepia(FinishOp):
        name = "sepia"
        source = "nobody"

    policy = Policy(ops=(Sepia(),))
    with pytest.raises(NotImplementedError, match="sepia has no pixels on the device"):
        device.render(torch.zeros((2, 4, 4, 3), dtype=torch.uint8), policy, drawn_of(policy, 2))
