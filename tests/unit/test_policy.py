"""Policies: what may be written, what is refused and how, and what comes back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from augft.augment.apply import augment_batch
from augft.augment.automatic import AugMix, AutoAugment, RandAugment, TrivialAugment
from augft.augment.ops import Crop, Elastic, HorizontalFlip, Op, Posterize, Rotate, Scale
from augft.augment.policy import ALL_OPS, PRESETS, Policy
from augft.augment.schedule import ScheduledOp
from augft.errors import PolicyError


def test_names_and_parameters_come_to_the_same_policy() -> None:
    bare = Policy.from_config(["horizontal_flip", {"rotate": {}}, {"crop": None}])
    assert bare.ops == (HorizontalFlip(p=0.5), Rotate(p=1.0, degrees=15.0), Crop(p=1.0, padding=4))
    assert Policy.from_config({"ops": ["horizontal_flip", "rotate", "crop"]}) == bare
    assert Policy.from_config(bare) is bare


def test_basic_is_the_plain_torchvision_recipe() -> None:
    written = ["horizontal_flip", "vertical_flip", {"rotate": {"degrees": 10}}, {"crop": {"padding": 4}}]
    assert Policy.from_config("basic") == Policy.from_config({"ops": written, "sampling": "nearest"})


def test_digits_has_no_flip() -> None:
    assert not any("flip" in op.name for op in PRESETS["digits"].ops)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_presets_survive_writing_and_reading(preset: str, tmp_path: Path) -> None:
    policy = Policy.from_config(preset)
    assert Policy.from_config(policy.to_config()) == policy
    (tmp_path / "p.json").write_text(policy.to_json())
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(policy.to_config()))
    for name in ("p.json", "p.yaml"):
        again = Policy.from_config(str(tmp_path / name))
        assert again == policy
        assert again.name == preset


def test_a_written_policy_spells_out_version_and_defaults() -> None:
    written = json.loads(Policy.from_config([{"translate": {"x": 0.3}}]).to_json())
    assert written["version"] == 1
    assert written["ops"] == [{"translate": {"p": 1.0, "x": 0.3, "y": 0.1, "unit": "fraction"}}]
    assert set(written) == {"version", "name", "sampling", "fill", "ops"}


def test_equality_is_of_pixels() -> None:
    base = Policy.from_config(["rotate"])
    assert base == Policy.from_config({"name": "another", "ops": ["rotate"]})
    assert base != Policy.from_config([{"rotate": {"degrees": 14}}])
    assert base != Policy.from_config({"ops": ["rotate"], "sampling": "nearest"})
    assert base != Policy.from_config({"ops": ["rotate"], "fill": 1})


def test_streams_number_the_ops_of_a_name() -> None:
    policy = Policy.from_config(["rotate", "crop", "rotate"])
    assert policy.streams == ("rotate/0", "crop/0", "rotate/1")


def test_a_policy_reads_as_a_line() -> None:
    assert str(Policy.from_config({"ops": [{"crop": {"padding": 2}}], "fill": 7})) == (
        "custom: crop(p=1, padding=2); bilinear, fill 7,7,7"
    )
    assert str(PRESETS["none"]) == "none: pictures as they are"


BAD = [
    ("basc", "did you mean 'basic'"),
    ("no-such-file.yaml", "cannot read the policy file no-such-file.yaml: No such file"),
    (["rotat"], "unknown op 'rotat'; did you mean 'rotate'"),
    ([{"rotate": {"degree": 3}}], "rotate: unknown parameter 'degree'; did you mean 'degrees'"),
    ([{"rotate": {"degrees": 181}}], "rotate.degrees should be less than or equal to 180, found 181"),
    ([{"rotate": {"degrees": float("nan")}}], "rotate.degrees"),
    ([{"rotate": {"degrees": "5"}}], "rotate.degrees"),
    ([{"rotate": {"degrees": True}}], "rotate.degrees"),
    ([{"horizontal_flip": {"p": 1.5}}], "horizontal_flip.p should be less than or equal to 1, found 1.5"),
    ([{"crop": {"padding": -1}}], "crop.padding should be greater than or equal to 0, found -1"),
    ([{"crop": {"padding": 2.5}}], "crop.padding"),
    ([{"rotate": 5}], "parameters must be a mapping, found 5"),
    ([{"rotate": {}, "crop": {}}], "an op is a name or"),
    ([3], "an op is a name or"),
    ({"rotate": {}}, "in a list, an op is"),
    ({"version": 1}, "needs the key `ops`"),
    ({"ops": "rotate"}, "`ops` must be a list"),
    ({"ops": [], "smapling": "nearest"}, "did you mean 'sampling'"),
    ({"ops": [], "sampling": "bilinea"}, "did you mean 'bilinear'"),
    ({"ops": [], "version": 2}, "this augft reads version 1"),
    ({"ops": [], "version": True}, "this augft reads version 1"),
    ({"ops": [], "fill": 256}, "fill must be"),
    ({"ops": [], "fill": [0, 0]}, "fill must be"),
    ({"ops": [], "fill": [0, 0, 0.5]}, "fill must be"),
    ({"ops": [], "fill": "egde"}, "unknown fill 'egde'; did you mean 'edge'"),
    ({"ops": [], "fill": True}, "fill must be"),
    ([{"scale": {"factor": [2, 1]}}], "scale.factor should be [low, high], and 2 is above 1, found [2, 1]"),
    ([{"scale": {"factor": [0.05, 1]}}], "scale.factor should lie in [0.1, 10], found [0.05, 1]"),
    ([{"scale": {"factor": 11}}], "scale.factor should lie in [0.1, 10], found 11"),
    ([{"scale": {"factor": [1, 2, 3]}}], "scale.factor should be a number, or [low, high], found [1, 2, 3]"),
    ([{"scale": {"factor": []}}], "scale.factor should be a number, or [low, high]"),
    ([{"scale": {"factor": "1"}}], "scale.factor should be a number, or [low, high], found '1'"),
    ([{"scale": {"factor": True}}], "scale.factor should be a number, or [low, high], found True"),
    ([{"scale": {"factor": [1, True]}}], "scale.factor should be a number, or two, found [1, True]"),
    ([{"scale": {"factor": [1, "2"]}}], "scale.factor should be a number, or two"),
    ([{"scale": {"factor": float("nan")}}], "scale.factor should be a finite number, found nan"),
    ([{"scale": {"factor": [1, float("inf")]}}], "scale.factor should be a finite number, found inf"),
    ([{"posterize": {"bits": [0, 4]}}], "posterize.bits should lie in [1, 8], found [0, 4]"),
    ([{"solarize": {"threshold": 257}}], "solarize.threshold should lie in [0, 256], found 257"),
    ([{"jpeg": {"quality": 0}}], "jpeg.quality should lie in [1, 100], found 0"),
    ([{"brightness": {"factor": -0.1}}], "brightness.factor should lie in [0, 10], found -0.1"),
    ([{"center_crop": {"share": 0}}], "center_crop.share should be greater than 0, found 0"),
    ([{"perspective": {"distortion": 0.7}}], "perspective.distortion should be less than or equal to 0.6, found 0.7"),
    ([{"translate": {"unit": "pixels"}}], "translate.unit should be 'fraction' or 'pixel', found 'pixels'"),
    ([{"auto_augment": {"learned_on": "mnist"}}], "auto_augment.learned_on should be 'cifar10', 'svhn' or 'imagenet'"),
    ([{"rand_augment": {"magnitude": 31}}], "rand_augment.magnitude should be less than or equal to 30, found 31"),
    ([{"rand_augment": {"num_ops": 0}}], "rand_augment.num_ops should be greater than or equal to 1, found 0"),
    ([{"aug_mix": {"width": 1.5}}], "aug_mix.width"),
    (["aug_mix", "rotate"], "aug_mix mixes all that stands before it: it comes last, and once"),
    (["aug_mix", "aug_mix"], "aug_mix mixes all that stands before it: it comes last, and once"),
    (["augmix-m3", "rotate"], "aug_mix mixes all that stands before it: it comes last, and once"),
    (["elastic", "rotate", "elastic"], "a policy has at most one elastic"),
    ("rand-m9-mstd0.5", "'rand-m9-mstd0.5': 'mstd0.5' is not understood; after rand- come m (magnitude), n (num_ops)"),
    ("rand-m9-inc1", "'inc1' is not understood; after rand- come m (magnitude), n (num_ops), each with a number"),
    ("rand-9", "'9' is not understood; after rand- come m (magnitude)"),
    ("rand-m", "'m' is not understood; after rand- come m (magnitude)"),
    ("rand-m31", "rand-m31: magnitude should be less than or equal to 30, found 31"),
    (["rand-m9-n0"], "rand-m9-n0: num_ops should be greater than or equal to 1, found 0"),
    ("augmix-m3-b1", "'b1' is not understood; after augmix- come m (severity), w (width), d (depth)"),
    ("augmix-m11", "augmix-m11: severity should be less than or equal to 10, found 11"),
    ("auto-mnist", "unknown policy 'auto-mnist'"),
    (["trivial-m3"], "unknown op 'trivial-m3'; did you mean"),
    ({"ops": [], "epochs": 0}, "epochs must be a whole number from 1 on, found 0"),
    ({"ops": [], "epochs": 2.0}, "epochs must be a whole number from 1 on, found 2.0"),
    ({"ops": [], "epochs": True}, "epochs must be a whole number from 1 on, found True"),
    ({"phases": "rotate"}, "`phases` must be a list, found 'rotate'"),
    ({"phases": [["rotate"]]}, "a phase is `{from_epoch: 5, ops: [...]}`, found ['rotate']"),
    ({"phases": [{"from_epoch": 2}]}, "a phase is `{from_epoch: 5, ops: [...]}`"),
    ({"phases": [{"from_epoch": -1, "ops": []}]}, "from_epoch must be a whole number from 0 on that rises, found -1"),
    (
        {"phases": [{"from_epoch": True, "ops": []}]},
        "from_epoch must be a whole number from 0 on that rises, found True",
    ),
    ({"phases": [{"from_epoch": 3, "ops": []}, {"from_epoch": 3, "ops": []}]}, "that rises, found 3"),
    ({"ops": ["rotate"], "phases": [{"from_epoch": 0, "ops": []}]}, "or a phase from epoch 0, not both"),
    (
        {"ops": ["elastic"], "phases": [{"from_epoch": 3, "ops": [{"elastic": {"cells": 5}}]}]},
        "elastic has the same `cells` in all phases",
    ),
    (7, "not 7"),
]


@pytest.mark.parametrize(("config", "message"), BAD, ids=[str(config) for config, _ in BAD])
def test_a_wrong_policy_is_refused_in_one_line(config: Any, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        Policy.from_config(config)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "text"), [("p.json", "{"), ("p.yaml", "a: [\n"), ("p.yaml", "5"), ("p.json", "null")])
def test_a_broken_file_is_named(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(PolicyError, match=name) as caught:
        Policy.from_config(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(PolicyError, match=r"p\.yaml"):
        Policy.from_config(tmp_path / "p.yaml")


# A shift in pixels may be as far as pictures are large.
UNLIMITED = {("translate", "x"), ("translate", "y")}


@pytest.mark.parametrize("name", sorted(ALL_OPS))
def test_bounds_are_inclusive_as_the_schema_says(name: str) -> None:
    properties = ALL_OPS[name].model_json_schema()["properties"]
    for parameter, schema in properties.items():
        assert schema["description"]
        if "items" in schema:  # a range
            low, high = schema["items"]["minimum"], schema["items"]["maximum"]
            for value in (low, high, [low, high], [low, low], [high, high]):
                Policy.from_config([{name: {parameter: value}}])
            for value in (low - 1e-9, high + 1e-9, [low - 1e-9, high], [low, high + 1e-9]):
                with pytest.raises(PolicyError, match=f"{name}.{parameter} should lie in "):
                    Policy.from_config([{name: {parameter: value}}])
        elif "enum" in schema:
            for value in schema["enum"]:
                Policy.from_config([{name: {parameter: value}}])
        elif schema["type"] == "boolean":
            for value in (False, True):
                [op] = Policy.from_config([{name: {parameter: value}}]).ops
                assert getattr(op, parameter) is value
        else:
            if (name, parameter) not in UNLIMITED:
                Policy.from_config([{name: {parameter: schema["maximum"]}}])
                with pytest.raises(PolicyError, match=f"{name}.{parameter} should be less than or equal to "):
                    Policy.from_config([{name: {parameter: schema["maximum"] + 1}}])
            if "exclusiveMinimum" in schema:
                with pytest.raises(PolicyError, match=f"{name}.{parameter} should be greater than 0"):
                    Policy.from_config([{name: {parameter: schema["exclusiveMinimum"]}}])
                continue
            Policy.from_config([{name: {parameter: schema["minimum"]}}])
            with pytest.raises(PolicyError, match=f"{name}.{parameter} should be greater than or equal to "):
                Policy.from_config([{name: {parameter: schema["minimum"] - 1}}])


def test_reading_a_policy_loads_no_compiler() -> None:
    code = "import sys, augft.augment.apply; sys.exit(bool({'numba', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- short names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "op"),
    [
        ("rand-m9-n2", RandAugment(magnitude=9, num_ops=2)),
        ("rand-n3-m5", RandAugment(magnitude=5, num_ops=3)),
        ("rand", RandAugment()),
        ("trivial", TrivialAugment()),
        ("auto-cifar10", AutoAugment(learned_on="cifar10")),
        ("auto-svhn", AutoAugment(learned_on="svhn")),
        ("auto-imagenet", AutoAugment(learned_on="imagenet")),
        ("augmix-m3-w3-d2", AugMix(severity=3, width=3, depth=2)),
        ("augmix-d3", AugMix()),
    ],
)
def test_short_names_that_people_know_become_ops(name: str, op: Op) -> None:
    assert Policy.from_config(name).ops == (op,)
    assert Policy.from_config(name).name == name
    assert Policy.from_config(["horizontal_flip", name]).ops == (HorizontalFlip(), op)
    written = Policy.from_config([name]).to_config()
    assert written["ops"] == [{op.name: op.model_dump(mode="json")}]
    assert Policy.from_config(written) == Policy.from_config(name)


def test_a_file_may_be_called_like_a_short_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rand-mild.yaml").write_text("[rotate]")
    assert Policy.from_config("rand-mild.yaml").ops == (Rotate(),)
    with pytest.raises(PolicyError, match=r"cannot read the policy file augmix-m3\.json: No such file"):
        Policy.from_config("augmix-m3.json")


@pytest.mark.parametrize("preset", ["randaugment", "trivialaugment", "augmix", "cutout"])
def test_strong_presets_stand_behind_the_flip_and_crop_of_their_papers(preset: str) -> None:
    assert PRESETS[preset].ops[:2] == PRESETS["standard"].ops
    assert PRESETS[preset].sampling == "bilinear"
    assert len(PRESETS[preset].ops) == 3


# -- schedules -------------------------------------------------------------------------------------


def scheduled(entries: list[Any], epochs: int | None = 11) -> Policy:
    config: dict[str, Any] = {"ops": entries}
    return Policy.from_config(config if epochs is None else config | {"epochs": epochs})


def test_a_scheduled_parameter_goes_in_straight_lines_and_is_level_beyond() -> None:
    policy = scheduled([{"rotate": {"degrees": {"schedule": [[0.2, 10], [0.4, 30], [0.9, 20]]}, "p": 0.5}}])
    assert policy.changes
    degrees = {}
    for epoch in range(14):
        at = policy.at(epoch)
        assert not at.changes
        [op] = at.plain_ops
        assert isinstance(op, Rotate)
        assert op.p == 0.5
        degrees[epoch] = op.degrees
    assert degrees == pytest.approx(
        {0: 10, 1: 10, 2: 10, 3: 20, 4: 30, 5: 28, 6: 26, 7: 24, 8: 22, 9: 20, 10: 20, 11: 20, 12: 20, 13: 20}
    )


def test_ranges_whole_numbers_and_p_can_change() -> None:
    policy = scheduled(
        [
            {"scale": {"factor": {"schedule": [[0, [1, 1]], [1, [0.5, 2]]]}}},
            {"posterize": {"bits": {"schedule": [[0, 8], [1, 4]]}}},
            {"crop": {"padding": {"schedule": [[0, 0], [1, 4]]}, "p": {"schedule": [[0, 0], [1, 1]]}}},
        ]
    )
    assert policy.at(5).ops == (Scale(factor=(0.75, 1.5)), Posterize(bits=(6, 6)), Crop(padding=2, p=0.5))
    assert policy.at(4).plain_ops[2] == Crop(padding=2, p=0.4)  # 1.6 is rounded
    assert policy.at(10).ops == (Scale(factor=(0.5, 2)), Posterize(bits=(4, 4)), Crop(padding=4))


def test_one_knot_holds_always_and_one_epoch_is_the_first() -> None:
    policy = scheduled([{"rotate": {"degrees": {"schedule": [[0.5, 7]]}}}], epochs=1)
    assert policy.at(0).ops == (Rotate(degrees=7),)
    rising = scheduled([{"rotate": {"degrees": {"schedule": [[0, 7], [1, 9]]}}}], epochs=1)
    assert rising.at(0).ops == (Rotate(degrees=7),)


def test_schedules_survive_writing_and_reading(tmp_path: Path) -> None:
    policy = scheduled(
        ["horizontal_flip", {"scale": {"factor": {"schedule": [[0, [1, 1]], [1, [0.5, 2]]]}}},
         {"rotate": {"degrees": {"schedule": [[0, 5], [1, 30]]}}}]
    )  # fmt: skip
    assert [type(op) for op in policy.ops] == [HorizontalFlip, ScheduledOp, ScheduledOp]
    (tmp_path / "p.json").write_text(policy.to_json())
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(policy.to_config()))
    for name in ("p.json", "p.yaml"):
        again = Policy.from_config(str(tmp_path / name))
        assert again == policy
        assert hash(again) == hash(policy)
        assert again.at(3) == policy.at(3)
    written = policy.to_config()
    assert written["epochs"] == 11
    assert written["ops"][2] == {"rotate": {"p": 1.0, "degrees": {"schedule": [[0.0, 5.0], [1.0, 30.0]]}}}
    assert "schedule" in str(policy)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ([], "a schedule is a list of [progress, value], progress rising from 0 to 1, found []"),
        (5, "a schedule is a list of [progress, value]"),
        ([[0, 1], [0, 2]], "progress rising from 0 to 1, found 0"),
        ([[0.5, 1], [0.2, 2]], "progress rising from 0 to 1, found 0.2"),
        ([[0, 1], [1.5, 2]], "progress rising from 0 to 1, found 1.5"),
        ([[-0.1, 1]], "progress rising from 0 to 1, found -0.1"),
        ([[0, 1, 2]], "found [0, 1, 2] in it"),
        ([0, 1], "found 0 in it"),
        ([[0, "1"]], "found [0, '1'] in it"),
        ([[0, True]], "found [0, True] in it"),
        ([[0, 1], [1, [1, 2]]], "all values of a schedule are numbers, or all are ranges"),
        ([[0, 1], [1, 181]], "rotate.degrees should be less than or equal to 180, found 181.0"),
        ([[0, float("nan")]], "rotate.degrees"),
        ([[float("nan"), 5]], "progress rising from 0 to 1, found nan"),
        ([[0, [1, 2]]], "rotate.degrees"),
    ],
)
def test_a_wrong_schedule_is_refused_in_one_line(schedule: Any, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        Policy.from_config([{"rotate": {"degrees": {"schedule": schedule}}}])
    assert message in str(caught.value)
    assert str(caught.value).startswith("rotate")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"translate": {"unit": {"schedule": [[0, 1]]}}}, "translate.unit"),
        ({"erasing": {"noise": {"schedule": [[0, 1]]}}}, "erasing.noise"),
        ({"elastic": {"cells": {"schedule": [[0, 2], [1, 5]]}}}, "elastic.cells should be a number"),
        ({"rotate": {"degrees": {"schedule": [[0, 1]], "more": 1}}}, "rotate.degrees"),
        ({"rotate": {"degree": {"schedule": [[0, 1]]}}}, "unknown parameter 'degree'; did you mean 'degrees'"),
        ({"rotate": {"degrees": {"schedule": [[0, 1]]}, "p": 2}}, "rotate.p should be less than or equal to 1"),
    ],
)
def test_what_cannot_change_is_refused(entry: Any, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        Policy.from_config([entry])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_schedule_without_a_number_of_epochs_says_what_is_missing() -> None:
    policy = scheduled([{"rotate": {"degrees": {"schedule": [[0, 5], [1, 30]]}}}], epochs=None)
    with pytest.raises(PolicyError, match="rotate has a schedule: give the policy `epochs`"):
        policy.at(0)
    with pytest.raises(PolicyError, match="rotate has a schedule"):
        augment_batch(np.zeros((1, 8, 8, 3), np.uint8), policy, seed=0, epoch=0, sample_ids=[0])


# -- phases ----------------------------------------------------------------------------------------

PHASES = {
    "name": "three",
    "fill": 9,
    "sampling": "nearest",
    "ops": ["horizontal_flip"],
    "phases": [
        {"from_epoch": 2, "ops": ["rotate", "elastic"]},
        {"from_epoch": 5, "ops": []},
        {"from_epoch": 6, "ops": ["rand-m9-n2"]},
    ],
}


def test_phases_take_each_others_place() -> None:
    policy = Policy.from_config(PHASES)
    assert policy.changes
    expected = {0: (HorizontalFlip(),), 1: (HorizontalFlip(),), 2: (Rotate(), Elastic()), 4: (Rotate(), Elastic())}
    expected |= {5: (), 6: (RandAugment(),), 99: (RandAugment(),)}  # type: ignore[dict-item]
    for epoch, ops in expected.items():
        at = policy.at(epoch)
        assert at.ops == ops
        assert (at.name, at.fill, at.sampling) == ("three", (9, 9, 9), "nearest")


def test_phases_survive_writing_and_reading() -> None:
    policy = Policy.from_config(PHASES)
    assert Policy.from_config(json.loads(policy.to_json())) == policy
    assert Policy.from_config(yaml.safe_load(yaml.safe_dump(policy.to_config()))) == policy
    assert policy != Policy.from_config(PHASES | {"phases": PHASES["phases"][:2]})  # type: ignore[index]
    assert "from epoch 5: pictures as they are; from epoch 6: rand_augment" in str(policy)


def test_equal_policies_keep_their_own_names() -> None:
    one, other = (Policy.from_config(PHASES | {"name": name}) for name in ("one", "other"))
    assert one == other
    assert (one.at(2).name, other.at(2).name) == ("one", "other")


def test_a_phase_from_the_first_epoch_on_is_the_ops() -> None:
    policy = Policy.from_config({"phases": [{"from_epoch": 0, "ops": ["rotate"]}]})
    assert policy == Policy.from_config(["rotate"])
    assert not policy.changes
    later = Policy.from_config({"phases": [{"from_epoch": 1, "ops": ["rotate"]}]})
    assert later.at(0).ops == ()


def test_a_policy_that_does_not_change_is_that_of_any_epoch() -> None:
    policy = Policy.from_config(["rotate"])
    assert policy.at(0) is policy.at(1000) is policy
