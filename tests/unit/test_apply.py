"""A batch through a policy: a picture is a function of its address alone, and stays what it was."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from augft.augment import apply, draw
from augft.augment.apply import augment_batch, draw_parameters, render
from augft.augment.automatic import AUTO_OPS
from augft.augment.ops import OPS
from augft.augment.policy import ALL_OPS, PRESETS, Policy
from augft.errors import PolicyError

UInt8Array = npt.NDArray[np.uint8]

EVERYTHING = Policy.from_config(["horizontal_flip", "vertical_flip", "rotate", "translate", "crop"])

ALL_AT_ONCE = Policy.from_config([{name: {"p": 0.5}} for name in OPS] + ["rand-m9-n2", {"aug_mix": {"p": 0.5}}])
SIZES = [(1, 1), (5, 3), (32, 32), (31, 47)]


def pictures(num: int, height: int = 32, width: int = 32) -> UInt8Array:
    """Noise that no library's generator can change."""
    words = draw.words(0, "test/pictures", 0, np.arange(num * height * width), 0, 3)
    return np.ascontiguousarray((words >> 24).astype(np.uint8).T).reshape(num, height, width, 3)


# What could lead further than the kernel reaches where several follow each other.
HELD: dict[tuple[str, str], tuple[float, float]] = {
    ("scale", "factor"): (0.4, 3),
    ("affine", "factor"): (0.4, 3),
    ("translate", "x"): (0, 1),
    ("translate", "y"): (0, 1),
    ("crop", "padding"): (0, 40),
    ("perspective", "distortion"): (0, 0.4),
    ("rand_augment", "num_ops"): (1, 3),
    ("aug_mix", "width"): (1, 3),
    ("aug_mix", "depth"): (1, 3),
}


def parameters_of(name: str) -> st.SearchStrategy[dict[str, Any]]:
    """Any that the op's schema allows, but for `HELD`."""
    fields = {}
    for key, schema in ALL_OPS[name].model_json_schema()["properties"].items():
        bounds = schema.get("items", schema)
        low, high = HELD.get((name, key), (bounds.get("minimum", 0.01), bounds.get("maximum", 0)))
        numbers = st.integers(int(low), int(high)) if schema.get("type") == "integer" else st.floats(low, high)
        if "items" in schema:
            fields[key] = st.one_of(numbers, st.tuples(numbers, numbers).map(sorted))
        elif "enum" in schema:
            fields[key] = st.sampled_from(schema["enum"])
        elif schema["type"] == "boolean":
            fields[key] = st.booleans()
        else:
            fields[key] = numbers
    return st.fixed_dictionaries({}, optional=fields)


def entry_of(name: str) -> st.SearchStrategy[dict[str, Any]]:
    return parameters_of(name).map(lambda parameters: {name: parameters})


def is_allowed(entries: list[dict[str, Any]]) -> bool:
    names = [name for entry in entries for name in entry]
    return names.count("elastic") <= 1 and "aug_mix" not in names[:-1] and names.count("perspective") <= 1


configs = st.fixed_dictionaries(
    {
        "ops": st.lists(st.sampled_from(sorted(ALL_OPS)).flatmap(entry_of), max_size=5).filter(is_allowed),
        "sampling": st.sampled_from(["nearest", "bilinear"]),
        "fill": st.one_of(
            st.sampled_from(["mean", "edge", "reflect"]), st.lists(st.integers(0, 255), min_size=3, max_size=3)
        ),
    }
)
policies = st.one_of(st.sampled_from([*PRESETS.values(), EVERYTHING]), configs.map(Policy.from_config))
addresses = st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**24 - 1))


@settings(max_examples=150, deadline=None)
@given(
    policies,
    st.integers(-(2**40), 2**40),
    st.lists(addresses, min_size=1, max_size=12),
    st.sampled_from(SIZES),
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


@settings(max_examples=60, deadline=None)
@given(configs)
def test_any_policy_survives_writing_and_reading(config: dict[str, Any]) -> None:
    policy = Policy.from_config(config)
    for written in (
        policy.to_config(),
        json.loads(policy.to_json()),
        yaml.safe_load(yaml.safe_dump(policy.to_config())),
    ):
        again = Policy.from_config(written)
        assert again == policy
        assert again.to_json() == policy.to_json()


@settings(max_examples=60, deadline=None)
@given(configs, st.sampled_from(SIZES))
def test_any_policy_makes_pictures_of_any_size_and_leaves_the_source_alone(
    config: dict[str, Any], size: tuple[int, int]
) -> None:
    images = pictures(7, *size)
    before = images.copy()
    images.setflags(write=False)
    out = augment_batch(images, Policy.from_config(config), seed=0, epoch=3, sample_ids=np.arange(7))
    assert out.shape == images.shape
    assert out.dtype == np.uint8
    assert out.flags.c_contiguous
    assert not np.shares_memory(out, images)
    np.testing.assert_array_equal(images, before)


DISCRETE = {"rotate90", "channel_shuffle", "posterize", "jpeg", "crop"}


@pytest.mark.parametrize("name", sorted(name for name in OPS if OPS[name]().num_values and name not in DISCRETE))
def test_no_two_items_share_their_parameters(name: str) -> None:
    ids = np.tile(np.arange(1000), 4)
    epochs, copies = np.repeat([0, 0, 1, 1], 1000), np.repeat([0, 1, 0, 1], 1000)
    [one] = draw_parameters(Policy.from_config([name]), seed=0, epoch=epochs, sample_ids=ids, copy=copies).ops
    for values in one.values[one.values.any(1)]:  # each number of each item, but those that are off
        assert len(np.unique(values)) == 4000


def test_no_two_items_share_what_is_chosen_for_them() -> None:
    ids = np.tile(np.arange(200), 4)
    epochs, copies = np.repeat([0, 0, 1, 1], 200), np.repeat([0, 1, 0, 1], 200)
    drawn = draw_parameters(Policy.from_config("augmix-m10"), seed=0, epoch=epochs, sample_ids=ids, copy=copies)
    assert drawn.weights is not None
    assert len(np.unique(drawn.weights[0])) == 800
    told = {tuple(drawn.describe(i)) for i in range(800)}
    assert len(told) == 800


def test_seeds_make_other_pictures() -> None:
    images = pictures(20)
    first, second = (augment_batch(images, EVERYTHING, seed=s, epoch=0, sample_ids=np.arange(20)) for s in (0, 1))
    np.testing.assert_array_equal(first, augment_batch(images, EVERYTHING, seed=0, epoch=0, sample_ids=np.arange(20)))
    assert (first != second).any((1, 2, 3)).all()


def test_policies_share_the_draws_of_the_ops_they_share() -> None:
    ids = np.arange(100)
    a = draw_parameters(Policy.from_config(["rotate", "crop"]), seed=4, epoch=1, sample_ids=ids).ops
    b = draw_parameters(Policy.from_config(["horizontal_flip", "crop", "rotate"]), seed=4, epoch=1, sample_ids=ids).ops
    np.testing.assert_array_equal(a[0].values, b[2].values)
    np.testing.assert_array_equal(a[1].values, b[1].values)
    twice = draw_parameters(Policy.from_config(["rotate", "rotate"]), seed=4, epoch=1, sample_ids=ids).ops
    assert (twice[0].values != twice[1].values).all()
    # A phase has the streams that the ops alone would have.
    phase = Policy.from_config({"ops": [], "phases": [{"from_epoch": 1, "ops": ["rotate", "crop"]}]})
    for one, other in zip(draw_parameters(phase, seed=4, epoch=1, sample_ids=ids).ops, a, strict=True):
        np.testing.assert_array_equal(one.values, other.values)


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


ZERO: dict[str, dict[str, Any]] = {
    "rotate": {"degrees": 0},
    "translate": {"x": 0, "y": 0},
    "shear": {"x": 0, "y": 0},
    "scale": {"factor": 1},
    "affine": {"degrees": 0, "x": 0, "y": 0, "factor": 1, "shear_x": 0, "shear_y": 0},
    "crop": {"padding": 0},
    "center_crop": {"share": 1},
    "perspective": {"distortion": 0},
    "elastic": {"strength": 0},
    "brightness": {"factor": 1},
    "contrast": {"factor": 1},
    "saturation": {"factor": 1},
    "hue": {"degrees": 0},
    "color_jitter": {"brightness": 1, "contrast": 1, "saturation": 1, "hue": 0},
    "gamma": {"gamma": 1},
    "solarize": {"threshold": 256},
    "posterize": {"bits": 8},
    "color_temperature": {"mired": 0},
    "sharpness": {"factor": 1},
    "gaussian_noise": {"sigma": 0},
    "erasing": {"scale": 0},
    "grid_mask": {"keep": 1},
}


@pytest.mark.parametrize("sampling", ["nearest", "bilinear"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fill", [0, "edge", "reflect", "mean"])
def test_every_op_at_magnitude_zero_copies_bit_for_bit(fill: Any, size: tuple[int, int], sampling: str) -> None:
    images = pictures(8, *size)
    for ops in [[{name: parameters}] for name, parameters in ZERO.items()] + [[{n: p} for n, p in ZERO.items()]]:
        policy = Policy.from_config({"ops": ops, "sampling": sampling, "fill": fill})
        out = augment_batch(images, policy, seed=0, epoch=0, sample_ids=np.arange(8))
        np.testing.assert_array_equal(out, images, err_msg=str(ops))


@pytest.mark.parametrize("sampling", ["nearest", "bilinear"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["horizontal_flip", "vertical_flip", "invert"])
def test_flipping_twice_is_flipping_never(name: str, size: tuple[int, int], sampling: str) -> None:
    images = pictures(10, *size)
    flip = Policy.from_config({"ops": [{name: {"p": 1}}], "sampling": sampling})
    once = augment_batch(images, flip, seed=0, epoch=0, sample_ids=np.arange(10))
    assert (once != images).any((1, 2, 3)).all() or (size == (1, 1) and name != "invert")
    np.testing.assert_array_equal(augment_batch(once, flip, seed=0, epoch=0, sample_ids=np.arange(10)), images)
    twice = Policy.from_config({"ops": [{name: {"p": 1}}] * 2, "sampling": sampling})
    np.testing.assert_array_equal(augment_batch(images, twice, seed=0, epoch=0, sample_ids=np.arange(10)), images)


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
        assert len(drawn.describe(i)) == sum(i in one.rows for one in drawn.ops)


def test_what_is_drawn_for_some_can_be_spread_over_a_batch() -> None:
    images, rows = pictures(12), np.array([1, 2, 5, 9])
    drawn = draw_parameters(ALL_AT_ONCE, seed=1, epoch=0, sample_ids=rows)
    out = render(images, ALL_AT_ONCE, drawn.spread(rows, 12))
    np.testing.assert_array_equal(out[rows], render(images[rows], ALL_AT_ONCE, drawn))
    others = np.setdiff1d(np.arange(12), rows)
    np.testing.assert_array_equal(out[others], images[others])
    spread = drawn.spread(rows, 12)
    assert spread.weights is not None
    np.testing.assert_array_equal(spread.weights[0, others], 1)
    np.testing.assert_array_equal(spread.weights[:, rows], drawn.weights)
    assert [spread.describe(int(row)) for row in rows] == [drawn.describe(i) for i in range(4)]
    assert spread.describe(0) == []


def test_a_batch_made_in_parts_is_the_batch_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    images, ids = pictures(33), np.arange(33)
    drawn = draw_parameters(ALL_AT_ONCE, seed=1, epoch=0, sample_ids=ids)
    whole = render(images, ALL_AT_ONCE, drawn)
    monkeypatch.setattr(apply, "PART_BYTES", 7 * images[0].size)
    out = np.zeros_like(images)
    asked, made = [], []

    def fetch(first: int, end: int) -> UInt8Array:
        asked.append((first, end))
        return images[first:end]

    for part in apply.render_parts(fetch, ALL_AT_ONCE, drawn, out):
        made.append((part.start, part.stop))
        np.testing.assert_array_equal(out[: part.stop], whole[: part.stop])
        assert not out[part.stop :].any()
    assert asked == made == [(0, 7), (7, 14), (14, 21), (21, 28), (28, 33)]


CHANGING: list[dict[str, Any]] = [
    {
        "epochs": 5,
        "ops": [
            {"rotate": {"degrees": {"schedule": [[0, 5], [1, 90]]}}},
            {"elastic": {"strength": {"schedule": [[0, 0.05], [1, 0.2]]}}},
            {
                "brightness": {
                    "factor": {"schedule": [[0, [1, 1]], [1, [0.3, 1.7]]]},
                    "p": {"schedule": [[0, 0], [1, 1]]},
                }
            },
            {"aug_mix": {"severity": {"schedule": [[0, 1], [1, 10]]}, "width": {"schedule": [[0, 1], [1, 4]]}}},
        ],
    },
    {
        "fill": "mean",
        "ops": ["horizontal_flip", "elastic", "cutout"],
        "phases": [
            {"from_epoch": 1, "ops": ["rand-m9-n2", "erasing"]},
            {"from_epoch": 2, "ops": []},
            {"from_epoch": 3, "ops": ["crop", {"elastic": {"strength": 0.3}}, "augmix-m3"]},
        ],
    },
]


@pytest.mark.parametrize("config", CHANGING, ids=["schedules", "phases"])
def test_a_batch_of_several_epochs_is_each_epochs_policy(config: dict[str, Any]) -> None:
    policy = Policy.from_config(config)
    images, ids = pictures(40), np.arange(40)
    epochs = np.random.default_rng(0).permutation(np.repeat(np.arange(5), 8))
    together = augment_batch(images, policy, seed=3, epoch=epochs, sample_ids=ids, copy=1)
    drawn = draw_parameters(policy, seed=3, epoch=epochs, sample_ids=ids, copy=1)
    for epoch in range(5):
        here = np.flatnonzero(epochs == epoch)
        plain = policy.at(epoch)
        assert not plain.changes
        alone = augment_batch(images[here], plain, seed=3, epoch=epoch, sample_ids=ids[here], copy=1)
        np.testing.assert_array_equal(together[here], alone)
        told = draw_parameters(plain, seed=3, epoch=epoch, sample_ids=ids[here], copy=1)
        for i, row in enumerate(here):
            assert sorted(drawn.describe(int(row))) == sorted(told.describe(i))
        np.testing.assert_array_equal(
            alone, augment_batch(images[here], policy, seed=3, epoch=epoch, sample_ids=ids[here], copy=1)
        )


@pytest.mark.parametrize("num", [0, 1])
@pytest.mark.parametrize("size", [(1, 1), (32, 32), (3, 50), (0, 4)])
@pytest.mark.parametrize("policy", [EVERYTHING, ALL_AT_ONCE, *PRESETS.values()], ids=lambda policy: policy.name)
def test_small_batches(policy: Policy, num: int, size: tuple[int, int]) -> None:
    out = augment_batch(pictures(num, *size), policy, seed=0, epoch=0, sample_ids=np.arange(num))
    assert out.shape == (num, *size, 3)
    assert out.dtype == np.uint8
    changing = Policy.from_config({"phases": [{"from_epoch": 1, "ops": list(policy.to_config()["ops"])}]})
    out = augment_batch(pictures(num, *size), changing, seed=0, epoch=1, sample_ids=np.arange(num))
    assert out.shape == (num, *size, 3)


def test_pictures_may_be_read_only_or_strided() -> None:
    images = pictures(20, 40, 40)
    images.setflags(write=False)
    ids = np.arange(10)
    for policy in (EVERYTHING, ALL_AT_ONCE, PRESETS["none"]):
        for view in (images[::2], images[:10, :, ::-1], images[:10, 4:36, 4:36], images[:10].transpose(0, 2, 1, 3)):
            expected = augment_batch(np.ascontiguousarray(view), policy, seed=0, epoch=0, sample_ids=ids)
            np.testing.assert_array_equal(
                expected, augment_batch(view, policy, seed=0, epoch=0, sample_ids=ids.tolist())
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
    "cutout": "10c1513034f1faee",
    "randaugment": "2b277206040fe5a0",
    "trivialaugment": "52b5e46527e852f4",
    "augmix": "83a0c12c4a09c6a7",
}

OPS_OF_RECORD = {
    "affine": "e2b718659e6016ad",
    "autocontrast": "b94280102cac7dbf",
    "brightness": "ef135b6c3356fc34",
    "center_crop": "decfe59ffd8c3bd3",
    "channel_shuffle": "716157e71b8ebc91",
    "color_jitter": "81b7f3c33d684671",
    "color_temperature": "811669ed1aa2d2be",
    "contrast": "4dcb4cd8f107d9cf",
    "crop": "1d8ca696f86ecda7",
    "cutout": "8696737e410cefdf",
    "elastic": "a0d1bf08ca093720",
    "equalize": "21a43e89e6f66673",
    "erasing": "67bd93e68c9eeab6",
    "gamma": "2a0d4f99248b951a",
    "gaussian_blur": "b922aa12192c2e8d",
    "gaussian_noise": "dcbfce2bdaac3c3a",
    "greyscale": "4b70f79c05b959ee",
    "grid_mask": "ce3f99ac9ba2c5a3",
    "horizontal_flip": "6c241f249fd1550f",
    "hue": "fff12bcb9e9a27d3",
    "invert": "ad81912ddaacdb89",
    "jpeg": "01bf91aca924e0b2",
    "perspective": "99a09bb9fbfabbd7",
    "posterize": "84cc6afa107d7ba2",
    "resized_crop": "b041ce7265e8c8de",
    "rotate": "efd060b75501cbf2",
    "rotate90": "7030f6fa9cdd79db",
    "saturation": "c2d8df063b870234",
    "scale": "455b0021e4d07e65",
    "sharpness": "7d137e5016a4de82",
    "shear": "7e3b8db7a05f9199",
    "solarize": "f9420e6a72217354",
    "translate": "a2f16f99bf270ba7",
    "vertical_flip": "fbec0d5e8a52aea1",
}

CHOICES_OF_RECORD = {
    "rand-m15-n3": "0c00efa0ba9e8925",
    "trivial": "49eb2b1d3540f103",
    "auto-cifar10": "985afdc86c48e21c",
    "auto-svhn": "b3459ee39fd38a2c",
    "auto-imagenet": "70ffe1fda03b37ab",
    "augmix-m7-w2-d2": "777c617b73cedf15",
}

FILLS_OF_RECORD = {
    "edge": "d5ddd090e8e446bf",
    "reflect": "ad8344fbbd9c1352",
    "mean": "bb199ced7c4debd3",
    200: "0a66b3a24d45008c",
}


def digest_of(policy: Policy) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for height, width in ((32, 32), (31, 45), (96, 96)):
        images = pictures(24, height, width)
        out = augment_batch(images, policy, seed=7, epoch=np.arange(24) // 8, sample_ids=np.arange(24) % 8, copy=1)
        digest.update(out.tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_pixels_of_record(preset: str) -> None:
    assert digest_of(PRESETS[preset]) == GOLDEN[preset]


@pytest.mark.parametrize("name", sorted(OPS))
def test_pixels_of_record_of_each_op(name: str) -> None:
    assert digest_of(Policy.from_config([name])) == OPS_OF_RECORD[name]


@pytest.mark.parametrize("name", sorted(CHOICES_OF_RECORD))
def test_pixels_of_record_of_each_op_that_chooses(name: str) -> None:
    assert digest_of(Policy.from_config([name])) == CHOICES_OF_RECORD[name]
    assert {Policy.from_config([known]).ops[0].name for known in CHOICES_OF_RECORD} == set(AUTO_OPS)


@pytest.mark.parametrize("fill", FILLS_OF_RECORD)
def test_pixels_of_record_of_many_ops_at_once(fill: Any) -> None:
    names = ["perspective", "affine", "elastic", "color_jitter", "equalize", "gaussian_blur", "erasing", "grid_mask"]
    policy = Policy.from_config({"ops": [{name: {"p": 0.7}} for name in names], "fill": fill})
    assert digest_of(policy) == FILLS_OF_RECORD[fill]
