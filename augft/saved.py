"""The model that a run left, with what is needed to show it pictures as training did."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from augft.data.packed import open_packed
from augft.errors import AugftError, RunDirectoryError
from augft.model import ModelMeta, model_from_bytes
from augft.model.files import META_FILE, WEIGHTS_FILE
from augft.preprocess import IMAGENET_MEAN, IMAGENET_STD
from augft.run import Run, open_run


@dataclass(frozen=True)
class SavedModel:
    """A run's chosen weights, and how pictures come to them.

    Args:
        weights, description: the content of model.safetensors and of model.json.
        meta: what model.json says.
        picture_size: side in pixels of the square that a picture file is cut and brought to first, as packing did; the
            model's own `input_size` follows after that, on the device.
        where: the run, for messages.
    """

    weights: bytes
    description: bytes
    meta: ModelMeta
    picture_size: int
    where: str

    @property
    def classes(self) -> tuple[str, ...]:
        """Names by label; numbers where the model does not know them."""
        return self.meta.classes or tuple(map(str, range(self.meta.num_classes)))

    @property
    def input_size(self) -> int:
        """Height and width in pixels that the network sees."""
        return self.meta.input_size or self.picture_size

    @property
    def mean(self) -> tuple[float, float, float]:
        """Of each channel, RGB, for pictures in [0, 1]."""
        return self.meta.mean or IMAGENET_MEAN

    @property
    def std(self) -> tuple[float, float, float]:
        """As `mean`; 1 for a channel that never varies."""
        red, green, blue = (s or 1.0 for s in self.meta.std or IMAGENET_STD)
        return red, green, blue

    @property
    def temperature(self) -> float:
        """What logits are divided by before they become probabilities."""
        return self.meta.temperature or 1.0

    def module(self) -> nn.Module:
        """The network on the CPU, in evaluation mode: float32 (N, 3, input_size, input_size) → logits."""
        return model_from_bytes(self.weights, self.description, f"{self.where}/{WEIGHTS_FILE}").module.eval()


def read_saved(uri: str) -> SavedModel:
    """Read the model of a run.

    Args:
        uri: a run directory.

    Raises:
        RunDirectoryError: there is no run, or it has left no model yet.
        WeightsError: the model's files are damaged.
    """
    run = open_run(uri)
    for name in (WEIGHTS_FILE, META_FILE):
        if not run.storage.exists(name):
            raise RunDirectoryError(f"{uri}: the run has left no model yet ({name}); go on with --resume")
    weights, description = run.storage.read(WEIGHTS_FILE), run.storage.read(META_FILE)
    meta = model_from_bytes(weights, description, f"{uri}/{WEIGHTS_FILE}").meta
    return SavedModel(weights, description, meta, _picture_size(run, meta), uri)


def _picture_size(run: Run, meta: ModelMeta) -> int:
    data = run.environment.get("data", {})
    if "image_shape" in data:  # which runs of earlier versions do not say
        return int(data["image_shape"][0])
    try:
        return int(open_packed(data["path"]).manifest.image_shape[0])
    except (AugftError, KeyError):  # the pictures were elsewhere, or are gone: the job says it too, but of packed sets
        return run.job.data.image_size or meta.input_size or 224
