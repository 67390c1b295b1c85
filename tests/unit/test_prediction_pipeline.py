"""What travels between the tasks of batch prediction: units whole, and errors as they were raised."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
from PIL import Image

from augft.data.picture import NoPictureError
from augft.errors import DataError, StorageError
from augft.prediction import pipeline
from augft.prediction.files import table_of


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 6), (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


def test_units_that_are_decoded_on_the_way_stay_units() -> None:
    names = pa.array([b"a.png", b"b.png", b"c.png"])
    units = [table_of(names, [png(1), b"no picture", "cannot be read"]), table_of(names, [png(2), png(3), b""])]
    block = pa.concat_tables(pipeline._boxed(number, unit) for number, unit in enumerate(units))
    boxes = pipeline._decode_block(block, 4).to_pylist()
    assert [box["unit"] for box in boxes] == [0, 1]
    first, second = (pipeline._unboxed(box) for box in boxes)
    assert first.schema.names == ["path", "pixels", "reason"]
    assert first["pixels"].to_pylist() == [bytes([1] * 48), None, None]
    assert first["reason"].to_pylist() == [None, "is not a picture of a known kind", "cannot be read"]
    assert second["reason"].to_pylist() == [None, None, "is empty or cannot be read"]
    assert second["pixels"].to_pylist()[:2] == [bytes([2] * 48), bytes([3] * 48)]


def test_pixels_of_a_packed_set_are_not_decoded() -> None:
    unit = pa.table(
        {"sample_id": [7], "pixels": [np.zeros(48, np.uint8).tobytes()], "reason": pa.nulls(1, pa.string())}
    )
    assert pipeline._decode(unit, 4) is unit


def test_an_error_arrives_as_what_it_was() -> None:
    box = pipeline._boxed(-1, StorageError("the disk is full"))
    assert pipeline._decode_block(box, 4).equals(box)
    [told] = box.to_pylist()
    assert (told["kind"], told["message"]) == ("StorageError", "the disk is full")
    assert pipeline._told(NoPictureError("is none"))["kind"] == DataError.__name__
