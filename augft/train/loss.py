"""Losses of each sample by itself: the loop sums them, and sums and counts cross ranks."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from augft.augment.mix import one_hot
from augft.errors import ConfigError


def per_sample_loss(
    logits: torch.Tensor, targets: torch.Tensor, loss: str = "cross_entropy", label_smoothing: float = 0.0
) -> torch.Tensor:
    """The loss of each sample.

    With p the softmax of the logits and t the target distribution over C classes, smoothed to
    (1 - label_smoothing) t + label_smoothing / C (Szegedy et al., 2016):

    - `cross_entropy`: -sum_i t_i log p_i;
    - `mse`: sum_i (t_i - p_i)^2, the Brier score (1950). Summed over classes, not averaged: the scale of the
      loss and of its gradient then stays in [0, 2] at any number of classes.

    Args:
        logits: float (N, C) of any precision; the loss is computed in float32.
        targets: int64 (N,), labels; or float (N, C), distributions.
        loss: `cross_entropy` or `mse`.
        label_smoothing: in [0, 1).

    Returns:
        float32 (N,).

    Raises:
        ConfigError: unknown loss.
    """
    logits = logits.float()
    if loss == "cross_entropy":
        if targets.is_floating_point():
            targets = targets.float()
        return F.cross_entropy(logits, targets, reduction="none", label_smoothing=label_smoothing)
    if loss == "mse":
        num_classes = logits.shape[1]
        soft = targets.float() if targets.is_floating_point() else one_hot(targets, num_classes)
        soft = soft * (1.0 - label_smoothing) + label_smoothing / num_classes
        return (soft - logits.softmax(1)).square().sum(1)
    raise ConfigError(f"train.loss: {loss!r} is neither cross_entropy nor mse")


def jensen_shannon(logits: torch.Tensor) -> torch.Tensor:
    """How far a model's answers to several views of each sample lie apart (Hendrycks et al., AugMix, ICLR 2020).

    With p_v the softmax of view v's logits and m their mean over views: the mean over views of KL(p_v || m), in nats.

    Args:
        logits: float (V, N, C) of any precision; computed in float32.

    Returns:
        float32 (N,), from 0 (all equal) to log V.
    """
    log_p = logits.float().log_softmax(2)
    p = log_p.exp()
    log_m = p.mean(0).clamp_min(1e-7).log()
    return (p * (log_p - log_m)).sum(2).mean(0)
