"""Chunks of pictures through a model: logits, and sums of integers.

A chunk is the same pictures in the same order whoever looks at it, and one thread computes it: a convolution of another
batch, or by more threads, may end in another last bit. So a result is the same to the bit at any number of workers, as
long as they have the same kind of processor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from augft.assess.views import View
from augft.augment.draw import IntArray
from augft.data.packed import PackedSplit
from augft.predictor import Predictor
from augft.train.progress import in_units

Float32Array = npt.NDArray[np.float32]

CHUNK_BYTES = 2**19
MOST_A_CHUNK = 128


@dataclass(frozen=True)
class Pictures:
    """Some pictures of a packed split, with their labels as the model numbers them."""

    split: PackedSplit
    sample_ids: IntArray
    """int64 (M,)"""
    labels: IntArray
    """int64 (M,)"""

    def __len__(self) -> int:
        return len(self.sample_ids)

    @property
    def chunk_size(self) -> int:
        """Pictures of a chunk: fewer of large ones."""
        return int(np.clip(CHUNK_BYTES // int(np.prod(self.split.image_shape)), 16, MOST_A_CHUNK))

    @property
    def num_chunks(self) -> int:
        return -(-len(self) // self.chunk_size)

    def places(self, chunk: int) -> slice:
        """Which of the M pictures a chunk holds."""
        return slice(chunk * self.chunk_size, min((chunk + 1) * self.chunk_size, len(self)))


@dataclass(frozen=True)
class Task:
    """What is wanted of a chunk: of each view the counts, or of all together the answer to each picture."""

    views: tuple[View, ...]
    answers: bool = False

    def __call__(self, model: Predictor, pictures: Pictures, chunk: int) -> IntArray | Float32Array:
        """Look at a chunk of B pictures.

        Returns:
            Counts, int64 (V, 3): number, number right, sum of losses in `LOSS_UNIT`. Or answers, float32 (B, C): the
            logits of a single view; of several the logarithm of the mean of their probabilities.
        """
        places = pictures.places(chunk)
        ids, labels = pictures.sample_ids[places], torch.from_numpy(pictures.labels[places])
        images, _ = pictures.split.gather(ids)
        with torch.inference_mode():
            if not self.answers:
                rows = [counts(model.logits(view(images, ids)).cpu(), labels) for view in self.views]
                return np.array(rows, np.int64)
            if len(self.views) == 1:
                logits: Float32Array = model.logits(self.views[0](images, ids)).cpu().numpy()
                return logits
            total = torch.zeros(())
            for view in self.views:
                total = total + (model.logits(view(images, ids)).cpu() / model.temperature).softmax(1)
            mean: Float32Array = (total / len(self.views)).clamp_min(1e-30).log().numpy()
            return mean


def counts(logits: torch.Tensor, labels: torch.Tensor) -> tuple[int, int, int]:
    """Number, number right and sum of cross-entropies in `LOSS_UNIT`, of logits float32 (B, C) and labels (B,)."""
    right = int((logits.argmax(1) == labels).sum())
    return len(labels), right, int(loss_units(logits, labels).sum())


def loss_units(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each sample in whole `LOSS_UNIT`, int64 (B,)."""
    return in_units(torch.nn.functional.cross_entropy(logits, labels, reduction="none"))


def join(parts: Sequence[IntArray | Float32Array], task: Task) -> IntArray | Float32Array:
    """The results of all chunks, in their order, as one: counts added up, answers one below the other."""
    if task.answers:
        return np.concatenate(parts).astype(np.float32, copy=False)
    total: IntArray = np.sum(parts, axis=0, dtype=np.int64)
    return total
