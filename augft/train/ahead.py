"""The next batch is put on the device while this one is learnt from."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import torch

Item = TypeVar("Item")
Sent = TypeVar("Sent")


class Ahead(Generic[Item, Sent]):
    """Iterates over a stream's items, each with what it is on a device.

    A GPU works while the host goes on. There a thread takes an item from the stream and sends it, on a CUDA stream of
    its own, as soon as the one before it is handed out; at most that one is ahead, however far behind the device is.
    On the CPU this would gain nothing: an item is taken when it is asked for.

    Args:
        stream: what to iterate over; in a thread, but never in two at once.
        send: puts an item on the device; its copies are enqueued on the current CUDA stream.
        device: where to.
        threaded: whether a thread takes the items; None: where the device is a GPU.
    """

    def __init__(
        self,
        stream: Generator[Item, None, None],
        send: Callable[[Item], Sent],
        device: torch.device,
        threaded: bool | None = None,
    ) -> None:
        self._stream, self._send, self._device = stream, send, device
        # torch.cpu has streams and events too, which do nothing.
        self._module = torch.get_device_module(device)
        self._side: Any = torch.cpu.Stream()
        if device.type == "cuda":
            self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        is_threaded = device.type == "cuda" if threaded is None else threaded
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ahead") if is_threaded else None
        self._coming: Future[tuple[Item, Sent]] | None = None

    def __iter__(self) -> Ahead[Item, Sent]:
        return self

    def __next__(self) -> tuple[Item, Sent]:
        """The next item; the one before it is taken to be done with, but for what the device has still to do."""
        if self._thread is None:
            return self._take(None)
        here = self._module.current_stream(self._device)
        done = self._module.Event()
        done.record(here)
        coming = self._coming or self._thread.submit(self._take, None)
        item = coming.result()
        here.wait_stream(self._side)
        self._coming = self._thread.submit(self._take, done)
        return item

    def close(self) -> None:
        """Close the stream; what is on its way is waited for."""
        if self._thread is None:
            self._stream.close()
        else:
            self._thread.submit(self._stream.close).result()
            self._thread.shutdown()

    def _take(self, done: Any) -> tuple[Item, Sent]:
        """Take and send an item, once the device has done with the one before the last.

        Until then the memory that this left is not free on the CUDA stream of the copies, and the host would run ahead
        without end where nothing else holds it.
        """
        item = next(self._stream)
        if done is not None:
            done.synchronize()
        with self._module.stream(self._side):
            return item, self._send(item)
