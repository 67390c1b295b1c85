"""What travels between the tasks of batch prediction: units whole, and errors as they were raised."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from augft.data.picture import NoPictureError
from augft.errors import DataError, ResourceError, StorageError
from augft.prediction import pipeline
from augft.prediction.files import table_of
from augft.prediction.listing import read_listing, write_listing
from augft.prediction.pipeline import Crew
from augft.prediction.predict import a_file, crew_of, look
from augft.prediction.source import open_source
from augft.storage import Storage


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


@pytest.mark.parametrize(
    ("num_workers", "reads_apart", "cpus", "gpus", "num_actors", "has_gpus"),
    [
        (None, False, 8, 0, 8, False),
        (None, True, 8, 0, 7, False),
        (3, True, 8, 0, 3, False),
        (None, False, 8, 2, 2, True),
        (None, False, 4, 8, 3, True),  # one CPU decodes
        (None, True, 4, 8, 2, True),  # and one reads
        (None, False, 2, 8, 1, True),
        (1, False, 8, 2, 1, True),
        (4, False, 4, 2, 4, False),  # on CPUs, all of them
    ],
)
def test_who_predicts(
    num_workers: int | None, reads_apart: bool, cpus: int, gpus: int, num_actors: int, has_gpus: bool
) -> None:
    crew = crew_of(num_workers, 100, reads_apart, cpus, gpus)
    assert crew == Crew(num_actors, has_gpus, reads_apart)
    assert crew_of(num_workers, 1, reads_apart, cpus, gpus).num_actors == 1


@pytest.mark.parametrize(
    ("num_workers", "reads_apart", "cpus", "gpus", "words"),
    [
        (9, False, 8, 0, r"--workers 9: the cluster has 8 CPUs, a worker takes one; give fewer"),
        (8, True, 8, 0, r"--workers 8: the cluster has 8 CPUs, a worker takes one and readers 1; give fewer"),
        (2, True, 3, 2, r"--workers 2: the cluster has 3 CPUs, a worker takes one and readers 2; give fewer"),
        (None, False, 1, 1, r"--workers auto: the cluster has 1 CPUs, a worker takes one and readers 1"),
        (None, False, 0, 0, r"--workers auto: the cluster has 0 CPUs"),
    ],
)
def test_too_few_cpus(num_workers: int | None, reads_apart: bool, cpus: int, gpus: int, words: str) -> None:
    with pytest.raises(ResourceError, match=words):
        crew_of(num_workers, 100, reads_apart, cpus, gpus)


def test_a_node_that_sees_an_empty_folder_does_not_see_the_pictures(tmp_path: Path) -> None:
    pictures, out = tmp_path / "pictures", tmp_path / "out"
    pictures.mkdir()
    (pictures / "a.png").write_bytes(png(1))
    Storage(out).write("marker", b"marker")
    source = open_source(str(pictures), 8)
    write_listing(source, out / "listing.arrow", 4)
    file = a_file(source.where, read_listing(Storage(out), [0])[0])
    assert look(source.where, file, str(out), "marker") is None
    assert "does not see " in str(look(source.where, file, str(out), "other"))
    (pictures / "a.png").rename(tmp_path / "a.png")
    told = look(source.where, file, str(out), "marker")
    assert told == f"does not see the pictures at {pictures}; put them in a folder that all nodes share, or on s3://"
