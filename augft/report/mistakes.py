"""The worst mistakes, with their pictures where the data set is still there."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from augft.data.packed import open_packed
from augft.errors import DataError
from augft.report.record import Record
from augft.run import EVALUATION

MAX_SIDE = 128
"""Pictures of a larger side are shrunk to this one, in pixels."""
PIXEL_ART_SIDE = 64
"""Up to this side a picture is shown with its pixels as they are."""


@dataclass(frozen=True)
class Exhibit:
    """A sample that the model is wrong about."""

    sample_id: int
    label: str
    predicted: str
    probability: float
    picture: str | None = None
    """A data URI."""


@dataclass(frozen=True)
class Gallery:
    """Mistakes, worst first."""

    exhibits: list[Exhibit]
    note: str | None = None
    """Why the pictures are not there."""
    pixelated: bool = True


def gallery(record: Record) -> Gallery:
    """The mistakes of a run's evaluation."""
    evaluation = record.evaluation or {}
    try:
        classes, worst = evaluation.get("classes", []), evaluation.get("worst", [])
        exhibits = [
            Exhibit(
                sample_id=int(one["sample_id"]),
                label=str(classes[one["label"]]),
                predicted=str(classes[one["predicted"]]),
                probability=float(one["probability"]),
            )
            for one in worst
        ]
    except (KeyError, IndexError, TypeError, ValueError):
        return Gallery([], f"The mistakes in {EVALUATION} cannot be read.")
    if not exhibits:
        return Gallery([])
    try:
        dataset = open_packed(str(record.data.get("path")))
        if dataset.manifest.digest != record.data.get("digest", dataset.manifest.digest):
            raise DataError("another data set lies in its place")
        ids = np.array([exhibit.sample_id for exhibit in exhibits], np.int64)
        images, _ = dataset.split("test").gather(ids)
    except (DataError, OSError) as error:
        return Gallery(exhibits, f"The pictures cannot be shown, their data set is not at hand: {error}.")
    shown = [replace(one, picture=data_uri(image)) for one, image in zip(exhibits, images, strict=True)]
    return Gallery(shown, pixelated=max(images.shape[1:3]) <= PIXEL_ART_SIDE)


def data_uri(image: npt.NDArray[np.uint8]) -> str:
    """A picture, uint8 (H, W, 3), as a data URI: small ones lossless, large ones shrunk."""
    picture, target = Image.fromarray(image), io.BytesIO()
    small = max(picture.size) <= PIXEL_ART_SIDE
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    picture.save(target, "PNG" if small else "JPEG", **({"optimize": True} if small else {"quality": 88}))
    return encode(target.getvalue(), "image/png" if small else "image/jpeg")


def encode(content: bytes, kind: str) -> str:
    """Bytes as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
