"""Pictures as they travel → pictures as a model sees them; on the device, where floats are born."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from augft.upload import upload

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocess:
    """Scale to [0, 1], normalise, resize: `upload`, then `normalise`; a call is both.

    Args:
        mean, std: of each channel, RGB, for pictures in [0, 1].
        input_size: height and width that the model sees; None: as they come.
        device: where it happens.
        channels_last: memory format of the result.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    input_size: int | None
    device: torch.device
    channels_last: bool = False

    def __call__(self, images_NHWC: npt.NDArray[np.uint8]) -> torch.Tensor:
        """uint8 (N, H, W, 3), RGB → float32 (N, 3, input_size, input_size) on the device."""
        return self.normalise(self.upload(images_NHWC))

    def upload(self, images_NHWC: npt.NDArray[np.uint8]) -> torch.Tensor:
        """The same bytes on the device, uint8 (N, H, W, 3)."""
        return upload(images_NHWC, self.device, torch.uint8)

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (N, H, W, 3) on the device → float32 (N, 3, input_size, input_size)."""
        x = pixels.permute(0, 3, 1, 2).to(torch.float32)
        mean, std = self._statistics
        x = x.mul_(1 / 255).sub_(mean).div_(std)
        if self.input_size is not None and x.shape[-2:] != (self.input_size, self.input_size):
            x = F.interpolate(x, size=(self.input_size, self.input_size), mode="bilinear", antialias=True)
        return x.contiguous(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)

    @cached_property
    def _statistics(self) -> torch.Tensor:
        """Mean and standard deviation on the device, float32 (2, 1, 3, 1, 1)."""
        # A channel that never varies has no standard deviation, and needs none.
        numbers = np.array([self.mean, [s or 1.0 for s in self.std]])
        return upload(numbers, self.device, torch.float32).view(2, 1, 3, 1, 1)
