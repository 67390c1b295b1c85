"""What the project says of itself: the README against the code, job files, Makefile, version, words."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

import augft
from augft.augment.ops import OPS
from augft.augment.policy import PRESETS, Policy
from augft.cli import app
from augft.config import Job, load_job, load_job_text, quickstart_text

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
JOBS = sorted((ROOT / "jobs").glob("*.yaml"))
TARGETS = ("quickstart", "test", "faults", "check", "bench", "clean")


def blocks(language: str) -> list[str]:
    """The README's fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands(first_word: str) -> list[list[str]]:
    """Command lines of the README that begin with a word: in sh blocks, and in backquotes."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL))
    return [shlex.split(line, comments=True) for line in lines if line.startswith(f"{first_word} ")]


def parse(words: list[str]) -> dict[str, Any]:
    """Parse an augft command line without running it; a command's name alone is only looked up."""
    command: Any = typer.main.get_command(app)
    while words and not words[0].startswith("-") and hasattr(command, "commands"):
        assert words[0] in command.commands, f"augft has no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    if hasattr(command, "commands") or not words:
        return {}
    parameters: dict[str, Any] = command.make_context(command.name, list(words)).params
    return parameters


AUGFT_COMMANDS = commands("augft")


# -- job files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_job_file_loads_and_resolves_to_itself(path: Path) -> None:
    job = load_job(path)
    Policy.from_config(job.augment.policy)
    assert load_job_text(job.to_yaml(), "resolved") == job


def test_the_quickstart_is_the_file_in_jobs() -> None:
    assert quickstart_text() == (ROOT / "jobs" / "quickstart.yaml").read_text(encoding="utf-8")


# -- the README ------------------------------------------------------------------------------------


def test_the_readme_begins_with_the_two_commands() -> None:
    first = blocks("sh")[0].splitlines()
    assert [line.split("#")[0].strip() for line in first] == ["make quickstart", "make test"]


@pytest.mark.parametrize("words", AUGFT_COMMANDS, ids=" ".join)
def test_a_command_in_the_readme_is_understood(words: list[str]) -> None:
    parameters = parse(words[1:])
    path = parameters.get("job")
    if path is not None and path.startswith("jobs/"):
        assert (ROOT / path).is_file()
    load_job(None, parameters.get("overrides") or ())


def test_every_command_is_in_the_readme() -> None:
    top: Any = typer.main.get_command(app)
    assert set(top.commands) <= {words[1] for words in AUGFT_COMMANDS}


@pytest.mark.parametrize("name", sorted({words[1] for words in commands("make")}))
def test_a_target_in_the_readme_is_in_the_makefile(name: str) -> None:
    assert name in TARGETS


@pytest.mark.parametrize("source", blocks("python"))
def test_a_python_snippet_uses_names_that_exist(source: str) -> None:
    tree = ast.parse(source)
    named = [
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "augft"
    ]
    assert named
    for name in named:
        assert name in augft.__all__
        assert getattr(augft, name) is not None


@pytest.mark.parametrize("text", blocks("yaml"))
def test_a_job_in_the_readme_is_valid(text: str) -> None:
    Policy.from_config(load_job_text(text, "README.md").augment.policy)


def test_the_readme_names_each_preset_op_and_section() -> None:
    words = set(re.findall(r"`([^`\n]+)`", README))
    assert set(PRESETS) <= words
    assert set(OPS) <= words
    assert set(Job.model_fields) <= words
    assert {word for word in words if re.fullmatch(r"jobs/[^/ ]+", word)} <= {f"jobs/{path.name}" for path in JOBS}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


# -- version, Makefile, words ----------------------------------------------------------------------


def test_there_is_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    home = ROOT / project["tool"]["hatch"]["version"]["path"]
    assert f'__version__ = "{augft.__version__}"' in home.read_text(encoding="utf-8")
    assert CliRunner().invoke(app, ["--version"]).output.strip() == f"augft {augft.__version__}"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("target", TARGETS)
def test_a_make_target_exists(target: str) -> None:
    made = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert made.returncode == 0, made.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_says_in_a_line_what_is_wrong_with_python(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    old = tmp_path / "python-old"
    old.write_text("#!/bin/sh\necho is 3.9.2\n")
    old.chmod(0o755)
    for python, complaint in ((str(old), "is 3.9.2"), ("no-such-python", "does not run")):
        made = subprocess.run(
            ["make", f"PYTHON={python}", "check"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert made.returncode == 2
        assert len(made.stderr.splitlines()) == 1
        assert f"{complaint}: augft needs Python 3.11 or newer" in made.stderr
    assert not (tmp_path / ".venv").exists()


def test_ci_checks_and_then_tests() -> None:
    script = ROOT / ".ci" / "run"
    lines = [line for line in script.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert script.stat().st_mode & 0o111
    pytest_lines = ("make test", ".venv/bin/python -m pytest")
    tests = [number for number, line in enumerate(lines) if line.startswith(pytest_lines)]
    assert len(tests) == 1
    assert lines.index("make check") < tests[0]


def test_pre_commit_runs_local_tools_only() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert {repo["repo"] for repo in config["repos"]} == {"local"}


def test_no_file_speaks_of_the_place_it_was_written_at() -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    # In pieces, so that this file does not hold them itself.
    places = "|".join(f"/{name}/" for name in ("work", "home", "root"))
    forbidden = re.compile(rf"{places}|\bissues? #?\d", re.IGNORECASE)
    found = []
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        data = path.read_bytes() if path.is_file() else b""
        if b"\0" not in data:
            found += [f"{name}: {match[0]}" for match in forbidden.finditer(data.decode("utf-8", "replace"))]
    assert found == []


def test_train_is_a_package_that_can_be_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python puts the package in the place of a function of its name when something of it is imported."""
    import augft.train.launch

    given: list[object] = []
    monkeypatch.setattr(augft.train.launch, "train", lambda job, **options: given.append((job, options)))
    augft.train("a job", resume=True)
    augft.train("another")
    assert given == [("a job", {"resume": True}), ("another", {})]
