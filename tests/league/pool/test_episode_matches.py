"""The record of one episode: who won, by returns or by the user's own scores."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from policystore import InvalidInputError, PolicyStore
from policystore.format.records.matches import Match, Outcome, Returns
from policystore.league.pool.runner.matches import (
    RefusedEpisodeError,
    RolePlayer,
    explores,
    match_of,
    ranks_of,
)
from policystore.league.pool.runner.reasons import NOT_FINITE, OUTCOME_FAILED
from policystore.league.pool.runner.settings import EndedEpisode, PoolSettings, sides_of

PLAYED = ("blake3:" + "a" * 64, "blake3:" + "b" * 64)


@pytest.fixture
def store(tmp_path: Path) -> PolicyStore:
    return PolicyStore(tmp_path / "store")


def settings_of(store: PolicyStore, **changes: Any) -> PoolSettings:
    return PoolSettings(store, "soccer", ("main",), {"": ("o0",)}, **changes)


def ended(returns: dict[Any, float]) -> EndedEpisode:
    return EndedEpisode("e1", returns, {}, 9, True, False, None)


def recorded(settings: PoolSettings, returns: dict[Any, float]) -> Match:
    players = {
        agent: RolePlayer(f"heuristic:{agent}", f"ref {agent}", PLAYED if agent == "a" else None)
        for agent in returns
    }
    sides = sides_of(settings, ["a", "b", "c", "d"])
    return match_of(settings, sides, players, ended(returns))


@pytest.mark.parametrize(
    ("returns", "ranks"),
    [
        ({"a": 1.0, "b": -1.0}, (0, 1)),
        ({"a": 1.0, "b": 2.0}, (1, 0)),
        ({"a": 0.1 + 0.2, "b": 0.3}, (0, 0)),
        ({"a": 1.0, "b": 3.0, "c": 1.0}, (1, 0, 1)),
        ({"a": 3.0, "b": 3.0, "c": 1.0}, (0, 0, 2)),
        ({"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}, (3, 2, 1, 0)),
    ],
)
def test_the_higher_return_wins(
    store: PolicyStore, returns: dict[Any, float], ranks: tuple[int, ...]
) -> None:
    match = recorded(settings_of(store), returns)
    assert match.outcomes == (Outcome(ranks, 1),)
    assert list(match.players) == sorted(returns)
    assert match.episodes == 1
    for agent, value in returns.items():
        exact = Fraction(value)
        assert match.returns[agent] == Returns(1, exact, exact**2)


def test_a_team_adds_its_returns(store: PolicyStore) -> None:
    teams = {"a": "red", "c": "red", "b": "blue", "d": "blue"}
    match = recorded(settings_of(store, teams=teams), {"a": 1.0, "b": 3.0, "c": 5.0, "d": 0.0})
    assert match.outcomes == (Outcome((0, 1, 0, 1), 1),)
    assert match.teams == teams
    assert match.played == {"a": PLAYED}
    assert match.refs == {agent: f"ref {agent}" for agent in "abcd"}


def test_agents_that_never_appeared_have_no_role(store: PolicyStore) -> None:
    teams = {"a": "red", "c": "red", "b": "blue", "d": "blue"}
    match = recorded(settings_of(store, teams=teams), {"a": 1.0, "b": 3.0, "d": -3.0})
    assert match.players.keys() == match.teams.keys() == match.returns.keys() == {"a", "b", "d"}
    assert match.outcomes == (Outcome((0, 1, 1), 1),)


def test_own_scores_decide(store: PolicyStore) -> None:
    settings = settings_of(store, outcome=lambda each: {a: -r for a, r in each.returns.items()})
    match = recorded(settings, {"a": 1.0, "b": 2.0})
    assert match.outcomes == (Outcome((0, 1), 1),)
    assert match.returns["b"].sum == 2


@pytest.mark.parametrize("outcome", [None, lambda each: None])
def test_a_cooperative_environment_has_returns_alone(store: PolicyStore, outcome: Any) -> None:
    match = recorded(settings_of(store, outcome=outcome), {"a": 1.0, "b": 2.0})
    assert match.outcomes == ()
    assert match.returns["a"].sum == 1


def test_one_side_alone_has_no_outcome() -> None:
    assert ranks_of({"a": 1.0, "b": 2.0}, [("a", "b")]) is None


@pytest.mark.parametrize(
    ("outcome", "returns", "reason"),
    [
        ("returns", {"a": float("nan"), "b": 0.0}, NOT_FINITE),
        ("returns", {"a": float("inf"), "b": 0.0}, NOT_FINITE),
        (lambda each: {"a": float("nan"), "b": 0.0}, {"a": 0.0, "b": 0.0}, NOT_FINITE),
        (lambda each: {"a": 1.0}, {"a": 0.0, "b": 0.0}, OUTCOME_FAILED),
        (lambda each: "b", {"a": 0.0, "b": 0.0}, OUTCOME_FAILED),
        (lambda each: 1 / 0, {"a": 0.0, "b": 0.0}, OUTCOME_FAILED),
    ],
)
def test_what_cannot_be_recorded_is_refused(
    store: PolicyStore, outcome: Any, returns: dict[Any, float], reason: str
) -> None:
    with pytest.raises(RefusedEpisodeError) as caught:
        recorded(settings_of(store, outcome=outcome), returns)
    assert caught.value.reason == reason


def test_sides_are_teams_and_single_agents(store: PolicyStore) -> None:
    settings = settings_of(store, teams={3: "x", "b": "x"})
    assert sides_of(settings, ["b", 3, "a", 10]) == [(10,), (3, "b"), ("a",)]
    assert sides_of(settings, ["a", 10, 3, "b"]) == [(10,), (3, "b"), ("a",)]


def test_agents_with_the_same_text_are_refused(store: PolicyStore) -> None:
    with pytest.raises(InvalidInputError, match="same text"):
        sides_of(settings_of(store), [1, "1"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slots": {"": ("o0", "o0")}}, "'o0'"),
        ({"slots": {"": ("o0",), "cnn": ("o0",)}}, "'o0'"),
        ({"slots": {"": ("main",)}}, "'main'"),
        ({"learners": ()}, "needs a learner"),
        ({"outcome": "wins"}, "outcome is"),
        ({"first_episodes": 0}, "first_episodes"),
        ({"first_episodes": True}, "first_episodes"),
    ],
)
def test_wrong_settings_are_refused(store: PolicyStore, changes: Any, message: str) -> None:
    given: dict[str, Any] = {"learners": ("main",), "slots": {"": ("o0",)}}
    with pytest.raises(InvalidInputError, match=message):
        PoolSettings(store=store, league="soccer", **(given | changes))


def test_whether_actions_were_sampled_is_known_where_all_policies_agree() -> None:
    new = SimpleNamespace(config=SimpleNamespace(explore=False))
    assert explores(new, ["main", "foe"]) is False
    policies = {pid: SimpleNamespace(config={"explore": pid != "foe"}) for pid in ("a", "b", "foe")}
    old = SimpleNamespace(policy_map=policies)
    assert explores(old, ["a", "b"]) is True
    assert explores(old, ["foe"]) is False
    assert explores(old, ["a", "foe"]) is None
