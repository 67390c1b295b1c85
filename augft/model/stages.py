"""The parts of a model from input to head: what is frozen, what learns, and how fast.

A stage is a name and the modules in it; `stem` comes first and `head` last. A ResNet has stem, layer1,
layer2, …, head; of other families the stages are the blocks of the backbone under their own names
(`features.5`, `encoder.layers.encoder_layer_3`). A normalisation layer belongs to the block before it,
parameters that stand alone (a class token) to the stem, and dense layers around the last one (VGG's) to the
head.

Which stages learn is a pure function of the step, so a resumed run freezes as the undisturbed one does.
Where it changes (`boundaries`), DistributedDataParallel has to be built anew, since it fixes its set of
gradients when it is built: drop the old wrapper, call `freeze`, wrap again. Optimizer groups always hold all
parameters; a frozen one has no gradient and is passed over.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from torch import nn

from augft.errors import ConfigError
from augft.model.build import find_head

STEM, HEAD = "stem", "head"

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
_SPINE = 0.9  # a child with more than this share of the backbone is the backbone: its children are the blocks
_GRADUAL_SPAN = 2  # gradual: all stages learn from 1 / _GRADUAL_SPAN of the run on

Stages = dict[str, tuple[str, ...]]


def stages(module: nn.Module) -> Stages:
    """Stage name → names of its modules, in order from input to head."""
    head = find_head(module)[0].split(".")[0]
    result: Stages = {}
    for name, child in _blocks(module, "", head):
        if result and isinstance(child, _NORMS):
            last = next(reversed(result))
            result[last] += (name,)
        else:
            result[name if result else STEM] = (name,)
    result[HEAD] = (head,)
    return result


def stage_of(parameter: str, parts: Stages) -> str:
    """The stage that a parameter or module name belongs to."""
    for stage, modules in parts.items():
        if any(parameter == name or parameter.startswith(name + ".") for name in modules):
            return stage
    return STEM


def trainable_stages(spec: str, names: Sequence[str], step: int, total_steps: int) -> frozenset[str]:
    """The stages that learn at a step.

    Args:
        spec: `none`; `backbone`; a stage name, frozen up to and with it; or `gradual` (Howard and Ruder,
            2018): the head at first, then one more stage at a time from the top, all of them from half of
            the run on.
        names: stage names from input to head.
        step: global step.
        total_steps: of the run.

    Raises:
        ConfigError: the spec names no stage, or nothing would learn.
    """
    if spec == "none":
        return frozenset(names)
    if spec == "gradual":
        below = len(names) - 1
        thawed = min(below, _GRADUAL_SPAN * step * below // max(1, total_steps))
        return frozenset(names[below - thawed :])
    frozen_up_to = names[-2] if spec == "backbone" else spec
    if frozen_up_to not in names[:-1]:
        raise ConfigError(
            f"model.freeze: {spec!r} is no stage that can be frozen; give none, backbone, gradual, "
            f"or one of {', '.join(names[:-1])}"
        )
    return frozenset(names[names.index(frozen_up_to) + 1 :])


def boundaries(spec: str, names: Sequence[str], total_steps: int) -> list[int]:
    """The steps after 0 at which the set of trainable stages changes, ascending; empty but for `gradual`."""
    if spec != "gradual":
        return []
    below = len(names) - 1
    # The smallest step with _GRADUAL_SPAN * step * below >= k * total_steps.
    first_steps = {-(-k * total_steps // (_GRADUAL_SPAN * below)) for k in range(1, below + 1)}
    return sorted(step for step in first_steps if 0 < step < total_steps)


def freeze(module: nn.Module, spec: str, step: int = 0, total_steps: int = 1) -> frozenset[str]:
    """Set `requires_grad` of all parameters for a step; arguments and errors as `trainable_stages`.

    Returns:
        The stages that learn, for `set_train_mode`.
    """
    parts = stages(module)
    trainable = trainable_stages(spec, list(parts), step, total_steps)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(stage_of(name, parts) in trainable)
        if not parameter.requires_grad:
            parameter.grad = None
    return trainable


def set_train_mode(module: nn.Module, trainable: Collection[str], bn: str = "auto") -> None:
    """What `module.train()` is for a model with frozen parts; call it wherever that would be called.

    Frozen stages are in evaluation mode: no dropout, and batch normalisation uses its running statistics and
    leaves them untouched.

    Args:
        module: the bare model.
        trainable: stages that learn.
        bn: `auto` as above; `frozen`: batch normalisation of all stages is in evaluation mode; `train`: of
            all stages in training mode, so that also frozen parts take up the statistics of the new pictures.
    """
    module.train()
    for stage, names in stages(module).items():
        if stage not in trainable:
            for name in names:
                module.get_submodule(name).eval()
    if bn != "auto":
        for child in module.modules():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                child.train(bn == "train")


def parameter_groups(
    module: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    head_lr_multiplier: float = 1.0,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Optimizer groups: by stage, with and without weight decay; every parameter is in exactly one.

    The learning rate falls by `layer_decay` from each stage to the one below it, the head has the factor
    `head_lr_multiplier` instead. Vectors (biases, normalisation) have no weight decay.

    Args:
        module: the bare model.
        lr: of the topmost stage of the backbone at `layer_decay` 1.
        weight_decay: of everything with more than one dimension.
        head_lr_multiplier: above 0.
        layer_decay: in (0, 1].

    Returns:
        Groups with `params`, `name`, `lr`, `lr_scale` (the factor that `set_lr` applies) and `weight_decay`.
    """
    parts = stages(module)
    depth = {stage: k for k, stage in enumerate(reversed(parts))}  # the head's is 0
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        stage, decays = stage_of(name, parts), parameter.ndim > 1
        scale = head_lr_multiplier if stage == HEAD else layer_decay ** depth[stage]
        key = f"{stage}/{'decay' if decays else 'no_decay'}"
        group = groups.setdefault(
            key,
            {"params": [], "name": key, "lr": lr * scale, "lr_scale": scale,
             "weight_decay": weight_decay if decays else 0.0},
        )  # fmt: skip
        group["params"].append(parameter)
    return list(groups.values())


def _blocks(module: nn.Module, prefix: str, skip: str) -> Iterable[tuple[str, nn.Module]]:
    """The blocks below a module that have parameters, in order, by full name."""
    children = [(prefix + k, child) for k, child in module.named_children() if prefix + k != skip and _size(child)]
    total = sum(_size(child) for _, child in children)
    for name, child in children:
        if _size(child) > _SPINE * total and any(True for _ in child.children()):
            yield from _blocks(child, name + ".", skip)
        else:
            yield name, child


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
