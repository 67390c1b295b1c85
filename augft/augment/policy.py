"""A policy: which ops a sample goes through, in which order, and how its pixels are sampled.

    Policy.from_config("standard")                                   a preset
    Policy.from_config("rand-m9-n2")                                 a short name that people know
    Policy.from_config(["horizontal_flip", {"rotate": {"degrees": 5}}])
    Policy.from_config("policy.yaml")                                a file, .json or .yaml
    Policy.from_config({"version": 1, "sampling": "bilinear", "ops": […]})

All come to the same object, which writes itself out complete (`to_json`), every parameter spelt out, so that
a policy file means the same when a default changes. A policy may change with a run's progress: a parameter by a
schedule (`schedule.py`), the list of ops by phases. Nothing here makes pixels: importing it does not load the compiler.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast, get_args

import yaml
from pydantic import ValidationError

from augft.augment.automatic import AUTO_OPS, AugMix, RandAugment, TrivialAugment, familiar
from augft.augment.ops import OPS, Crop, Cutout, Elastic, HorizontalFlip, Op, Rotate, Translate, VerticalFlip
from augft.augment.schedule import ScheduledOp, is_schedule, read_schedule
from augft.errors import PolicyError

VERSION = 1

Sampling = Literal["nearest", "bilinear"]
FillMode = Literal["mean", "edge", "reflect"]
Fill = tuple[int, int, int] | FillMode
Entry = Op | ScheduledOp

ALL_OPS: dict[str, type[Op]] = {**OPS, **AUTO_OPS}

_SUFFIXES = (".json", ".yaml", ".yml")


@dataclass(frozen=True)
class Policy:
    """Ops in order, the sampling of the one resample, and the fill of what lies outside a picture.

    Two policies are equal if they make the same pixels; the name is for people.
    """

    ops: tuple[Entry, ...] = ()
    sampling: Sampling = "bilinear"
    fill: Fill = (0, 0, 0)
    """An RGB colour; or each picture's own `mean`, its nearest `edge` pixel, or its mirror image (`reflect`)."""
    name: str = field(default="custom", compare=False)
    epochs: int | None = None
    """How many epochs make a whole run: what schedules measure progress by. None: none were said yet."""
    phases: tuple[tuple[int, tuple[Entry, ...]], ...] = ()
    """(epoch, ops): from that epoch on these ops take the place of those before; epochs rise."""

    @classmethod
    def from_config(cls, config: object) -> Policy:
        """A policy from a preset's or an op's name, a path to a .json or .yaml file, a list of ops, or a mapping.

        Args:
            config: a list holds op names and `{name: {parameter: value}}`; a mapping has the keys `ops`,
                `version`, `sampling`, `fill` (grey, or RGB, 0 to 255, or `mean`, `edge`, `reflect`), `name`, `epochs`
                and `phases`, a list of `{from_epoch, ops}`, all optional but `ops` or `phases`.

        Raises:
            PolicyError: an unknown preset, op, parameter or key (the nearest known one is named), a value
                out of bounds, a version this code does not know, a file that is missing or cannot be read.
        """
        if isinstance(config, Policy):
            return config
        if isinstance(config, str) and config in PRESETS:
            return PRESETS[config]
        if isinstance(config, str) and not config.endswith(_SUFFIXES) and (op := _named(config)) is not None:
            return cls(ops=(op,), name=config)
        if isinstance(config, str | Path):
            return _from_file(config)
        if isinstance(config, Mapping):
            return _from_mapping(config)
        if isinstance(config, Sequence):
            return cls(ops=_ops(config))
        raise PolicyError(f"a policy is a preset, a list of ops, a mapping or a path, not {config!r}")

    def to_config(self) -> dict[str, Any]:
        """Plain lists and mappings; `from_config` gives back an equal policy."""
        config: dict[str, Any] = {
            "version": VERSION,
            "name": self.name,
            "sampling": self.sampling,
            "fill": self.fill if isinstance(self.fill, str) else list(self.fill),
        }
        if self.epochs is not None:
            config["epochs"] = self.epochs
        config["ops"] = _write_ops(self.ops)
        if self.phases:
            config["phases"] = [{"from_epoch": first, "ops": _write_ops(ops)} for first, ops in self.phases]
        return config

    def to_json(self) -> str:
        """`to_config` as JSON, the text of policy.json."""
        return json.dumps(self.to_config(), indent=2) + "\n"

    @property
    def changes(self) -> bool:
        """Whether it is another policy in some epochs than in others."""
        return bool(self.phases) or any(isinstance(op, ScheduledOp) for op in self.ops)

    @property
    def ends_with_aug_mix(self) -> bool:
        """Whether, in every epoch, its last op is AugMix."""
        lists = [self.ops, *(ops for _, ops in self.phases)]
        return all(ops and ops[-1].name == AugMix.name for ops in lists)

    @property
    def plain_ops(self) -> tuple[Op, ...]:
        """The ops of a policy that does not change."""
        assert not self.changes
        return cast("tuple[Op, ...]", self.ops)

    def at(self, epoch: int) -> Policy:
        """The policy of an epoch: nothing of it changes any more.

        Raises:
            PolicyError: it has schedules, and does not know how many epochs there are.
        """
        return _at(self, self.name, epoch) if self.changes else self

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
        if not self.ops and not self.phases:
            return f"{self.name}: pictures as they are"
        fill = self.fill if isinstance(self.fill, str) else ",".join(map(str, self.fill))
        text = f"{self.name}: {', '.join(map(_in_words, self.ops)) or 'pictures as they are'}"
        for first, ops in self.phases:
            text += f"; from epoch {first}: {', '.join(map(_in_words, ops)) or 'pictures as they are'}"
        return f"{text}; {self.sampling}, fill {fill}"


@lru_cache(maxsize=1024)
def _at(policy: Policy, name: str, epoch: int) -> Policy:
    """The name beside the policy: equal ones may have different names."""
    ops = policy.ops
    for first, later in policy.phases:
        if epoch >= first:
            ops = later
    resolved = []
    for op in ops:
        if isinstance(op, ScheduledOp):
            if policy.epochs is None:
                raise PolicyError(f"{op.name} has a schedule: give the policy `epochs`, how many a whole run has")
            resolved.append(op.at(min(1.0, epoch / max(1, policy.epochs - 1))))
        else:
            resolved.append(op)
    return Policy(tuple(resolved), policy.sampling, policy.fill, name)


def _in_words(op: Entry) -> str:
    if isinstance(op, ScheduledOp):
        return f"{op.name}({', '.join(f'{key}={value}' for key, value in op.to_config().items())})"
    return f"{op.name}({', '.join(f'{key}={_short(value)}' for key, value in op.model_dump().items())})"


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return f"{value[0]:g}" if value[0] == value[1] else "–".join(f"{end:g}" for end in value)
    return str(value) if isinstance(value, str | bool) else f"{value:g}"


def _write_ops(ops: Sequence[Entry]) -> list[dict[str, Any]]:
    return [{op.name: op.to_config() if isinstance(op, ScheduledOp) else op.model_dump(mode="json")} for op in ops]


# `basic` is torchvision's RandomHorizontalFlip, RandomVerticalFlip, RandomRotation(10), RandomCrop(32,
# padding=4), with its sampling (nearest) and fill (black). `digits` has no flip: a mirrored 2 is not a 2, and
# a turned 6 becomes a 9. The automatic ones stand behind the flip and crop that their papers have on CIFAR.
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
        Policy(name="cutout", ops=(HorizontalFlip(), Crop(padding=4), Cutout())),
        Policy(name="randaugment", ops=(HorizontalFlip(), Crop(padding=4), RandAugment())),
        Policy(name="trivialaugment", ops=(HorizontalFlip(), Crop(padding=4), TrivialAugment())),
        Policy(name="augmix", ops=(HorizontalFlip(), Crop(padding=4), AugMix())),
    )
}


# -- reading ---------------------------------------------------------------------------------------


def _from_file(path: str | Path) -> Policy:
    file = Path(path)
    if file.suffix not in _SUFFIXES:
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
    known = ("version", "name", "sampling", "fill", "epochs", "ops", "phases")
    for key in config:
        if key not in known:
            hint = "; in a list, an op is `{name: {parameters}}`" if key in ALL_OPS else _nearest(str(key), known)
            raise PolicyError(f"unknown key {key!r} in a policy{hint}")
    if "ops" not in config and "phases" not in config:
        raise PolicyError("a policy needs the key `ops`: a list, empty for none")
    version = config.get("version", VERSION)
    if version != VERSION or isinstance(version, bool):
        raise PolicyError(f"policy version {version!r} is not known here; this augft reads version {VERSION}")
    sampling = config.get("sampling", Policy.sampling)
    if sampling not in get_args(Sampling):
        raise PolicyError(f"unknown sampling {sampling!r}{_nearest(str(sampling), get_args(Sampling))}")
    epochs = config.get("epochs")
    if epochs is not None and (type(epochs) is not int or epochs < 1):
        raise PolicyError(f"epochs must be a whole number from 1 on, found {epochs!r}")
    ops, phases = _ops(config.get("ops", ())), _phases(config.get("phases", ()))
    if phases and phases[0][0] == 0:
        if ops:
            raise PolicyError("a policy has `ops` for its first epochs, or a phase from epoch 0, not both")
        ops, phases = phases[0][1], phases[1:]
    if len({cells for some in (ops, *(later for _, later in phases)) for cells in _elastic_cells(some)}) > 1:
        raise PolicyError("elastic has the same `cells` in all phases")
    return Policy(
        ops=ops,
        sampling=cast("Sampling", sampling),
        fill=_fill(config.get("fill", Policy.fill)),
        name=str(config.get("name", Policy.name)),
        epochs=epochs,
        phases=phases,
    )


def _phases(config: object) -> tuple[tuple[int, tuple[Entry, ...]], ...]:
    if isinstance(config, str) or not isinstance(config, Sequence):
        raise PolicyError(f"`phases` must be a list, found {config!r}")
    phases: list[tuple[int, tuple[Entry, ...]]] = []
    for entry in config:
        if not isinstance(entry, Mapping) or set(entry) != {"from_epoch", "ops"}:
            raise PolicyError(f"a phase is `{{from_epoch: 5, ops: [...]}}`, found {entry!r}")
        first = entry["from_epoch"]
        if type(first) is not int or first < 0 or (phases and first <= phases[-1][0]):
            raise PolicyError(f"from_epoch must be a whole number from 0 on that rises, found {first!r}")
        phases.append((first, _ops(entry["ops"])))
    return tuple(phases)


def _ops(config: object) -> tuple[Entry, ...]:
    if isinstance(config, str) or not isinstance(config, Sequence):
        raise PolicyError(f"`ops` must be a list, found {config!r}")
    ops = tuple(_op(entry) for entry in config)
    classes = [op.op if isinstance(op, ScheduledOp) else type(op) for op in ops]
    if classes.count(Elastic) > 1:
        raise PolicyError("a policy has at most one elastic")
    if AugMix in classes[:-1]:
        raise PolicyError("aug_mix mixes all that stands before it: it comes last, and once")
    return ops


def _elastic_cells(ops: Sequence[Entry]) -> list[int]:
    """One lattice for all epochs, since a batch may hold several."""
    resolved = [op.at(0) if isinstance(op, ScheduledOp) else op for op in ops]
    return [op.cells for op in resolved if isinstance(op, Elastic)]


def _op(entry: object) -> Entry:
    if isinstance(entry, str):
        if (op := _named(entry)) is not None:
            return op
        name, parameters = entry, None
    elif isinstance(entry, Mapping) and len(entry) == 1:
        [(name, parameters)] = entry.items()
    else:
        raise PolicyError(f"an op is a name or `{{name: {{parameters}}}}`, found {entry!r}")
    if name not in ALL_OPS:
        raise PolicyError(f"unknown op {name!r}{_nearest(str(name), ALL_OPS)}")
    if parameters is None:  # a bare name, or `rotate:` with nothing after it
        parameters = {}
    if not isinstance(parameters, Mapping):
        raise PolicyError(f"{name}: parameters must be a mapping, found {parameters!r}")
    op_class = ALL_OPS[name]
    for parameter in parameters:
        if parameter not in op_class.model_fields:
            hint = _nearest(str(parameter), op_class.model_fields)
            raise PolicyError(f"{name}: unknown parameter {parameter!r}{hint}")
    scheduled = {key: value for key, value in parameters.items() if is_schedule(value)}
    if not scheduled:
        return _make(op_class, parameters)
    return _scheduled(op_class, {k: v for k, v in parameters.items() if k not in scheduled}, scheduled)


def _named(name: str) -> Op | None:
    try:
        return familiar(name)
    except ValidationError as error:  # a ValueError too
        raise PolicyError(f"{name}: {_first_problem(error)}") from None
    except ValueError as error:
        raise PolicyError(str(error)) from None


def _make(op_class: type[Op], parameters: Mapping[str, Any]) -> Op:
    try:
        return op_class(**parameters)
    except ValidationError as error:
        raise PolicyError(f"{op_class.name}.{_first_problem(error)}") from error


def _scheduled(op_class: type[Op], fixed: Mapping[str, Any], schedules: Mapping[str, Any]) -> ScheduledOp:
    try:
        knots = tuple((name, read_schedule(value)) for name, value in schedules.items())
    except ValueError as error:
        raise PolicyError(f"{op_class.name}: {error}") from None
    if op_class is Elastic and "cells" in schedules:
        raise PolicyError("elastic.cells should be a number: a schedule cannot change it")
    spelt_out = {name: value for name, value in _make(op_class, fixed).model_dump().items() if name not in dict(knots)}
    scheduled = ScheduledOp(op_class, tuple(spelt_out.items()), knots)
    for _, points in knots:
        for progress, _ in points:
            try:
                scheduled.at(progress)
            except ValidationError as error:
                raise PolicyError(f"{op_class.name}.{_first_problem(error)}") from error
    return scheduled


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    what = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
    return f"{'.'.join(map(str, first['loc'][:1]))} {what}, found {first['input']!r}"


def _fill(config: object) -> Fill:
    if isinstance(config, str):
        if config not in get_args(FillMode):
            raise PolicyError(f"unknown fill {config!r}{_nearest(config, get_args(FillMode))}")
        return cast("FillMode", config)
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
