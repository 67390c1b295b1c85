"""The model card: what a model is, what it was made of, how well it does and how sure that is, where it ends.

After Mitchell et al. (2019), Model Cards for Model Reporting: only what the run recorded is said, and what was not
measured is named as such.
"""

from __future__ import annotations

import re
from typing import Any

import jinja2

from augft.model.cifar_resnet import NAMES as CIFAR_RESNETS
from augft.report import text
from augft.report.interval import Score
from augft.report.lenient import items, mapping, number
from augft.report.record import Record
from augft.saved import SavedModel

_MOST_CLASSES = 100
"""In a table; more would be no reading."""
_VERSIONS = ("augft", "python", "torch", "torchvision", "ray", "numpy", "numba", "pyarrow")


def model_card(saved: SavedModel, record: Record, stem: str) -> str:
    """MODEL.md.

    Args:
        saved: the model.
        record: its run.
        stem: name of the model's files without suffix, for the examples.
    """
    module = saved.module()
    scores = {"test": record.test, "validation": record.val}
    return (
        _environment()
        .get_template("card.md.j2")
        .render(
            saved=saved,
            meta=saved.meta,
            record=record,
            stem=stem,
            num_parameters=sum(parameter.numel() for parameter in module.parameters()),
            is_cifar_resnet=saved.meta.architecture in CIFAR_RESNETS,
            depth=saved.meta.architecture.removeprefix("resnet"),
            scores={name: score for name, score in scores.items() if score is not None},
            by_class=_by_class(record),
            most_classes=_MOST_CLASSES,
            examined=[_examined(found, saved.meta.temperature) for found in record.evaluations.values()],
            versions={name: record.environment[name] for name in _VERSIONS if name in record.environment},
        )
    )


def _by_class(record: Record) -> list[tuple[str, Score | None]]:
    """Each class of the test with its score; None where there is no picture of it."""
    evaluation = mapping(record.evaluation)
    rows = zip(items(evaluation.get("classes")), items(evaluation.get("confusion")), strict=False)
    return [(str(name), Score(row[i], sum(row)) if sum(row) else None) for i, (name, row) in enumerate(rows)]


def _examined(found: dict[str, Any], temperature: float | None) -> dict[str, Any]:
    """Figures of an evaluation; the calibration is that of the probabilities that the model gives now."""
    judged = mapping(found.get("calibration"))
    calibration = mapping(judged.get("plain" if temperature is None else "scaled"))
    if temperature is not None and calibration.get("temperature") != temperature:
        calibration = {}
    return {
        "data": mapping(found.get("data")),
        "score": Score.of(found.get("top1"), found.get("num_samples")),
        "ece": number(calibration.get("ece")),
        "corrupted": number(mapping(found.get("corruptions")).get("mean_error")),
    }


def _plain(value: object) -> str:
    """A text from outside, as a class's name, so that Markdown takes nothing in it for its own; on one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|~!&$])", r"\\\1", " ".join(str(value).split()))


def _code(value: object) -> str:
    """The same between backquotes."""
    return "`" + " ".join(str(value).split()).replace("`", "'").replace("|", "\\|") + "`"


def _environment() -> jinja2.Environment:
    # Markdown, not HTML: what comes from outside goes through `plain` or `code`.
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("augft.export", ""),
        autoescape=False,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    forms = (text.percent, text.percent_range, text.count)
    environment.filters |= {form.__name__: form for form in forms} | {"plain": _plain, "code": _code}
    return environment
