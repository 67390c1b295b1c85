"""What one step does to the model, on one rank."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load as load_safetensors

from augft.augment.actor import Augmenter
from augft.augment.mix import draw_mix, mix, partners
from augft.augment.policy import Policy
from augft.config import Job, load_job_text
from augft.data.packed import PackedDataset, open_packed
from augft.data.plan import Plan
from augft.data.units import RankBatch
from augft.prepare import make_plan
from augft.preprocess import IMAGENET_MEAN, IMAGENET_STD
from augft.train.learner import Learner
from augft.train.ranks import Ranks

ONE = Ranks(0, 1, torch.device("cpu"))
NUM_SAMPLES = 30
BASE = """
model: {name: resnet20, weights: none, bn: frozen}
augment: {policy: digits}
train:
  epochs: 3
  global_batch_size: 8
  precision: fp32
  optimizer: {lr: 0.1, momentum: 0.0, weight_decay: 0.0, nesterov: false}
  schedule: {name: constant}
"""


@pytest.fixture(scope="module")
def dataset(digits: Path) -> PackedDataset:
    return open_packed(digits)


def job(*overrides: str) -> Job:
    return load_job_text(BASE, "job.yaml", overrides)


def learner(dataset: PackedDataset, *overrides: str) -> Learner:
    made = job(*overrides)
    return Learner(made, dataset, make_plan(made, NUM_SAMPLES), ONE)


def batch(dataset: PackedDataset, plan: Plan, step: int, policy: str = "digits", num_views: int = 1) -> RankBatch:
    """What the stream gives to the only rank."""
    made = Policy.from_config(policy)
    actor = Augmenter(str(dataset.path), "train", np.arange(NUM_SAMPLES), plan, made, num_views)
    columns = actor.columns(np.arange(*plan.share(step, 0, 1)))
    return RankBatch(
        step, columns["image"], columns["label"], columns["epoch"], columns["sample_id"], columns["copy"],
        int(np.add.reduce(columns["digest"])),
    )  # fmt: skip


def of(dataset: PackedDataset, step: int, *overrides: str) -> RankBatch:
    return batch(dataset, make_plan(job(*overrides), NUM_SAMPLES), step)


def run(trained: Learner, dataset: PackedDataset, steps: range, *overrides: str) -> None:
    for step in steps:
        trained.backward(of(dataset, step, *overrides))
        trained.update(step)


def gradients(trained: Learner) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in trained.model.named_parameters() if p.grad is not None}


def copy_of(trained: Learner) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trained.model.state_dict().items()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def assert_equal_trees(left: Any, right: Any) -> None:
    assert type(left) is type(right)
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_equal_trees(left[key], right[key])
    elif isinstance(left, list | tuple):
        for a, b in zip(left, right, strict=True):
            assert_equal_trees(a, b)
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left, right)
    else:
        assert left == right


# ---- gradients and updates -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 11])
def test_gradients_are_those_of_the_mean_loss(dataset: PackedDataset, number: int) -> None:
    """Also of the last step, which has fewer items."""
    trained = learner(dataset)
    step = of(dataset, number)
    losses, correct = trained.backward(step)
    mean, std = torch.tensor(dataset.manifest.mean), torch.tensor(dataset.manifest.std)
    x = ((torch.from_numpy(step.images) / 255 - mean) / std).permute(0, 3, 1, 2)
    labels = torch.from_numpy(step.labels).long()
    found = gradients(trained)
    trained.model.zero_grad()
    logits = trained.model(x)
    F.cross_entropy(logits, labels).backward()
    for name, reference in gradients(trained).items():
        torch.testing.assert_close(found[name], reference, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(losses, F.cross_entropy(logits, labels, reduction="none").detach())
    assert not losses.requires_grad
    assert torch.equal(correct, logits.argmax(1) == labels)


@pytest.mark.parametrize("accumulation", [2, 3, 8])
@pytest.mark.parametrize("step", [0, 11])
def test_accumulation_is_one_large_batch(dataset: PackedDataset, accumulation: int, step: int) -> None:
    """Also where the parts are unequal, and where the last step of the run has fewer items than parts."""
    override = f"train.grad_accum_steps={accumulation}"
    whole, parts = learner(dataset), learner(dataset, override)
    items = of(dataset, step)
    assert len(items.labels) == (8 if step == 0 else 2)
    losses, correct = whole.backward(items)
    losses_of_parts, correct_of_parts = parts.backward(items)
    torch.testing.assert_close(losses, losses_of_parts)
    assert torch.equal(correct, correct_of_parts)
    expected, found = gradients(whole), gradients(parts)
    assert expected.keys() == found.keys()
    assert max(gradient.abs().max() for gradient in expected.values()) > 1e-3
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-6)


def test_an_update_is_the_rate_times_the_gradient(dataset: PackedDataset) -> None:
    trained = learner(dataset, "train.head_lr_multiplier=10")
    before = {name: p.detach().clone() for name, p in trained.model.named_parameters()}
    trained.backward(of(dataset, 0))
    found = gradients(trained)
    trained.update(0)
    for name, parameter in trained.model.named_parameters():
        rate = 1.0 if name.startswith("fc.") else 0.1
        torch.testing.assert_close(parameter.detach(), before[name] - rate * found[name])


def test_gradients_do_not_pile_up_over_steps(dataset: PackedDataset) -> None:
    trained = learner(dataset)
    trained.backward(of(dataset, 0))
    once = gradients(trained)
    trained.backward(of(dataset, 0))
    assert_equal_trees(once, gradients(trained))


def test_the_gradients_norm_is_clipped(dataset: PackedDataset) -> None:
    trained, free = learner(dataset, "train.clip_grad_norm=0.01"), learner(dataset)
    before = torch.cat([p.detach().flatten() for p in trained.model.parameters()])
    moved = []
    for each in (trained, free):
        each.backward(of(dataset, 0))
        each.update(0)
        moved.append((torch.cat([p.detach().flatten() for p in each.model.parameters()]) - before).norm().item())
    assert moved[0] == pytest.approx(0.1 * 0.01, rel=1e-2)
    assert moved[1] > 0.01


def test_a_step_of_one_picture(dataset: PackedDataset) -> None:
    """It has no variance over the batch: normalised as in evaluation, and the statistics stay."""
    overrides = ("train.global_batch_size=1", "model.bn=train", "model.name=resnet18", "data.image_size=8")
    trained = learner(dataset, *overrides)
    run(trained, dataset, range(1), *overrides)
    before = copy_of(trained)
    losses, _ = trained.backward(of(dataset, 1, *overrides))
    trained.update(1)
    assert torch.isfinite(losses).all()
    after = changed(before, copy_of(trained))
    assert "fc.weight" in after
    assert not any("running" in name for name in after)
    # Two pictures have: training mode is back.
    two = of(dataset, 0)
    pair = RankBatch(2, *(getattr(two, name)[:2] for name in ("images", "labels", "epochs", "sample_ids", "copies")), 0)
    trained.backward(pair)
    assert "bn1.running_mean" in changed(before, copy_of(trained))


def test_mixed_pictures_and_targets(dataset: PackedDataset) -> None:
    overrides = ("augment.mixup_alpha=1.0", "augment.cutmix_alpha=1.0")
    trained = learner(dataset, *overrides)
    step = of(dataset, 1, *overrides)
    losses, correct = trained.backward(step)
    mean, std = torch.tensor(dataset.manifest.mean), torch.tensor(dataset.manifest.std)
    x = ((torch.from_numpy(step.images) / 255 - mean) / std).permute(0, 3, 1, 2)
    labels = torch.from_numpy(step.labels).long()
    draws = draw_mix(0, step.epochs, step.sample_ids, step.copies, mixup_alpha=1.0, cutmix_alpha=1.0)
    assert set(draws.cutmix.tolist()) == {False, True}
    mixed, targets = mix(x, labels, 10, draws, partners(0, 8))
    with torch.no_grad():
        logits = trained.model(mixed)
        torch.testing.assert_close(losses, -(targets * logits.log_softmax(1)).sum(1), rtol=1e-4, atol=1e-5)
        plain = F.cross_entropy(trained.model(x), labels, reduction="none")
    assert (losses - plain).abs().max() > 0.01
    assert torch.equal(correct, logits.argmax(1) == labels)


def test_mixing_does_not_depend_on_accumulation_by_whole_groups(dataset: PackedDataset) -> None:
    overrides = ("augment.mixup_alpha=0.5", "train.global_batch_size=16")
    whole = learner(dataset, *overrides).backward(of(dataset, 0, *overrides))[0]
    parts = learner(dataset, *overrides, "train.grad_accum_steps=2").backward(of(dataset, 0, *overrides))[0]
    torch.testing.assert_close(whole, parts)


# ---- augmented on the device ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["digits", "randaugment", "augmix"])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_device_makes_what_actors_make(dataset: PackedDataset, policy: str, accumulation: int) -> None:
    """Of originals among copies, in epochs that share a step: the same losses to the bit, and the same gradients."""
    overrides = (
        "augment.copies=2", "augment.select=0.5", "augment.keep_original=true", "augment.mixup_alpha=0.2",
        "train.global_batch_size=16", f"train.grad_accum_steps={accumulation}",
    )  # fmt: skip
    made = job(*overrides)
    plan = make_plan(made, NUM_SAMPLES)
    by_actors = Learner(made, dataset, plan, ONE)
    by_device = Learner(made, dataset, plan, ONE, Policy.from_config(policy))
    for step in (0, 3):  # of 60 items an epoch: step 3 has items of two
        augmented, plain = batch(dataset, plan, step, policy), batch(dataset, plan, step, "none")
        assert set(plain.copies) == {0, 1, 2}
        assert len(set(plain.epochs)) == 1 + (step == 3)
        assert (augmented.images != plain.images).any()
        expected, found = by_actors.backward(augmented), by_device.backward(plain)
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])
        assert_equal_trees(gradients(by_device), gradients(by_actors))
        assert not torch.equal(by_actors.backward(plain)[0], expected[0])


def test_the_device_leaves_originals(dataset: PackedDataset) -> None:
    overrides = ("augment.copies=0", "augment.keep_original=true")
    made = job(*overrides)
    plan = make_plan(made, NUM_SAMPLES)
    step = batch(dataset, plan, 0, "none")
    expected = Learner(made, dataset, plan, ONE).backward(step)[0]
    assert torch.equal(Learner(made, dataset, plan, ONE, Policy.from_config("digits")).backward(step)[0], expected)


# ---- consistency of views ------------------------------------------------------------------------------------------


def test_consistency_is_of_a_picture_and_two_mixtures_of_it(dataset: PackedDataset) -> None:
    overrides = ("augment.policy=augmix", "train.jsd_weight=12", "augment.keep_original=true")
    made = job(*overrides)
    plan = make_plan(made, NUM_SAMPLES)
    step = batch(dataset, plan, 0, "augmix", num_views=3)
    unmixed, first, second = step.images.swapaxes(0, 1)
    copies = step.copies > 0
    assert (unmixed[copies] != first[copies]).any((1, 2, 3)).any()
    assert (first[copies] != second[copies]).any((1, 2, 3)).any()
    np.testing.assert_array_equal(first, batch(dataset, plan, 0, "augmix").images)
    np.testing.assert_array_equal(unmixed, batch(dataset, plan, 0, "standard").images)  # AugMix's flip and crop
    np.testing.assert_array_equal(unmixed[~copies], second[~copies])

    trained = Learner(made, dataset, plan, ONE)
    losses, correct = trained.backward(step)
    plain = Learner(job(), dataset, plan, ONE)
    plain_losses, plain_correct = plain.backward(replace(step, images=unmixed))
    # bn: frozen, so that a picture's answer does not depend on the others in the batch
    answers = [plain.model(plain._preprocess(view)).softmax(1) for view in (unmixed, first, second)]
    mean = sum(answers) / 3
    divergence = sum((p * (p / mean).log()).sum(1) for p in answers) / 3
    torch.testing.assert_close(losses, plain_losses + 12 * divergence.detach(), rtol=1e-4, atol=1e-5)
    assert torch.equal(correct, plain_correct)
    assert divergence[torch.from_numpy(~copies)].abs().max() < 1e-6 < divergence[torch.from_numpy(copies)].max()

    by_device = Learner(made, dataset, plan, ONE, Policy.from_config("augmix"))
    assert torch.equal(by_device.backward(batch(dataset, plan, 0, "none"))[0], losses)


# ---- freezing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("freeze", "frozen"),
    [("backbone", ("conv1", "bn1", "layer1", "layer2", "layer3")), ("layer1", ("conv1", "bn1", "layer1"))],
)
def test_frozen_parts_stay(dataset: PackedDataset, freeze: str, frozen: tuple[str, ...]) -> None:
    overrides = (f"model.freeze={freeze}", "model.bn=auto", "train.optimizer.weight_decay=0.1", "train.ema_decay=0.5")
    trained = learner(dataset, *overrides)
    before = copy_of(trained)
    run(trained, dataset, range(2), *overrides)
    after = changed(before, copy_of(trained))
    assert {name for name in before if not name.startswith(frozen)} == after
    assert not any(name.startswith(frozen) for name in after)


def test_gradual_thaws_from_the_head(dataset: PackedDataset) -> None:
    overrides = ("model.freeze=gradual", "model.bn=auto")
    trained = learner(dataset, *overrides)
    learning = []
    for step in range(12):
        before = copy_of(trained)
        run(trained, dataset, range(step, step + 1), *overrides)
        learning.append({name.split(".")[0] for name in changed(before, copy_of(trained))})
    assert learning[0] == {"fc"}
    assert learning[-1] == {"conv1", "bn1", "layer1", "layer2", "layer3", "fc"}
    sizes = [len(parts) for parts in learning]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) >= 4


# ---- state ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        ("train.optimizer.momentum=0.9", "train.optimizer.nesterov=true", "train.ema_decay=0.9", "model.bn=train"),
        ("train.optimizer.name=adamw", "train.optimizer.lr=0.001", "train.optimizer.momentum=0.9", "model.bn=train"),
        ("model.freeze=gradual", "train.optimizer.momentum=0.9", "model.bn=auto"),
        # With dropout: its draws are of the step, not of what was drawn before.
        ("model.name=mobilenet_v3_small", "model.input_size=32", "train.optimizer.momentum=0.9", "model.bn=train"),
    ],
    ids=["sgd-ema", "adamw", "gradual", "dropout"],
)
def test_a_resumed_learner_is_bit_identical(dataset: PackedDataset, overrides: tuple[str, ...]) -> None:
    undisturbed = learner(dataset, *overrides)
    run(undisturbed, dataset, range(3), *overrides)
    file = io.BytesIO()
    torch.save(undisturbed.state(), file)
    run(undisturbed, dataset, range(3, 6), *overrides)
    torch.manual_seed(12345)
    resumed = learner(dataset, *overrides)
    file.seek(0)
    resumed.load_state(torch.load(file, weights_only=True))
    run(resumed, dataset, range(3, 6), *overrides)
    assert_equal_trees(resumed.state(), undisturbed.state())
    # The optimizer's state matters: without it the weights are others.
    file.seek(0)
    forgetful = learner(dataset, *overrides)
    forgetful.model.load_state_dict(torch.load(file, weights_only=True)["model"])
    run(forgetful, dataset, range(3, 6), *overrides)
    assert changed(forgetful.state()["model"], undisturbed.state()["model"])


def test_two_learners_of_a_job_are_equal(dataset: PackedDataset) -> None:
    one, two, other = learner(dataset), learner(dataset), learner(dataset, "seed=1")
    assert_equal_trees(one.state()["model"], two.state()["model"])
    assert changed(one.state()["model"], other.state()["model"])


def test_the_average_is_what_is_judged(dataset: PackedDataset) -> None:
    overrides = ("train.ema_decay=0.9",)
    trained = learner(dataset, *overrides)
    begin = copy_of(trained)["fc.weight"]
    run(trained, dataset, range(2), *overrides)
    own = copy_of(trained)
    with trained.judged():
        assert not trained.model.training
        kept = load_safetensors(trained.weights())
        assert torch.equal(trained.model.state_dict()["fc.weight"], kept["fc.weight"])
    assert changed(own, copy_of(trained)) == set()
    assert not torch.equal(kept["fc.weight"], own["fc.weight"])
    # Between where it began and where it is.
    assert (kept["fc.weight"] - own["fc.weight"]).norm() < (begin - own["fc.weight"]).norm()


# ---- what is around it ---------------------------------------------------------------------------------------------


def test_pictures_are_normalised_as_the_job_says(dataset: PackedDataset) -> None:
    own = learner(dataset).meta(3)
    assert (own.mean, own.std) == (dataset.manifest.mean, dataset.manifest.std)
    assert (own.step, own.input_size, own.architecture, own.num_classes) == (3, 8, "resnet20", 10)
    assert own.classes == tuple("0123456789")
    imagenet = learner(dataset, "model.normalize=imagenet", "model.input_size=16").meta(0)
    assert (imagenet.mean, imagenet.std, imagenet.input_size) == (IMAGENET_MEAN, IMAGENET_STD, 16)


def test_bf16(dataset: PackedDataset) -> None:
    overrides = ("train.precision=bf16",)
    trained = learner(dataset, *overrides)
    assert trained.precision == "bf16"
    losses, _ = trained.backward(of(dataset, 0, *overrides))
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, learner(dataset).backward(of(dataset, 0))[0], rtol=0.05, atol=0.05)
    assert all(p.dtype == torch.float32 for p in trained.model.parameters())


def test_it_learns(dataset: PackedDataset) -> None:
    overrides = ("train.epochs=30", "train.global_batch_size=30", "model.bn=train", "train.optimizer.momentum=0.9")
    trained = learner(dataset, *overrides)
    first = trained.backward(of(dataset, 0, *overrides))[0].mean()
    run(trained, dataset, range(25), *overrides)
    assert trained.backward(of(dataset, 25, *overrides))[0].mean() < 0.5 * first
    # Evaluation leaves the model as it is, and counts each sample once.
    before = copy_of(trained)
    found = trained.evaluate(dataset, "train", np.arange(NUM_SAMPLES))
    assert found.num_samples == NUM_SAMPLES
    assert changed(before, copy_of(trained)) == set()
