"""Commands that do what they say, as a user types them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import augft as package
from augft.config import Job, load_job_text
from augft.data.packed import open_packed

JOB = """
name: small
data: {source: digits, image_size: 8}
augment: {policy: digits}
model: {name: resnet20, weights: none}
train: {epochs: 1}
"""
COMMANDS = [("train",), ("pack",), ("preview",), ("submit",), ("config", "show"), ("config", "schema")]


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return path


def fresh(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own, by the console script."""
    script = Path(sys.executable).with_name("augft")
    return subprocess.run([str(script), *arguments], cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def test_importing_the_command_line_is_light() -> None:
    code = "import augft.cli, sys; print([m for m in sys.modules if m in ('torch','ray','numba','pandas','pyarrow')])"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert asked.stdout.strip() == "[]"


def test_help_and_version_load_nothing_heavy() -> None:
    for argument in ("--help", "--version"):
        code = (
            f"import sys; sys.argv = ['augft', '{argument}']\n"
            "from augft.cli import main\n"
            "try: main()\n"
            "except SystemExit as end: assert not end.code\n"
            "assert not {'torch', 'ray', 'numba', 'pyarrow'} & set(sys.modules)"
        )
        asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert asked.returncode == 0, asked.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_each_command_has_help_with_an_example(augft: Callable, command: tuple[str, ...]) -> None:
    typed = augft(*command, "--help")
    assert typed.code == 0
    assert f"Example: augft {' '.join(command)}" in " ".join(typed.out.replace("│", " ").split())


def test_the_console_script_and_its_exit_codes(job: Path) -> None:
    version = fresh("--version", cwd=job.parent)
    assert (version.returncode, version.stdout, version.stderr) == (0, f"augft {package.__version__}\n", "")
    wrong = fresh("config", "show", "job.yaml", "--set", "trian=1", cwd=job.parent)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "augft: job.yaml: unknown key trian; did you mean train?\n"


def test_config_show_is_the_resolved_job(augft: Callable, job: Path) -> None:
    typed = augft("config", "show", "job.yaml", "--set", "seed=7", "--set", "train.optimizer.lr=0.5")
    assert (typed.code, typed.err) == (0, "")
    shown = load_job_text(typed.out, "shown")
    assert shown == load_job_text(JOB, "job", ["seed=7", "train.optimizer.lr=0.5"])
    assert set(yaml.safe_load(typed.out)) == set(Job.model_fields)
    assert "quickstart" in augft("config", "show").out


def test_config_schema(augft: Callable, job: Path) -> None:
    typed = augft("config", "schema")
    assert (typed.code, typed.err) == (0, "")
    assert set(json.loads(typed.out)["properties"]) == set(Job.model_fields)
    assert augft("config", "schema", "job.yaml").out == typed.out
    job.write_text("trian: 1")
    assert augft("config", "schema", "job.yaml").code == 2


def test_preview_is_a_picture_and_always_the_same(augft: Callable, job: Path, tmp_path: Path) -> None:
    first = augft("preview", "job.yaml", "--out", "folder/first.png")
    assert (first.code, first.out) == (0, "")
    assert first.err == "folder/first.png\n"
    augft("preview", "job.yaml", "--out", "second.png")
    augft("preview", "job.yaml", "--out", "other.png", "--set", "seed=1")
    picture = (tmp_path / "folder/first.png").read_bytes()
    assert picture == (tmp_path / "second.png").read_bytes()
    assert picture != (tmp_path / "other.png").read_bytes()
    with Image.open(tmp_path / "second.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "job.yaml", "other.png", "second.png"]


def test_preview_of_all_ops(augft: Callable, job: Path, tmp_path: Path) -> None:
    typed = augft("preview", "job.yaml", "--all-ops", "--out", "ops.png")
    assert (typed.code, typed.out, typed.err) == (0, "", "ops.png\n")
    augft("preview", "--all-ops", "job.yaml", "--set", "augment.policy=basic", "--out", "again.png")
    with Image.open(tmp_path / "ops.png") as image:
        assert min(image.size) > 1000
    assert (tmp_path / "ops.png").read_bytes() != (tmp_path / "again.png").read_bytes()  # `basic` samples the nearest


def test_preview_of_one_sample(augft: Callable, job: Path, tmp_path: Path) -> None:
    longer = ("--set", "train.epochs=5", "--set", "augment.copies=3", "--set", "data.val_fraction=0")
    typed = augft("preview", "job.yaml", *longer, "--sample-id", 12, "--epoch", 4, "--copy", 2, "--out", "one.png")
    assert (typed.code, typed.err) == (0, "one.png\n")
    lines = typed.out.splitlines()
    assert lines[0].startswith("sample 12, ")
    assert lines[1].startswith("epoch 4, copy 2: in step ")
    assert lines[2].startswith("policy digits: rotate(")
    assert [line.split()[0] for line in lines[3:]] == ["rotate", "translate"]
    with Image.open(tmp_path / "one.png") as image:
        assert image.width > 600
    others = [
        augft("preview", "job.yaml", *longer, *words, "--out", "other.png").out
        for words in (("--sample-id", 12), ("--sample-id", 12, "--epoch", 4), ("--sample-id", 13, "--epoch", 4))
    ]
    assert len({typed.out, *others}) == 4


def test_preview_of_an_epoch(augft: Callable, job: Path, tmp_path: Path) -> None:
    for name, words in (("none", ()), ("first", ("--epoch", 0)), ("last", ("--epoch", 4))):
        assert augft("preview", "job.yaml", "--set", "train.epochs=5", *words, "--out", f"{name}.png").code == 0
    pictures = [(tmp_path / f"{name}.png").read_bytes() for name in ("none", "first", "last")]
    assert pictures[0] == pictures[1] != pictures[2]


def test_pack_says_what_it_packed(augft: Callable, tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for k in range(10):
            pixels = np.full((9, 7, 3), 10 * k, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / label / f"{k}.png")
    out = tmp_path / "packed"
    typed = augft("pack", tmp_path / "pictures", out, "--image-size", 8, "--val-fraction", 0.2, "--seed", 3)
    assert (typed.code, typed.out) == (0, "")
    dataset = open_packed(out)
    digest = dataset.manifest.digest[:12]
    assert typed.err == f"{out}: train 16, val 4 pictures of 2 classes, digest {digest}\n"
    assert dataset.manifest.image_shape == (8, 8, 3)
    again = augft("pack", tmp_path / "pictures", out, "--image-size", 8, "--val-fraction", 0.2, "--seed", 3)
    assert (again.code, again.err) == (0, typed.err)


def test_pack_can_leave_out_what_is_bad(augft: Callable, tmp_path: Path) -> None:
    augft_fails, augft_skips = (tmp_path / name for name in ("fails", "skips"))
    for label in ("cat", "dog"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for k in range(3):
            Image.new("RGB", (4, 4), (k, k, k)).save(tmp_path / "pictures" / label / f"{k}.png")
    (tmp_path / "pictures/cat/bad.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    typed = augft("pack", tmp_path / "pictures", augft_fails)
    assert typed.code == 2
    assert "cat/bad.png" in typed.err
    assert typed.err.count("\n") == 1
    assert not augft_fails.exists()
    typed = augft("pack", tmp_path / "pictures", augft_skips, "--on-bad", "skip")
    assert typed.code == 0
    assert typed.err.splitlines()[1].startswith("left out cat/bad.png: ")
    assert open_packed(augft_skips).split("train").num_rows == 6


def test_an_interrupt_says_how_to_go_on(augft: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("augft.config.load_job", interrupted)
    typed = augft("config", "show")
    assert (typed.code, typed.err) == (130, "augft: interrupted; go on from the last checkpoint with --resume\n")
