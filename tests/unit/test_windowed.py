"""Windows of shards: the same laws as of a full shuffle, out of few shards at a time, held in few bytes."""

from __future__ import annotations

import logging
import pickle
import re
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from augft.augment.actor import Augmenter
from augft.augment.policy import Policy
from augft.cli import main
from augft.config import Job, load_job_text
from augft.data import packed, shards, units
from augft.data.held import Held
from augft.data.pack import pack
from augft.data.packed import PackedSplit, open_packed
from augft.data.plan import PADDING, Plan
from augft.data.windows import MAX_SAMPLES, Windows
from augft.display import Display
from augft.errors import DataError, Stopped
from augft.prepare import mixing_advice, plan_of, prepare, prepare_packed
from augft.run import Run
from augft.train.solo import run_alone
from tests.object_store import bucket_of_test, s3_server

ITEM_FIELDS = ("epoch", "sample", "copy", "augmented")


@st.composite
def plans(draw: st.DrawFn, most_lanes: int = 5) -> Plan:
    """Plans over shards of uneven sizes, some without samples, as a carved split leaves them."""
    sizes = draw(st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any))
    windows = Windows(np.cumsum(sizes), draw(st.integers(1, 5)), draw(st.integers(1, most_lanes)))
    return Plan(
        windows.num_samples,
        seed=draw(st.integers(0, 2**63 - 1)),
        epochs=draw(st.integers(1, 4)),
        global_batch_size=draw(st.integers(1, 40)),
        select=draw(st.sampled_from([0.0, 0.1, 0.5, 0.77, 1.0])),
        copies=draw(st.integers(0, 3)),
        keep_original=True,
        windows=windows,
    )


def rows(plan: Plan, positions: np.ndarray) -> list[tuple[Any, ...]]:
    items = plan.items(positions)
    return list(zip(*(getattr(items, name).tolist() for name in ITEM_FIELDS), strict=True))


def in_windows(num_samples: int, shard_size: int, window_shards: int, lanes: int = 1, **keys: Any) -> Plan:
    ends = np.append(np.arange(shard_size, num_samples, shard_size), num_samples)
    windows = Windows(ends, window_shards, lanes)
    return Plan(num_samples, **{"seed": 1, "epochs": 2, "global_batch_size": 16, **keys, "windows": windows})


# ---- the order -----------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(plan=plans())
def test_an_epoch_holds_each_item_once(plan: Plan) -> None:
    for epoch in range(plan.epochs):
        found = rows(plan, epoch * plan.epoch_length + np.arange(plan.epoch_length))
        assert len(set(found)) == plan.epoch_length
        assert {row[0] for row in found} == {epoch}
        assert sorted(s for _, s, c, new in found if not new and c == 0) == list(range(plan.num_samples))
        copies: dict[int, list[int]] = {}
        for _, sample, copy, new in found:
            if new:
                copies.setdefault(sample, []).append(copy)
        assert len(copies) == (plan.num_selected if plan.copies else 0)
        assert all(sorted(numbers) == list(range(plan.copies)) for numbers in copies.values())
        assert all(0 <= sample < plan.num_samples for sample in copies)


@settings(max_examples=30, deadline=None)
@given(plan=plans(), copies=st.integers(1, 3))
def test_an_epoch_of_copies_alone(plan: Plan, copies: int) -> None:
    if plan.num_selected:
        plan = replace(plan, keep_original=False, copies=copies)
        found = rows(plan, np.arange(plan.epoch_length))
        assert len(set(found)) == plan.epoch_length == copies * plan.num_selected
        assert all(row[3] for row in found)


@settings(max_examples=80, deadline=None)
@given(plan=plans(most_lanes=1))
def test_rows_of_a_window_come_from_few_shards(plan: Plan) -> None:
    """Cut by hand: runs of consecutive items, each out of at most w shards that no other run has."""
    windows = plan.windows
    assert windows is not None
    starts = np.concatenate([[0], np.unique(windows._ends)])
    epoch = plan.epochs - 1
    samples = plan.items(epoch * plan.epoch_length + np.arange(plan.epoch_length)).sample
    shard = np.searchsorted(starts, samples, side="right") - 1
    runs: list[set[int]] = []
    for number in shard.tolist():
        if not runs or (number not in runs[-1] and len(runs[-1]) == windows.window_shards):
            runs.append(set())
        runs[-1].add(number)
    assert len(runs) == windows.num_windows
    assert sum(map(len, runs)) == windows.num_shards == len(set().union(*runs))


@settings(max_examples=50, deadline=None)
@given(plan=plans(), data=st.data())
def test_a_step_may_be_asked_for_alone_and_on_any_ranks(plan: Plan, data: st.DataObject) -> None:
    whole = rows(plan, np.arange(plan.num_items))
    step = data.draw(st.integers(0, plan.num_steps - 1))
    world_size = data.draw(st.integers(1, 7))
    fresh = pickle.loads(pickle.dumps(plan))
    shares = [np.arange(*fresh.share(step, rank, world_size)) for rank in reversed(range(world_size))]
    parts = [rows(fresh, share) for share in shares][::-1]
    assert [row for part in parts for row in part] == whole[plan.items_before(step) : plan.items_before(step + 1)]


def test_an_epoch_does_not_depend_on_what_was_asked_before() -> None:
    for seed in range(20):
        plan = in_windows(37, 5, 2, lanes=2, seed=seed, epochs=6, select=0.77, copies=2, keep_original=True)
        whole = rows(plan, np.arange(plan.num_items))
        for epoch in (5, 1, 4, 0):  # more than are kept, and one again
            here = np.arange(epoch * plan.epoch_length, (epoch + 1) * plan.epoch_length)
            fresh = pickle.loads(pickle.dumps(plan))
            assert rows(fresh, here) == rows(plan, here) == whole[here[0] : here[-1] + 1]


def test_epochs_and_seeds_differ() -> None:
    plan = in_windows(1000, 50, 4)
    orders = {tuple(replace(plan, seed=s).items(e * 1000 + np.arange(1000)).sample) for s in (1, 2) for e in (0, 1)}
    assert len(orders) == 4
    assert plan.windows is not None
    firsts = [frozenset(plan.windows.order(1, epoch).a_sample_each(0).tolist()) for epoch in range(8)]
    assert len(set(firsts)) == 8  # other shards share a window


def test_one_window_of_everything_mixes_as_a_full_shuffle() -> None:
    plan = in_windows(2000, 100, 20)
    order = plan.items(np.arange(2000)).sample
    assert np.count_nonzero(np.abs(np.diff(order)) == 1) < 12  # two by chance
    assert abs(np.corrcoef(order, np.arange(2000))[0, 1]) < 0.08


def test_each_sample_is_selected_equally_often() -> None:
    plan = in_windows(41, 4, 2, epochs=600, select=0.25)
    items = plan.items(np.arange(plan.num_items))
    assert chisquare(np.bincount(items.sample, minlength=41)).pvalue > 0.001
    assert np.bincount(items.epoch).tolist() == [10] * 600


def test_lanes_draw_from_windows_of_their_own() -> None:
    """With as many ranks as lanes, a rank's shards are its own, but for those at a lane's ends."""
    plan = in_windows(4000, 50, 2, lanes=4, global_batch_size=40, epochs=1)
    of_rank = []
    for rank in range(4):
        positions = plan.padded_share(0, plan.num_steps, rank, 4).ravel()
        of_rank.append(set((plan.items(positions[positions != PADDING]).sample // 50).tolist()))
    assert sum(map(len, of_rank)) <= 80 + 3 * 2
    step = plan.items(np.arange(40)).sample // 50
    assert all(len(set(part.tolist())) <= 2 for part in np.split(step, 4))
    assert len(set(step.tolist())) > 4


def test_what_comes_a_window_later_is_what_then_comes() -> None:
    for lanes in (1, 3):
        plan = in_windows(1000, 25, 4, lanes, global_batch_size=10)
        for first in range(0, 1500, 50):
            unit = np.arange(first, first + 50)
            now, soon = (set((plan.shards(unit, later=later) // 25).tolist()) for later in (False, True))
            assert set((plan.items(unit).sample // 25).tolist()) <= now
            on = unit + 100 * lanes
            assert set((plan.items(on[on < 2000]).sample // 25).tolist()) <= soon
            assert len(now) <= 4 * 2 * lanes
    end = np.arange(1990, 2000)
    assert plan.shards(end, later=True).tolist() == []
    full = replace(plan, windows=None)
    assert full.shards(end).tolist() == full.shards(end, later=True).tolist() == []


def test_ninety_epochs_of_a_million_pictures_are_resumed_anywhere() -> None:
    """In time and memory of the steps that are asked for, not of the run: benchmarks/scale.py has the figures."""
    begin = time.process_time()
    plan = in_windows(1_281_167, 445, 16, epochs=90, global_batch_size=1024)
    assert plan.num_steps == 112_603
    for step in (0, 1251, 56_000, 112_602):
        sample = plan.items(np.arange(*plan.share(step, 0, 1))).sample
        assert len(sample) == plan.step_size(step)
        assert 0 <= sample.min() <= sample.max() < 1_281_167
    assert time.process_time() - begin < 5
    assert plan.windows is not None
    assert len(plan.windows._orders) == 3
    assert len(pickle.dumps(plan)) < 50_000


def test_what_windows_refuse() -> None:
    for ends, message in (([], "1 to"), ([0, 0], "1 to"), ([MAX_SAMPLES + 1], "1 to")):
        with pytest.raises(ValueError, match=message):
            Windows(np.array(ends, np.int64), 1)
    for numbers in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="1 or more"):
            Windows(np.array([4]), *numbers)
    with pytest.raises(ValueError, match="windows hold 4 samples, the plan 5"):
        Plan(5, 0, 1, 2, windows=Windows(np.array([4]), 1))


def test_a_plan_of_record() -> None:
    """The order is a contract across versions and platforms."""
    plan = in_windows(12, 3, 2, lanes=2, seed=3, global_batch_size=6, select=0.5, keep_original=True)
    found = ["{}{}".format(s, "ab"[c] if new else "") for _, s, c, new in rows(plan, np.arange(18))]
    assert found == RECORD.split()


RECORD = "0 1 7 11a 4a 10 8 6a 2a 11 5a 9 6 2 0a 4 5 3"


# ---- what is held --------------------------------------------------------------------------------------------------


class Loader:
    """Arrays of ten bytes; says what was loaded, in order, and waits where told to."""

    def __init__(self) -> None:
        self.loaded: list[int] = []
        self.failing: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, number: int) -> np.ndarray:
        assert self.gate.wait(10)
        self.loaded.append(number)
        if number in self.failing:
            raise DataError(f"shard {number} is damaged")
        return np.full(10, number, np.uint8)


def held(loader: Loader, max_bytes: int | None = None) -> Held:
    return Held(loader, lambda _: 10, max_bytes)


def settle(arrays: Held) -> None:
    arrays._thread.submit(lambda: None).result()


def test_what_is_expected_is_there_before_it_is_asked_for() -> None:
    loader = Loader()
    arrays = held(loader)
    arrays.expect([3, 1], [1, 7, 8])
    settle(arrays)
    assert loader.loaded == [3, 1, 7, 8]
    assert [int(arrays.get(number)[0]) for number in (1, 3, 1, 8)] == [1, 3, 1, 8]
    assert loader.loaded == [3, 1, 7, 8]
    arrays.expect([7, 8], [9])
    settle(arrays)
    assert loader.loaded == [3, 1, 7, 8, 9]
    assert arrays.held_bytes == 30


def test_without_a_word_only_the_last_is_held() -> None:
    loader = Loader()
    arrays = held(loader)
    for number in (4, 4, 5, 5, 4):
        assert arrays.get(number)[0] == number
        assert arrays.held_bytes == 10
    assert loader.loaded == [4, 5, 4]


def test_what_waits_in_the_queue_is_loaded_at_once_when_it_is_asked_for() -> None:
    loader = Loader()
    arrays = held(loader)
    loader.gate.clear()
    arrays.expect([1], [2, 3, 4])
    threading.Timer(0.2, loader.gate.set).start()
    assert arrays.get(4)[0] == 4
    settle(arrays)
    assert loader.loaded.count(4) == 1
    assert sorted(loader.loaded) == [1, 2, 3, 4]


@pytest.mark.parametrize("max_bytes", [10, 30, 45])
def test_no_more_bytes_than_allowed(max_bytes: int, caplog: pytest.LogCaptureFixture) -> None:
    loader = Loader()
    arrays = held(loader, max_bytes)
    with caplog.at_level(logging.WARNING, "augft"):
        for first in range(0, 12, 2):
            arrays.expect([first, first + 1], [first + 2, first + 3])
            settle(arrays)
            for number in (first, first + 1, first):
                assert arrays.get(number)[0] == number
                assert arrays.held_bytes <= max_bytes
    said = [record.message for record in caplog.records]
    if max_bytes == 10:
        assert len(said) == 1
        assert "a window of 2 shards has 20 bytes, more than AUGFT_CACHE_MAX_BYTES=10" in said[0]
    else:
        assert said == []
        assert loader.loaded == list(range(13 if max_bytes < 40 else 14))


def test_what_failed_beforehand_is_told_when_it_is_wanted_and_tried_again() -> None:
    loader = Loader()
    loader.failing = {2}
    arrays = held(loader)
    arrays.expect([1], [2])
    settle(arrays)
    assert arrays.get(1)[0] == 1
    with pytest.raises(DataError, match="shard 2 is damaged"):
        arrays.get(2)
    loader.failing = set()
    assert arrays.get(2)[0] == 2


def test_many_threads_ask_for_the_same() -> None:
    loader = Loader()
    arrays = held(loader)
    arrays.expect(range(8), [])
    wrong: list[int] = []

    def ask(seed: int) -> None:
        numbers = np.random.default_rng(seed).integers(0, 8, 300).tolist()
        wrong.extend(number for number in numbers if arrays.get(number)[0] != number)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []
    assert sorted(loader.loaded) == list(range(8))


# ---- a set of many shards ------------------------------------------------------------------------------------------

SHARD_ROWS, ROW_BYTES = 64, 8 * 8 * 3
SHARD_BYTES = SHARD_ROWS * ROW_BYTES

JOB = """
name: windowed
seed: 5
data: {source: digits, image_size: 8, val_fraction: 0.0, shuffle: windowed, window_shards: 2}
augment: {policy: digits, select: 0.5, keep_original: true}
model: {name: resnet20, weights: none}
train: {epochs: 2, global_batch_size: 128, optimizer: {lr: 0.05}}
run: {checkpoint_every_steps: 4, trackers: []}
"""


def job(*overrides: str) -> Job:
    return load_job_text(JOB, "job.yaml", overrides)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits, in shuffled order: 23 shards of 64 of 1,438 pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "_MAX_ROW_GROUP", 32)
        patch.setattr(shards, "_SHARD_BYTES", SHARD_BYTES)
        return pack("digits", tmp_path_factory.mktemp("packed") / "many", image_size=8, shuffled=True)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUGFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def digest(set_uri: str, made: Job, world_size: int, cursor: int = 0, before: str = "") -> str:
    """The stream digest of a run whose units are made by as many actors, one after the other."""
    dataset = open_packed(set_uri)
    samples = prepare_packed(made, set_uri).samples
    plan = plan_of(made, dataset, samples)
    assert plan.windows is not None
    policy = Policy.from_config(made.augment.policy)
    actors = [Augmenter(set_uri, "train", samples.train_ids, plan, policy) for _ in range(world_size)]
    sums = np.zeros(plan.num_steps - cursor, np.uint64)
    for first in range(cursor, plan.num_steps, 3):
        for rank, actor in enumerate(actors):
            positions = plan.padded_share(first, 3, rank, world_size)
            by_step = actor.columns(positions.ravel())["digest"].reshape(3, -1)
            part = np.add.reduce(by_step, 1, dtype=np.uint64)[: plan.num_steps - first]
            sums[first - cursor : first - cursor + len(part)] += part
    return units.chain(before, sums)


@pytest.fixture(scope="module")
def undisturbed(many: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(str(tmp_path_factory.mktemp("runs") / "undisturbed"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUGFT_CACHE", str(tmp_path_factory.mktemp("cache")))
        run_alone(job(f"data.source={many}"), run.uri, prepared=prepare_packed(job(f"data.source={many}"), many))
    return run


def test_packing_in_shuffled_order_keeps_what_there_is(many: Path, digits: Path) -> None:
    here, there = open_packed(many).split("train"), open_packed(digits).split("train")
    ids = np.arange(there.num_rows)

    def sorted_rows(split: PackedSplit) -> np.ndarray:
        images, labels = split.gather(ids)
        flat = np.concatenate([images.reshape(len(ids), -1), labels[:, None]], 1)
        return flat[np.lexsort(flat.T)]

    assert np.array_equal(sorted_rows(here), sorted_rows(there))
    assert not np.array_equal(here.labels, there.labels)
    assert len(set(here.labels[:SHARD_ROWS].tolist())) == 10
    assert open_packed(many).manifest.recipe != open_packed(digits).manifest.recipe
    assert np.array_equal(open_packed(many).split("test").labels, open_packed(digits).split("test").labels)


def test_the_command_packs_in_shuffled_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first_labels = []
    for flags in ([], ["--shuffle"]):
        out = tmp_path / f"out{len(flags)}"
        monkeypatch.setattr(sys, "argv", ["augft", "pack", "digits", str(out), "--image-size", "8", *flags])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        first_labels.append(open_packed(out).split("train").labels[:64].tolist())
    assert len(set(first_labels[0])) == 1
    assert len(set(first_labels[1])) == 10


def test_a_windowed_job_packs_its_source_in_shuffled_order() -> None:
    made = {shuffle: prepare(job(f"data.shuffle={shuffle}"), Display()) for shuffle in ("full", "windowed")}
    labels = {shuffle: one.dataset.split("train").labels for shuffle, one in made.items()}
    assert np.bincount(labels["full"]).tolist() == np.bincount(labels["windowed"]).tolist()
    assert np.count_nonzero(np.diff(labels["full"])) < 100 < np.count_nonzero(np.diff(labels["windowed"]))


@pytest.mark.parametrize(
    "overrides",
    [[], ["data.lanes=3"], ["data.labels_per_class=30", "augment.copies=2"], ["data.val_fraction=0.2"]],
    ids=str,
)
def test_the_digest_is_the_same_with_any_actors(many: Path, overrides: list[str]) -> None:
    made = job(*overrides)
    alone = digest(str(many), made, 1)
    assert digest(str(many), made, 2) == digest(str(many), made, 3) == alone
    assert digest(str(many), made.replace(["data.window_shards=3"]), 1) != alone


def test_a_run_has_that_digest_and_a_resumed_one_too(many: Path, undisturbed: Run, tmp_path: Path) -> None:
    made = job(f"data.source={many}")
    assert undisturbed.summary["stream_digest"] == digest(str(many), made, 2)
    seen: list[dict[str, Any]] = []

    def after_six() -> bool:
        return len([event for event in seen if event["kind"] == "step"]) >= 6

    uri = str(tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("augft.train.loop.TELL_EVERY_S", -1.0)
        with pytest.raises(Stopped):
            run_alone(made, uri, on_event=seen.append, stop_is_asked=after_six)
    assert run_alone(made, uri)["stream_digest"] == undisturbed.summary["stream_digest"]
    assert Run(uri).storage.read("model.safetensors") == undisturbed.storage.read("model.safetensors")


def test_a_set_four_times_as_large_as_the_bound(
    many: Path, undisturbed: Run, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that the run has at any time goes past the bound: neither what a reader holds nor the files."""
    bound = 23 * SHARD_BYTES // 4
    monkeypatch.setenv("AUGFT_CACHE_MAX_BYTES", str(bound))
    decoded: list[str] = []
    most = {"held": 0, "files": 0}
    real_decode, real_get = packed._decode_shard, Held.get

    def counted(*args: Any) -> Any:
        decoded.append(args[1].file)
        return real_decode(*args)

    def measured(self: Held, number: int) -> Any:
        array = real_get(self, number)
        files = [path.stat().st_size for path in (cache / "raw").glob("*.npy")]
        most["held"], most["files"] = max(most["held"], self.held_bytes), max(most["files"], sum(files))
        return array

    monkeypatch.setattr(packed, "_decode_shard", counted)
    monkeypatch.setattr(Held, "get", measured)
    summary = run_alone(job(f"data.source={many}"), str(tmp_path / "run"))
    assert summary["stream_digest"] == undisturbed.summary["stream_digest"]
    assert 2 * SHARD_BYTES < most["held"] <= bound
    assert 2 * SHARD_BYTES < most["files"] <= bound
    trained = [file for file in decoded if file.startswith("train")]
    assert len(set(trained)) == 23
    assert len(trained) <= 2 * 23 + 4  # about once an epoch


def test_without_a_cache_the_process_holds_two_windows(many: Path, undisturbed: Run, cache: Path) -> None:
    cache.write_bytes(b"")  # no folder can be made there
    made = job(f"data.source={many}")
    prepared = prepare_packed(made, many)
    actor = Augmenter(str(many), "train", prepared.samples.train_ids, prepared.plan, prepared.policy)
    most = 0
    for first in range(0, 1024, 64):
        actor.columns(np.arange(first, first + 64))
        assert actor._split._held is not None
        most = max(most, actor._split._held.held_bytes)
    assert SHARD_BYTES < most <= 6 * SHARD_BYTES  # three windows at a border


def test_validation_from_train_holds_one_shard(many: Path) -> None:
    split = open_packed(many, in_windows=True).split("train")
    assert np.array_equal(
        split.gather(np.arange(0, 1438, 3))[0], open_packed(many).split("train").gather(np.arange(0, 1438, 3))[0]
    )
    assert split._held is not None
    assert split._held.held_bytes <= SHARD_BYTES
    assert len(pickle.dumps(split)) < 1_000
    assert pickle.loads(pickle.dumps(split)).dataset.in_windows


def test_windows_of_a_job(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def windows(*overrides: str) -> tuple[int, int, int, int] | None:
        made = prepare_packed(job(*overrides), many).plan.windows
        return made and (made.num_samples, made.num_shards, made.window_shards, made.lanes)

    assert windows() == (1438, 23, 2, 1)
    assert windows("data.shuffle=full") is None
    monkeypatch.setattr("augft.prepare.WINDOW_BYTES", 5 * SHARD_BYTES)
    assert windows("data.window_shards=auto", "data.lanes=7") == (1438, 23, 5, 7)
    monkeypatch.setattr("augft.prepare.WINDOW_BYTES", 1)
    assert windows("data.window_shards=auto") == (1438, 23, 2, 1)
    ids = prepare_packed(job("data.labels_per_class=1"), many).samples.train_ids
    assert windows("data.labels_per_class=1") == (10, len(set((ids // SHARD_ROWS).tolist())), 2, 1)


def test_a_set_in_the_order_of_its_classes_is_told(many: Path) -> None:
    prepared = prepare_packed(job(), many)
    labels = prepared.dataset.split("train").labels
    assert mixing_advice(prepared.plan, labels) is None
    assert mixing_advice(replace(prepared.plan, windows=None), np.sort(labels)) is None
    told = mixing_advice(prepared.plan, np.sort(labels))
    assert told is not None
    assert re.match(r"a window of 2 shards holds [23] of 10 classes: .* --shuffle$", told)


# ---- from object storage -------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    with s3_server() as port:
        yield bucket_of_test(port, monkeypatch, request)


def test_the_same_from_object_storage(
    bucket: str, many: Path, undisturbed: Run, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = 6 * SHARD_BYTES
    monkeypatch.setenv("AUGFT_CACHE_MAX_BYTES", str(bound))
    uri = str(pack(str(many), f"{bucket}/set"))
    assert digest(uri, job(), 2) == undisturbed.summary["stream_digest"]
    assert sum(path.stat().st_size for path in (cache / "raw").glob("*.npy")) <= bound
