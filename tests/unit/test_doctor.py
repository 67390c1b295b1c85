"""What the doctor makes of facts."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from augft import cli
from augft.config import load_job
from augft.data.stream import UNITS_AHEAD, UNITS_IN_STORE
from augft.display import Display
from augft.doctor import judge, measure
from augft.doctor.examine import Checkup, examine, show
from augft.doctor.facts import Clock, Disk, NodeFacts, node_facts
from augft.doctor.judge import HERE, Finding, Speed
from augft.train.nodes import Answer, Node
from augft.train.placement import Placement, Seat
from augft.train.visibility import weights_file

GB = 10**9
FACTS = NodeFacts(
    versions={"python": "3.11.7", "cuda": "none", "augft": "0.1", "ray": "2.60.0", "torch": "2.14.1", "numpy": "2.1"},
    cpus=8,
    gpus=0,
    memory_bytes=32 * GB,
    shared_memory_bytes=16 * GB,
    temp=Disk("/tmp/ray", 50 * GB, 100 * GB),
    cache=Disk("/cache", 50 * GB, 100 * GB),
)
PLACEMENT = Placement(False, 4, 1, 3, 9, seats=(Seat("a", 16, 0, 2, 3),))


def having(**versions: str) -> NodeFacts:
    return replace(FACTS, versions={**FACTS.versions, **versions})


def levels(findings: list[Finding]) -> list[str]:
    return [finding.level for finding in findings]


# ---- versions, GPUs, disks, clocks -----------------------------------------------------------------------------------


def test_equal_versions_are_fine() -> None:
    (found,) = judge.of_versions({"a": FACTS, "b": having(python="3.11.9")})
    assert found == Finding("ok", "Python and 5 packages are the same on 2 machines")
    assert judge.of_versions({HERE: FACTS}) == []


@pytest.mark.parametrize(
    ("package", "version", "level"),
    [
        ("python", "3.12.1", "problem"),
        ("ray", "2.61.0", "problem"),
        ("augft", "none", "problem"),
        ("torch", "2.13.0", "problem"),
        ("numpy", "1.26.4", "warning"),
        ("cuda", "13.0", "warning"),
    ],
)
def test_another_version_is_named_with_its_node(package: str, version: str, level: str) -> None:
    (found,) = judge.of_versions({"a": FACTS, "b": having(**{package: version}), "c": FACTS})
    assert found.level == level
    assert found.text.startswith(f"{package}: most nodes have ")
    assert f"b has {'3.12' if package == 'python' else version}; install the same" in found.text


def test_a_node_that_says_nothing_is_a_problem() -> None:
    answers = [Answer(Node("a", 4), FACTS), Answer(Node("b", 4), error="No module named 'augft'")]
    (found,) = judge.of_answers(answers)
    assert found.level == "problem"
    assert found.text.startswith("node b: No module named 'augft'; ")


def test_gpus_that_pytorch_does_not_see() -> None:
    nodes = [Node("a", 8, 2), Node("b", 8, 1), Node("c", 8), Node("silent", 8, 1)]
    facts = {"a": replace(FACTS, gpus=2), "b": FACTS, "c": FACTS}
    (found,) = judge.of_gpus(nodes, facts)
    assert found.level == "problem"
    assert found.text.startswith("node b: Ray counts 1 GPU, PyTorch sees none (built for CUDA none)")


def test_full_disks() -> None:
    assert levels(judge.of_disks({"a": FACTS}, 40 * GB)) == ["ok"]
    full = replace(FACTS, temp=Disk("/tmp/ray", 5 * GB, 100 * GB))
    (found,) = judge.of_disks({"a": FACTS, "b": full}, None)
    assert found.text.startswith("b: 5.0 GB of 100.0 GB are free at /tmp/ray")
    (found,) = judge.of_disks({"a": FACTS}, 60 * GB)
    assert found.level == "warning"
    assert "the pictures take 60.0 GB there" in found.text


@pytest.mark.parametrize(
    ("clock", "level"),
    [
        (Clock(0.4, 0.01), "ok"),
        (Clock(5.0, 4.5), "ok"),  # too slow an answer to tell
        (Clock(-5.0, 0.5), "warning"),
        (Clock(400.0, 0.5), "problem"),
    ],
)
def test_clocks(clock: Clock, level: str) -> None:
    (found,) = judge.of_clocks({"a": clock})
    assert found.level == level
    assert level == "ok" or f"node a: its clock is {clock.offset_s:+.1f} s off" in found.text


# ---- the job ---------------------------------------------------------------------------------------------------------


def test_what_the_stream_takes_of_the_object_store() -> None:
    taken, unit = judge.stream_bytes(
        global_batch_size=256, num_workers=2, max_actors=3, row_bytes=3072, unit_rows=16_000
    )
    assert unit == 125 * 128 * 3072  # 125 steps of 128 rows are 16,000
    assert taken == (UNITS_IN_STORE * 5 + UNITS_AHEAD * 2) * unit
    nodes = [Node("a", 8, object_store_bytes=2 * taken), Node("head", 0, object_store_bytes=1)]
    assert levels(judge.of_store(taken, unit, nodes)) == ["ok"]
    nodes = [Node("a", 8, object_store_bytes=taken // 2)]
    assert levels(judge.of_store(taken, unit, nodes)) == ["warning"]
    nodes = [Node("a", 8, object_store_bytes=taken), Node("b", 8, object_store_bytes=unit)]
    (found,) = judge.of_store(taken, unit, nodes)
    assert found.level == "problem"
    assert found.text.startswith("node b: ")


def test_the_object_store_of_a_machine_is_bounded_by_its_shared_memory() -> None:
    assert judge.local_store_bytes(FACTS) == int(0.3 * 32 * GB)
    assert judge.local_store_bytes(replace(FACTS, shared_memory_bytes=GB)) == int(0.95 * GB)
    assert judge.local_store_bytes(replace(FACTS, memory_bytes=10**13, shared_memory_bytes=None)) == 200 * GB


def test_a_plan_that_fits() -> None:
    (found,) = judge.of_placement(PLACEMENT, 16, None)
    assert found == Finding(
        "ok", "Data and Train cannot starve each other: 2 workers x 4 CPUs and 1 to 3 actors fit into 16 CPUs"
    )
    found, note = judge.of_placement(replace(PLACEMENT, cpus_per_worker=1, note="a note"), 16, 2)
    assert found.text == (
        "Data, Train and Tune cannot starve each other: 2 workers x 1 CPU and 2 to 6 actors, and 2 drivers of trials, "
        "fit into 16 CPUs"
    )
    assert note == Finding("warning", "a note")


def test_a_plan_that_waits_for_nodes_is_not_said_to_fit() -> None:
    assert judge.of_placement(replace(PLACEMENT, waits=True, note="waits"), 2, None) == [Finding("warning", "waits")]


def test_cpus_in_use_by_others() -> None:
    assert judge.of_use(9, 16, 7.0) == []
    (found,) = judge.of_use(9, 16, 10.0)
    assert found.text.startswith("10 of 16 CPUs are in use by others just now: this job needs 9")


@pytest.mark.parametrize(
    ("actor", "worker", "needed", "level"),
    [(1000.0, 400.0, 1, "ok"), (300.0, 450.0, 3, "ok"), (100.0, 300.0, 6, "warning")],
)
def test_how_many_actors_training_asks_for(actor: float, worker: float, needed: int, level: str) -> None:
    speed = Speed(actor, worker, num_workers=2)
    assert speed.actors_needed == needed
    (found,) = judge.of_speed(speed, PLACEMENT)
    assert found.level == level
    assert f"it takes {needed} actor" in found.text
    assert "there is room for 3" in found.text
    assert level == "ok" or "wait for some 50 % of its time" in found.text


def test_which_weights_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("imagenet", "weights.pth"):
        (tmp_path / name).touch()
    assert weights_file("weights.pth") == str(tmp_path / "weights.pth")
    for weights in ("imagenet", "none", "bundled:resnet20-cifar10", "missing.pth"):
        assert weights_file(weights) is None


# ---- this machine ----------------------------------------------------------------------------------------------------


def test_facts_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUGFT_CACHE", str(tmp_path / "not" / "made"))
    facts = node_facts()
    assert set(facts.versions) > {"python", "cuda", "augft", "ray", "torch"}
    assert facts.cpus > 0
    assert facts.cache.folder == str(tmp_path / "not" / "made")
    assert 0 <= facts.cache.free_bytes <= facts.cache.total_bytes
    assert not (tmp_path / "not").exists()


def _look_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str, trials: int | None = None) -> Checkup:
    monkeypatch.setattr(measure, "MEASURE_S", 0.01)
    job = load_job(None, ["data.image_size=8", "model.weights=none", f"run.storage_path={tmp_path}/runs", *overrides])
    return examine(job, address=None, trials=trials, display=Display(Console(file=io.StringIO())))


def test_a_job_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkup = _look_at(tmp_path, monkeypatch)
    assert checkup.exit_code == 0, checkup.findings
    assert checkup.speed is not None
    assert checkup.speed.actor > 0
    assert checkup.speed.worker > 0
    assert not (tmp_path / "runs").exists(), "nothing is left"
    printed = io.StringIO()
    show(checkup, Console(file=printed))
    lines = printed.getvalue().splitlines()
    assert lines[1].startswith(HERE)
    assert any(line.startswith("who sits where: workers with ") for line in lines)
    assert len([line for line in lines if line.startswith("ok ")]) == len(checkup.findings)


@pytest.mark.parametrize("where", ["actors", "device"])
def test_what_is_measured_is_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    augmented = []
    original = measure.Augmenter.columns

    def columns(self: Any, positions: Any) -> Any:
        found = original(self, positions)
        augmented.append((len(positions), self._policy.name, found["image"].shape))
        return found

    monkeypatch.setattr(measure.Augmenter, "columns", columns)
    _look_at(tmp_path, monkeypatch, f"augment.where={where}", "scale.num_workers=2", "train.global_batch_size=64")
    (_, policy, _), (rows, _, shape) = augmented[0], augmented[-1]
    assert policy == ("digits" if where == "actors" else "none")
    assert (rows, shape) == (32, (32, 8, 8, 3))  # a worker's share of a step


def test_problems_of_a_job_are_findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkup = _look_at(tmp_path, monkeypatch, f"data.source={tmp_path}/nothing")
    assert checkup.exit_code == 2
    assert any(finding.level == "problem" and "nothing" in finding.text for finding in checkup.findings)
    (tmp_path / "runs").touch()
    checkup = _look_at(tmp_path, monkeypatch)
    assert checkup.exit_code == 2
    assert checkup.speed is None
    problem = next(finding.text for finding in checkup.findings if finding.level == "problem")
    assert f"{tmp_path}/runs" in problem


def test_more_trials_than_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkup = _look_at(tmp_path, monkeypatch, trials=1000)
    assert checkup.exit_code == 2
    refusal = next(found.text for found in checkup.findings if found.level == "problem")
    assert refusal.startswith("1000 workers x 1 CPU of 1000 trials do not fit")
    assert "run fewer trials at a time, or lower scale.num_workers" in refusal


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setattr("sys.argv", ["augft", "doctor", "--json", "--set", f"data.source={tmp_path}/nothing"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    found = json.loads(capsys.readouterr().out)
    assert set(found["facts"]) == {HERE}
    assert [finding["level"] for finding in found["findings"]] == ["problem"]
    assert f"{tmp_path}/nothing" in found["findings"][0]["text"]

    monkeypatch.setattr("sys.argv", ["augft", "doctor", "--trials", "0"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert "--trials" in capsys.readouterr().err
