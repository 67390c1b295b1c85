"""The previews: what they show are the pictures that training sees, each of their pixels a square."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageChops

from augft.augment.actor import Augmenter
from augft.augment.apply import augment_batch
from augft.augment.mix import draw_mix, mix, partners
from augft.augment.policy import ALL_OPS, PRESETS, Policy
from augft.config import load_job
from augft.display import Display
from augft.errors import InputError
from augft.prepare import Prepared, prepare
from augft.report.ops_sheet import (
    KINDS,
    MIXES,
    NUM_DRAWS,
    Draw,
    always,
    draws_of,
    kind_of,
    mixing_draws,
    ops_sheet,
    spread,
)
from augft.report.pictures import fit, font, preview_grid, replay_page, wrap, wrap_labels
from augft.report.preview import ops_png, preview_png, replay

IDS = np.array([4, 7, 1_000_000])
NAMES = ["a", "b", "c"]


def images(side: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, side, side, 3), dtype=np.uint8)


def count_of(page: np.ndarray, picture: np.ndarray, zoom: int) -> int:
    """How often the enlarged picture stands on the page."""
    block = picture.repeat(zoom, 0).repeat(zoom, 1)
    height, width, _ = block.shape
    fits = page[: len(page) - height + 1, : page.shape[1] - width + 1]
    y, x = np.nonzero(fits[..., 0] == block[0, 0, 0])  # one channel of a large page, three of what is left
    for down, across in [(0, 0), *np.random.default_rng(0).integers(0, (height, width), (32, 2))]:
        same = (page[y + down, x + across] == block[down, across]).all(-1)
        y, x = y[same], x[same]
    return sum(np.array_equal(page[i : i + height, j : j + width], block) for i, j in zip(y, x, strict=True))


def decoded(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    return image.convert("RGB")


# -- the grid --------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["basic", "digits", "augmix"])
def test_each_original_and_each_copy_is_there_once(preset: str) -> None:
    page = np.asarray(
        preview_grid(images(), NAMES, PRESETS[preset], seed=3, epoch=2, sample_ids=IDS, num_copies=2, tile=40)
    )
    shown = [images()] + [
        augment_batch(images(), PRESETS[preset], seed=3, epoch=2, sample_ids=IDS, copy=copy) for copy in (0, 1)
    ]
    for picture in np.concatenate(shown):
        assert count_of(page, picture, zoom=5) == 1


def test_the_same_arguments_make_the_same_bytes() -> None:
    first, second = (
        preview_grid(images(), ["a" * 99, "b", "c"], PRESETS["none"], seed=0, epoch=0, sample_ids=[0, 1, 2])
        for _ in range(2)
    )
    assert first.tobytes() == second.tobytes()


def test_a_policy_that_changes_is_shown_as_it_is_in_the_epoch() -> None:
    policy = Policy.from_config(
        {"epochs": 3, "ops": [{"rotate": {"degrees": {"schedule": [[0, 0], [1, 90]]}}}], "phases": []}
    )
    pages = [
        preview_grid(images(), NAMES, policy, seed=0, epoch=epoch, sample_ids=IDS, num_copies=2, tile=40)
        for epoch in (0, 2)
    ]
    assert count_of(np.asarray(pages[0]), images()[0], 5) == 3
    assert count_of(np.asarray(pages[1]), images()[0], 5) == 1


# -- text that fits --------------------------------------------------------------------------------


LONG = "43% translate (+10 %, 0 %) → autocontrast → shear y −5°"


@pytest.mark.parametrize("width", [60, 96, 136, 400])
def test_wrapped_text_fits_and_loses_no_word(width: int) -> None:
    face = font("Sans", 11)
    lines = wrap(LONG, face, width)
    assert all(face.getlength(line) <= width for line in lines)
    if width >= 96:
        assert " ".join(line.strip() for line in lines).replace("\u00a0", " ") == LONG
    assert not any(line.strip().startswith("%") for line in lines)
    assert all(line.startswith(" ") for line in lines[1:])


def test_short_labels_share_a_line() -> None:
    face = font("Sans", 11)
    assert wrap_labels(["flip ↔", "flip ↕", "rotate +7.3°"], face, 136) == ["flip ↔ · flip ↕", "rotate +7.3°"]
    assert wrap_labels([], face, 136) == []
    assert fit("a" * 99, face, 50).endswith("…")


# -- all ops ---------------------------------------------------------------------------------------


def test_every_op_has_a_kind() -> None:
    assert {kind_of(op) for op in ALL_OPS.values()} == set(KINDS)
    assert kind_of(ALL_OPS["elastic"]) == "geometry"
    assert kind_of(ALL_OPS["jpeg"]) == "filters"
    assert kind_of(ALL_OPS["cutout"]) == "covering"
    assert kind_of(ALL_OPS["aug_mix"]) == "automatic"


def test_the_sheet_shows_what_each_op_makes() -> None:
    policy = Policy(sampling="nearest", fill=(9, 99, 199))
    page = np.asarray(ops_sheet(images(), NAMES, policy, seed=1, epoch=0, sample_ids=IDS))
    zoom = 12
    assert count_of(page, images()[0], zoom) >= 6  # an original a section
    for name in ("rotate90", "invert", "gaussian_noise", "cutout", "trivial_augment"):
        alone = Policy((always(ALL_OPS[name]),), "nearest", (9, 99, 199))
        copies = [augment_batch(images(), alone, seed=1, epoch=0, sample_ids=IDS, copy=c) for c in range(NUM_DRAWS)]
        for i in range(3):
            found = [count_of(page, copy[i], zoom) for copy in copies]
            assert max(found) >= 1, name


@pytest.mark.parametrize("name", ALL_OPS)
def test_every_op_does_something_at_its_defaults(name: str) -> None:
    originals = images(24)
    op = always(ALL_OPS[name])
    draws = draws_of(op, originals, Policy(), seed=0, epoch=0, sample_ids=IDS, num=NUM_DRAWS)
    if name == "autocontrast":
        originals = originals // 2
        draws = draws_of(op, originals, Policy(), seed=0, epoch=0, sample_ids=IDS, num=NUM_DRAWS)
    for picture, labels in spread(originals, draws, [0.8, 0.9, 1.0]):
        assert labels
        assert not any((picture == original).all() for original in originals)


def test_of_the_draws_a_weak_and_a_strong_one_is_taken() -> None:
    originals = np.zeros((2, 1, 1, 3), np.uint8)
    draws = [Draw(np.full((2, 1, 1, 3), k, np.uint8), [[str(k)]] * 2) for k in (3, 0, 4, 1, 2)]
    assert [labels for _, labels in spread(originals, draws, [0, 1])] == [["0"], ["4"]]
    assert [labels for _, labels in spread(originals, draws, [0.25, 0.5])] == [["1"], ["2"]]


@pytest.mark.parametrize("title", MIXES)
def test_mixtures_are_those_of_training(title: str) -> None:
    import torch

    [first, second] = mixing_draws(images(), NAMES, MIXES[title], seed=2, epoch=1, sample_ids=IDS, num=2)
    pixels = torch.from_numpy(images()).permute(0, 3, 1, 2).float()
    for copy, draw in enumerate((first, second)):
        drawn = draw_mix(2, 1, IDS, copy, **MIXES[title])
        mixed, targets = mix(pixels, torch.arange(3), 3, drawn, partners(0, 3))
        np.testing.assert_allclose(draw.pictures, mixed.permute(0, 2, 3, 1), atol=0.5)
        assert draw.labels[1] == [f"{float(targets[1, 1]):.0%} b", f"{1 - float(targets[1, 1]):.0%} c"]


@pytest.mark.parametrize(("height", "width"), [(300, 200), (5, 40)])
def test_pictures_of_any_size(height: int, width: int) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    page = ops_sheet(pictures, ["a", "b" * 80], Policy(), seed=0, epoch=0, sample_ids=np.arange(2))
    assert 500 < page.width < 2000
    page = replay_page(pictures[0], pictures[1], title="t" * 200, about=[LONG] * 9, labels=[LONG] * 30)
    paper = Image.new("RGB", page.size, "#ffffff")
    left, top, right, bottom = ImageChops.difference(page, paper).getbbox()
    assert min(left, top, page.width - right, page.height - bottom) >= 20  # nothing runs into the margin


# -- one picture of a run --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return digits()


def digits(**augment: Any) -> Prepared:
    settings = [f"augment.{key}={value}" for key, value in augment.items()]
    return prepare(load_job(None, ["data.image_size=8", "train.epochs=4", *settings]), Display())


def test_a_replay_is_what_the_actor_sends_to_training(prepared: Prepared) -> None:
    plan, train_ids = prepared.plan, prepared.samples.train_ids
    actor = Augmenter(str(prepared.dataset.path), "train", train_ids, plan, prepared.policy)
    positions = np.arange(2 * plan.epoch_length, 3 * plan.epoch_length)
    columns = actor.columns(positions)
    for row in np.flatnonzero(columns["copy"])[:7]:
        sample_id, copy = int(columns["sample_id"][row]), int(columns["copy"][row]) - 1
        made = replay(prepared, sample_id=sample_id, epoch=2, copy=copy)
        np.testing.assert_array_equal(made.picture, columns["image"][row])
        assert f"in step {positions[row] // plan.global_batch_size + 1:,} of {plan.num_steps:,} " in made.lines[1]
        page = np.asarray(decoded(made.png))
        assert count_of(page, made.picture, 40) >= 1
        [original], _ = prepared.dataset.split("train").gather(np.array([sample_id]))
        assert count_of(page, original, 40) >= 1


def test_a_replay_is_told_in_lines(prepared: Prepared) -> None:
    sample_id = int(prepared.samples.train_ids[3])
    lines = replay(prepared, sample_id=sample_id, epoch=1, copy=2).lines
    label = prepared.dataset.split("train").labels[sample_id]
    assert lines[0] == f"sample {sample_id}, {label}"
    assert lines[1].startswith("epoch 1, copy 2: ")
    assert lines[2].startswith("policy digits: rotate(p=1, degrees=12)")
    assert [line.split()[0] for line in lines[3:]] == ["rotate", "translate"]
    assert replay(digits(policy="none"), sample_id=sample_id).lines[3:] == ["  unchanged"]


def test_what_the_run_has_not_is_refused(prepared: Prepared) -> None:
    train_ids = prepared.samples.train_ids
    here = int(train_ids[0])
    with pytest.raises(InputError, match="sample id 99999: the split train has the ids 0 to 1437"):
        replay(prepared, sample_id=99_999)
    with pytest.raises(InputError, match="set apart for validation"):
        replay(prepared, sample_id=int(prepared.samples.val_ids[0]))
    others = np.setdiff1d(np.arange(1438), [*train_ids, *prepared.samples.val_ids])
    with pytest.raises(InputError, match=rf"left out by data.labels_per_class.* 50 ids from {here} to {train_ids[-1]}"):
        replay(prepared, sample_id=int(others[0]))
    with pytest.raises(InputError, match="copy 3: a selected sample has copies 0 to 2"):
        replay(prepared, sample_id=here, copy=3)
    for epoch in (4, -1):
        with pytest.raises(InputError, match=f"epoch {epoch}: the run has epochs 0 to 3"):
            replay(prepared, sample_id=here, epoch=epoch)
        with pytest.raises(InputError, match=f"epoch {epoch}: the run has epochs 0 to 3"):
            preview_png(prepared, epoch=epoch)


def test_a_sample_that_an_epoch_did_not_select() -> None:
    some = digits(select=0.5, copies=1)
    plan, train_ids = some.plan, some.samples.train_ids
    items = plan.items(np.arange(plan.epoch_length))
    selected = set(items.sample[items.augmented].tolist())
    assert 0 < len(selected) < len(train_ids)
    for place, sample_id in enumerate(train_ids.tolist()):
        if place in selected:
            assert replay(some, sample_id=sample_id).lines
        else:
            with pytest.raises(InputError, match=r"no augmented copy in epoch 0: augment\.select 0\.5 took others"):
                replay(some, sample_id=sample_id)


def test_schedules_go_by_the_epochs_of_the_job() -> None:
    turning = digits(policy="[{rotate: {degrees: {schedule: [[0, 0], [1, 90]]}}}]")
    assert turning.policy.epochs == 4
    pages = [preview_png(turning, epoch=epoch) for epoch in (0, 0, 3)]
    assert pages[0] == pages[1] != pages[2]
    sample_id = int(turning.samples.train_ids[0])
    assert replay(turning, sample_id=sample_id, epoch=0).lines[-1] == "  rotate 0.0°"
    assert "degrees=90" in replay(turning, sample_id=sample_id, epoch=3).lines[2]


def test_all_ops_of_a_job(prepared: Prepared, tmp_path: Path) -> None:
    first, second = ops_png(prepared), ops_png(prepared)
    assert first == second
    assert min(decoded(first).size) > 1000
