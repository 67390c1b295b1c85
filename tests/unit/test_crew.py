"""How many actors: grows with the wait of training, shrinks with idleness, and does not swing."""

from __future__ import annotations

import pytest

from augft.data.crew import IDLE_S, LOOK_S, REMEMBERED_S, START_S, CrewSize


class Pool:
    """A pool under a rule, whose actors make `speed` pictures for each that training takes."""

    def __init__(self, low: int, high: int, speed: float) -> None:
        self.now = 0.0
        self.size, self.speed, self.waited_s = low, speed, 0.0
        self.rule = CrewSize(low, high, lambda: self.now)
        self.sizes: list[int] = []

    def run(self, seconds: float) -> list[int]:
        """The sizes that it takes."""
        for _ in range(int(seconds / LOOK_S)):
            self.now += LOOK_S
            made = self.size * self.speed
            self.waited_s += LOOK_S * max(0.0, 1 - made)
            assert self.rule.is_due()
            self.size += self.rule.change(self.size, self.waited_s, is_ahead=made > 1)
            self.sizes.append(self.size)
        return self.sizes


def test_it_grows_until_training_does_not_wait() -> None:
    pool = Pool(1, 8, speed=0.3)
    assert pool.run(200)[-1] == 4
    assert sorted(pool.sizes) == pool.sizes, "one by one"


def test_a_new_actor_is_given_time_to_start() -> None:
    sizes = Pool(1, 8, speed=0.1).run(START_S - LOOK_S)
    assert max(sizes) == 2


def test_it_stops_at_the_most() -> None:
    assert Pool(1, 3, speed=0.1).run(300)[-1] == 3


def test_it_shrinks_to_the_least_while_actors_rest() -> None:
    pool = Pool(1, 4, speed=10)
    pool.size = 4
    assert pool.run(IDLE_S - LOOK_S)[-1] == 4
    assert pool.run(4 * IDLE_S)[-1] == 1


def test_it_does_not_swing() -> None:
    pool = Pool(1, 4, speed=0.6)  # one is too few, two are more than enough
    pool.run(REMEMBERED_S - START_S)
    assert pool.sizes.count(1) <= 2
    pool.run(IDLE_S * 2)
    assert 1 in pool.sizes[-30:], "after a while it tries again"
    assert pool.run(START_S * 2)[-1] == 2


def test_actors_that_are_just_busy_enough_stay() -> None:
    pool = Pool(1, 4, speed=0.5)
    pool.size = 2
    assert set(pool.run(300)) == {2}


def test_a_short_wait_is_none() -> None:
    now = 0.0
    rule = CrewSize(1, 4, lambda: now)
    waited_s = 0.0
    for _ in range(100):
        now += LOOK_S
        waited_s += 0.01
        assert rule.change(2, waited_s, is_ahead=True) == 0


def test_a_run_that_begins_anew_counts_from_nothing() -> None:
    now = 0.0
    rule = CrewSize(1, 4, lambda: now)
    now = LOOK_S
    assert rule.change(1, 100.0, is_ahead=False) == 1
    now = 100.0
    assert rule.change(2, 0.0, is_ahead=False) == 0


@pytest.mark.parametrize("number", [1, 3])
def test_a_fixed_number_is_not_looked_at(number: int) -> None:
    now = 0.0
    rule = CrewSize(number, number, lambda: now)
    now = 1000.0
    assert not rule.is_due()
