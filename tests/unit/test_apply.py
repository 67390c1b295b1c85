"""A batch through a policy: a picture is a function of its address alone, and stays what it was."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from augft.augment import draw
from augft.augment.apply import augment_batch, describe, draw_parameters, render
from augft.augment.policy import PRESETS, Policy
from augft.errors import PolicyError

UInt8Array = npt.NDArray[np.uint8]

EVERYTHING = Policy.from_config(["horizontal_flip", "vertical_flip", "rotate", "translate", "crop"])


def pictures(num: int, height: int = 32, width: int = 32) -> UInt8Array:
    """Noise that no library's generator can change."""
    words = draw.words(0, "test/pictures", 0, np.arange(num * height * width), 0, 3)
    return np.ascontiguousarray((words >> 24).astype(np.uint8).T).reshape(num, height, width, 3)


policies = st.sampled_from([*PRESETS.values(), EVERYTHING])
addresses = st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**24 - 1))


@settings(max_examples=40, deadline=None)
@given(
    policies,
    st.integers(-(2**40), 2**40),
    st.lists(addresses, min_size=1, max_size=12),
    st.sampled_from([(32, 32), (17, 5)]),
    st.randoms(),
)
def test_a_picture_does_not_depend_on_its_batch(
    policy: Policy, seed: int, items: list[tuple[int, int, int]], size: tuple[int, int], random: Any
) -> None:
    images = pictures(len(items), *size)
    ids, epochs, copies = np.array(items).T
    together = augment_batch(images, policy, seed=seed, epoch=epochs, sample_ids=ids, copy=copies)
    order = list(range(len(items)))
    random.shuffle(order)
    chosen = order[: random.randint(1, len(order))]
    part = augment_batch(
        images[chosen], policy, seed=seed, epoch=epochs[chosen], sample_ids=ids[chosen], copy=copies[chosen]
    )
    np.testing.assert_array_equal(part, together[chosen])
    i = chosen[0]
    alone = augment_batch(
        images[i : i + 1], policy, seed=seed, epoch=items[i][1], sample_ids=[items[i][0]], copy=items[i][2]
    )
    np.testing.assert_array_equal(alone[0], together[i])


def test_no_two_items_share_their_parameters() -> None:
    ids = np.tile(np.arange(1000), 4)
    epochs, copies = np.repeat([0, 0, 1, 1], 1000), np.repeat([0, 1, 0, 1], 1000)
    [rotate, translate] = draw_parameters(
        Policy.from_config(["rotate", "translate"]), seed=0, epoch=epochs, sample_ids=ids, copy=copies
    )
    assert len(np.unique(rotate.values[0])) == 4000
    assert len(np.unique(translate.values, axis=1).T) == 4000


def test_seeds_make_other_pictures() -> None:
    images = pictures(20)
    first, second = (augment_batch(images, EVERYTHING, seed=s, epoch=0, sample_ids=np.arange(20)) for s in (0, 1))
    assert (first != second).any((1, 2, 3)).all()


def test_policies_share_the_draws_of_the_ops_they_share() -> None:
    ids = np.arange(100)
    a = draw_parameters(Policy.from_config(["rotate", "crop"]), seed=4, epoch=1, sample_ids=ids)
    b = draw_parameters(Policy.from_config(["horizontal_flip", "crop", "rotate"]), seed=4, epoch=1, sample_ids=ids)
    np.testing.assert_array_equal(a[0].values, b[2].values)
    np.testing.assert_array_equal(a[1].values, b[1].values)
    twice = draw_parameters(Policy.from_config(["rotate", "rotate"]), seed=4, epoch=1, sample_ids=ids)
    assert (twice[0].values != twice[1].values).all()


@pytest.mark.parametrize("sampling", ["nearest", "bilinear"])
@pytest.mark.parametrize(
    "ops",
    [
        [],
        [{"rotate": {"degrees": 0}}, {"crop": {"padding": 0}}, {"translate": {"x": 0, "y": 0}}],
        [{"rotate": {"p": 0}}, {"horizontal_flip": {"p": 0}}],
        [{"horizontal_flip": {"p": 1}}, {"horizontal_flip": {"p": 1}}],
        [{"vertical_flip": {"p": 1}}, {"horizontal_flip": {"p": 1}}] * 2,
    ],
)
def test_what_does_nothing_copies_bit_for_bit(ops: list[Any], sampling: str) -> None:
    images = pictures(50, 31, 32)
    out = augment_batch(
        images,
        Policy.from_config({"ops": ops, "sampling": sampling}),
        seed=0,
        epoch=0,
        sample_ids=np.arange(50),
    )
    np.testing.assert_array_equal(out, images)
    assert not np.shares_memory(out, images)


def test_flipping_twice_is_flipping_never() -> None:
    images = pictures(10)
    flip = Policy.from_config([{"horizontal_flip": {"p": 1}}])
    once = augment_batch(images, flip, seed=0, epoch=0, sample_ids=np.arange(10))
    assert (once != images).any((1, 2, 3)).all()
    np.testing.assert_array_equal(augment_batch(once, flip, seed=0, epoch=0, sample_ids=np.arange(10)), images)


def test_standard_is_exact_in_both_samplings() -> None:
    """Flips and whole-pixel shifts never meet the blend."""
    images = pictures(64)
    standard = PRESETS["standard"]
    results = [
        augment_batch(images, Policy(standard.ops, sampling), seed=2, epoch=0, sample_ids=np.arange(64))
        for sampling in ("nearest", "bilinear")
    ]
    np.testing.assert_array_equal(*results)


def test_drawn_parameters_make_the_picture_again() -> None:
    images, ids = pictures(30), np.arange(30)
    drawn = draw_parameters(EVERYTHING, seed=1, epoch=5, sample_ids=ids, copy=2)
    again = render(images, EVERYTHING, drawn)
    np.testing.assert_array_equal(again, augment_batch(images, EVERYTHING, seed=1, epoch=5, sample_ids=ids, copy=2))
    for i in range(30):
        assert len(describe(drawn, i)) == sum(one.applied[i] for one in drawn)


@pytest.mark.parametrize("num", [0, 1])
@pytest.mark.parametrize("size", [(1, 1), (32, 32), (3, 50)])
def test_small_batches(num: int, size: tuple[int, int]) -> None:
    out = augment_batch(pictures(num, *size), EVERYTHING, seed=0, epoch=0, sample_ids=np.arange(num))
    assert out.shape == (num, *size, 3)
    assert out.dtype == np.uint8


def test_pictures_may_be_read_only_or_strided() -> None:
    images = pictures(20)
    expected = augment_batch(images[::2], EVERYTHING, seed=0, epoch=0, sample_ids=np.arange(10))
    images.setflags(write=False)
    np.testing.assert_array_equal(
        expected, augment_batch(images[::2].copy(), EVERYTHING, seed=0, epoch=0, sample_ids=np.arange(10))
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"images": np.zeros((2, 8, 8, 3), np.float32)},
            r"images_u8 must be uint8 \(N, H, W, 3\), found float32",
        ),
        ({"images": np.zeros((2, 3, 8, 8), np.uint8)}, r"found uint8 \(2, 3, 8, 8\)"),
        ({"images": np.zeros((8, 8, 3), np.uint8)}, r"found uint8 \(8, 8, 3\)"),
        ({"sample_ids": np.arange(3)}, r"sample_ids must be \(2,\).*found \(3,\)"),
        ({"sample_ids": np.array([0, -1])}, "sample id must be in"),
        ({"epoch": np.arange(3)}, r"epoch must be one number or \(2,\), found \(3,\)"),
        ({"epoch": -1}, "epoch must be in"),
        ({"copy": 2**24}, "copy must be in"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "images": pictures(2, 8, 8),
        "epoch": 0,
        "sample_ids": np.arange(2),
        "copy": 0,
    } | change
    images = arguments.pop("images")
    with pytest.raises(ValueError, match=message):
        augment_batch(images, EVERYTHING, seed=0, **arguments)


def test_pictures_too_large_for_the_kernel_are_refused() -> None:
    with pytest.raises(PolicyError, match="policy 'basic' on pictures of 33000×1: "):
        augment_batch(np.zeros((1, 1, 33_000, 3), np.uint8), PRESETS["basic"], seed=0, epoch=0, sample_ids=[0])


# -- golden ----------------------------------------------------------------------------------------
# Made once. A change here means that every run ever made with this preset can no longer be repeated:
# raise the policy version, and say so in the changelog.

GOLDEN = {
    "none": "29b19c35e03178ef",
    "basic": "0639f1b5e8948211",
    "standard": "8c7b03e0d40fc479",
    "digits": "a7bdfb8603c8af94",
}


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_pixels_of_record(preset: str) -> None:
    digest = hashlib.blake2b(digest_size=8)
    for height, width in ((32, 32), (31, 45), (96, 96)):
        images = pictures(24, height, width)
        out = augment_batch(
            images, PRESETS[preset], seed=7, epoch=np.arange(24) // 8, sample_ids=np.arange(24) % 8, copy=1
        )
        digest.update(out.tobytes())
    assert digest.hexdigest() == GOLDEN[preset]
