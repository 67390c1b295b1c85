"""Decoded pictures → probabilities, by the model that a run left."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from augft.preprocess import Preprocess
from augft.saved import SavedModel


class Predictor:
    """A model that is loaded.

    Args:
        saved: which.
        device: where it runs.
    """

    def __init__(self, saved: SavedModel, device: torch.device) -> None:
        self._module = saved.module().to(device)
        self._preprocess = Preprocess(saved.mean, saved.std, saved.meta.input_size, device)
        self.device = device
        self.temperature = saved.temperature
        """What logits are divided by before they become probabilities."""

    def logits(self, images_NHWC: npt.NDArray[np.uint8]) -> torch.Tensor:
        """uint8 (N, S, S, 3), S the run's picture size → float32 (N, C), on the device."""
        logits: torch.Tensor = self._module(self._preprocess(images_NHWC)).float()
        return logits

    @torch.inference_mode()
    def probabilities(self, images_NHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """As `logits` → float32 (N, C); rows sum to 1."""
        scaled = self.logits(images_NHWC) / self.temperature
        probabilities: npt.NDArray[np.float32] = scaled.softmax(1).cpu().numpy()
        return probabilities
