"""What the doctor says of a real Ray: the deadlock that it refuses, what nodes see, and several nodes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import cloudpickle
from ray.cluster_utils import Cluster
from ray.experimental import internal_kv
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from augft.augment.actor import Augmenter
from augft.augment.policy import Policy
from augft.config import Job, load_job
from augft.data.packed import open_packed
from augft.data.plan import Plan
from augft.data.stream import Pool, batches
from augft.display import Display
from augft.doctor.examine import examine
from augft.errors import ResourceError
from augft.train import visibility
from augft.train.launch import train
from augft.train.nodes import Node, ask_each, cluster_nodes
from augft.train.placement import cluster_placement
from augft.train.visibility import Files, check_visible, look_everywhere, marked

# Workers do not find test modules by name.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

NUM_CPUS = 8
"""Of `local_ray`."""
WAIT_S = 20.0


# ---- the deadlock ----------------------------------------------------------------------------------------------------


def _first_batch(config: dict[str, Any]) -> bool:
    """Whether a worker that waits so long gets its first batch: the stream of a run, without the training."""
    import numpy as np

    samples = open_packed(config["packed"]).split("train").num_rows
    plan = Plan(samples, seed=0, epochs=1, global_batch_size=32)
    actor_kwargs = {
        "packed": config["packed"],
        "split": "train",
        "sample_ids": np.arange(samples),
        "plan": plan,
        "policy": Policy.from_config("none"),
    }
    pool = Pool(Augmenter, actor_kwargs, min_actors=1, max_actors=1, row_bytes=192)
    stream = batches(plan, pool, cursor=0, rank=0, world_size=1, broadcast=lambda value: value)
    arrived = threading.Event()

    def take() -> None:
        next(stream)
        arrived.set()

    threading.Thread(target=take, daemon=True).start()
    return arrived.wait(config["wait_s"])


def _gets_a_batch(packed: Path, folder: Path, cpus_per_worker: int, wait_s: float) -> bool:
    """Plain Ray, with nobody who looks before."""
    trainer = TorchTrainer(
        _first_batch,
        train_loop_config={"packed": str(packed), "wait_s": wait_s},
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": cpus_per_worker}),
        run_config=RunConfig(name=f"deadlock{cpus_per_worker}", storage_path=str(folder)),
    )
    return bool(trainer.fit().return_value)


def _job(folder: Path, *overrides: str) -> Job:
    return load_job(None, [f"run.storage_path={folder}", "run.baseline=null", "data.image_size=8", *overrides])


@pytest.mark.usefixtures("local_ray")
def test_a_job_whose_workers_take_every_cpu_hangs_and_is_refused(digits: Path, tmp_path: Path) -> None:
    assert _gets_a_batch(digits, tmp_path, NUM_CPUS - 1, 300.0), "with a CPU left the actor starts"
    assert not _gets_a_batch(digits, tmp_path, NUM_CPUS, WAIT_S), "without one it waits for ever"

    hanging = _job(tmp_path / "runs", f"scale.cpus_per_worker={NUM_CPUS}")
    reason = "1 worker x 8 CPUs leave 0 of 8 CPUs, too few for 1 augmentation actor: they would wait for each other"
    with pytest.raises(ResourceError, match=reason):
        cluster_placement(hanging.scale, cluster_nodes())
    with pytest.raises(ResourceError, match=reason):
        train(hanging, address="auto", display=Display())
    checkup = examine(hanging, address="auto", trials=None, display=Display())
    assert checkup.exit_code == 2
    assert next(finding.text for finding in checkup.findings if finding.level == "problem").startswith(reason)


@pytest.mark.usefixtures("local_ray")
def test_trials_that_starve_each_other_are_refused(tmp_path: Path) -> None:
    job = _job(tmp_path, "scale.cpus_per_worker=2")
    assert examine(job, address="auto", trials=2, display=Display()).exit_code == 0  # 2 x (1 + 2 + 1) = 8 CPUs
    checkup = examine(job, address="auto", trials=3, display=Display())
    assert checkup.exit_code == 2
    assert any("3 augmentation actors and the 3 drivers of trials" in found.text for found in checkup.findings)


_TRIALS = """
import pathlib, sys, uuid
import ray
from ray import tune
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

folder, temp_dir, num_trials = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])

def work(config):
    (folder / "worked").touch()

def trial(config):
    name = uuid.uuid4().hex
    (folder / f"trial-{name}").touch()
    one = ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1})
    TorchTrainer(work, scaling_config=one, run_config=RunConfig(name=name, storage_path=str(folder))).fit()

ray.init(num_cpus=2, include_dashboard=False, _temp_dir=temp_dir, log_to_driver=False)
tuner = tune.Tuner(
    tune.with_resources(trial, {"CPU": 1}),
    tune_config=tune.TuneConfig(num_samples=num_trials, max_concurrent_trials=num_trials),
    run_config=tune.RunConfig(storage_path=str(folder / "tune")),
)
tuner.fit()
"""


def _works(folder: Path, num_trials: int, wait_s: float) -> bool:
    """Whether a worker of some trials on 2 CPUs does anything within a time, once all trials have begun."""
    folder.mkdir()
    with tempfile.TemporaryDirectory(prefix="aray", dir="/tmp") as temp_dir:
        command = [sys.executable, "-c", _TRIALS, str(folder), temp_dir, str(num_trials)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as tuning:
            try:
                begun = time.monotonic()
                while len(list(folder.glob("trial-*"))) < num_trials:
                    assert tuning.poll() is None
                    assert time.monotonic() - begun < 240, "the trials never began"
                    time.sleep(0.2)
                begun = time.monotonic()
                while not (worked := (folder / "worked").exists()) and time.monotonic() - begun < wait_s:
                    time.sleep(0.2)
            finally:
                tuning.terminate()
                tuning.wait(timeout=60)
    return worked


def test_trials_that_take_every_cpu_hang_and_are_refused(tmp_path: Path) -> None:
    assert _works(tmp_path / "one", 1, 120.0), "with a CPU left a worker starts"
    assert not _works(tmp_path / "two", 2, 30.0), "without one both wait for ever"
    scale = _job(tmp_path, "scale.cpus_per_worker=1").scale
    with pytest.raises(ResourceError, match="they would wait for each other for ever; run fewer trials at a time"):
        cluster_placement(scale, [Node("one", cpus=2)], trials=2)


# ---- a job that fits -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("local_ray")
def test_a_healthy_cluster_has_no_problem_and_is_measured(tmp_path: Path) -> None:
    job = _job(tmp_path / "runs", "scale.num_workers=2", "scale.cpus_per_worker=2", "scale.augment_actors=[1,3]")
    checkup = examine(job, address="auto", trials=None, display=Display())
    assert [finding.text for finding in checkup.findings if finding.level == "problem"] == []
    assert checkup.exit_code == 0
    (node,) = checkup.nodes
    assert node.cpus == NUM_CPUS
    assert checkup.facts[node.name].versions["ray"] == ray.__version__
    assert abs(checkup.clocks[node.name].offset_s) <= checkup.clocks[node.name].uncertainty_s
    assert checkup.placement is not None
    assert [(seat.workers, seat.actors) for seat in checkup.placement.seats] == [(2, 3)]
    assert checkup.speed is not None
    assert checkup.speed.actor > 0
    assert checkup.speed.worker > 0
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").glob(".augft-*")), "nothing is left"
    json.dumps(checkup.to_dict())


# ---- what nodes see --------------------------------------------------------------------------------------------------


def _files(packed: Path, folder: Path, weights: Path | None = None) -> Files:
    digest = open_packed(packed).manifest.digest
    return Files(str(packed), digest, str(folder), str(weights) if weights else None)


@pytest.mark.usefixtures("local_ray")
def test_files_that_are_there_are_seen(digits: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    weights.touch()
    check_visible(_files(digits, tmp_path / "runs", weights), cluster_nodes())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["weights.pth"], "nothing is left"


@pytest.mark.usefixtures("local_ray")
def test_files_that_are_not_seen_are_named(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (node,) = cluster_nodes()
    there = _files(digits, tmp_path)
    gone = Files(str(tmp_path / "nothing"), there.digest, there.folder, str(tmp_path / "none.pth"))
    found = [str(each) for each in look_everywhere(gone, [node])]
    assert len(found) == 2
    assert found[0].startswith(f"node {node.name} does not see the packed pictures at {tmp_path}/nothing (")
    assert found[1].startswith(f"node {node.name} does not see the weights at {tmp_path}/none.pth; copy them")
    with pytest.raises(ResourceError, match=r"\(and 1 more of this kind\)"):
        check_visible(gone, [node])

    other = Files(there.packed, "0" * 64, there.folder)
    assert "has other pictures at" in str(look_everywhere(other, [node])[0])

    # A disk of the node's own at the same path: what was written here is not there.
    @contextmanager
    def written_elsewhere(_: str) -> Iterator[str]:
        with marked(str(tmp_path / "elsewhere")) as marker:
            yield marker

    monkeypatch.setattr(visibility, "marked", written_elsewhere)
    (blind,) = look_everywhere(there, [node])
    assert f"does not see {tmp_path}, or not what others write there; set run.storage_path" in str(blind)


def _sleep() -> None:
    time.sleep(600)


def _fail() -> None:
    raise OSError("the first line\nthe last line")


@pytest.mark.usefixtures("local_ray")
def test_a_node_that_fails_or_is_silent_is_named() -> None:
    (node,) = cluster_nodes()
    lost = Node("10.0.0.9", 1, node_id="a" * 56)
    failed, never = ask_each([node, lost], _fail, timeout_s=60.0)
    assert (failed.value, failed.error) == (None, "OSError: the first line the last line")
    assert never.error
    (silent,) = ask_each([node], _sleep, timeout_s=2.0)
    assert (silent.value, silent.error) == (None, "did not answer within 2 s")


# ---- several nodes ---------------------------------------------------------------------------------------------------

_ON_SEVERAL_NODES = """
import json, sys
import ray
from augft.config import load_job
from augft.display import Display
from augft.doctor.examine import examine
from augft.train.nodes import cluster_nodes, is_autoscaled

address, folder = sys.argv[1:]
ray.init(address, log_to_driver=False, logging_level="ERROR")

@ray.remote(num_cpus=1)
class Actor:
    def role(self):
        return ray.get_runtime_context().get_node_labels().get("role")

actors = [Actor.remote() for _ in range(2)]
roles = ray.get([actor.role.remote() for actor in actors])
actors.append(Actor.remote())
roles.append(ray.get(actors[-1].role.remote()))
for actor in actors:
    ray.kill(actor)

overrides = ["data.image_size=8", f"run.storage_path={folder}", "scale.worker_label_selector={role: train}"]
checkup = examine(load_job(None, overrides), address=address, trials=None, display=Display())
print(json.dumps({"roles": roles, "autoscaled": is_autoscaled(cluster_nodes()), **checkup.to_dict()}))
"""


@pytest.fixture
def several_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A head without CPUs, two CPUs to augment, and two more beside what Ray takes for a GPU, to train."""
    folder = tempfile.mkdtemp(prefix="dray", dir="/tmp")  # sockets want short paths
    monkeypatch.setenv("RAY_TMPDIR", folder)  # where a cluster's address is written, whatever its own folder is
    Path(folder, "ray").mkdir()
    args = {"include_dashboard": False, "object_store_memory": 100_000_000}
    own = internal_kv.internal_kv_get_gcs_client()  # of the Ray that this process uses; a `Cluster` puts its own there
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "temp_dir": folder, **args})
    try:
        cluster.add_node(num_cpus=2, labels={"role": "augment"}, **args)
        cluster.add_node(num_cpus=2, num_gpus=1, labels={"role": "train"}, **args)
        cluster.wait_for_nodes()
        yield cluster.address
    finally:
        cluster.shutdown()
        if own is not None:
            internal_kv._initialize_internal_kv(own)
        shutil.rmtree(folder, ignore_errors=True)


def test_several_nodes(several_nodes: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _ON_SEVERAL_NODES, several_nodes, str(tmp_path / "runs")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    # What needs one CPU keeps off the node with the GPU while there is room elsewhere.
    assert found["roles"] == ["augment", "augment", "train"]
    assert not found["autoscaled"]
    assert found["placement"]["use_gpu"]
    seats = {(seat["cpus"], seat["gpus"]): (seat["workers"], seat["actors"]) for seat in found["placement"]["seats"]}
    assert seats == {(2, 0): (0, 2), (2, 1): (1, 0)}
    assert len(found["facts"]) == len(found["clocks"]) == 3
    problems = [finding["text"] for finding in found["findings"] if finding["level"] == "problem"]
    assert len(problems) == 1
    assert "Ray counts 1 GPU, PyTorch sees none" in problems[0]
