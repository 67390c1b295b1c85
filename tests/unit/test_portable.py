"""exp, log, sine and cosine: right to the last bit or two, exact where they can be, and the same bits everywhere."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from augft.augment import draw
from augft.augment.portable import exp, log, sin_cos_degrees

Float64Array = npt.NDArray[np.float64]


def uniform(num: int) -> Float64Array:
    """Numbers in [0, 1) that no library's generator can change."""
    return draw.uniform(0, "test/portable", 0, np.arange(num), 0, 1)[0]


def in_last_places(found: Float64Array, expected: Float64Array) -> float:
    return float((np.abs(found - expected) / np.spacing(np.abs(expected))).max())


def test_exp_is_right_to_two_units_in_the_last_place() -> None:
    x = (uniform(50_000) - 0.5) * 1398
    assert in_last_places(exp(x), np.exp(x)) <= 2
    near = (uniform(50_000) - 0.5) * 1e-3
    assert in_last_places(exp(near), np.exp(near)) <= 2


def test_log_is_right_to_two_units_in_the_last_place() -> None:
    x = exp((uniform(50_000) - 0.5) * 1398)
    assert in_last_places(log(x), np.log(x)) <= 2
    near = 1 + (uniform(50_000) - 0.5) * 0.5  # where the logarithm is small, and its error might not be
    assert in_last_places(log(near[near != 1]), np.log(near[near != 1])) <= 2


def test_log_and_exp_are_exact_where_numbers_are() -> None:
    assert exp(np.zeros(1)).tolist() == [1.0]
    assert log(np.ones(1)).tolist() == [0.0]
    powers = 2.0 ** np.arange(-1000, 1001)
    assert in_last_places(log(powers[powers != 1]), np.log(powers[powers != 1])) <= 1


@given(st.floats(-690, 690))
def test_the_logarithm_undoes_exp(x: float) -> None:
    assert log(exp(np.array([x])))[0] == pytest.approx(x, abs=1e-15, rel=4e-16 * max(1, abs(1 / x) if x else 1))


@given(st.floats(-720, 720))
def test_sine_and_cosine_are_right_to_the_last_bit_or_two(angle: float) -> None:
    sin, cos = sin_cos_degrees(np.array([angle]))
    assert sin[0] == pytest.approx(math.sin(math.radians(angle)), abs=2e-15)
    assert cos[0] == pytest.approx(math.cos(math.radians(angle)), abs=2e-15)
    assert sin[0] ** 2 + cos[0] ** 2 == pytest.approx(1, abs=5e-16)


def test_sine_and_cosine_within_half_a_quarter_turn_are_right_to_two_units() -> None:
    angle = (uniform(50_000) - 0.5) * 90
    sin, cos = sin_cos_degrees(angle)
    assert in_last_places(sin, np.sin(np.radians(angle))) <= 2
    assert in_last_places(cos, np.cos(np.radians(angle))) <= 2


def test_sine_and_cosine_are_exact_at_quarter_turns() -> None:
    sin, cos = sin_cos_degrees(np.arange(-360.0, 361, 90))
    assert sin.tolist() == [0, 1, 0, -1, 0, 1, 0, -1, 0]
    assert cos.tolist() == [1, 0, -1, 0, 1, 0, -1, 0, 1]


@pytest.mark.parametrize("shape", [(), (0,), (3, 2), (2, 1, 4)])
def test_any_shape_comes_back(shape: tuple[int, ...]) -> None:
    x = np.full(shape, 1.5)
    for function in (exp, log, lambda x: sin_cos_degrees(x)[0], lambda x: sin_cos_degrees(x)[1]):
        assert np.shape(function(x)) == shape


# Made once. Drawn parameters come from these: with another bit, other pixels.
GOLDEN: dict[str, tuple[Callable[[Float64Array], Float64Array], str]] = {
    "exp": (lambda u: exp((u - 0.5) * 1398), "11b3d61e37db5fdc"),
    "log": (lambda u: log(u + 2.0**-40), "857fc98b63adf45c"),
    "sin": (lambda u: sin_cos_degrees((u - 0.5) * 720)[0], "792818126dacbf2f"),
    "cos": (lambda u: sin_cos_degrees((u - 0.5) * 720)[1], "2f64d49c3118e3ec"),
}


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_bits_of_record(name: str) -> None:
    function, expected = GOLDEN[name]
    octets = function(uniform(20_000)).astype("<f8").tobytes()
    assert hashlib.blake2b(octets, digest_size=8).hexdigest() == expected
