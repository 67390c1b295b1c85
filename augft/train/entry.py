"""Where a training worker begins. It imports nothing, for Ray Train's controller unpickles it too: see `Sealed`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from augft.sealed import Sealed

if TYPE_CHECKING:
    from augft.train.worker import Post


def train_loop(post: Sealed[Post]) -> dict[str, Any]:
    """As `augft.train.worker.work`, on this rank."""
    from augft.train.worker import work

    return work(post.open())
