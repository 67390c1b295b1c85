"""Picture files → probabilities, and what the run's augmentation makes of a picture."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from augft.augment.apply import draw_parameters, render
from augft.augment.policy import Policy
from augft.data.picture import to_pixels
from augft.errors import PolicyError
from augft.predictor import Predictor
from augft.report.pictures import png_bytes, whole_zoom
from augft.run import POLICY, open_run
from augft.saved import SavedModel, read_saved

UInt8Array = npt.NDArray[np.uint8]

_TILE = 96
"""Least side of a picture in a strip, in pixels."""


@dataclass(frozen=True)
class Recipe:
    """All that is served of a run: read once, sent to each replica."""

    name: str
    saved: SavedModel
    policy: Policy
    seed: int
    epochs: int


def read_recipe(uri: str) -> Recipe:
    """Read what is served of a run.

    Raises:
        RunDirectoryError: there is no run, or it has left no model yet.
        WeightsError, PolicyError: a file of it is damaged.
    """
    saved, run = read_saved(uri), open_run(uri)
    try:
        policy = Policy.from_config(json.loads(run.storage.read(POLICY)))
    except (ValueError, PolicyError) as error:
        raise PolicyError(f"{uri}/{POLICY}: {error}") from None
    return Recipe(run.job.name, saved, policy, run.job.seed, run.job.train.epochs)


class Classifier:
    """A model that is loaded, and answers.

    Args:
        recipe: of which run.
        device: where it runs.
        max_pixels: a picture file whose header says more is not decoded.
    """

    def __init__(self, recipe: Recipe, device: torch.device, max_pixels: int) -> None:
        self.recipe = recipe
        self._max_pixels = max_pixels
        self._predictor = Predictor(recipe.saved, device)

    def decode(self, content: bytes) -> UInt8Array:
        """A picture file → uint8 (S, S, 3), as packing brings it to the size S that training stored.

        Raises:
            BadPictureError: it is hostile, damaged, too large, or no picture.
        """
        return to_pixels(content, self.recipe.saved.picture_size, max_pixels=self._max_pixels)

    def probabilities(self, images_NHWC: UInt8Array) -> npt.NDArray[np.float32]:
        """uint8 (N, S, S, 3) → float32 (N, C); rows sum to 1."""
        return self._predictor.probabilities(images_NHWC)

    def augmented(
        self, picture: UInt8Array, *, seed: int | None, epoch: int | None, copies: int, columns: int
    ) -> bytes:
        """The picture and augmented copies of it, as the run's policy makes them.

        The draws are keyed as in training, by seed, epoch, copy and a sample id that is a digest of the picture: the
        same on each replica, today and tomorrow.

        Args:
            picture: uint8 (S, S, 3).
            seed: None: that of the run.
            epoch: of policies that change while training goes on; None: the last.
            copies: how many.
            columns: pictures in a row.

        Returns:
            The content of a PNG file: the original first, then the copies.
        """
        number = int.from_bytes(hashlib.sha256(picture.tobytes()).digest()[:4]) // 2
        originals = np.repeat(picture[None], copies, 0)
        drawn = draw_parameters(
            self.recipe.policy,
            seed=self.recipe.seed if seed is None else seed,
            epoch=self.recipe.epochs - 1 if epoch is None else epoch,
            sample_ids=np.full(copies, number, np.int64),
            copy=np.arange(copies),
        )
        made = render(originals, self.recipe.policy, drawn)
        return _strip(np.concatenate([picture[None], made]), columns)

    def warm_up(self) -> None:
        """Do all of it once: the first time compiles and allocates."""
        size = self.recipe.saved.picture_size
        blank = np.zeros((size, size, 3), np.uint8)
        self.probabilities(blank[None])
        self.augmented(blank, seed=None, epoch=None, copies=2, columns=3)


def _strip(pictures: UInt8Array, columns: int) -> bytes:
    """uint8 (N, S, S, 3) side by side, in rows; small ones enlarged so that each pixel stays a square: a PNG file."""
    num, size = pictures.shape[:2]
    zoom = whole_zoom(size, size, _TILE)
    side, gap = size * zoom, max(2, size * zoom // 24)
    columns = min(columns, num)
    rows = -(-num // columns)
    # Transparent between them: the page has its own colour.
    page = Image.new("RGBA", (columns * (side + gap) - gap, rows * (side + gap) - gap))
    for i, picture in enumerate(pictures):
        tile = Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST)
        page.paste(tile, (i % columns * (side + gap), i // columns * (side + gap)))
    return png_bytes(page)
