"""The network as others call it: bytes of pictures in, logits and probabilities out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


class PictureNetwork(nn.Module):
    """Scale to [0, 1], normalise, resize, classify: what `Preprocess` and the model do, as one module.

    Args:
        module: float32 (N, 3, input_size, input_size) → logits (N, C).
        mean, std: of each channel, RGB, for pictures in [0, 1].
        input_size: height and width that the module sees.
        temperature: what logits are divided by for the probabilities; the logits stay as they are.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self, module: nn.Module, mean: Sequence[float], std: Sequence[float], input_size: int, temperature: float = 1.0
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.module = module
        self.input_size = input_size
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 (N, H, W, 3), RGB, N, H and W from 1 on → logits and probabilities, both float32 (N, C)."""
        x = images.permute(0, 3, 1, 2).to(torch.float32)
        x = (x * (1 / 255) - self.mean) / self.std
        # Also where the size is right, which changes nothing: a program has no branch that depends on its input's size.
        x = F.interpolate(x, size=(self.input_size, self.input_size), mode="bilinear", antialias=True)
        logits = self.module(x)
        return logits, (logits / self.temperature).softmax(1)
