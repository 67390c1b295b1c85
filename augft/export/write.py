"""`augft export`: three files, the model, what it is as JSON, and its card; whole or not at all."""

from __future__ import annotations

from pathlib import Path

from augft.errors import AugftError, ConfigError
from augft.export.card import model_card
from augft.export.formats import SUFFIXES, exported, metadata
from augft.report.record import read_record
from augft.saved import read_saved
from augft.storage import Storage

CARD = "MODEL.md"


def export(run: str, format: str, out: Path, *, force: bool = False) -> list[Path]:
    """Write a run's model for others.

    Beside the model FILE come FILE's name with `.json`, as a run's model.json, and `MODEL.md`. Neither depends on the
    format, so one folder takes all formats of a run.

    Args:
        run: a run directory or URI.
        format: `safetensors`, `onnx` or `torch`.
        out: the file to write; its suffix is `.safetensors`, `.onnx` or `.pt2`.
        force: whether files that are there are written over.

    Returns:
        The files, the model first.

    Raises:
        ConfigError: the format or its packages are missing, the suffix does not fit, or a file is there already.
        RunDirectoryError, WeightsError: the run has no sound model.
        RunError: what would be exported is not the model; nothing was written.
        StorageError: a file could not be written; none of this export is left.
    """
    suffix = SUFFIXES.get(format)
    if suffix is None:
        raise ConfigError(f"--format {format}: give one of {', '.join(SUFFIXES)}")
    if out.suffix != suffix:
        raise ConfigError(f"--out {out}: a file of --format {format} ends in {suffix}, as {out.with_suffix(suffix)}")
    folder = Storage(out.absolute().parent)
    folder.check_possible()
    if not force and out.exists():
        raise ConfigError(f"--out {out}: is there already; give another name, or --force")
    saved, record = read_saved(run), read_record(run)
    beside = {
        out.with_suffix(".json").name: saved.description,
        CARD: model_card(saved, record, out.stem).encode(),
    }
    for name, content in beside.items():
        if not force and folder.exists(name) and folder.read(name) != content:
            raise ConfigError(
                f"{out.with_name(name)}: is there already, of another model, or from before `augft evaluate`; "
                "give another folder, or --force"
            )
    digest = str(record.data.get("digest", ""))
    files = {**beside, out.name: exported(saved, format, metadata(saved, digest))}
    new = [name for name in files if not folder.exists(name)]
    try:
        for name, content in files.items():
            folder.write(name, content)
    except (AugftError, KeyboardInterrupt):
        for name in new:
            folder.remove(name)
        raise
    return [out, *(out.with_name(name) for name in beside)]
