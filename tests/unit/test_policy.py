"""Policies: what may be written, what is refused and how, and what comes back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from augft.augment.ops import OPS, Crop, HorizontalFlip, Rotate
from augft.augment.policy import PRESETS, Policy
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
    assert written["ops"] == [{"translate": {"p": 1.0, "x": 0.3, "y": 0.1}}]


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
    ({"ops": [], "fill": "edge"}, "fill must be"),
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


@pytest.mark.parametrize("name", sorted(OPS))
def test_bounds_are_inclusive_as_the_schema_says(name: str) -> None:
    properties = OPS[name].model_json_schema()["properties"]
    for parameter, schema in properties.items():
        assert schema["description"]
        for bound in ("minimum", "maximum"):
            Policy.from_config([{name: {parameter: schema[bound]}}])


def test_reading_a_policy_loads_no_compiler() -> None:
    code = "import sys, augft.augment.apply; sys.exit(bool({'numba', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
