"""The job file: every key bounded, documented, overridable; what is wrong is named."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

import augft
from augft.config import Job, load_job, load_job_text, quickstart_text
from augft.errors import ConfigError

JOBS = Path(__file__).parents[2] / "jobs"


def load(text: str = "", *overrides: str) -> Job:
    return load_job_text(text, "job.yaml", overrides)


def value(job: Job, key: str) -> Any:
    node: Any = job
    for name in key.split("."):
        node = getattr(node, name)
    return node


def leaves(section: type[BaseModel] = Job, prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


ACCEPTED = {
    "name": ["a", "A-1._b"],
    "seed": [0, 2**63 - 1],
    "data.source": ["digits", "/path"],
    "data.image_size": [4, 4096, None],
    "data.val_fraction": [0.0, 0.99],
    "data.labels_per_class": [1, None],
    "data.on_bad": ["fail", "skip"],
    "data.shuffle": ["full", "windowed"],
    "data.store": ["pixels", "encoded"],
    "data.window_shards": ["auto", 1, 1000],
    "data.lanes": [1, 65536],
    "augment.policy": ["none", ["rotate"], [{"rotate": {"degrees": 5}}], [{"rotate": None}], {"ops": ["rotate"]}],
    "augment.select": [0.001, 1.0],
    "augment.copies": [1, 2**20],
    "augment.keep_original": [True, False],
    "augment.sampling": ["nearest", "bilinear", None],
    "augment.where": ["actors", "device"],
    "augment.mixup_alpha": [0.0, 2.5],
    "augment.draws": [0, 7],
    "augment.cutmix_alpha": [0.0, 2.5],
    "model.name": ["resnet20"],
    "model.weights": ["none"],
    "model.stem": ["imagenet", "cifar"],
    "model.input_size": [4, 4096, None],
    "model.normalize": ["auto", "dataset", "imagenet"],
    "model.freeze": ["none", "layer1"],
    "model.bn": ["auto", "frozen", "train"],
    "train.epochs": [1, 1000],
    "train.global_batch_size": [1, 65536],
    "train.optimizer.name": ["sgd", "adamw"],
    "train.optimizer.lr": [1e-9, 10.0],
    "train.optimizer.momentum": [0.0, 0.999],
    "train.optimizer.nesterov": [True, False],
    "train.optimizer.weight_decay": [0.0, 1.0],
    "train.schedule.name": ["cosine", "one_cycle", "step", "constant"],
    "train.schedule.warmup_steps": [0, 100],
    "train.schedule.final_fraction": [0.0, 1.0],
    "train.schedule.milestones": [[], [0.0, 1.0]],
    "train.schedule.gamma": [0.001, 1.0],
    "train.head_lr_multiplier": [0.1, 10.0],
    "train.layer_decay": [0.1, 1.0],
    "train.loss": ["cross_entropy", "mse"],
    "train.jsd_weight": [0.0, 12.0],
    "train.label_smoothing": [0.0, 0.99],
    "train.clip_grad_norm": [0.1, None],
    "train.precision": ["auto", "fp32", "bf16", "fp16"],
    "train.channels_last": ["auto", True, False],
    "train.compile": [True, False],
    "train.ema_decay": [0.001, 0.9999, None],
    "train.grad_accum_steps": [1, 4],
    "train.stop.loss": [0.1, None],
    "train.stop.epochs": [1, None],
    "train.stop.steps": [1, None],
    "train.stop.time_s": [0.1, None],
    "train.stop.patience": [1, None],
    "scale.num_workers": [1, 4],
    "scale.use_gpu": ["auto", True, False],
    "scale.cpus_per_worker": ["auto", 1],
    "scale.augment_actors": [1, 5],
    "scale.placement_strategy": ["pack", "spread"],
    "scale.worker_label_selector": [{}, {"augft-role": "train"}],
    "scale.actor_label_selector": [{}, {"augft-role": "augment", "zone": "!a"}],
    "scale.unit_rows": ["auto", 1],
    "run.storage_path": ["runs", "s3://bucket/runs"],
    "run.max_failures": [0, 5],
    "run.checkpoint_every_steps": [1, None],
    "run.keep_checkpoints": [1, 10],
    "run.hang_timeout_s": [0.5, None],
    "run.storage_retry_s": [0.0, 600.0],
    "run.trackers": [[], ["tensorboard", "mlflow", "wandb"]],
    "run.baseline": ["none", None],
    "compare.policies": [["none", "standard"], ["none", {"mixup": {"mixup_alpha": 0.2}}]],
    "compare.baseline": ["none", None],
    "compare.seeds": [1, 20],
    "compare.labels_per_class": [[], [10, 40]],
    "compare.equal_steps": [True, False],
    "compare.models": [[], ["resnet18"]],
    "compare.magnitudes": [[], [0, 9.5]],
    "compare.confidence": [0.9, 0.99],
    "compare.concurrent": [1, None],
    "compare.gpus_per_trial": ["auto", 0.0, 0.25],
    "search.algorithm": ["asha", "pbt"],
    "search.sampler": ["random", "optuna"],
    "search.trials": [1, 1000],
    "search.epochs": [1, None],
    "search.labels_per_class": [1, None],
    "search.first_rung_epochs": [1, 10],
    "search.reduction": [1.5, 4.0],
    "search.interval_epochs": [1, 10],
    "search.base": ["none", "policy.json"],
    "search.ops": [["rotate"], ["rotate", "hue"]],
    "search.num_ops": [[1, 1], [2, 5]],
    "search.select": [[0.1, 1.0], None],
    "search.copies": [[], [1, 4]],
    "search.mixup_alpha": [[0.0, 1.0], None],
    "search.cutmix_alpha": [[0.0, 1.0], None],
    "search.learning_rate": [True, False],
    "search.baselines": [[], ["none"]],
    "search.seeds": [0, 20],
    "search.proxy_checks": [0, 5],
    "search.concurrent": [1, None],
    "search.gpus_per_trial": ["auto", 0.0, 0.5],
}
REFUSED = {
    "name": ["", "-a", "a/b", "../a", "a b", "x" * 129, 3, None],
    "seed": [-1, 2**63, 1.5, "x", None],
    "data.source": [None, 3],
    "data.image_size": [3, 4097, 0, -1, "x"],
    "data.val_fraction": [-0.01, 1.0, float("nan")],
    "data.labels_per_class": [0, -1, 1.5],
    "data.on_bad": ["ignore"],
    "data.shuffle": ["none", None, True],
    "data.store": ["files", None, True],
    "data.window_shards": [0, -1, "all", 1.5, None],
    "data.lanes": [0, -1, 65537, "auto", None],
    "augment.policy": [3, None],
    "augment.select": [-0.1, 1.1, float("nan"), 0.0],
    "augment.copies": [-1, 2**20 + 1, 0],
    "augment.keep_original": ["maybe", 2, None],
    "augment.sampling": ["cubic"],
    "augment.where": ["gpu", None, True],
    "augment.mixup_alpha": [-0.1, float("inf")],
    "augment.draws": [-1, 1.5],
    "augment.cutmix_alpha": [-0.1, float("inf")],
    "model.name": [None],
    "model.weights": [None],
    "model.stem": ["none"],
    "model.input_size": [3, 4097],
    "model.normalize": ["none"],
    "model.freeze": [None, 3],
    "model.bn": ["eval"],
    "train.epochs": [0, -1, 1.5],
    "train.global_batch_size": [0, -1],
    "train.optimizer.name": ["adam"],
    "train.optimizer.lr": [0.0, -0.1, float("inf"), float("nan")],
    "train.optimizer.momentum": [-0.1, 1.0],
    "train.optimizer.nesterov": ["perhaps"],
    "train.optimizer.weight_decay": [-1e-9],
    "train.schedule.name": ["linear"],
    "train.schedule.warmup_steps": [-1],
    "train.schedule.final_fraction": [-0.1, 1.1],
    "train.schedule.milestones": [[1.1], 0.5],
    "train.schedule.gamma": [0.0, 1.1],
    "train.head_lr_multiplier": [0.0],
    "train.layer_decay": [0.0, 1.1],
    "train.loss": ["hinge"],
    "train.jsd_weight": [-1.0, float("inf")],
    "train.label_smoothing": [-0.1, 1.0],
    "train.clip_grad_norm": [0.0],
    "train.precision": ["fp64"],
    "train.channels_last": ["never"],
    "train.compile": ["perhaps"],
    "train.ema_decay": [0.0, 1.0],
    "train.grad_accum_steps": [0],
    "train.stop.loss": [0.0],
    "train.stop.epochs": [0],
    "train.stop.steps": [0],
    "train.stop.time_s": [0.0],
    "train.stop.patience": [0],
    "scale.num_workers": [0, [2, 1], [1], [0, 1], "auto"],
    "scale.use_gpu": ["perhaps"],
    "scale.cpus_per_worker": [0, "all"],
    "scale.augment_actors": [0, [2, 1], ["auto", 1], [1, 2, 3]],
    "scale.placement_strategy": ["strict", None],
    "scale.worker_label_selector": ["train", {"role": 3}, None],
    "scale.actor_label_selector": [["augment"], None],
    "scale.unit_rows": [0, "all"],
    "run.storage_path": [None],
    "run.max_failures": [-1],
    "run.checkpoint_every_steps": [0],
    "run.keep_checkpoints": [0],
    "run.hang_timeout_s": [0.0, -1.0],
    "run.storage_retry_s": [-1.0, None],
    "run.trackers": [["tensorbord"], "tensorboard"],
    "run.baseline": [3],
    "compare.policies": [["none"], [], "none", None],
    "compare.baseline": [3],
    "compare.seeds": [0, -1, 1.5],
    "compare.labels_per_class": [[0], 10],
    "compare.equal_steps": ["maybe", 2],
    "compare.models": ["resnet18", [3]],
    "compare.magnitudes": [[-1]],
    "compare.confidence": [0.5, 1.0],
    "compare.concurrent": [0],
    "compare.gpus_per_trial": [-0.5, "all"],
    "search.algorithm": ["grid"],
    "search.sampler": ["tpe"],
    "search.trials": [0],
    "search.epochs": [0],
    "search.labels_per_class": [0],
    "search.first_rung_epochs": [0, None],
    "search.reduction": [1.0],
    "search.interval_epochs": [0],
    "search.base": [None, ["rotate"]],
    "search.ops": [[], "rotate", None],
    "search.num_ops": [3, [0, 1], [2, 1], [1, 2, 3]],
    "search.select": [[0.5, 1.1], [1.0, 0.5], [0.5]],
    "search.copies": [[0], 2, None],
    "search.mixup_alpha": [[-0.1, 1.0], [1.0, 0.5]],
    "search.cutmix_alpha": [[-0.1, 1.0], [1.0, 0.5]],
    "search.learning_rate": ["perhaps"],
    "search.baselines": ["none", [3]],
    "search.seeds": [-1],
    "search.proxy_checks": [-1],
    "search.concurrent": [0],
    "search.gpus_per_trial": [-0.5, "all"],
}


def nested(key: str, content: Any) -> str:
    for name in reversed(key.split(".")):
        content = {name: content}
    return yaml.safe_dump(content)


def test_consistency_and_mixing_exclude_each_other() -> None:
    assert load_job_text("train: {jsd_weight: 12}", "job").train.jsd_weight == 12
    with pytest.raises(ConfigError, match=r"jsd_weight does not go with augment\.mixup_alpha"):
        load_job_text("{train: {jsd_weight: 12}, augment: {mixup_alpha: 0.2}}", "job")


def test_every_key_is_tested() -> None:
    assert set(leaves()) == set(ACCEPTED) == set(REFUSED)


@pytest.mark.parametrize(("key", "content"), [(k, v) for k, values in ACCEPTED.items() for v in values], ids=str)
def test_accepted_in_a_file_and_as_an_override(key: str, content: Any) -> None:
    assert value(load(nested(key, content)), key) == content
    job = load("", f"{key}={yaml.safe_dump(content, default_flow_style=True).removesuffix('...' + chr(10)).strip()}")
    assert value(job, key) == content
    assert load(job.to_yaml()) == job


@pytest.mark.parametrize(("key", "content"), [(k, v) for k, values in REFUSED.items() for v in values], ids=str)
def test_refused_by_name(key: str, content: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        load(nested(key, content))
    message = str(caught.value)
    assert message.startswith("job.yaml: ")
    section = key if content not in (0, 0.0) or not key.startswith("augment") else "augment"
    assert message.removeprefix("job.yaml: ").startswith(section)
    assert "\n" not in message


def test_elastic_ranges() -> None:
    assert load("scale: {num_workers: [1, 4]}").scale.num_workers == (1, 4)
    scale = load("scale: {num_workers: [2, 2], augment_actors: [3, auto]}").scale
    assert (scale.min_workers, scale.max_workers, scale.augment_actors) == (2, 2, (3, "auto"))
    fixed = load("scale: {num_workers: 3}").scale
    assert (fixed.min_workers, fixed.max_workers) == (3, 3)


@pytest.mark.parametrize("key", [key for key, values in ACCEPTED.items() if any(v is True for v in values)])
@pytest.mark.parametrize(("text", "meant"), [("true", True), ("false", False), ("yes", True), ("off", False)])
def test_booleans_both_ways(key: str, text: str, meant: bool) -> None:
    assert value(load("", f"{key}={text}"), key) is meant


# ---- unknown keys --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("trian", "train"),
        ("data.sorce", "data.source"),
        ("train.optimizer.learning_rate", None),
        ("train.optimizer.LR", "train.optimizer.lr"),
        ("train.optimiser.lr", "train.optimizer"),
        ("train.lr", "train.optimizer.lr"),
        ("lr", "train.optimizer.lr"),
        ("model.freze", "model.freeze"),
        ("train.stop.epoch", "train.stop.epochs"),
        ("data.on-bad", "data.on_bad"),
    ],
)
def test_an_unknown_key_names_the_nearest(key: str, nearest: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        load(nested(key, 1))
    with pytest.raises(ConfigError) as by_override:
        load("", f"{key}=1")
    assert str(caught.value) == str(by_override.value)
    unknown = key if key != "train.optimiser.lr" else "train.optimiser"
    hint = f"; did you mean {nearest}?" if nearest else ""
    if nearest is None:
        assert str(caught.value).startswith(f"job.yaml: unknown key {unknown}")
    else:
        assert str(caught.value) == f"job.yaml: unknown key {unknown}{hint}"


def test_further_problems_are_counted() -> None:
    with pytest.raises(ConfigError, match=r"unknown key a.* \(and 1 more\)$|unknown key b.* \(and 1 more\)$"):
        load("a: 1\nb: 2\n")


# ---- files and overrides -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "job.yaml, line 1: "),
        ("seed: 0\ntrain: {epochs: 3\nname: x\n", "job.yaml, line 3: "),
        ("seed: 0\n\tname: x\n", "job.yaml, line 2: "),
        ("x: !!python/object/apply:os.system [true]", "job.yaml, line 1: could not determine a constructor"),
        ("- a\n- b\n", "job.yaml: holds a list; a job file is a mapping of keys"),
        ("3", "job.yaml: holds a int"),
        ("{1: 2}", "job.yaml: keys should be strings"),
        ("train:\n", "job.yaml: train: input should be a valid dictionary"),
    ],
)
def test_what_is_no_job_file(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.yaml: No such file or directory; give the path of a job file"):
        load_job(tmp_path / "nothing.yaml")
    with pytest.raises(ConfigError, match="Is a directory"):
        load_job(tmp_path)
    (tmp_path / "picture.yaml").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load_job(tmp_path / "picture.yaml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs", "--set train.epochs: give it as key=value"),
        ("=3", "--set =3: give it as key=value"),
        ("train.epochs=[1", r"--set train.epochs=[1: the value is not YAML"),
        ("train=3", "job.yaml: train: input should be a valid dictionary"),
        ("seed.x=3", "job.yaml: seed: input should be a valid integer"),
        ("train..epochs=1", "job.yaml: unknown key train."),
    ],
)
def test_bad_overrides(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load("", override)
    assert str(caught.value).startswith(message)


def test_overrides_go_over_the_file_in_order() -> None:
    text = "train: {epochs: 3, optimizer: {lr: 1.0}}"
    job = load(text, "train.epochs=4", "train.optimizer.lr=1e-3", "train.epochs=5")
    assert (job.train.epochs, job.train.optimizer.lr, job.train.optimizer.momentum) == (5, 0.001, 0.9)
    assert load("", "train.stop={steps: 3}").train.stop.steps == 3
    assert load("", "data.source=a=b").data.source == "a=b"
    assert load("train: {stop: {loss: 1.0}}", "train.stop.loss=null").train.stop.loss is None


def test_replace_validates_again() -> None:
    job = load("seed: 3")
    assert job.replace(["train.epochs=2"]) == load("seed: 3", "train.epochs=2")
    assert job.train.epochs == 10
    with pytest.raises(ConfigError, match=r"--set: train\.epochs: input should be greater than 0 \(got 0\)"):
        job.replace(["train.epochs=0"])


def test_what_keys_say_together() -> None:
    with pytest.raises(ConfigError, match=r"global_batch_size 7 is less than 8 = 4 workers x 2 accumulation: raise it"):
        load("train: {global_batch_size: 7, grad_accum_steps: 2}\nscale: {num_workers: [1, 4]}")
    load("train: {global_batch_size: 8, grad_accum_steps: 2}\nscale: {num_workers: [1, 4]}")
    for empty in ("{copies: 0}", "{select: 0}"):
        with pytest.raises(ConfigError, match="an epoch would be empty: set keep_original: true"):
            load(f"augment: {empty}")
    load("augment: {copies: 0, keep_original: true}")


def test_a_job_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().seed = 3  # type: ignore[misc]


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**63 - 1),
    lr=st.floats(min_value=1e-12, max_value=1e6, exclude_min=True),
    source=st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=20),
)
def test_round_trip(seed: int, lr: float, source: str) -> None:
    job = Job.model_validate({"seed": seed, "train": {"optimizer": {"lr": lr}}, "data": {"source": source}})
    assert load(job.to_yaml()) == job


# ---- what comes with it --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_job_of_ours_loads(path: Path) -> None:
    job = load_job(path)
    assert load(job.to_yaml()) == job


def test_without_a_file_it_is_the_quickstart() -> None:
    assert quickstart_text() == (JOBS / "quickstart.yaml").read_text()
    assert load_job(None, ["seed=5"]) == load_job(JOBS / "quickstart.yaml", ["seed=5"])


def test_defaults_are_in_the_config_alone() -> None:
    """No `.get(key, default)` on a part of the job anywhere in the package: a default has one home."""
    for path in Path(augft.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
                assert not (len(node.args) == 3 and "job" in ast.unparse(node.args[0])), f"{path}: {ast.unparse(node)}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
                owner = ast.unparse(node.func.value)
                assert not ("job" in owner and len(node.args) == 2), f"{path}: {ast.unparse(node)}"
