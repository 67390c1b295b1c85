"""What a search decides: who goes on, who takes over from whom, what is proposed, what is said in the end."""

from __future__ import annotations

import builtins
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from augft.augment.policy import Policy
from augft.config import Job, load_job_text
from augft.errors import ConfigError
from augft.experiment.halving import Halving, rungs
from augft.experiment.ledger import Ledger, Trial
from augft.experiment.outcome import outcome, summary
from augft.experiment.population import Member, evolve
from augft.experiment.propose import ByChance, ByOptuna
from augft.experiment.space import Chance, Point, Space
from augft.storage import Storage


def job(*overrides: str) -> Job:
    return load_job_text("", "the test's job", overrides)


def trial(number: int, *scores: float, status: Any = "finished", name: str | None = None, **about: Any) -> Trial:
    history = [{"epoch": epoch + 1, "val_top1": score} for epoch, score in enumerate(scores)]
    policy = Policy.from_config("none").to_config()
    return Trial(f"{number:04d}", policy, [], name=name, status=status, history=history, **about)


# ---- halving -------------------------------------------------------------------------------------------------------


def test_rungs() -> None:
    assert rungs(20, 1, 3.0) == [1, 3, 9]
    assert rungs(9, 1, 3.0) == [1, 3]
    assert rungs(10, 2, 1.5) == [2, 3, 5, 7]
    assert rungs(1, 1, 2.0) == []
    assert rungs(3, 5, 2.0) == []


def decisions(halving: Halving, scores: dict[str, float], epoch: int) -> dict[str, str]:
    found = {}
    for key, score in scores.items():
        tried = SimpleNamespace(trial_id=f"tune-{key}", config={"id": key})
        halving.on_trial_add(None, tried)
        found[key] = halving.on_trial_result(None, tried, {"epoch": epoch, "val_top1": score})
    return found


def test_the_worse_of_those_who_reach_a_rung_stop() -> None:
    halving = Halving(epochs=9, first=3, reduction=2)
    assert set(decisions(halving, {"a": 0.5, "b": 0.1}, epoch=2).values()) == {"CONTINUE"}
    assert decisions(halving, {"a": 0.5, "b": 0.1, "c": 0.6, "d": 0.4}, epoch=3) == {
        "a": "CONTINUE",
        "b": "STOP",
        "c": "CONTINUE",
        "d": "STOP",
    }


def test_a_baseline_is_never_stopped_and_counts() -> None:
    halving = Halving(epochs=9, first=1, reduction=2, exempt={"base", "worst"})
    assert decisions(halving, {"base": 0.9, "a": 0.5, "worst": 0.1}, epoch=1) == {
        "base": "CONTINUE",
        "a": "STOP",
        "worst": "CONTINUE",
    }


def test_at_its_last_epoch_nobody_is_stopped() -> None:
    assert set(decisions(Halving(epochs=4, first=1, reduction=2), {"a": 0.9, "b": 0.1}, epoch=4).values()) == {
        "CONTINUE"
    }


def test_a_search_that_goes_on_knows_what_earlier_trials_scored() -> None:
    before = [trial(0, 0.8), trial(1, 0.9)]
    assert decisions(Halving(epochs=9, first=1, reduction=2), {"0002": 0.5}, epoch=1) == {"0002": "CONTINUE"}
    halving = Halving(epochs=9, first=1, reduction=2, trials=before)
    assert decisions(halving, {"0002": 0.5}, epoch=1) == {"0002": "STOP"}
    # Who comes back to a rung that it passed is not judged there again, by whatever id Ray Tune gives it now.
    assert decisions(Halving(epochs=9, first=1, reduction=2, trials=before), {"0000": 0.1}, epoch=1) == {
        "0000": "CONTINUE"
    }


# ---- the ledger ----------------------------------------------------------------------------------------------------


def test_the_ledger_is_read_as_it_was_written(tmp_path: Path) -> None:
    ledger = Ledger(Storage(tmp_path))
    first = ledger.add(policy=Policy.from_config("basic").to_config(), overrides=["augment.copies=2"], name="basic")
    second = ledger.add(policy=Policy.from_config("none").to_config(), overrides=[], point={"ops": [], "settings": []})
    first.reported(1, 0.5)
    first.reported(2, 0.4)
    ledger.save()
    again = Ledger(Storage(tmp_path))
    assert again.trials == [first, second]
    assert [each.id for each in again.trials] == ["0000", "0001"]
    assert again["0001"] == second
    assert again.wall_s >= ledger._before_s
    assert first.val_top1 == 0.5
    assert first.words.endswith("; augment.copies=2")


def test_an_epoch_that_is_reported_again_counts_once() -> None:
    one = trial(0, 0.1, 0.2, 0.3)
    one.reported(2, 0.25)
    assert one.history == [{"epoch": 1, "val_top1": 0.1}, {"epoch": 2, "val_top1": 0.25}]


def test_the_best_is_a_finished_one_and_no_baseline(tmp_path: Path) -> None:
    ledger = Ledger(Storage(tmp_path))
    assert ledger.best is None
    ledger.trials = [trial(0, 0.9, name="none"), trial(1, 0.8, status="stopped early"), trial(2, status="failed")]
    assert ledger.best == ledger.trials[1]
    ledger.trials.append(trial(3, 0.5, 0.6, 0.55))
    ledger.trials.append(trial(4, 0.4))
    assert ledger.best == ledger.trials[3]


# ---- proposals -----------------------------------------------------------------------------------------------------


def test_chance_proposes_by_seed_and_trial() -> None:
    space = Space(job())
    point, drawn = ByChance(space, 0).propose("0004")
    assert drawn is None
    assert ByChance(space, 0).propose("0004") == (point, None)
    assert ByChance(space, 1).propose("0004") != (point, None)
    assert ByChance(space, 0).propose("0005") != (point, None)


def proposals(optuna: ByOptuna, numbers: range, trials: list[Trial]) -> list[Point]:
    """As in a search where only `hue` is any good."""
    found = []
    for number in numbers:
        point, drawn = optuna.propose(f"{number:04d}")
        score = 0.9 if any(op.name == "hue" for op in point.ops) else 0.1
        trials.append(trial(number, score, point=point.to_config(), drawn=drawn))
        optuna.learn(trials[-1])
        found.append(point)
    return found


SMALL = ["search.ops=[rotate, hue, gamma, cutout]", "search.num_ops=[1, 1]"]


def test_optuna_learns_what_is_good() -> None:
    pytest.importorskip("optuna")
    space = Space(job(*SMALL))
    found = proposals(ByOptuna(space, 0), range(50), [])
    share = [sum(point.ops[0].name == "hue" for point in part) / len(part) for part in (found[:10], found[-20:])]
    assert share[1] > 0.5 > share[0]


def test_optuna_goes_on_with_what_the_ledger_says() -> None:
    pytest.importorskip("optuna")
    space = Space(job(*SMALL))
    trials: list[Trial] = []
    proposals(ByOptuna(space, 0), range(40), trials)
    again = ByOptuna(space, 0, trials)
    assert again._asked == {}
    assert [frozen.value for frozen in again._study.trials] == [each.val_top1 for each in trials]
    assert [frozen.params for frozen in again._study.trials] == [each.drawn for each in trials]
    found = proposals(again, range(40, 60), trials)
    assert sum(point.ops[0].name == "hue" for point in found) > 10


def test_optuna_is_told_of_those_that_stopped_or_failed() -> None:
    optuna = pytest.importorskip("optuna")
    proposer = ByOptuna(Space(job(*SMALL)), 0)
    for number, status in enumerate(("stopped early", "failed", "finished")):
        proposer.propose(f"{number:04d}")
        proposer.learn(trial(number, 0.3, 0.4, status=status))
    states = optuna.trial.TrialState
    assert [frozen.state for frozen in proposer._study.trials] == [states.PRUNED, states.FAIL, states.COMPLETE]
    assert proposer._study.trials[0].intermediate_values == {1: 0.3, 2: 0.4}


def test_without_optuna_a_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "optuna":
            raise ImportError
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"search\.sampler optuna: is not installed; `pip install 'augft\[search\]'`"):
        ByOptuna(Space(job()), 0)


# ---- the population ------------------------------------------------------------------------------------------------


def members(number: int) -> list[Member]:
    space = Space(job())
    return [Member(f"{i:04d}", ((0, space.point(Chance(str(i)))),), ((f"{i:04d}", 0),)) for i in range(number)]


def test_the_worst_take_over_from_the_best_and_change() -> None:
    space, before = Space(job()), members(8)
    scores = {member.trial: 0.1 * number for number, member in enumerate(before)}
    after, moves = evolve(before, scores, space, seed=3, epoch=2, change_at=2)
    assert [loser for loser, _ in moves] == ["0000", "0001"]
    assert {winner for _, winner in moves} <= {"0006", "0007"}
    assert after[2:] == before[2:]
    for member, (_, winner) in zip(after[:2], moves, strict=True):
        of = next(each for each in before if each.trial == winner)
        assert member.phases[:-1] == of.phases
        assert member.phases[-1][0] == 2
        assert member.point != of.point
        assert member.lineage == ((winner, 0), (member.trial, 2))
        policy = member.policy(space.base)
        assert policy.at(1).ops == of.point.policy(space.base).ops
        assert policy.at(2).ops == member.point.policy(space.base).ops
        assert Member.from_config(member.to_config()) == member
        assert Policy.from_config(policy.to_config()) == policy
    assert evolve(before, scores, space, seed=3, epoch=2, change_at=2) == (after, moves)
    assert evolve(before, scores, space, seed=4, epoch=2, change_at=2)[0] != after


def test_who_failed_always_takes_over() -> None:
    space, before = Space(job()), members(8)
    scores: dict[str, float | None] = {member.trial: 0.5 for member in before} | {"0004": None, "0002": None}
    _, moves = evolve(before, scores, space, seed=0, epoch=1, change_at=2)
    assert {loser for loser, _ in moves} == {"0002", "0004"}
    assert not {winner for _, winner in moves} & {"0002", "0004"}


def test_two_are_a_population_and_nobody_takes_over_from_itself() -> None:
    space = Space(job())
    after, moves = evolve(members(2), {"0000": 0.5, "0001": 0.5}, space, seed=0, epoch=1, change_at=1)
    assert moves == [("0001", "0000")]
    assert after[0] == members(2)[0]


def test_a_change_that_never_came_into_force_is_dropped() -> None:
    space, before = Space(job()), members(2)
    late, _ = evolve(before, {"0000": 0.9, "0001": 0.1}, space, seed=0, epoch=1, change_at=2)
    again, _ = evolve(late, {"0000": 0.1, "0001": 0.9}, space, seed=0, epoch=2, change_at=2)
    assert [epoch for epoch, _ in again[0].phases] == [0, 2]


# ---- what is said --------------------------------------------------------------------------------------------------


def told(verdicts: dict[str, str], tmp_path: Path, best_baseline: float = 0.1) -> dict[str, Any]:
    ledger = Ledger(Storage(tmp_path))
    ledger.trials = [trial(0, best_baseline, name="none"), trial(1, 0.3, name="standard"), trial(2, 0.5)]
    duels = [{"against": name, "verdict": verdict} for name, verdict in verdicts.items()]
    policies = [{"name": name, "val_top1": 0.5, "runs": []} for name in ("found", *verdicts)]
    race: dict[str, Any] = {"seeds": [1, 2], "cells": [{"policies": policies}]}
    whole = job("search.baselines=[none, standard]")
    return outcome(whole, whole, Space(whole), ledger, ledger.trials[2], None, race, duels, {})


def test_it_says_honestly_whether_the_search_has_paid(tmp_path: Path) -> None:
    both = told({"none": "better", "standard": "better"}, tmp_path)
    assert "the found policy is better than none and standard." in both["text"]
    assert "may do as well" not in both["text"]
    assert summary(both)["verdicts"] == {"none": "better", "standard": "better"}
    one = told({"none": "better", "standard": "cannot tell"}, tmp_path)["text"]
    assert "is better than none, against standard these runs cannot tell a difference" in one
    assert "a policy that needs no search may do as well" in one
    assert "is not shown" in told({"none": "cannot tell", "standard": "the same"}, tmp_path)["text"]
    worse = told({"none": "better", "standard": "worse"}, tmp_path)["text"]
    assert "it is worse than standard" in worse
    assert "The search has not paid" in worse
    level = told({"none": "better", "standard": "better"}, tmp_path, best_baseline=0.5)["text"]
    assert "the baseline none did at least as well" in level
