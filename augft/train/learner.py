"""All that learns: the model with its optimizer, average and precision, and what one step does to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.parallel import DistributedDataParallel

from augft.augment.apply import NUM_VIEWS, draw_views
from augft.augment.device import render
from augft.augment.draw import stream_key
from augft.augment.mix import draw_mix, mix, partners
from augft.augment.policy import Policy
from augft.config import Job
from augft.data.packed import PackedDataset
from augft.data.plan import Plan
from augft.data.units import RankBatch
from augft.evaluate import Evaluation, evaluate
from augft.model import build_model
from augft.model.files import ModelMeta, model_to_bytes
from augft.model.stages import boundaries, freeze, parameter_groups, set_train_mode, stages
from augft.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from augft.train.ema import Ema
from augft.train.loss import jensen_shannon, per_sample_loss
from augft.train.precision import fast_bf16
from augft.train.ranks import Ranks
from augft.train.schedule import build_optimizer, learning_rate, set_lr
from augft.upload import upload

Sent = tuple[torch.Tensor, torch.Tensor]


class Learner:
    """The model of a run on one rank.

    Args:
        job: what to build and how it learns.
        dataset: its classes and statistics.
        plan: how many steps there are and how large they are.
        ranks: who learns together.
        policy: what the device makes of the copies in a batch; None: they come augmented.
        beat: called after each batch of a validation.
    """

    def __init__(
        self,
        job: Job,
        dataset: PackedDataset,
        plan: Plan,
        ranks: Ranks,
        policy: Policy | None = None,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._job, self._train, self._plan, self._ranks, self._policy = job, job.train, plan, ranks, policy
        self._beat = beat
        self._num_classes = len(dataset.manifest.classes)
        built = build_model(
            job.model.name,
            num_classes=self._num_classes,
            weights=job.model.weights,
            stem=job.model.stem,
            classes=dataset.manifest.classes,
            seed=job.seed,
        )
        self.load_report = built.load_report
        self._dtype = _autocast_dtype(self._train.precision, ranks.device)
        self._preprocess = self._make_preprocess(dataset, built.meta)
        self._meta = replace(
            built.meta,
            mean=self._preprocess.mean,
            std=self._preprocess.std,
            input_size=self._preprocess.input_size or dataset.manifest.image_shape[0],
        )
        layout = torch.channels_last if self._preprocess.channels_last else torch.contiguous_format
        self.model = built.module.to(ranks.device).to(memory_format=layout)
        self._called: torch.nn.Module = self.model
        self._trainable: frozenset[str] = frozenset()
        self._thaw_steps = set(boundaries(job.model.freeze, list(stages(self.model)), plan.num_steps))
        settings = self._train.optimizer
        groups = parameter_groups(
            self.model,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            head_lr_multiplier=self._train.head_lr_multiplier,
            layer_decay=self._train.layer_decay,
        )
        self._optimizer = build_optimizer(
            settings.name, groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.nesterov
        )
        self._ema = Ema(self.model, self._train.ema_decay) if self._train.ema_decay is not None else None
        self._scaler = torch.amp.GradScaler(ranks.device.type, enabled=self._dtype == torch.float16)

    def _make_preprocess(self, dataset: PackedDataset, meta: ModelMeta) -> Preprocess:
        """Normalise as the weights are used to; a bare weights file does not say, and is taken to be ImageNet's kin."""
        model, device = self._job.model, self._ranks.device
        mean, std = dataset.manifest.mean, dataset.manifest.std
        if model.normalize == "imagenet":
            mean, std = IMAGENET_MEAN, IMAGENET_STD
        elif model.normalize == "auto" and model.weights != "none":
            mean, std = meta.mean or IMAGENET_MEAN, meta.std or IMAGENET_STD
        channels_last = self._train.channels_last
        if channels_last == "auto":
            channels_last = device.type == "cuda" or self._dtype is not None
        return Preprocess(mean, std, model.input_size, device, channels_last)

    @property
    def precision(self) -> str:
        """Precision of the forward pass, as the job file names it."""
        return {torch.bfloat16: "bf16", torch.float16: "fp16", None: "fp32"}[self._dtype]

    # ---- a step ----------------------------------------------------------------------------------------------------

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        schedule = self._train.schedule
        return learning_rate(
            schedule.name,
            step,
            self._plan.num_steps,
            lr=self._train.optimizer.lr,
            warmup_steps=schedule.warmup_steps,
            final_fraction=schedule.final_fraction,
            milestones=schedule.milestones,
            gamma=schedule.gamma,
        )

    def send(self, batch: RankBatch) -> Sent:
        """Put a batch on the device: pictures as they travel, uint8, and labels, int64."""
        return self._preprocess.upload(batch.images), upload(batch.labels, self._ranks.device, torch.int64)

    def backward(self, batch: RankBatch, sent: Sent | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Forward and backward: afterwards the gradients are those of the whole step's mean loss.

        The device is not waited for, nor by `update`.

        Args:
            batch: of the step.
            sent: the same from `send`; None: it is sent now.

        Returns:
            Of this rank's M items: loss float32 (M,) and whether the label was the prediction, bool (M,).
        """
        if not self._trainable or batch.step in self._thaw_steps:
            self._freeze(batch.step)
        # Dropout draws from the global generator: made a function of the step, so a resumed run draws the same.
        torch.manual_seed(stream_key(self._job.seed, f"train/{batch.step}/{self._ranks.rank}") >> 1)
        self._optimizer.zero_grad(set_to_none=True)
        offset = self._plan.share(batch.step, self._ranks.rank, self._ranks.world_size)[0]
        offset -= batch.step * self._plan.global_batch_size
        pixels, labels = sent or self.send(batch)
        parts = np.array_split(np.arange(len(batch.labels)), self._train.grad_accum_steps)
        losses, correct = [], []
        for number, rows in enumerate(parts):
            with self._gradients_cross_ranks(number == len(parts) - 1):
                loss, right = self._micro_batch(batch, pixels, labels, rows, offset)
                # DDP divides the sum over ranks by their number; ranks of unequal shares weigh by their counts.
                mean = loss.sum() * (self._ranks.world_size / self._plan.step_size(batch.step))
                self._scaler.scale(mean).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            correct.append(right)
        return torch.cat(losses), torch.cat(correct)

    def update(self, step: int) -> None:
        """Apply the gradients of a step."""
        set_lr(self._optimizer, self.rate(step))
        if self._train.clip_grad_norm is not None:
            self._scaler.unscale_(self._optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._train.clip_grad_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._ema is not None:
            self._ema.update(self.model, step)

    def _micro_batch(
        self,
        batch: RankBatch,
        pixels: torch.Tensor,
        labels: torch.Tensor,
        rows: npt.NDArray[np.intp],
        offset: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if len(rows) == 0:
            return self._empty_micro_batch(batch)
        part = slice(rows[0], rows[-1] + 1)
        images = self._preprocess.normalise(torch.cat(self._views(batch, pixels[part], part)))
        targets = labels = labels[part]
        augment = self._job.augment
        if max(augment.mixup_alpha, augment.cutmix_alpha) > 0:
            draws = draw_mix(
                self._plan.draw_seed,
                batch.epochs[rows],
                batch.sample_ids[rows],
                batch.copies[rows],
                mixup_alpha=augment.mixup_alpha,
                cutmix_alpha=augment.cutmix_alpha,
            )
            partner = partners(offset + int(rows[0]), len(rows))
            images, targets = mix(images, labels, self._num_classes, draws, partner)
        set_train_mode(self.model, self._trainable, self._job.model.bn)
        if len(rows) == 1:
            self._freeze_batch_statistics()
        with self._autocast():
            logits_V = self._called(images).unflatten(0, (-1, len(rows)))  # (V, N, C)
        loss = per_sample_loss(logits_V[0], targets, self._train.loss, self._train.label_smoothing)
        if self._train.jsd_weight:
            loss = loss + self._train.jsd_weight * jensen_shannon(logits_V)
        return loss, logits_V[0].detach().argmax(1) == labels

    def _views(self, batch: RankBatch, pixels: torch.Tensor, rows: slice) -> list[torch.Tensor]:
        """The pictures that are learnt from, uint8 (N, H, W, 3) each on the device: one, or three for `jsd_weight`."""
        if self._policy is None:
            return [pixels] if pixels.ndim == 4 else list(pixels.unbind(1))
        views = draw_views(
            self._policy,
            seed=self._plan.draw_seed,
            epochs=batch.epochs[rows],
            sample_ids=batch.sample_ids[rows],
            copies=batch.copies[rows],
            num_views=NUM_VIEWS if self._train.jsd_weight else 1,
        )
        return [render(pixels, self._policy, drawn) for drawn in views]

    def _empty_micro_batch(self, batch: RankBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """A rank without a share of the last step takes part in the exchange of gradients, with zeros."""
        shape = (1, *batch.images.shape[-3:])
        self._freeze_batch_statistics()
        with self._autocast():
            logits = self._called(self._preprocess(np.zeros(shape, np.uint8)))
        return logits.float().sum(1)[:0] + 0.0 * logits.float().sum(), torch.zeros(
            0, dtype=torch.bool, device=logits.device
        )

    def _freeze_batch_statistics(self) -> None:
        """One picture has no variance over the batch: normalise it as in evaluation."""
        for module in self.model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()

    def _freeze(self, step: int) -> None:
        """Freeze what does not learn at a step, and wrap the model anew: DDP fixes its gradients when it is built."""
        self._trainable = freeze(self.model, self._job.model.freeze, step, self._plan.num_steps)
        self._called = self.model
        if self._train.compile:
            self._called = torch.compile(self.model)  # type: ignore[assignment]
        if self._ranks.world_size > 1:
            device_ids = [self._ranks.device] if self._ranks.device.type == "cuda" else None
            # Running statistics are rank 0's, and are handed out before they are used (`judged`).
            self._called = DistributedDataParallel(self._called, device_ids=device_ids, broadcast_buffers=False)

    @contextmanager
    def _gradients_cross_ranks(self, now: bool) -> Iterator[None]:
        """Within the block gradients are summed over ranks, or, before the last micro-batch, only kept."""
        keep = isinstance(self._called, DistributedDataParallel) and not now
        with self._called.no_sync() if keep else nullcontext():  # type: ignore[operator]
            yield

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._ranks.device.type, self._dtype, enabled=self._dtype is not None)

    # ---- what is kept of it ----------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All tensors of the run."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "ema": self._ema.state_dict() if self._ema is not None else None,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        if self._ema is not None:
            self._ema.load_state_dict(state["ema"])

    def meta(self, step: int) -> ModelMeta:
        """What model.json says of the weights of a step."""
        return replace(self._meta, step=step)

    def weights(self) -> bytes:
        """The weights that are evaluated, as the content of a safetensors file; within `judged`, the average."""
        return model_to_bytes(self.model, self._meta)[0]

    # ---- evaluation ------------------------------------------------------------------------------------------------

    @contextmanager
    def judged(self) -> Iterator[None]:
        """Within the block the model is what would be shipped: the average where there is one, in evaluation mode,
        with rank 0's batch statistics on all ranks."""
        self._ranks.share_buffers(self.model)
        with self._ema.applied(self.model) if self._ema is not None else nullcontext():
            self.model.eval()
            yield

    def evaluate(
        self, dataset: PackedDataset, split: str, sample_ids: npt.NDArray[np.int64], *, as_shipped: bool = False
    ) -> Evaluation:
        """Exact metrics of the model as it is on some samples of a split; all ranks call it.

        As it is shipped, it computes in float32, as whoever loads it does; else in the run's precision.
        """
        self.model.eval()
        return evaluate(
            self.model,
            self._preprocess,
            dataset.split(split),
            sample_ids,
            num_classes=self._num_classes,
            batch_size=512,
            ranks=self._ranks,
            autocast_dtype=None if as_shipped else self._dtype,
            beat=self._beat,
        )


def _autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    if precision == "auto":
        precision = "bf16" if fast_bf16(device) else "fp32"
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
