"""Optimizer and learning rate; the rate is a pure function of the step, so no scheduler state is saved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from augft.errors import ConfigError

_RISE_FRACTION = 0.3  # one_cycle: share of the run until the peak
_START_FRACTION = 1 / 25  # one_cycle: first rate over the peak
_END_FRACTION = 1e-4  # one_cycle: last rate over the first


def learning_rate(
    name: str,
    step: int,
    total_steps: int,
    *,
    lr: float,
    warmup_steps: int = 0,
    final_fraction: float = 0.0,
    milestones: Sequence[float] = (0.5, 0.75),
    gamma: float = 0.1,
) -> float:
    """The learning rate of a step.

    Linear warm-up first: step k of `warmup_steps` has `lr * (k + 1) / warmup_steps`, never zero. Then

    - `cosine` (Loshchilov and Hutter, SGDR, 2017): half a cosine from `lr` to `lr * final_fraction`;
    - `step`: times `gamma` at each milestone, a fraction of the whole run;
    - `constant`: `lr`;
    - `one_cycle` (Smith and Topin, super-convergence, 2018): up from `lr / 25` over the first 30 % of the
      run, down to `lr / 250000` at its end, both along cosines. It is its own warm-up and passes
      `warmup_steps` over.

    Args:
        name: shape.
        step: from 0; past the end it is held at the end.
        total_steps: of the whole schedule, warm-up included.
        lr: peak.
        warmup_steps: where it is longer than the run, the peak is not reached.
        final_fraction: of `cosine`.
        milestones, gamma: of `step`.

    Raises:
        ConfigError: unknown name.
    """
    if name == "one_cycle":
        return _one_cycle(step, total_steps, lr)
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    if name == "constant":
        return lr
    if name == "step":
        return lr * gamma ** sum(step >= fraction * total_steps for fraction in milestones)
    if name == "cosine":
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return _along_cosine(lr, lr * final_fraction, progress)
    raise ConfigError(f"train.schedule.name: {name!r} is none of cosine, one_cycle, step, constant")


def build_optimizer(
    name: str,
    groups: list[dict[str, Any]],
    *,
    lr: float,
    momentum: float = 0.9,
    nesterov: bool = True,
    weight_decay: float = 0.0,
    beta2: float = 0.999,
) -> torch.optim.Optimizer:
    """The optimizer over the groups of `augft.model.stages.parameter_groups`; what a group sets goes first.

    Args:
        name: `sgd`, or `adamw` (Loshchilov and Hutter, 2019).
        groups: as torch.optim takes them.
        lr: peak learning rate.
        momentum: of SGD; beta1 of AdamW.
        nesterov: of SGD, with a momentum above 0.
        weight_decay: of groups that set none.
        beta2: of AdamW.

    Raises:
        ConfigError: unknown name.
    """
    if name == "sgd":
        return torch.optim.SGD(
            groups, lr=lr, momentum=momentum, nesterov=nesterov and momentum > 0, weight_decay=weight_decay
        )
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(momentum, beta2), weight_decay=weight_decay)
    raise ConfigError(f"train.optimizer.name: {name!r} is neither sgd nor adamw")


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give each group `lr` times its own `lr_scale` (1 where it has none)."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def _one_cycle(step: int, total_steps: int, lr: float) -> float:
    peak_step, last_step = _RISE_FRACTION * total_steps - 1, total_steps - 1
    start = lr * _START_FRACTION
    if step <= peak_step:
        return _along_cosine(start, lr, step / peak_step if peak_step > 0 else 1.0)
    # A run of so few steps that the rise has none begins at the peak.
    rise_end = max(0.0, peak_step)
    progress = min(1.0, (step - rise_end) / max(1e-9, last_step - rise_end))
    return _along_cosine(lr, start * _END_FRACTION, progress)


def _along_cosine(begin: float, end: float, progress: float) -> float:
    return end + (begin - end) * (1.0 + math.cos(math.pi * progress)) / 2.0
