"""The oracle of the tests of leagues notices each kind of wrong record."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from policystore import Snapshot, Spec
from policystore.format.policy import part_digest
from policystore.format.records.matches import Match, Outcome, Returns
from tests.support import league_arena
from tests.support.league_oracle import Verdict, by_return, compare, player_prints, read_log

AGENTS = ("red", "blue")


def _snapshot(level: float) -> Snapshot:
    weights = {"bias": np.full(2, level, np.float32), "weight": np.ones((2, 2), np.float32)}
    return Snapshot(weights=weights, spec=Spec(stack="torch"))


def _network(snap: Snapshot) -> torch.nn.Module:
    network = torch.nn.Linear(2, 2)
    network.load_state_dict({n: torch.from_numpy(a.copy()) for n, a in snap.weights.items()})
    return network


FIRST, SECOND, FOE, OTHER = (_snapshot(level) for level in (1.0, 2.0, 3.0, 4.0))


class Played:
    """Episodes that were played, and the records that are right for them."""

    def __init__(self, log: Path, episodes: int = 3, change: Snapshot | None = None) -> None:
        self.log = log
        self.matches: list[Match] = []
        env = league_arena.Arena({"log": str(log), "lengths": (3, 6)})
        for number in range(episodes):
            # The learner changes after the second step of each episode.
            networks = {"red": [_network(FIRST)] * 2 + [_network(SECOND)] * 9}
            networks["blue"] = [_network(FOE)] * 2 + [_network(change or FOE)] * 9
            observations, _ = env.reset()
            env.note("started", id=f"e{number}", evaluation=False, worker=1)
            over, step = False, 0
            while not over:
                for agent, seen in observations.items():
                    league_arena._note(seen[None], networks[agent][step])
                observations, _, ended, _, _ = env.step({"red": number % 3, "blue": step % 3})
                over, step = ended["__all__"], step + 1
            policies = {"red": "main", "blue": "foe"}
            env.note("ended", id=f"e{number}", evaluation=False, worker=1, policies=policies)
        for seen in read_log(log):
            self.matches.append(_right(seen.agents))

    def verdict(self, **settings: Any) -> Verdict:
        players = player_prints([FIRST, SECOND, FOE, OTHER])
        learners = {"main": [str(FIRST.digest), str(SECOND.digest)]}
        history = {"main": [players[str(FIRST.digest)], "x", players[str(SECOND.digest)]]}
        return compare(
            self.matches, self.log, players, learners=learners, **{"history": history, **settings}
        )


def _right(agents: Any) -> Match:
    returns = {agent: Fraction(agents[agent].ret) for agent in AGENTS}
    ranks = by_return({agent: agents[agent].ret for agent in AGENTS}, {})
    assert ranks is not None
    digests = [str(part_digest(snap.weights)) for snap in (FIRST, SECOND)]
    return Match(
        players={"blue": str(FOE.digest), "red": str(FIRST.digest)},
        episodes=1,
        outcomes=(Outcome((ranks["blue"], ranks["red"]), 1),),
        returns={agent: Returns(1, value, value * value) for agent, value in returns.items()},
        played={"red": (digests[0], digests[1])},
    )


def test_right_records_pass(tmp_path: Path) -> None:
    verdict = Played(tmp_path).verdict()

    assert verdict.faults == []
    assert (verdict.recorded, verdict.finished, verdict.mixed) == (3, 3, set())


def _other_foe(match: Match) -> Match:
    return dataclasses.replace(match, players={**match.players, "blue": str(OTHER.digest)})


def _later_learner(match: Match) -> Match:
    return dataclasses.replace(match, players={**match.players, "red": str(SECOND.digest)})


def _foe_as_learner(match: Match) -> Match:
    return dataclasses.replace(match, players={**match.players, "red": str(FOE.digest)})


def _unplayed(match: Match) -> Match:
    return dataclasses.replace(match, played={})


def _first_twice(match: Match) -> Match:
    first = match.played["red"][0]
    return dataclasses.replace(match, played={"red": (first, first)})


def _swapped(match: Match) -> Match:
    (outcome,) = match.outcomes
    if len(set(outcome.ranks)) == 1:
        return dataclasses.replace(match, outcomes=(Outcome((0, 1), 1),))
    return dataclasses.replace(match, outcomes=(Outcome(outcome.ranks[::-1], 1),))


def _richer(match: Match) -> Match:
    red = match.returns["red"]
    more = Returns(1, red.sum + 1, (red.sum + 1) ** 2)
    return dataclasses.replace(match, returns={**match.returns, "red": more})


def _other_tag(match: Match) -> Match:
    shifted = {
        role: Returns(1, each.sum + Fraction(1, 2**40), (each.sum + Fraction(1, 2**40)) ** 2)
        for role, each in match.returns.items()
    }
    return dataclasses.replace(match, returns=shifted)


def _teamed(match: Match) -> Match:
    return dataclasses.replace(match, teams={"red": "x"})


def _fewer_roles(match: Match) -> Match:
    return dataclasses.replace(match, players={"red": match.players["red"]})


@pytest.mark.parametrize(
    "change",
    [
        _other_foe,
        _later_learner,
        _foe_as_learner,
        _unplayed,
        _first_twice,
        _swapped,
        _richer,
        _other_tag,
        _teamed,
        _fewer_roles,
    ],
)
def test_a_wrong_record_is_noticed(tmp_path: Path, change: Callable[[Match], Match]) -> None:
    played = Played(tmp_path)
    played.matches[1] = change(played.matches[1])

    assert played.verdict().faults


def test_a_lost_a_doubled_and_an_invented_record_are_noticed(tmp_path: Path) -> None:
    played = Played(tmp_path)
    right = list(played.matches)

    played.matches = right[1:]
    assert played.verdict().faults
    assert played.verdict(unknown=1).faults == []
    played.matches = [*right, right[0]]
    assert played.verdict().faults
    played.matches = right
    assert played.verdict(unknown=1).faults
    assert played.verdict(unknown=1, lost=True).faults == []


def test_a_record_of_an_episode_with_two_opponents_is_noticed(tmp_path: Path) -> None:
    played = Played(tmp_path, change=OTHER)

    assert len(played.verdict().faults) == 3
    assert played.verdict().mixed == {"e0", "e1", "e2"}
    played.matches = []
    assert played.verdict(unknown=3).faults == []
