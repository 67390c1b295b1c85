"""A run's model as MLflow loads it: uint8 pictures in, probabilities out; preprocessing is inside.

`mlflow.pyfunc.load_model` finds this module by its name, which is written into each model that was sent to MLflow: it
must not be renamed. The model is model.safetensors and model.json; nothing in it is pickled.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from augft.model import load_saved
from augft.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess

_MAX_BATCH = 256


class PictureModel:
    """What `mlflow.pyfunc.load_model` wraps.

    Args:
        folder: holds model.safetensors and model.json.
        device: where it runs; None: a GPU if there is one.

    Raises:
        WeightsError: a file is missing or damaged.
    """

    def __init__(self, folder: Path, device: torch.device | None = None) -> None:
        self._device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        built = load_saved(folder)
        meta = built.meta
        self._module = built.module.to(self._device).eval()
        self._preprocess = Preprocess(
            meta.mean or IMAGENET_MEAN, meta.std or IMAGENET_STD, meta.input_size, self._device
        )
        self._temperature = meta.temperature or 1.0
        self.classes = meta.classes
        """Names of the columns of `predict`."""

    @torch.inference_mode()
    def predict(
        self, images_NHWC: npt.NDArray[np.uint8], params: dict[str, Any] | None = None
    ) -> npt.NDArray[np.float32]:
        """uint8 (N, H, W, 3), RGB, of any size → probabilities float32 (N, num_classes); rows sum to 1."""
        images = np.asarray(images_NHWC, np.uint8)
        batches = [images[i : i + _MAX_BATCH] for i in range(0, max(len(images), 1), _MAX_BATCH)]
        rows = [self._probabilities(batch).cpu().numpy() for batch in batches]
        probabilities: npt.NDArray[np.float32] = np.concatenate(rows)
        return probabilities

    def _probabilities(self, images_NHWC: npt.NDArray[np.uint8]) -> torch.Tensor:
        logits: torch.Tensor = self._module(self._preprocess(images_NHWC)).float()
        return (logits / self._temperature).softmax(1)


def _load_pyfunc(data_path: str) -> PictureModel:
    return PictureModel(Path(data_path))
