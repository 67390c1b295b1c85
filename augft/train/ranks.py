"""What crosses ranks: sums and counts, never averages. With one rank nothing does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from augft.errors import InputError, StorageError
from augft.upload import upload


class FirstFailure:
    """Holds back an error that one rank meets alone, until all ranks are where `Ranks.agree` can tell them.

    A context manager, to be entered any number of times; the first error counts.
    """

    def __init__(self) -> None:
        self.error: InputError | StorageError | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, InputError | StorageError):
            return False
        self.error = self.error or error
        return True


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; every method is called by all of them, in the same order."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, values: Sequence[float], on_device: torch.Tensor | None = None) -> list[float]:
        """Sums over ranks, in float64, read back from the device at one go.

        Args:
            values: of the host.
            on_device: further ones, float64 (K,), that come first in the result.
        """
        if self.world_size == 1:
            return [*([] if on_device is None else on_device.tolist()), *values]
        tensor = upload(np.array(values, np.float64), self.device, torch.float64)
        if on_device is not None:
            tensor = torch.cat([on_device, tensor])
        dist.all_reduce(tensor)
        summed: list[float] = tensor.tolist()
        return summed

    def sum_integers(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Sums over ranks of 64-bit integers; uint64 wraps modulo 2**64."""
        if self.world_size == 1:
            return values
        tensor = torch.from_numpy(values.astype(values.dtype, copy=True).view(np.int64)).to(self.device)
        dist.all_reduce(tensor)
        return tensor.cpu().numpy().view(values.dtype)

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in order of rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def agree(self, failure: FirstFailure) -> None:
        """Raise on every rank what one has met, if one has."""
        for error in self.gather(failure.error):
            if error is not None:
                raise error

    def share_buffers(self, module: torch.nn.Module) -> None:
        """Give all ranks rank 0's buffers: each has batch statistics of its own share until then."""
        if self.world_size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)
