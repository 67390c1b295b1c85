"""Learning rate, optimizer, losses, averaged weights, precision."""

from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from augft.errors import ConfigError
from augft.train import precision
from augft.train.ema import Ema
from augft.train.loss import jensen_shannon, per_sample_loss
from augft.train.schedule import build_optimizer, learning_rate, set_lr

# ------------------------------------------------------------------ learning rate


def test_cosine_at_points_computed_by_hand() -> None:
    def at(step: int, final: float = 0.0) -> float:
        return learning_rate("cosine", step, 110, lr=0.8, warmup_steps=10, final_fraction=final)

    assert at(0) == pytest.approx(0.08)
    assert at(4) == pytest.approx(0.4)
    assert at(9) == at(10) == pytest.approx(0.8)
    assert at(35) == pytest.approx(0.8 * (1 + math.sqrt(0.5)) / 2)
    assert at(60) == pytest.approx(0.4)
    assert at(110) == pytest.approx(0.0, abs=1e-12)
    assert at(500) == at(110)
    assert at(60, final=0.5) == pytest.approx(0.6)
    assert at(110, final=0.5) == pytest.approx(0.4)


def test_step_and_constant() -> None:
    rates = [learning_rate("step", k, 8, lr=1.0, milestones=[0.5, 0.75], gamma=0.1) for k in range(8)]
    assert rates == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    assert [learning_rate("constant", k, 8, lr=2.0, warmup_steps=2) for k in range(4)] == [1.0, 2.0, 2.0, 2.0]


@pytest.mark.parametrize("total_steps", [10, 97, 400])
def test_one_cycle_is_pytorchs(total_steps: int) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=total_steps, cycle_momentum=False)
    for k in range(total_steps):
        expected = optimizer.param_groups[0]["lr"]
        assert learning_rate("one_cycle", k, total_steps, lr=0.3, warmup_steps=50) == pytest.approx(expected)
        optimizer.step()
        if k < total_steps - 1:
            reference.step()


@given(
    name=st.sampled_from(["cosine", "step", "constant", "one_cycle"]),
    total_steps=st.integers(1, 500),
    warmup_steps=st.integers(0, 600),
    lr=st.floats(1e-6, 10),
)
def test_rates_rise_then_fall_between_0_and_the_peak(name: str, total_steps: int, warmup_steps: int, lr: float) -> None:
    rates = [learning_rate(name, k, total_steps, lr=lr, warmup_steps=warmup_steps) for k in range(total_steps)]
    assert all(0 < rate <= lr * (1 + 1e-12) for rate in rates)
    top = rates.index(max(rates))
    assert all(a <= b for a, b in pairwise(rates[: top + 1]))
    assert all(a >= b for a, b in pairwise(rates[top:]))


def test_unknown_names() -> None:
    with pytest.raises(ConfigError, match="cosine, one_cycle, step, constant"):
        learning_rate("linear", 0, 10, lr=1.0)
    with pytest.raises(ConfigError, match="neither sgd nor adamw"):
        build_optimizer("adam", [], lr=1.0)
    with pytest.raises(ConfigError, match="neither cross_entropy nor mse"):
        per_sample_loss(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), "hinge")


# ------------------------------------------------------------------ optimizer


def test_optimizer_and_its_rates() -> None:
    a, b = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    groups = [{"params": [a], "lr_scale": 0.5, "weight_decay": 0.1}, {"params": [b], "weight_decay": 0.0}]
    sgd = build_optimizer("sgd", groups, lr=1.0, momentum=0.8, nesterov=True, weight_decay=0.3)
    assert [group["weight_decay"] for group in sgd.param_groups] == [0.1, 0.0]
    assert all(group["nesterov"] and group["momentum"] == 0.8 for group in sgd.param_groups)
    set_lr(sgd, 0.2)
    assert [group["lr"] for group in sgd.param_groups] == pytest.approx([0.1, 0.2])
    b.grad = torch.full((2,), 2.0)
    sgd.step()  # nesterov's first step: lr * (grad + momentum * grad)
    torch.testing.assert_close(b.detach(), torch.full((2,), 1 - 0.2 * (2 + 0.8 * 2)))
    assert torch.equal(a.detach(), torch.ones(2, 2)), "no gradient, no decay"
    plain = build_optimizer("sgd", [{"params": [a]}], lr=1.0, momentum=0.0, nesterov=True)
    assert not plain.param_groups[0]["nesterov"]
    adamw = build_optimizer("adamw", [{"params": [a]}], lr=1.0, momentum=0.85, beta2=0.99)
    assert adamw.param_groups[0]["betas"] == (0.85, 0.99)


# ------------------------------------------------------------------ losses


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_pytorchs(smoothing: float) -> None:
    logits, labels = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    expected = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    actual = per_sample_loss(logits, labels, label_smoothing=smoothing)
    assert actual.shape == (6,)
    torch.testing.assert_close(actual, expected)
    one_hot = F.one_hot(labels, 5).float()
    torch.testing.assert_close(per_sample_loss(logits, one_hot, label_smoothing=smoothing), expected)
    soft = torch.rand(6, 5).softmax(1)
    by_hand = -((1 - smoothing) * soft + smoothing / 5).mul(logits.log_softmax(1)).sum(1)
    torch.testing.assert_close(per_sample_loss(logits, soft, label_smoothing=smoothing), by_hand)


def test_mse_is_the_brier_score() -> None:
    logits, labels = torch.randn(6, 5, requires_grad=True), torch.tensor([0, 1, 2, 3, 4, 0])
    actual = per_sample_loss(logits, labels, "mse")
    reference = F.mse_loss(logits.softmax(1), F.one_hot(labels, 5).float(), reduction="none").sum(1)
    torch.testing.assert_close(actual, reference)
    torch.testing.assert_close(per_sample_loss(logits, F.one_hot(labels, 5).double(), "mse"), reference)
    # Two equal logits: p = 1/2 each, so (1/2)^2 + (1/2)^2; smoothed by 0.2 the target is 0.9 and 0.1.
    even, first = torch.zeros(1, 2), torch.tensor([0])
    assert per_sample_loss(even, first, "mse").item() == pytest.approx(0.5)
    assert per_sample_loss(even, first, "mse", 0.2).item() == pytest.approx(0.32)
    actual.sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0


def test_losses_are_computed_in_float32() -> None:
    logits, labels = torch.randn(4, 3).bfloat16(), torch.tensor([0, 1, 2, 0])
    for loss in ("cross_entropy", "mse"):
        actual = per_sample_loss(logits, labels, loss)
        assert actual.dtype == torch.float32
        assert torch.equal(actual, per_sample_loss(logits.float(), labels, loss))


# ------------------------------------------------------------------ averaged weights


def test_ema_is_the_formula_and_comes_back() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = Ema(module, 0.9)
    expected = module[0].weight.detach().clone()
    for k in range(200):
        with torch.no_grad():
            module[0].weight.normal_()
            module[1].num_batches_tracked += 1
        ema.update(module, k)
        decay = min(0.9, (1 + k) / (10 + k))
        expected = decay * expected + (1 - decay) * module[0].weight.detach()
    torch.testing.assert_close(ema.state_dict()["0.weight"], expected)
    assert ema.state_dict()["1.num_batches_tracked"] == 200
    restored = Ema(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), 0.9)
    restored.load_state_dict(ema.state_dict())
    assert torch.equal(restored.average["0.weight"], ema.average["0.weight"])


def test_ema_is_applied_and_taken_back() -> None:
    module = nn.Linear(2, 2)
    ema = Ema(module, 0.9)
    with torch.no_grad():
        module.weight.add_(1.0)
    own = module.weight.detach().clone()

    def fail_inside() -> None:
        with ema.applied(module):
            assert torch.equal(module.weight, ema.average["weight"])
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fail_inside()
    assert torch.equal(module.weight, own)


# ------------------------------------------------------------------ precision


@pytest.mark.parametrize(
    ("capabilities", "fast"),
    [({}, False), ({"avx512_f": True, "amx_bf16": False}, False), ({"amx_bf16": True}, True),
     ({"avx512_bf16": True}, True)],
)  # fmt: skip
def test_bf16_on_cpus(monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], fast: bool) -> None:
    monkeypatch.setattr(precision, "_cpu_capabilities", lambda: capabilities)
    assert precision.fast_bf16(torch.device("cpu")) is fast


@pytest.mark.parametrize(("capability", "fast"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_bf16_on_gpus(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], fast: bool) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert precision.fast_bf16(torch.device("cuda", 0)) is fast


def test_bf16_elsewhere_and_here(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not precision.fast_bf16(torch.device("mps"))
    assert precision.fast_bf16(torch.device("cpu")) in {True, False}
    for amx in (True, False):  # an older release's way, with one probe and without the other
        monkeypatch.setattr(torch, "cpu", SimpleNamespace(_is_amx_tile_supported=lambda amx=amx: amx))
        assert precision.fast_bf16(torch.device("cpu")) is amx


def test_jensen_shannon_is_the_mean_divergence_from_the_mean() -> None:
    logits = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))
    p = logits.double().softmax(2).numpy()
    m = p.mean(0)
    expected = np.mean([stats.entropy(view, m, axis=1) for view in p], axis=0)
    np.testing.assert_allclose(jensen_shannon(logits).numpy(), expected, rtol=1e-5)
    assert jensen_shannon(logits[:1].expand(3, 5, 7)).abs().max() < 1e-6
    certain = 1000.0 * torch.eye(3)[:, None, :]
    torch.testing.assert_close(jensen_shannon(certain), torch.tensor([3.0]).log(), rtol=1e-4, atol=0)
