"""Weights & Biases: a run in a project, online with a key, else offline in the run directory to be synced later."""

from __future__ import annotations

import io
import os
import secrets
from pathlib import Path
from typing import Any

from PIL import Image

from augft.model.files import META_FILE, WEIGHTS_FILE
from augft.run import CONFIG, POLICY, PREVIEW, REPORT, Run
from augft.train.trackers.contents import confusion_png, metrics, read_confusion, run_name
from augft.train.trackers.folder import Folder
from augft.train.trackers.ledger import Line, Page

STEP = "global_step"


class WandB:
    """One run there for one run directory."""

    place = "wandb"

    def __init__(self, run: Run, group: str | None) -> None:
        self._run, self._group = run, group
        self._there: Any = None

    def begin(self, page: Page) -> str | None:
        import wandb

        storage = self._run.storage
        self._folder = Folder(storage, self.place)
        mode = os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
        if page["run_id"] is None:
            page["run_id"] = secrets.token_hex(4)
        self._there = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "augft",
            group=os.environ.get("WANDB_RUN_GROUP") or self._group or self._run.job.name,
            id=page["run_id"],
            resume="allow" if mode == "online" else None,
            reinit="create_new",
            name=run_name(self._run),
            config=self._run.job.to_dict(),
            dir=str(self._folder.path.parent),  # where it makes a folder `wandb`
            mode=mode,  # type: ignore[arg-type]
            settings=wandb.Settings(console="off", silent=True),
        )
        self._there.define_metric("*", step_metric=STEP)
        if not page["described"]:
            if storage.exists(PREVIEW):
                self._there.log({"preview": _image(storage.read(PREVIEW)), STEP: 0})
            page["described"] = True
        if mode == "online":
            return str(self._there.url)
        why = "" if os.environ.get("WANDB_MODE") else "no API key, so "
        return f"{why}{mode}" + (f"; later: wandb sync {storage.uri}/wandb/offline-run-*" if mode == "offline" else "")

    def log(self, lines: list[Line]) -> None:
        for line in lines:
            self._there.log({**metrics(line), "epoch": line["epoch"], STEP: line["step"]})

    def finish(self, page: Page) -> None:
        storage, summary = self._run.storage, self._run.summary
        if (confusion := read_confusion(storage)) is not None:
            self._there.log({"test/confusion": _image(confusion_png(confusion)), STEP: summary["best_step"]})
        # As files and not as an artifact, which offline would wait outside of the run directory.
        for name in filter(storage.exists, (WEIGHTS_FILE, META_FILE, CONFIG, POLICY, REPORT)):
            copy = Path(self._there.dir, "run", name)
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(storage.read(name))
            self._there.save(copy, base_path=self._there.dir, policy="now")
        self._there.summary.update({f"summary/{key}": value for key, value in summary.items()})

    def end(self, how: str) -> None:
        self._there.finish(exit_code=0 if how == "finished" else 1)
        self._folder.push()
        self._folder.close()


def _has_key() -> bool:
    """Whether W&B would find a key without asking."""
    from requests.utils import get_netrc_auth

    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    return get_netrc_auth(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai") is not None


def _image(png: bytes) -> Any:
    import wandb

    return wandb.Image(Image.open(io.BytesIO(png)))
