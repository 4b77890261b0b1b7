"""What the driver asks env runners, and what it counts: once each, in any order of the answers."""

from __future__ import annotations

from typing import Any

from policystore.league.pool.driving.gather import LOST, Gatherer
from policystore.league.pool.messages import Draws, EpisodeRecord, RunnerAnswer, RunnerRequest
from policystore.rllib.workers.discovery import Worker
from tests.support.pool_parts import match, player

DRAWS = Draws(1, 0, {}, {}, {})


class Runner:
    """An env runner that answers as a RunnerPool does; ``mute`` ones raise."""

    def __init__(self, life: str) -> None:
        self.life, self.confirmed, self.mute = life, 0, False
        self.records: list[EpisodeRecord] = []
        self.unknown: dict[str, int] = {}
        self.started = self.swaps = 0
        self.draws: list[int] = []

    def play(self, *ids: str) -> None:
        for each in ids:
            one = match(player(1), player(2), wins=1)
            self.records.append(EpisodeRecord(each, one, evaluation=False))
        self.started += len(ids)

    def answer(self, request: RunnerRequest, draws: Draws | None) -> RunnerAnswer:
        if self.mute:
            raise RuntimeError("busy")
        if draws is not None:
            self.draws.append(draws.round)
        if request.life == self.life:
            self.confirmed = request.received
        return RunnerAnswer(
            life=self.life,
            first=self.confirmed + 1,
            records=tuple(self.records[self.confirmed :]),
            unknown=dict(self.unknown),
            started=self.started,
            swaps=self.swaps,
        )


def exchange(runner: Any, request: RunnerRequest, draws: Draws | None) -> RunnerAnswer:
    return runner.answer(request, draws)  # type: ignore[no-any-return]


def gatherer_of(**runners: Runner) -> Gatherer:
    workers: Any = [Worker(name, "train", local=each) for name, each in runners.items()]  # type: ignore
    return Gatherer(exchange, lambda algorithm: workers)


def ids(gathered: Any) -> list[str]:
    return [record.episode_id for record in gathered.records]


ALGO: Any = None


def test_each_record_comes_once_and_is_confirmed_with_the_next_call() -> None:
    runner = Runner("x")
    gatherer = gatherer_of(one=runner)
    runner.play("a", "b")

    assert ids(gatherer.gather(ALGO)) == ["a", "b"]
    runner.play("c")
    assert ids(gatherer.gather(ALGO)) == ["c"]
    assert runner.confirmed == 2
    assert ids(gatherer.gather(ALGO)) == []
    assert runner.confirmed == 3


def test_episodes_of_two_env_runners_may_have_one_id() -> None:
    """The old API stack draws ids by the seed: a restarted env runner draws the same ids again."""
    one, two = Runner("x"), Runner("y")
    one.play("a")
    two.play("a", "b")

    assert ids(gatherer_of(one=one, two=two).gather(ALGO)) == ["a", "a", "b"]


def test_an_env_runner_that_fails_tells_everything_later() -> None:
    runner = Runner("x")
    gatherer = gatherer_of(one=runner, two=Runner("y"))
    runner.play("a")
    runner.mute = True

    assert gatherer.gather(ALGO).silent == {"one": "RuntimeError: busy"}
    runner.mute = False
    runner.play("b")
    found = gatherer.gather(ALGO)
    assert ids(found) == ["a", "b"]
    assert found.silent == {}


def test_what_a_restarted_env_runner_had_begun_and_not_told_is_unknown() -> None:
    old = Runner("x")
    workers: Any = [Worker("one", "train", local=old)]  # type: ignore[arg-type]
    gatherer = Gatherer(exchange, lambda algorithm: workers)
    old.play("a", "b")
    old.unknown["other policies than drawn"] = 1
    old.started += 1 + 3  # one of them is unknown, three are under way
    found = gatherer.gather(ALGO)
    assert dict(found.unknown) == {"other policies than drawn": 1}
    new = Runner("z")
    workers[:] = [Worker("one", "train", local=new)]  # type: ignore[arg-type]
    new.play("c")

    found = gatherer.gather(ALGO)

    assert ids(found) == ["c"]
    assert dict(found.unknown) == {LOST: 3}
    assert dict(gatherer.gather(ALGO).unknown) == {}


def test_unknown_episodes_and_swaps_are_differences() -> None:
    runner = Runner("x")
    gatherer = gatherer_of(one=runner)
    runner.unknown, runner.swaps = {"a reason": 2}, 5
    assert gatherer.gather(ALGO).swaps == 5
    runner.unknown, runner.swaps = {"a reason": 3, "another": 1}, 6

    found = gatherer.gather(ALGO)

    assert dict(found.unknown) == {"a reason": 1, "another": 1}
    assert found.swaps == 1


def test_tables_reach_all_env_runners_and_their_answers_are_not_lost() -> None:
    one, two = Runner("x"), Runner("y")
    gatherer = gatherer_of(one=one, two=two)
    one.play("a")
    gatherer.tell(ALGO, DRAWS)

    assert one.draws == two.draws == [1]
    assert ids(gatherer.gather(ALGO)) == ["a"]  # both answers have it


def test_an_env_runner_without_a_pool_is_left_alone() -> None:
    gatherer = gatherer_of(one=Runner(""))

    assert gatherer.gather(ALGO).records == []
    assert gatherer.lives == {}
