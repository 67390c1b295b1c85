"""MixUp and CutMix: keyed draws, partners, pixels and targets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from augft.augment.mix import GROUP_SIZE, MixDraws, draw_mix, mix, partners

IDS = np.arange(4000)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_lam_is_beta_distributed(alpha: float) -> None:
    draws = draw_mix(0, 0, IDS, 0, mixup_alpha=alpha, cutmix_alpha=0.0)
    assert not draws.cutmix.any()
    assert stats.kstest(draws.lam, stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    assert draws.lam.min() >= 0
    assert draws.lam.max() <= 1


def test_both_kinds_take_turns_evenly_each_with_its_alpha() -> None:
    draws = draw_mix(0, 0, IDS, 0, mixup_alpha=0.2, cutmix_alpha=1.0)
    assert abs(draws.cutmix.mean() - 0.5) < 0.03
    assert stats.kstest(draws.lam[draws.cutmix], stats.uniform().cdf).pvalue > 1e-3
    assert stats.kstest(draws.lam[~draws.cutmix], stats.beta(0.2, 0.2).cdf).pvalue > 1e-3
    assert draw_mix(0, 0, IDS, 0, mixup_alpha=0.0, cutmix_alpha=1.0).cutmix.all()
    with pytest.raises(ValueError, match="must be above 0"):
        draw_mix(0, 0, IDS, 0, mixup_alpha=0.0, cutmix_alpha=0.0)


def test_draws_are_keyed_by_item() -> None:
    def lam(seed: int = 1, epoch: int = 2, ids: np.ndarray = IDS, copy: int = 0) -> np.ndarray:
        return draw_mix(seed, epoch, ids, copy, mixup_alpha=0.4, cutmix_alpha=1.0).lam

    order = np.random.default_rng(0).permutation(IDS.size)
    assert np.array_equal(lam()[order], lam(ids=IDS[order]))
    assert np.array_equal(lam()[7:9], lam(ids=IDS[7:9]))
    for other in (lam(seed=2), lam(epoch=3), lam(copy=1)):
        assert (other != lam()).mean() > 0.99
    epochs, copies = np.array([2, 3]), np.array([0, 1])
    both = draw_mix(1, epochs, IDS[:2], copies, mixup_alpha=0.4, cutmix_alpha=1.0).lam
    assert both[0] == lam()[0]
    assert both[1] == lam(epoch=3, copy=1)[1]


@given(first=st.integers(0, 100), num_items=st.integers(0, 100))
def test_partners_are_a_permutation_within_groups(first: int, num_items: int) -> None:
    partner = partners(first, num_items)
    assert sorted(partner) == list(range(num_items))
    groups = (first + np.arange(num_items)) // GROUP_SIZE
    assert np.array_equal(groups, groups[partner])
    alone = partner == np.arange(num_items)
    sizes = np.bincount(groups, minlength=1)
    assert np.array_equal(alone, sizes[groups] == 1)


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_partners_do_not_depend_on_the_ranks_where_groups_are_whole(ranks: int) -> None:
    share = 64 // ranks
    shares = [r * share + partners(r * share, share) for r in range(ranks)]
    assert np.array_equal(np.concatenate(shares), partners(0, 64))


def one(lam: float, cutmix: bool, x: float = 0.5, y: float = 0.5) -> MixDraws:
    """The same draws for an item and its partner."""
    return MixDraws(np.full(2, lam), np.full(2, cutmix), np.full(2, x), np.full(2, y))


PAIR = torch.stack([torch.zeros(3, 8, 12), torch.ones(3, 8, 12)])
LABELS = torch.tensor([1, 2])


def test_mixup_blends_pixels_and_targets() -> None:
    images, targets = mix(PAIR, LABELS, 4, one(0.75, False), partners(0, 2))
    torch.testing.assert_close(images[0], torch.full((3, 8, 12), 0.25))
    torch.testing.assert_close(images[1], torch.full((3, 8, 12), 0.75))
    torch.testing.assert_close(targets, torch.tensor([[0, 0.75, 0.25, 0], [0, 0.25, 0.75, 0]]))


def test_cutmix_pastes_a_box_in_the_middle() -> None:
    images, targets = mix(PAIR, LABELS, 4, one(0.75, True), partners(0, 2))
    expected = torch.zeros(3, 8, 12)
    expected[:, 2:6, 3:9] = 1  # half of each side, a quarter of the area
    assert torch.equal(images[0], expected)
    assert torch.equal(images[1], 1 - expected)
    torch.testing.assert_close(targets, torch.tensor([[0, 0.75, 0.25, 0], [0, 0.25, 0.75, 0]]))


@given(lam=st.floats(0, 1), cutmix=st.booleans(), x=st.floats(0, 0.9999), y=st.floats(0, 0.9999))
def test_targets_are_the_share_of_pixels(lam: float, cutmix: bool, x: float, y: float) -> None:
    images, targets = mix(PAIR, LABELS, 4, one(lam, cutmix, x, y), partners(0, 2))
    torch.testing.assert_close(targets.sum(1), torch.ones(2))
    torch.testing.assert_close(targets[0, 2], images[0].mean(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(targets[1, 2], images[1].mean(), rtol=1e-5, atol=1e-6)
    if cutmix:
        assert set(images.unique().tolist()) <= {0.0, 1.0}


def test_each_item_is_mixed_by_its_own_draws() -> None:
    images = torch.rand(32, 3, 16, 16, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    labels = torch.arange(32) % 5
    draws = draw_mix(0, 0, np.arange(32), 0, mixup_alpha=0.4, cutmix_alpha=1.0)
    mixed, targets = mix(images, labels, 5, draws, partners(0, 32))
    assert mixed.dtype == torch.bfloat16
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    assert targets.dtype == torch.float32
    torch.testing.assert_close(targets.sum(1), torch.ones(32))
    lam = torch.as_tensor(draws.lam).bfloat16()
    for k in np.flatnonzero(~draws.cutmix):
        other = partners(0, 32)[k]
        torch.testing.assert_close(mixed[k], torch.lerp(images[other], images[k], lam[k]))
    same = mix(images, labels, 5, draws, np.arange(32))
    assert torch.equal(same[0], images)
    torch.testing.assert_close(same[1], torch.nn.functional.one_hot(labels, 5).float())
