"""What travels through processes that do not need it.

Ray Train's controller and Ray Data's coordinator hold what workers and actors are given. To unpickle it they would
import torchvision and Numba, seconds in which a run waits for them (docs/decisions.md, 12).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from ray import cloudpickle

T = TypeVar("T")


@dataclass(frozen=True)
class Sealed(Generic[T]):
    """A value, pickled; only who opens it imports what it takes."""

    content: bytes

    @classmethod
    def of(cls, value: T) -> Sealed[T]:
        return cls(cloudpickle.dumps(value))

    def open(self) -> T:
        return cast(T, cloudpickle.loads(self.content))
