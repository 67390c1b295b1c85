"""The JSON schema of job files, every op of a policy with its parameters in it."""

from __future__ import annotations

from typing import Any, get_args

from augft.augment.auto_tables import LEARNED
from augft.augment.ops import Elastic, Op
from augft.augment.policy import ALL_OPS, PRESETS, VERSION, FillMode, Sampling
from augft.augment.schedule import KEY
from augft.config import Job

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]

FAMILIAR = {
    "trivial": r"^trivial$",
    "auto": rf"^auto-({'|'.join(LEARNED)})$",
    "rand": r"^rand(-[mn]\d+)*$",
    "augmix": r"^augmix(-[mwd]\d+)*$",
}
"""How the short names that people know look, by their first word."""

_POLICY_FILE = r"\.(json|yaml|yml)$"


def job_schema() -> Schema:
    """The JSON schema (2020-12) of the job file."""
    job = Job.model_json_schema()
    definitions = job["$defs"]
    for section, key in (("AugmentConfig", "policy"), ("RunConfig", "baseline")):
        properties = definitions[section]["properties"]
        written = properties[key]
        more = [{"$ref": "#/$defs/ops"}, {"$ref": "#/$defs/policy"}] if key == "policy" else [{"type": "null"}]
        forms = [_text_schema(), *more]
        properties[key] = written | {"anyOf": forms}
    one_op = {
        "title": "An op with parameters",
        "type": "object",
        "properties": {name: {"$ref": f"#/$defs/op.{name}"} for name in ALL_OPS},
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
    }
    definitions["ops"] = {
        "title": "Ops of a policy, in order",
        "type": "array",
        "items": {"anyOf": [{"title": "An op with its defaults", "enum": list(ALL_OPS)}, _familiar_schema(), one_op]},
    }
    definitions["policy"] = _policy_schema()
    number = {"type": "number"}
    either = {"anyOf": [number, {"type": "array", "items": number, "minItems": 2, "maxItems": 2}]}
    definitions |= {"schedule.numbers": _schedule_schema(number), "schedule.ranges": _schedule_schema(either)}
    for name, op in ALL_OPS.items():
        parameters = op_schema(op)
        about = {"title": name, "description": parameters.pop("description")}
        definitions[f"op.{name}"] = about | {"anyOf": [parameters, {"type": "null"}]}
    return {"$schema": DIALECT, **job}


def _policy_schema() -> Schema:
    """A policy as a policy file holds it."""
    ops, epoch = {"$ref": "#/$defs/ops"}, {"type": "integer", "minimum": 0}
    phase = {"type": "object", "properties": {"from_epoch": epoch, "ops": ops}, "additionalProperties": False}
    level = {"type": "integer", "minimum": 0, "maximum": 255}
    rgb = {"type": "array", "items": level, "minItems": 3, "maxItems": 3}
    return {
        "title": "A policy, as a policy file holds it",
        "type": "object",
        "properties": {
            "version": {"const": VERSION},
            "name": {"type": "string"},
            "sampling": {"enum": list(get_args(Sampling))},
            "fill": {"anyOf": [{"enum": list(get_args(FillMode))}, level, rgb]},
            "epochs": {"type": "integer", "minimum": 1},
            "ops": ops,
            "phases": {"type": "array", "items": phase | {"required": ["from_epoch", "ops"]}},
        },
        "additionalProperties": False,
        "anyOf": [{"required": ["ops"]}, {"required": ["phases"]}],
    }


def op_schema(op: type[Op]) -> Schema:
    """The JSON schema of an op's parameters, as a job file may give them: numbers also as ranges and schedules."""
    schema = op.model_json_schema()
    for name, entry in schema["properties"].items():
        changes = not (op is Elastic and name == "cells")
        schema["properties"][name] = _parameter_schema(entry, changes)
    return schema


def _parameter_schema(entry: Schema, changes: bool) -> Schema:
    """A parameter as pydantic describes it, with the forms that a policy takes besides: a lone number, a schedule."""
    about = {key: entry[key] for key in ("description", "default") if key in entry}
    plain = {key: value for key, value in entry.items() if key not in ("title", *about)}
    if "prefixItems" in plain:
        number = {"type": "number", **plain["items"]}
        forms = [number, {"type": "array", "items": number, "minItems": 2, "maxItems": 2}]
        about["default"] = list(about["default"])
        schedule = {"$ref": "#/$defs/schedule.ranges"}
    elif plain["type"] in ("number", "integer"):
        forms, schedule = [plain], {"$ref": "#/$defs/schedule.numbers"}
    else:
        return about | plain
    return about | {"anyOf": [*forms, schedule] if changes else forms}


def _schedule_schema(value: Schema) -> Schema:
    """A schedule of some values; their bounds are told by the parameter, and held when the job is read."""
    progress = {"type": "number", "minimum": 0, "maximum": 1}
    knot = {"type": "array", "prefixItems": [progress, value], "minItems": 2, "maxItems": 2}
    return {
        "title": "A schedule: [progress, value] from 0 to 1",
        "type": "object",
        "properties": {KEY: {"type": "array", "minItems": 1, "items": knot}},
        "required": [KEY],
        "additionalProperties": False,
    }


def _text_schema() -> Schema:
    """A policy in a word: a preset, a short name, a file."""
    return {
        "anyOf": [
            {"title": "A preset", "enum": list(PRESETS)},
            _familiar_schema(),
            {"title": "A policy file", "type": "string", "pattern": _POLICY_FILE},
        ]
    }


def _familiar_schema() -> Schema:
    return {"title": "A short name", "anyOf": [{"type": "string", "pattern": pattern} for pattern in FAMILIAR.values()]}
