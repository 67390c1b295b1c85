"""Who holds a run up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from augft.train.contact import Pulse
from augft.train.watch import SILENT_S, Watch


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _pulse(rank: int, *, step: int = 7, beats: int = 7, phase: str = "trains") -> Pulse:
    return Pulse(rank, f"node{rank}", "10.0.0.1", 100 + rank, 0.0, step, phase, 0.0, beats)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _beat(watch: Watch, clock: Clock, seconds: float, *pulses: Pulse) -> list[int]:
    """The same pulses once a second; who is said to hang, over all of it."""
    hung = []
    for _ in range(int(seconds)):
        clock.now += 1
        watch.hear({pulse.rank: pulse for pulse in pulses})
        hung += [pulse.rank for pulse in watch.hung()]
    return hung


def test_a_run_that_gets_on_is_left_alone(clock: Clock) -> None:
    watch = Watch(30, clock)
    for step in range(100):
        assert _beat(watch, clock, 20, _pulse(0, step=step, beats=step), _pulse(1, step=step, beats=step)) == []


def test_batches_of_a_validation_are_getting_on(clock: Clock) -> None:
    watch = Watch(30, clock)
    for beats in range(1, 100):
        assert _beat(watch, clock, 20, _pulse(0, beats=beats, phase="validates")) == []


def test_a_worker_that_is_silent_is_the_one(clock: Clock) -> None:
    watch = Watch(30, clock)
    _beat(watch, clock, 1, _pulse(0), _pulse(1))
    assert _beat(watch, clock, 29, _pulse(0)) == []
    assert _beat(watch, clock, 2, _pulse(0)) == [1]
    assert watch.is_silent(_pulse(1))
    assert not watch.is_silent(_pulse(0))


def test_a_worker_that_is_behind_is_the_one(clock: Clock) -> None:
    assert _beat(Watch(30, clock), clock, 32, _pulse(0), _pulse(1, step=6), _pulse(2)) == [1]


def test_a_worker_that_is_at_something_else_is_the_one(clock: Clock) -> None:
    waiting = _pulse(2, phase="waits for pictures")
    assert _beat(Watch(30, clock), clock, 32, _pulse(0), _pulse(1), waiting) == [2]


def test_where_all_look_alike_one_is_taken(clock: Clock) -> None:
    assert _beat(Watch(30, clock), clock, 32, _pulse(0), _pulse(1)) == [0]


def test_the_clock_begins_anew_once_told_and_after_a_restart(clock: Clock) -> None:
    watch = Watch(30, clock)
    assert _beat(watch, clock, 50, _pulse(0)) == [0]
    new = replace(_pulse(0), pid=5)
    assert _beat(watch, clock, 29, new) == [], "other processes are another start"
    watch.restart()
    assert _beat(watch, clock, 60, new) == [], "what a process says that is gone does not count"
    assert _beat(watch, clock, 32, replace(new, pid=6)) == [0]


def test_a_start_may_take_its_time(clock: Clock) -> None:
    assert _beat(Watch(30, clock), clock, 500, _pulse(0, step=0, beats=0)) == []


def test_without_a_time_out_nobody_hangs(clock: Clock) -> None:
    assert _beat(Watch(None, clock), clock, 5000, _pulse(0)) == []


def test_silence_is_judged_by_a_short_time_out_too(clock: Clock) -> None:
    watch = Watch(SILENT_S / 2, clock)
    _beat(watch, clock, 1, _pulse(0), _pulse(1))
    assert _beat(watch, clock, SILENT_S / 2 + 2, _pulse(0)) == [1]
