"""Draws: the published vectors, addresses that do not collide, and numbers that are uniform."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from augft.augment import draw, kernel

# kat_vectors of Random123 1.14 (Salmon et al.), philox4x32 with 10 rounds: counter, key, result.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(counter: str, key: str, answer: str) -> None:
    counter_words, key_words, answer_words = (
        [int(word, 16) for word in text.split()] for text in (counter, key, answer)
    )
    counter_41 = np.array(counter_words, np.uint64).reshape(4, 1)
    key64 = key_words[0] | key_words[1] << 32
    assert draw.philox(key64, counter_41)[:, 0].tolist() == answer_words
    compiled = kernel.uniform(key64, counter_41, 4)[:, 0] * 2.0**32
    assert compiled.astype(np.uint64).tolist() == answer_words


@given(
    seed=st.integers(-(2**70), 2**70),
    epoch=st.integers(0, 2**32 - 1),
    copy=st.integers(0, 2**24 - 1),
    ids=st.lists(st.integers(0, 2**63 - 1), max_size=9),
    num_draws=st.integers(0, 30),
)
def test_compiled_draws_are_the_reference_bit_for_bit(
    seed: int, epoch: int, copy: int, ids: list[int], num_draws: int
) -> None:
    sample_ids = np.array(ids, np.int64)
    reference = draw.uniform(seed, "test/0", epoch, sample_ids, copy, num_draws)
    counter = draw.counter(epoch, sample_ids, copy)
    compiled = kernel.uniform(draw.stream_key(seed, "test/0"), counter, num_draws)
    assert reference.shape == compiled.shape == (num_draws, len(ids))
    np.testing.assert_array_equal(reference, compiled)


def test_each_part_of_the_address_changes_every_draw() -> None:
    ids = np.arange(100)
    base = draw.words(1, "a", 2, ids, 3, 5)
    others = [
        draw.words(2, "a", 2, ids, 3, 5),
        draw.words(1, "b", 2, ids, 3, 5),
        draw.words(1, "a", 3, ids, 3, 5),
        draw.words(1, "a", 2, ids + 100, 3, 5),
        draw.words(1, "a", 2, ids + 2**32, 3, 5),
        draw.words(1, "a", 2, ids, 4, 5),
    ]
    for other in others:
        assert (other == base).sum() <= 1  # 500 words of 32 bits: one coincidence in 8 million tests
    assert len(np.unique(np.concatenate([base, *others]))) > 3490


def test_more_draws_begin_with_the_same_draws() -> None:
    ids = np.arange(50)
    np.testing.assert_array_equal(draw.words(0, "s", 0, ids, 0, 11)[:3], draw.words(0, "s", 0, ids, 0, 3))


def test_arrays_of_epochs_and_copies_are_per_item() -> None:
    ids, epochs, copies = np.array([5, 5, 6]), np.array([0, 1, 1]), np.array([2, 0, 7])
    together = draw.uniform(9, "s", epochs, ids, copies, 6)
    for i in range(3):
        alone = draw.uniform(9, "s", int(epochs[i]), ids[i : i + 1], int(copies[i]), 6)
        np.testing.assert_array_equal(together[:, i : i + 1], alone)


@pytest.mark.parametrize(
    ("epoch", "sample_id", "copy", "name"),
    [
        (-1, 0, 0, "epoch"),
        (2**32, 0, 0, "epoch"),
        (0, -1, 0, "sample id"),
        (0, 0, -1, "copy"),
        (0, 0, 2**24, "copy"),
    ],
)
def test_an_address_out_of_range_is_refused(epoch: int, sample_id: int, copy: int, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        draw.words(0, "s", epoch, np.array([sample_id]), copy, 1)


def test_more_words_than_a_counter_has_are_refused() -> None:
    assert len(draw.words(0, "s", 0, np.arange(2), 0, draw.MAX_WORDS)) == 1024
    with pytest.raises(ValueError, match="num_words"):
        draw.words(0, "s", 0, np.arange(2), 0, draw.MAX_WORDS + 1)


@pytest.mark.parametrize("axis", ["sample", "epoch", "copy"])
def test_draws_are_uniform_and_independent_along_each_axis(axis: str) -> None:
    count = np.arange(20_000)
    zero = np.zeros_like(count)
    epoch, ids, copy = (count if axis == name else zero for name in ("epoch", "sample", "copy"))
    u = draw.uniform(11, "s", epoch, ids, copy, 2)
    assert stats.kstest(u[0], "uniform").pvalue > 0.001
    cells = np.histogram2d(u[0], u[1], bins=10, range=[[0, 1], [0, 1]])[0]
    assert stats.chisquare(cells.ravel()).pvalue > 0.001
    lagged = np.histogram2d(u[0][:-1], u[0][1:], bins=10, range=[[0, 1], [0, 1]])[0]
    assert stats.chisquare(lagged.ravel()).pvalue > 0.001
