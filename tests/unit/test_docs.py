"""docs/augmentation.md against the code that it describes."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from PIL import Image

from augft.augment.policy import ALL_OPS, Policy
from augft.config import AugmentConfig
from augft.schema import op_schema

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "augmentation.md").read_text(encoding="utf-8")
AGAIN = "run: python docs/make_augmentation.py"


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    """docs/make_augmentation.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("make_augmentation", ROOT / "docs" / "make_augmentation.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def section(name: str) -> str:
    found = re.search(rf"^#### `{name}`\n(.*?)(?=^#|^<a )", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"docs/augmentation.md lacks {name}; {AGAIN}"
    return found[1]


@pytest.mark.parametrize("name", ALL_OPS)
def test_an_op_is_shown_with_all_there_is_to_say(name: str) -> None:
    text = section(name)
    op = ALL_OPS[name]
    for parameter, entry in op_schema(op)["properties"].items():
        [row] = re.findall(rf"^\| `{parameter}` \| (.*) \|$", text, re.MULTILINE)
        default, _, meaning = row.split(" | ")
        assert meaning == entry["description"], AGAIN
        shown = [float(number) for number in re.findall(r"[\d.]+", default)]
        values = entry["default"] if isinstance(entry["default"], list) else [entry["default"]]
        if isinstance(values[0], str | bool):
            assert default.strip("`") == str(values[0]).lower(), AGAIN
        else:
            assert shown == pytest.approx(values, rel=1e-3), AGAIN
    assert op.source in text, AGAIN
    assert f"](images/ops/{name}.png)" in text


def test_the_page_is_the_one_that_is_made(maker: ModuleType) -> None:
    assert maker.with_made_part(PAGE) == PAGE, AGAIN


def test_there_is_a_small_picture_of_each_op_and_no_other() -> None:
    paths = sorted((ROOT / "docs" / "images" / "ops").glob("*"))
    assert {path.stem for path in paths} == {*ALL_OPS, "mixup", "cutmix"}, AGAIN
    for path in paths:
        assert path.stat().st_size < 32_000
        with Image.open(path) as image:
            assert (image.format, image.mode, image.height) == ("PNG", "P", 96)


def test_the_headings_stand_in_the_order_of_the_table() -> None:
    assert set(re.findall(r"^#### `(\w+)`$", PAGE, re.MULTILINE)) == set(ALL_OPS)


@pytest.mark.parametrize("text", re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
def test_an_example_is_a_policy(text: str) -> None:
    config = yaml.safe_load(text)
    policy = config["augment"]["policy"] if "augment" in config else config
    assert Policy.from_config(policy).changes or Policy.from_config(policy).ops


@pytest.mark.parametrize(("short", "long"), re.findall(r"^\| `([a-z0-9-]+)`.* \| `(.*?)`", PAGE, re.MULTILINE))
def test_a_short_name_is_what_the_page_says(short: str, long: str) -> None:
    if short in ("0", "mean", "edge", "reflect") or "-" not in short:
        return
    assert Policy.from_config(short) == Policy.from_config([yaml.safe_load(long)])


def test_the_keys_of_mixing_are_those_of_the_job() -> None:
    for key in ("mixup_alpha", "cutmix_alpha"):
        assert f"| `augment.{key}` | {AugmentConfig.model_fields[key].default:g} | from 0 on |" in PAGE
