"""Picture files stored as they are: packed, read, and made to pictures in one resample from the whole picture."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torchvision.transforms.functional import InterpolationMode, resized_crop

from augft.augment import kernel
from augft.augment.actor import Augmenter
from augft.augment.apply import draw_parameters
from augft.augment.draw import Float64Array
from augft.augment.drawn import Drawn, DrawnOp
from augft.augment.ops import OPS, Op, Size
from augft.augment.policy import Policy
from augft.augment.samples import render_samples
from augft.config import Job, load_job_text
from augft.data import encoded, packed
from augft.data.pack import pack
from augft.data.packed import PackedSplit, open_packed
from augft.data.picture import to_pixels
from augft.errors import ConfigError, DataError, Stopped
from augft.prepare import prepare, prepare_packed
from augft.report.preview import replay
from augft.run import Run
from augft.train.solo import run_alone

S = 32
IDS = np.arange(24)


def smooth(height: int, width: int, seed: int) -> Image.Image:
    """A picture of large smooth spots, which filters of any kind agree on, and whose places show."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def file_of(image: Image.Image, kind: str, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def lying(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return file_of(image, "JPEG", quality=95, exif=exif)


ODD: list[Callable[[Image.Image], bytes]] = [
    lambda image: file_of(image, "JPEG", quality=95),
    lambda image: file_of(image, "PNG"),
    lying,
    lambda image: file_of(image.convert("L"), "JPEG", quality=95),
    lambda image: file_of(image.convert("CMYK"), "JPEG", quality=95),
    lambda image: file_of(image.convert("P"), "PNG"),
]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUGFT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(encoded, "SHARD_BYTES", 20_000)
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 pictures of train, 12 a class, and 8 of test, of many sizes and kinds."""
    root = tmp_path_factory.mktemp("source")
    rng = np.random.default_rng(1)
    for number in range(32):
        height, width = rng.integers(40, 400, 2).tolist()
        split, label = ("train", "ab"[number // 12]) if number < 24 else ("test", "ab"[number % 2])
        folder = root / split / label
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:02d}.img.jpg").write_bytes(ODD[number % 6](smooth(height, width, number)))
    return root


@pytest.fixture(scope="module")
def files(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(pack(str(source), tmp_path_factory.mktemp("packed") / "files", image_size=S, encoded=True))


@pytest.fixture(scope="module")
def train(files: Path) -> PackedSplit:
    return open_packed(files).split("train")


def contents(source: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((source / "train").rglob("*.jpg"))]


# ---- the set ---------------------------------------------------------------------------------------------


def test_a_test_alone_can_be_packed_to_be_looked_at(source: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "test").symlink_to(source / "test")
    packed_sets = [
        open_packed(pack(str(tmp_path / "source"), image_size=S, encoded=stored, for_training=False))
        for stored in (True, False)
    ]
    assert [found.splits for found in packed_sets] == [("test",)] * 2
    assert packed_sets[0].manifest.mean == packed_sets[1].manifest.mean


def test_packed_again_it_is_the_same_bytes(source: Path, files: Path, tmp_path: Path) -> None:
    again = Path(pack(str(source), tmp_path / "again", image_size=S, encoded=True, num_threads=3))
    names = sorted(path.name for path in files.iterdir())
    assert names == sorted(path.name for path in again.iterdir())
    assert sum(name.startswith("train") for name in names) > 1
    for name in names:
        assert (again / name).read_bytes() == (files / name).read_bytes()


def test_what_a_killed_packing_left_is_written_over(source: Path, files: Path, tmp_path: Path) -> None:
    left = tmp_path / f".out.packing-{open_packed(files).manifest.recipe[:16]}"
    left.mkdir()
    (left / "train-00000.parquet").write_bytes(b"half")
    made = Path(pack(str(source), tmp_path / "out", image_size=S, encoded=True))
    assert {path.name: path.read_bytes() for path in made.iterdir()} == {
        path.name: path.read_bytes() for path in files.iterdir()
    }
    assert not left.exists()


def test_pixels_and_files_show_the_same_pictures(source: Path, files: Path, tmp_path: Path) -> None:
    """Mean, deviation, and the plain view of each picture, so validation too: bit for bit."""
    pixels = open_packed(pack(str(source), tmp_path / "pixels", image_size=S))
    stored = open_packed(files)
    assert (pixels.manifest.format_version, stored.manifest.format_version) == (1, 2)
    assert "picture_bytes" not in (tmp_path / "pixels" / "manifest.json").read_text()
    assert stored.manifest.image_shape == pixels.manifest.image_shape == (S, S, 3)
    assert (stored.manifest.mean, stored.manifest.std) == (pixels.manifest.mean, pixels.manifest.std)
    assert stored.manifest.digest != pixels.manifest.digest
    for name in ("train", "test"):
        ids = np.random.default_rng(0).permutation(stored.split(name).num_rows)[:7].repeat(2)
        for found, expected in zip(stored.split(name).gather(ids), pixels.split(name).gather(ids), strict=True):
            np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(
        stored.split("train").gather(IDS)[0], [to_pixels(content, S) for content in contents(source)]
    )


def test_each_file_is_kept_as_it_is(source: Path, train: PackedSplit) -> None:
    pictures = train.pictures(IDS)
    assert [picture.content.tobytes() for picture in pictures] == contents(source)
    for picture in pictures:
        whole = to_pixels(picture.content.tobytes(), None)
        assert (picture.height, picture.width) == whole.shape[:2]


def test_what_it_needs_is_said(source: Path, files: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="need a size to come out at: give --image-size"):
        pack(str(source), tmp_path / "out", encoded=True)
    with pytest.raises(DataError, match="holds pixels and no picture files"):
        pack("digits", tmp_path / "out", image_size=8, encoded=True)
    pixels = pack("digits", tmp_path / "pixels")
    with pytest.raises(DataError, match="is packed as pixels, not as picture files"):
        pack(str(pixels), encoded=True)
    with pytest.raises(ConfigError, match=r"set augment\.where to actors"):
        prepare_packed(job("augment.where=device", "data.store=pixels"), files)
    with pytest.raises(ConfigError, match="takes stored pixels"):
        job("augment.where=device")
    assert list(tmp_path.glob("out*")) == []


def test_a_bad_picture_fails_or_is_left_out(source: Path, tmp_path: Path) -> None:
    root = tmp_path / "bad"
    for label in "ab":
        (root / label).mkdir(parents=True)
        (root / label / "good.png").write_bytes(file_of(smooth(50, 60, 0), "PNG"))
    (root / "b" / "cut.jpg").write_bytes(contents(source)[0][:-300])
    with pytest.raises(DataError, match=r"picture 'b/cut\.jpg' cannot be decoded"):
        pack(str(root), tmp_path / "out", image_size=S, encoded=True)
    manifest = open_packed(pack(str(root), tmp_path / "out", image_size=S, encoded=True, on_bad="skip")).manifest
    assert (manifest.splits["train"].num_rows, manifest.rejected[0].path) == (2, "b/cut.jpg")


# ---- damage ----------------------------------------------------------------------------------------------


def test_a_shard_that_was_changed_is_refused(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Path
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in files.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    shard = copy / "train-00000.parquet"
    middle = contents(source)[0][200:220]
    assert shard.read_bytes().count(middle) == 1
    shard.write_bytes(shard.read_bytes().replace(middle, bytes(20)))
    monkeypatch.setenv("AUGFT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError, match=r"rows of shard train-00000\.parquet do not have the manifest's digest"):
        open_packed(copy).split("train").pictures(IDS[:1])
    content = json.loads((copy / "manifest.json").read_text())
    table = pq.read_table(shard)
    pq.write_table(table.set_column(4, "image", table["image"].cast(pa.large_binary())), shard)
    content["splits"]["train"]["shards"][0]["num_bytes"] = shard.stat().st_size
    (copy / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"shard train-00000\.parquet does not hold picture files"):
        open_packed(copy).split("train").pictures(IDS[:1])
    del content["splits"]["train"]["shards"][1]["picture_bytes"]
    (copy / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"train-00001\.parquet is not of format version 2"):
        open_packed(copy)


@pytest.mark.parametrize("policy", ["none", "basic", ["resized_crop"]])
def test_a_picture_that_went_bad_is_named(files: Path, monkeypatch: pytest.MonkeyPatch, policy: Any) -> None:
    """On a node's disk, after the shard was checked."""
    laid_down = packed._laid_down

    def spoilt(*arguments: Any) -> np.ndarray[Any, Any]:
        array = laid_down(*arguments).copy()
        begin = len(array) - encoded.laid_out_bytes(arguments[1]) + arguments[1].num_rows * 32
        array[begin : begin + 100] = 0  # the head of its first file
        return array

    monkeypatch.setattr(packed, "_laid_down", spoilt)
    split = open_packed(files).split("train")
    chosen = Policy.from_config(policy)
    drawn = draw_parameters(chosen, seed=0, epoch=0, sample_ids=IDS)
    with pytest.raises(DataError, match=r"damaged: sample 0 of 'train' is not a picture of a known kind"):
        render_samples(split, IDS, chosen, drawn)
    with pytest.raises(DataError, match="sample 0 of 'train'"):
        split.gather(IDS)


# ---- one resample ----------------------------------------------------------------------------------------


def one(name: str, *values: float, **parameters: Any) -> tuple[Op, Float64Array]:
    return OPS[name](**parameters), np.array(values, np.float64)


def drawn_of(*ops: tuple[Op, Float64Array], num: int = len(IDS)) -> Drawn:
    """The same values of each op for all samples."""
    rows, none = np.arange(num), np.empty(0, np.uint64)
    return Drawn(num, tuple(DrawnOp(op, rows, np.repeat(values[:, None], num, 1), none) for op, values in ops))


def made(split: PackedSplit, *ops: tuple[Op, Float64Array], **of_policy: Any) -> np.ndarray[Any, Any]:
    return render_samples(split, IDS, replace(Policy(), **of_policy), drawn_of(*ops))


def difference(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    return float(np.abs(found.astype(np.float64) - expected).mean())


@pytest.mark.parametrize(
    ("ops", "turn"),
    [
        ([], lambda x: x),
        ([one("horizontal_flip")], lambda x: x[:, :, ::-1]),
        ([one("vertical_flip"), one("horizontal_flip")], lambda x: x[:, ::-1, ::-1]),
        ([one("rotate90", 90)], lambda x: np.rot90(x, axes=(1, 2))),
    ],
)
def test_what_only_turns_is_the_plain_view_turned(train: PackedSplit, ops: Any, turn: Any) -> None:
    np.testing.assert_array_equal(made(train, *ops), turn(train.gather(IDS)[0]))


def test_a_resized_crop_is_of_the_whole_picture(source: Path, train: PackedSplit) -> None:
    """As torchvision crops and resizes, whatever a picture's size; a flip after it mirrors it."""
    area, across, down = 0.6, 0.9, 0.2
    found = made(train, one("resized_crop", area, 1.2, across, down))
    mirrored = made(train, one("resized_crop", area, 1.2, across, down), one("horizontal_flip"))
    for row, content in enumerate(contents(source)):
        whole = Image.fromarray(to_pixels(content, None))
        width = min(round((area * whole.width * whole.height * 1.2) ** 0.5), whole.width)
        height = min(round((area * whole.width * whole.height / 1.2) ** 0.5), whole.height)
        left, top = int(across * (whole.width - width + 1)), int(down * (whole.height - height + 1))
        expected = np.asarray(
            resized_crop(whole, top, left, height, width, [S, S], InterpolationMode.BILINEAR, antialias=True)
        )
        assert difference(found[row], expected) < 2.5, row
        assert difference(mirrored[row], expected[:, ::-1]) < 2.5, row


def test_geometry_is_one_map_from_the_whole_picture(source: Path, train: PackedSplit) -> None:
    """Against Pillow's own affine transform of the whole picture, made large and then reduced."""
    found = made(train, one("rotate", 30), one("scale", 0.9), fill=(9, 90, 200))
    angle, zoom = np.deg2rad(30), 8
    for row, content in enumerate(contents(source)):
        whole = Image.fromarray(to_pixels(content, None))
        side = min(whole.size)
        k = side / S / 0.9 / zoom
        matrix = k * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        # The middle of what comes out shows the middle of the central square.
        middle = np.array([(whole.width - side) // 2 + side / 2, (whole.height - side) // 2 + side / 2])
        shift = middle - matrix @ np.full(2, S * zoom / 2)
        data = (*matrix[0], shift[0], *matrix[1], shift[1])
        turned = whole.transform(
            (S * zoom, S * zoom), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR, fillcolor=(9, 90, 200)
        )
        expected = np.asarray(turned.reduce(zoom))
        assert difference(found[row], expected) < 3.5, row


def test_ops_before_the_crop_move_the_whole_picture(train: PackedSplit) -> None:
    """A mirrored picture's right end is the picture's left end mirrored."""
    at_right = made(train, one("horizontal_flip"), one("resized_crop", 0.3, 1.0, 0.999, 0.5))
    at_left = made(train, one("resized_crop", 0.3, 1.0, 0.0, 0.5), one("horizontal_flip"))
    assert difference(at_right, at_left) < 1


def test_beyond_the_central_square_is_picture_and_then_fill(train: PackedSplit) -> None:
    found = made(train, one("translate", -10, 0, unit="pixel"), fill=(255, 0, 255))
    ratios = np.array([picture.width / picture.height for picture in train.pictures(IDS)])
    wide, narrow = np.flatnonzero(ratios > 2.2), np.flatnonzero(ratios < 1)
    assert len(wide)
    assert len(narrow)
    assert not (found[wide, :, -1] == (255, 0, 255)).all(-1).any()
    assert (found[narrow, :, -9:] == (255, 0, 255)).all()


def test_what_is_cut_off_changes_nothing(train: PackedSplit, monkeypatch: pytest.MonkeyPatch) -> None:
    ops = [one("resized_crop", 0.2, 1.0, 0.3, 0.8), one("rotate", 20)]
    found = made(train, *ops)
    monkeypatch.setattr("augft.augment.samples._cut", lambda image, maps, _: (image, maps))
    np.testing.assert_array_equal(found, made(train, *ops))


def test_a_fine_warp_is_pillows_resize() -> None:
    """At shrinks where one sample a pixel aliases: 1.4 of noise."""
    noise = np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8)
    k = 1.4
    maps = np.array([[k], [0], [k / 2 - 0.5], [0], [k], [k / 2 - 0.5]])
    resized = Image.fromarray(noise).resize((64, 64), Image.Resampling.BILINEAR, box=(0, 0, 64 * k, 64 * k))
    fine, coarse = (
        difference(kernel.warp(noise[None], maps, bilinear=True, out_size=(64, 64), fine=fine)[0], np.asarray(resized))
        for fine in (True, False)
    )
    assert fine < coarse / 2


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> PackedSplit:
    """Two squares of noise, 1.4 and 3.1 times as large as they come out."""
    root = tmp_path_factory.mktemp("noise")
    for label, side in (("a", 90), ("b", 200)):
        (root / label).mkdir()
        pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
        (root / label / "noise.png").write_bytes(file_of(Image.fromarray(pixels), "PNG"))
    return open_packed(pack(str(root), image_size=64, encoded=True)).split("train")


@pytest.mark.parametrize(
    ("op", "most"),
    [
        (one("resized_crop", 1.0, 1.0, 0.0, 0.0), (5, 9)),
        # One sample for each pixel, of what is averaged by whole numbers.
        (one("perspective", 1e-4, *[0.0] * 7), (30, 12)),
        (one("elastic", *[0.0] * 98), (30, 12)),
    ],
)
def test_what_shrinks_is_smooth(noise: PackedSplit, op: tuple[Op, Float64Array], most: tuple[float, float]) -> None:
    """As Pillow resizes it: noise that is sampled without averaging differs by more than 40."""
    found = render_samples(noise, IDS[:2], Policy(), drawn_of(op, num=2))
    plain, _ = noise.gather(IDS[:2])
    assert [difference(found[row], plain[row]) < most[row] for row in range(2)] == [True, True]


def test_each_chain_is_decoded_for_itself(noise: PackedSplit) -> None:
    """A chain of weight 1 is as its ops alone, also where it shrinks more than the ops before it."""
    turned, small = one("rotate", 5), one("scale", 0.25)
    chain = drawn_of(small, num=2).ops
    mixed = Drawn(2, drawn_of(turned, num=2).ops, (chain,), np.array([[0.0, 0.0], [1.0, 1.0]]))
    alone = render_samples(noise, IDS[:2], Policy(), drawn_of(turned, small, num=2))
    np.testing.assert_array_equal(render_samples(noise, IDS[:2], Policy(), mixed), alone)


def test_a_picture_depends_on_itself_alone(train: PackedSplit) -> None:
    """Any part of a batch, in any order; policies with all there is, AugMix's chains too."""
    for ops in ("standard", [{"resized_crop": {"p": 0.5}}, {"perspective": {"p": 0.5}}, "elastic", "aug_mix"]):
        policy = Policy.from_config(ops)
        whole = render_samples(train, IDS, policy, draw_parameters(policy, seed=3, epoch=1, sample_ids=IDS))
        some = np.array([17, 3, 9])
        drawn = draw_parameters(policy, seed=3, epoch=1, sample_ids=some)
        np.testing.assert_array_equal(render_samples(train, some, policy, drawn), whole[some])


def test_the_box_of_pixels_is_as_it_was() -> None:
    op, values = one("resized_crop", 0.5, 1.0, 0.5, 0.5)
    maps = op.inverse(values[:, None], Size(40, 60))  # type: ignore[attr-defined]
    np.testing.assert_allclose(maps[:, 0], [35 / 60, 0, 13 + 35 / 120 - 0.5, 0, 35 / 40, 3 + 35 / 80 - 0.5])


# ---- runs ------------------------------------------------------------------------------------------------

JOB = """
name: files
seed: 2
data: {source: none, store: encoded, image_size: 32, val_fraction: 0.25}
augment: {policy: [resized_crop, horizontal_flip, {rotate: {p: 0.5}}, brightness], keep_original: true}
model: {name: resnet20, weights: none}
train: {epochs: 2, global_batch_size: 10}
run: {checkpoint_every_steps: 2, trackers: []}
"""


def job(*overrides: str) -> Job:
    return load_job_text(JOB, "job.yaml", overrides)


def test_a_run_goes_on_where_it_was_stopped(files: Path, tmp_path: Path) -> None:
    """With windows of shards, which are held as files; previews show what actors make."""
    this = job(f"data.source={files}", "data.shuffle=windowed", "data.window_shards=2")
    undisturbed, stopped = Run(str(tmp_path / "undisturbed")), Run(str(tmp_path / "stopped"))
    run_alone(this, undisturbed.uri)
    steps = iter(range(1, 99))
    with pytest.raises(Stopped, match="stopped after step 3"):
        run_alone(this, stopped.uri, stop_is_asked=lambda: next(steps) == 3)
    run_alone(this, stopped.uri)
    assert stopped.summary["stream_digest"] == undisturbed.summary["stream_digest"]
    assert stopped.storage.read("model.safetensors") == undisturbed.storage.read("model.safetensors")


def test_previews_show_what_actors_make(files: Path) -> None:
    prepared = prepare_packed(job(), files)
    plan = prepared.plan
    made = Augmenter(str(files), "train", prepared.samples.train_ids, plan, prepared.policy).columns(
        np.arange(plan.epoch_length)
    )
    row = int(np.flatnonzero(made["copy"] == 1)[0])
    shown = replay(prepared, sample_id=int(made["sample_id"][row]))
    np.testing.assert_array_equal(shown.picture, made["image"][row])
    original = int(np.flatnonzero(made["copy"] == 0)[0])
    plain, _ = prepared.dataset.split("train").gather(made["sample_id"][[original]])
    np.testing.assert_array_equal(made["image"][original], plain[0])


def test_a_job_packs_its_source_so(source: Path) -> None:
    from augft.display import Display

    with Display() as display:
        prepared = prepare(job(f"data.source={source}"), display)
    assert prepared.dataset.manifest.encoded
    assert prepared.dataset.split("train").num_bytes == sum(map(len, contents(source))) + 24 * 32
