"""TensorBoard: event files in the run directory, below `events/`."""

from __future__ import annotations

import io
import secrets
import time
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from augft.run import CONFIG, POLICY, PREVIEW, Run
from augft.train.trackers.contents import confusion_png, metrics, read_confusion
from augft.train.trackers.folder import Folder
from augft.train.trackers.ledger import Line, Page


class TensorBoard:
    """Scalars as they come; pictures and the job at the start, the confusion matrix at the end."""

    place = "events"

    def __init__(self, run: Run, group: str | None) -> None:
        self._run = run
        self._file: Any = None

    def begin(self, page: Page) -> str | None:
        # Not SummaryWriter: its thread writes when it likes, also after a flush.
        from tensorboardX import summary
        from tensorboardX.event_file_writer import EventsWriter

        storage = self._run.storage
        self._folder = Folder(storage, self.place)
        self._file = EventsWriter(str(self._folder.path / "events"), f".{secrets.token_hex(3)}")
        if not page["described"]:
            for name, kind in ((CONFIG, "yaml"), (POLICY, "json")):
                if storage.exists(name):
                    self._add(0, summary.text(name, f"```{kind}\n{storage.read(name).decode()}\n```"))
            if storage.exists(PREVIEW):
                self._add(0, summary.image("preview", _pixels(storage.read(PREVIEW)), dataformats="HWC"))
            self._flush()
            page["described"] = True
        return None

    def log(self, lines: list[Line]) -> None:
        from tensorboardX import summary

        for line in lines:
            for name, value in metrics(line).items():
                self._add(line["step"], summary.scalar(name, value))
        self._flush()

    def finish(self, page: Page) -> None:
        from tensorboardX import summary

        if (confusion := read_confusion(self._run.storage)) is not None:
            picture = _pixels(confusion_png(confusion))
            self._add(self._run.summary["best_step"], summary.image("test/confusion", picture, dataformats="HWC"))
            self._flush()

    def end(self, how: str) -> None:
        self._file.close()
        self._folder.push()
        self._folder.close()

    def _add(self, step: int, summary: Any) -> None:
        from tensorboardX.proto import event_pb2

        self._file.write_event(event_pb2.Event(wall_time=time.time(), step=step, summary=summary))

    def _flush(self) -> None:
        self._file.flush()
        self._folder.push()


def _pixels(png: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
