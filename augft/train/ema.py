"""Exponential moving average of the weights (Polyak and Juditsky, 1992)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Ema:
    """The average of a model's parameters and buffers over its steps.

    The decay of step k is min(decay, (1 + k) / (10 + k)), so that a short run's average is not its random
    beginning. What is no float (the batch count of batch normalisation) is taken over as it is.

    Args:
        module: the bare model; the average begins with its weights.
        decay: in (0, 1).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.average = {key: tensor.detach().clone() for key, tensor in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Take up the weights after global step `step`, in place."""
        pairs = [(self.average[key], tensor) for key, tensor in module.state_dict().items()]
        # All at once: on a GPU a kernel for each of a network's small tensors takes longer than its work.
        averages, news = zip(*[pair for pair in pairs if pair[0].is_floating_point()], strict=True)
        get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))(averages, news, None)  # type: ignore[no-untyped-call]
        for average, new in pairs:
            if not average.is_floating_point():
                average.copy_(new)

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Within the block the model has the averaged weights; after it, also by an error, its own again."""
        own = {key: tensor.detach().clone() for key, tensor in module.state_dict().items()}
        module.load_state_dict(self.average)
        try:
            yield
        finally:
            module.load_state_dict(own)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The averaged weights, under the model's own names; not a copy."""
        return self.average

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from a saved average.

        Raises:
            KeyError: a tensor is missing.
        """
        for key, average in self.average.items():
            average.copy_(state[key])
