"""Stages, freezing, gradual unfreezing under DDP, parameter groups."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from augft.errors import ConfigError
from augft.model import build_model, find_head
from augft.model.stages import (
    boundaries,
    freeze,
    parameter_groups,
    set_train_mode,
    stage_of,
    stages,
    trainable_stages,
)

RESNET_STAGES = ["stem", "layer1", "layer2", "layer3", "layer4", "head"]
FAMILIES = [
    ("vgg11_bn", "classifier.6"),
    ("densenet121", "classifier"),
    ("mobilenet_v3_small", "classifier.3"),
    ("efficientnet_b0", "classifier.1"),
    ("convnext_tiny", "classifier.2"),
    ("vit_b_32", "heads.head"),
    ("swin_t", "head"),
    ("squeezenet1_1", "classifier.1"),
    ("googlenet", "fc"),
    ("resnet18", "fc"),
    ("resnet20", "fc"),
]


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {key: tensor.clone() for key, tensor in module.state_dict().items()}


def step(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    module(torch.randn(4, 3, 32, 32)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize(("name", "head"), FAMILIES)
def test_families_have_a_head_and_stages(name: str, head: str) -> None:
    module = build_model(name, num_classes=7).module
    found, layer = find_head(module)
    assert found == head
    assert len(layer.weight) == 7
    parts = stages(module)
    assert next(iter(parts)) == "stem"
    assert next(reversed(parts)) == "head"
    assert len(parts) >= 5
    used = {stage_of(key, parts) for key, _ in module.named_parameters()}
    assert used == set(parts)
    assert stage_of(head + ".weight", parts) == "head"
    assert freeze(module, "backbone") == {"head"}
    assert layer.weight.requires_grad
    assert not next(module.parameters()).requires_grad


def test_resnet_stages() -> None:
    assert list(stages(build_model("resnet18", num_classes=2).module)) == RESNET_STAGES
    assert list(stages(build_model("resnet20", num_classes=2).module)) == [*RESNET_STAGES[:4], "head"]


# ------------------------------------------------------------------ freezing


@pytest.mark.parametrize("spec", ["backbone", "layer2"])
@pytest.mark.parametrize("bn", ["auto", "train", "frozen"])
def test_what_is_frozen_stays(spec: str, bn: str) -> None:
    module = build_model("resnet20", num_classes=3).module
    trainable = freeze(module, spec)
    assert trainable == ({"head"} if spec == "backbone" else {"layer3", "head"})
    groups = parameter_groups(module, lr=0.1, weight_decay=0.1)
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    set_train_mode(module, trainable, bn)
    before, parts = state(module), stages(module)
    module(torch.randn(4, 3, 32, 32)).square().mean().backward()
    for name, parameter in module.named_parameters():
        assert (parameter.grad is not None) == (stage_of(name, parts) in trainable)
    optimizer.step()
    for key, tensor in module.state_dict().items():
        learns = stage_of(key, parts) in trainable
        if key.endswith(("running_mean", "running_var", "num_batches_tracked")):
            learns = {"auto": learns, "train": True, "frozen": False}[bn]
        assert torch.equal(tensor, before[key]) != learns, key


def test_trainable_stages() -> None:
    assert trainable_stages("none", RESNET_STAGES, 0, 10) == set(RESNET_STAGES)
    assert trainable_stages("stem", RESNET_STAGES, 0, 10) == set(RESNET_STAGES[1:])
    assert trainable_stages("layer4", RESNET_STAGES, 0, 10) == {"head"}
    # Five stages below the head, one more each tenth of the run.
    for tenth, count in enumerate([1, 2, 3, 4, 5, 6, 6, 6, 6, 6]):
        assert trainable_stages("gradual", RESNET_STAGES, tenth * 10, 100) == set(RESNET_STAGES[6 - count :])
        assert trainable_stages("gradual", RESNET_STAGES, tenth * 10 + 9, 100) == set(RESNET_STAGES[6 - count :])
    assert boundaries("gradual", RESNET_STAGES, 100) == [10, 20, 30, 40, 50]
    assert boundaries("backbone", RESNET_STAGES, 100) == []
    for spec in ("head", "layer9"):
        with pytest.raises(ConfigError, match="stem, layer1, layer2, layer3, layer4"):
            trainable_stages(spec, RESNET_STAGES, 0, 10)


@given(total_steps=st.integers(1, 300), num_stages=st.integers(2, 14))
def test_the_set_changes_at_the_boundaries_and_only_there(total_steps: int, num_stages: int) -> None:
    names = [str(k) for k in range(num_stages)]
    sets = [trainable_stages("gradual", names, step, total_steps) for step in range(total_steps)]
    changes = [k for k in range(1, total_steps) if sets[k] != sets[k - 1]]
    assert changes == boundaries("gradual", names, total_steps)
    assert all(a <= b for a, b in pairwise(sets))
    assert sets[0] == {names[-1]}


def test_ddp_is_wrapped_anew_at_a_boundary(tmp_path: Path) -> None:
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        module = build_model("resnet20", num_classes=3).module
        optimizer = torch.optim.SGD(parameter_groups(module, lr=0.001, weight_decay=0.0), lr=0.001)
        edges, last = boundaries("gradual", list(stages(module)), 8), state(module)
        assert edges == [1, 2, 3, 4]
        for k in range(6):
            if k == 0 or k in edges:
                wrapped = None  # the old wrapper's hooks go before the new one's come
                trainable = freeze(module, "gradual", k, 8)
                set_train_mode(module, trainable)
                wrapped = nn.parallel.DistributedDataParallel(module)
            assert wrapped is not None
            step(wrapped, optimizer)
            moved = {
                stage_of(key, stages(module))
                for key, _ in module.named_parameters()
                if not torch.equal(last[key], module.state_dict()[key])
            }
            assert moved == trainable
            last = state(module)
        assert all(torch.isfinite(tensor).all() for tensor in last.values())
    finally:
        torch.distributed.destroy_process_group()


# ------------------------------------------------------------------ parameter groups


def test_parameter_groups() -> None:
    module = build_model("resnet18", num_classes=3).module
    groups = parameter_groups(module, lr=0.2, weight_decay=0.05, head_lr_multiplier=10.0, layer_decay=0.5)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    held = [names.pop(id(parameter)) for group in groups for parameter in group["params"]]
    assert names == {}
    assert len(held) == len(set(held))
    scales = {group["name"].split("/")[0]: group["lr_scale"] for group in groups}
    assert scales == {
        "stem": 1 / 32,
        "layer1": 1 / 16,
        "layer2": 1 / 8,
        "layer3": 1 / 4,
        "layer4": 1 / 2,
        "head": 10,
    }
    for group in groups:
        assert group["lr"] == pytest.approx(0.2 * group["lr_scale"])
        dimensions = {parameter.ndim for parameter in group["params"]}
        assert dimensions <= ({2, 4} if group["name"].endswith("/decay") else {1})
        assert group["weight_decay"] == (0.05 if group["name"].endswith("/decay") else 0.0)
