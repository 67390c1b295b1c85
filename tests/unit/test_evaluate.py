"""Exact metrics: every sample once, whatever the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from augft.data.packed import PackedSplit, open_packed
from augft.evaluate import NUM_WORST, Evaluation, correct_from_dict, evaluate
from augft.preprocess import Preprocess
from augft.train.ranks import Ranks

CPU = torch.device("cpu")
PREPROCESS = Preprocess((0.5,) * 3, (0.25,) * 3, None, CPU)


@pytest.fixture(scope="module")
def split(digits: Path) -> PackedSplit:
    return open_packed(digits).split("test")


@pytest.fixture(scope="module")
def weight() -> torch.Tensor:
    return torch.randn(10, 3 * 8 * 8, generator=torch.Generator().manual_seed(0)) / 8


def judged(split: PackedSplit, weight: torch.Tensor, ids: np.ndarray, batch_size: int, rank: Ranks) -> Evaluation:
    return evaluate(
        lambda x: x.flatten(1) @ weight.T, PREPROCESS, split, ids, num_classes=10, batch_size=batch_size, ranks=rank
    )


@pytest.mark.parametrize("batch_size", [1, 7, 100, 10_000])
def test_counts_are_numpys(split: PackedSplit, weight: torch.Tensor, batch_size: int) -> None:
    ids = np.random.default_rng(1).permutation(split.num_rows)[:101]
    found = judged(split, weight, ids, batch_size, Ranks(0, 1, CPU))
    images, labels = split.gather(ids)
    x = (images.astype(np.float64) / 255 - 0.5) / 0.25
    logits = x.transpose(0, 3, 1, 2).reshape(len(ids), -1) @ weight.double().numpy().T
    losses = -log_softmax(logits, axis=1)[np.arange(len(ids)), labels]
    predicted = logits.argmax(1)
    confusion = np.zeros((10, 10), np.int64)
    for label, guess in zip(labels, predicted, strict=True):
        confusion[label, guess] += 1
    assert np.array_equal(found.confusion, confusion)
    assert found.num_samples == 101
    assert found.top1 == np.mean(labels == predicted)
    assert np.array_equal(found.correct, labels == predicted)
    assert np.array_equal(correct_from_dict(found.to_dict(list("abcdefghij"))), found.correct)
    assert found.loss == pytest.approx(losses.mean(), rel=1e-5)

    wrong = np.flatnonzero(labels != predicted)
    expected = wrong[np.argsort(-losses[wrong])][:NUM_WORST]
    assert len(wrong) > NUM_WORST
    assert [mistake.sample_id for mistake in found.worst] == ids[expected].tolist()
    first = found.worst[0]
    assert (first.label, first.predicted) == (labels[expected[0]], predicted[expected[0]])
    assert first.loss == pytest.approx(losses[expected[0]], rel=1e-4)
    assert first.probability == pytest.approx(np.exp(log_softmax(logits, axis=1)[expected[0]].max()), rel=1e-4)


def test_ranks_have_each_sample_once(split: PackedSplit, weight: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without processes: each rank's own part, before anything crosses ranks."""
    monkeypatch.setattr(Ranks, "sum", lambda self, values, on_device: [*on_device.tolist(), *values])
    monkeypatch.setattr(Ranks, "sum_integers", lambda self, values: values)
    monkeypatch.setattr(Ranks, "gather", lambda self, value: [value])
    ids = np.arange(101)
    whole = judged(split, weight, ids, 16, Ranks(0, 1, CPU))
    parts = [judged(split, weight, ids, 16, Ranks(rank, 3, CPU)) for rank in range(3)]
    assert [part.num_samples for part in parts] == [34, 34, 33]
    assert np.array_equal(sum(part.confusion for part in parts), whole.confusion)
    assert np.array_equal(sum(part.correct.astype(int) for part in parts), whole.correct)
    assert sum(part.loss_sum for part in parts) == pytest.approx(whole.loss_sum)


def test_equal_mistakes_are_in_order_of_id(split: PackedSplit) -> None:
    def same(x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x), 10).index_fill(1, torch.tensor([3]), 1.0)

    ids = np.arange(split.num_rows)[::-1].copy()
    found = evaluate(same, PREPROCESS, split, ids, num_classes=10, batch_size=10, ranks=Ranks(0, 1, CPU))
    wrong = np.flatnonzero(split.labels != 3)
    assert [mistake.sample_id for mistake in found.worst] == wrong[:NUM_WORST].tolist()
    assert found.confusion[:, 3].sum() == found.num_samples == split.num_rows
    assert all(mistake.predicted == 3 for mistake in found.worst)


def test_as_plain_data(split: PackedSplit, weight: torch.Tensor) -> None:
    found = judged(split, weight, np.arange(20), 8, Ranks(0, 1, CPU))
    plain = found.to_dict([str(k) for k in range(10)])
    assert plain["num_samples"] == 20 == sum(map(sum, plain["confusion"]))
    assert plain["top1"] == found.top1
    assert set(plain["worst"][0]) == {"sample_id", "label", "predicted", "probability", "loss"}


def test_predictions_do_not_track_gradients(split: PackedSplit) -> None:
    seen = []

    def model(x: torch.Tensor) -> torch.Tensor:
        seen.append(torch.is_grad_enabled())
        return x.flatten(1)[:, :10]

    evaluate(model, PREPROCESS, split, np.arange(4), num_classes=10, batch_size=2, ranks=Ranks(0, 1, CPU))
    assert seen == [False, False]
