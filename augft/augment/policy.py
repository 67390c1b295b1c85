"""A policy: which ops a sample goes through, in which order, and how its pixels are sampled.

    Policy.from_config("standard")                                   a preset
    Policy.from_config(["horizontal_flip", {"rotate": {"degrees": 5}}])
    Policy.from_config("policy.yaml")                                a file, .json or .yaml
    Policy.from_config({"version": 1, "sampling": "bilinear", "ops": […]})

All come to the same object, which writes itself out complete (`to_json`), every parameter spelt out, so that
a policy file means the same when a default changes. Nothing here makes pixels: importing it does not load the
compiler.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

import yaml
from pydantic import ValidationError

from augft.augment.ops import OPS, Crop, HorizontalFlip, Op, Rotate, Translate, VerticalFlip
from augft.errors import PolicyError

VERSION = 1

Sampling = Literal["nearest", "bilinear"]
Fill = tuple[int, int, int]


@dataclass(frozen=True)
class Policy:
    """Ops in order, the sampling of the one resample, and the fill of what lies outside a picture.

    Two policies are equal if they make the same pixels; the name is for people.
    """

    ops: tuple[Op, ...] = ()
    sampling: Sampling = "bilinear"
    fill: Fill = (0, 0, 0)
    name: str = field(default="custom", compare=False)

    @classmethod
    def from_config(cls, config: object) -> Policy:
        """A policy from a preset's name, a path to a .json or .yaml file, a list of ops, or a mapping.

        Args:
            config: a list holds op names and `{name: {parameter: value}}`; a mapping has the keys `ops`,
                `version`, `sampling`, `fill` (grey, or RGB, 0 to 255) and `name`, all optional but `ops`.

        Raises:
            PolicyError: an unknown preset, op, parameter or key (the nearest known one is named), a value
                out of bounds, a version this code does not know, a file that is missing or cannot be read.
        """
        if isinstance(config, Policy):
            return config
        if isinstance(config, str) and config in PRESETS:
            return PRESETS[config]
        if isinstance(config, str | Path):
            return _from_file(config)
        if isinstance(config, Mapping):
            return _from_mapping(config)
        if isinstance(config, Sequence):
            return cls(ops=_ops(config))
        raise PolicyError(f"a policy is a preset, a list of ops, a mapping or a path, not {config!r}")

    def to_config(self) -> dict[str, Any]:
        """Plain lists and mappings; `from_config` gives back an equal policy."""
        return {
            "version": VERSION,
            "name": self.name,
            "sampling": self.sampling,
            "fill": list(self.fill),
            "ops": [{op.name: op.model_dump()} for op in self.ops],
        }

    def to_json(self) -> str:
        """`to_config` as JSON, the text of policy.json."""
        return json.dumps(self.to_config(), indent=2) + "\n"

    @property
    def streams(self) -> tuple[str, ...]:
        """The draw stream of each op: its name and how many of that name came before it.

        So policies share the draws of the ops they have in common, and moving an op past another kind of op
        leaves the draws of both as they were: a comparison of policies is a paired one.
        """
        seen: Counter[str] = Counter()
        streams = []
        for op in self.ops:
            streams.append(f"{op.name}/{seen[op.name]}")
            seen[op.name] += 1
        return tuple(streams)

    def __str__(self) -> str:
        if not self.ops:
            return f"{self.name}: pictures as they are"
        ops = ", ".join(
            f"{op.name}({', '.join(f'{key}={number:g}' for key, number in op.model_dump().items())})" for op in self.ops
        )
        return f"{self.name}: {ops}; {self.sampling}, fill {','.join(map(str, self.fill))}"


# `basic` is torchvision's RandomHorizontalFlip, RandomVerticalFlip, RandomRotation(10), RandomCrop(32,
# padding=4), with its sampling (nearest) and fill (black). `digits` has no flip: a mirrored 2 is not a 2, and
# a turned 6 becomes a 9.
PRESETS: dict[str, Policy] = {
    policy.name: policy
    for policy in (
        Policy(name="none"),
        Policy(
            name="basic",
            sampling="nearest",
            ops=(HorizontalFlip(), VerticalFlip(), Rotate(degrees=10), Crop(padding=4)),
        ),
        Policy(name="standard", ops=(HorizontalFlip(), Crop(padding=4))),
        Policy(name="digits", ops=(Rotate(degrees=12), Translate(x=0.08, y=0.08))),
    )
}


# -- reading ---------------------------------------------------------------------------------------


def _from_file(path: str | Path) -> Policy:
    file = Path(path)
    if file.suffix not in (".json", ".yaml", ".yml"):
        hint = _nearest(str(path), PRESETS)
        raise PolicyError(f"unknown policy {str(path)!r}{hint}; or give a .json or .yaml file")
    try:
        # YAML reads JSON too, but not with its line and column in the message.
        text = file.read_text(encoding="utf-8")
        config = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise PolicyError(f"cannot read the policy file {file}: {error.strerror}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise PolicyError(f"policy file {file}: {' '.join(str(error).split())}") from error
    if not isinstance(config, Mapping | list):
        raise PolicyError(f"policy file {file}: expected a list of ops or a mapping with `ops`")
    try:
        return Policy.from_config(config)
    except PolicyError as error:
        raise PolicyError(f"policy file {file}: {error}") from error


def _from_mapping(config: Mapping[Any, Any]) -> Policy:
    known = ("version", "name", "sampling", "fill", "ops")
    for key in config:
        if key not in known:
            hint = "; in a list, an op is `{name: {parameters}}`" if key in OPS else _nearest(str(key), known)
            raise PolicyError(f"unknown key {key!r} in a policy{hint}")
    if "ops" not in config:
        raise PolicyError("a policy needs the key `ops`: a list, empty for none")
    version = config.get("version", VERSION)
    if version != VERSION or isinstance(version, bool):
        raise PolicyError(f"policy version {version!r} is not known here; this augft reads version {VERSION}")
    sampling = config.get("sampling", Policy.sampling)
    if sampling not in get_args(Sampling):
        raise PolicyError(f"unknown sampling {sampling!r}{_nearest(str(sampling), get_args(Sampling))}")
    return Policy(
        ops=_ops(config["ops"]),
        sampling=cast("Sampling", sampling),
        fill=_fill(config.get("fill", Policy.fill)),
        name=str(config.get("name", Policy.name)),
    )


def _ops(config: object) -> tuple[Op, ...]:
    if isinstance(config, str) or not isinstance(config, Sequence):
        raise PolicyError(f"`ops` must be a list, found {config!r}")
    return tuple(_op(entry) for entry in config)


def _op(entry: object) -> Op:
    if isinstance(entry, str):
        name, parameters = entry, None
    elif isinstance(entry, Mapping) and len(entry) == 1:
        [(name, parameters)] = entry.items()
    else:
        raise PolicyError(f"an op is a name or `{{name: {{parameters}}}}`, found {entry!r}")
    if name not in OPS:
        raise PolicyError(f"unknown op {name!r}{_nearest(str(name), OPS)}")
    if parameters is None:  # a bare name, or `rotate:` with nothing after it
        parameters = {}
    if not isinstance(parameters, Mapping):
        raise PolicyError(f"{name}: parameters must be a mapping, found {parameters!r}")
    op = OPS[name]
    for parameter in parameters:
        if parameter not in op.model_fields:
            hint = _nearest(str(parameter), op.model_fields)
            raise PolicyError(f"{name}: unknown parameter {parameter!r}{hint}")
    try:
        return op(**parameters)
    except ValidationError as error:
        first = error.errors()[0]
        where, what = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Input ")
        raise PolicyError(f"{name}.{where} {what}, found {first['input']!r}") from error


def _fill(config: object) -> Fill:
    levels = [config] * 3 if isinstance(config, int) else config
    if (
        not isinstance(levels, Sequence)
        or len(levels) != 3
        or not all(type(level) is int and 0 <= level <= 255 for level in levels)
    ):
        raise PolicyError(f"fill must be one or three whole numbers from 0 to 255, found {config!r}")
    return levels[0], levels[1], levels[2]


def _nearest(word: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
