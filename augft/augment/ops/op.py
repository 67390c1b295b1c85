"""What an op is: parameters, draws, and which of the three stages its pixels belong to."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from augft.augment.draw import Float64Array
from augft.augment.portable import exp, log

UInt8Array = npt.NDArray[np.uint8]
UInt64Array = npt.NDArray[np.uint64]
IntArray = npt.NDArray[np.int64]


class Size(NamedTuple):
    """Of a picture, in pixels."""

    height: int
    width: int


def _as_range(value: Any) -> Any:
    """A list of two is a range, from low to high; a lone number is a range of one value."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (float(value), float(value))
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError("should be a number, or [low, high]")
    if any(isinstance(end, bool) or not isinstance(end, int | float) for end in value):
        raise ValueError("should be a number, or two")
    if value[0] > value[1]:
        raise ValueError(f"should be [low, high], and {value[0]} is above {value[1]}")
    return (float(value[0]), float(value[1]))


Range = Annotated[tuple[float, float], BeforeValidator(_as_range)]
"""Of a parameter that is drawn evenly between two ends. A job file may give a number, which then always holds."""


def bounded(low: float, high: float) -> Any:
    """A `Range` whose ends both lie in [low, high]."""

    def check(value: tuple[float, float]) -> tuple[float, float]:
        if not low <= value[0] <= value[1] <= high:
            raise ValueError(f"should lie in [{low:g}, {high:g}]")
        return value

    return Annotated[
        Range, AfterValidator(check), Field(json_schema_extra={"items": {"minimum": low, "maximum": high}})
    ]


class Op(BaseModel):
    """One op with its parameters; `p` is the probability that a sample gets it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: ClassVar[str]
    num_values: ClassVar[int] = 1
    """Uniform numbers `values` takes, and values it gives, for each sample."""
    source: ClassVar[str]
    """Where the op comes from: a paper, or the implementation it agrees with."""

    p: float = Field(default=1.0, ge=0, le=1, description="probability that a sample gets this op")

    def values(self, uniforms: Float64Array) -> Float64Array:
        """Uniform numbers in [0, 1), float64 (num_values, K), to physical values of the same shape."""
        return uniforms

    def label(self, values: Float64Array) -> str:
        """What a person calls this op with these values, float64 (num_values,): "rotate +7.3°"."""
        raise NotImplementedError


def between(uniforms: Float64Array, ends: tuple[float, float]) -> Float64Array:
    """Uniform numbers in [0, 1) to numbers in [low, high), of any shape."""
    low, high = ends
    return low + uniforms * (high - low)


def whole_between(uniforms: Float64Array, ends: tuple[float, float]) -> Float64Array:
    """Uniform numbers in [0, 1) to whole numbers from low to high, both as likely as each other one."""
    low, high = round(ends[0]), round(ends[1])
    numbers: Float64Array = low + np.floor(uniforms * (high - low + 1))
    return numbers


def log_between(uniforms: Float64Array, ends: tuple[float, float]) -> Float64Array:
    """Uniform numbers in [0, 1) to numbers in [low, high) that are uniform in their logarithm; low is above 0."""
    low, high = log(np.array(ends))
    return exp(between(uniforms, (float(low), float(high))))


def signed(number: float, form: str) -> str:
    """A number with its sign, a true minus, and no sign on zero: +7.3, −2, 0."""
    text = f"{number:+{form}}"
    if float(text) == 0:
        return text[1:]
    return text.replace("-", "−")
