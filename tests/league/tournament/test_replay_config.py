"""Replays that are told nothing: the match holds the config, and this process has the code."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import pytest
import torch

from policystore import MatchError, PolicyStore
from policystore.errors import FormatError, InvalidInputError, NotFoundError
from policystore.format.records.matches import Match
from policystore.league import League
from policystore.league.env_identity import identify_env
from policystore.league.tournament.play import play
from policystore.league.tournament.replay import replay
from tests.support import ROOT, player_pairs
from tests.support.tournament import SEEN, Numbers

PLACE = "tests.support.tournament"
CONFIG = {"steps": 3, "agents": 2}  # not in the order of its keys


@pytest.fixture(scope="module")
def league(tmp_path_factory: pytest.TempPathFactory) -> League:
    store = PolicyStore(tmp_path_factory.mktemp("replay"))
    torch.manual_seed(0)
    store.push(player_pairs.module(SEEN, gym.spaces.Discrete(3)), "new")
    return League(store, "replay")


@pytest.fixture(scope="module")
def registered() -> Iterator[str]:
    gym.register("replays/Numbers-v0", entry_point=Numbers, disable_env_checker=True)
    yield "replays/Numbers-v0"
    del gym.registry["replays/Numbers-v0"]


def played(league: League, env: Any, **options: Any) -> Match:
    """Play, and return one match as the store has it."""
    match = play(league, ["new", "random"], env=env, episodes=4, **options).matches[0]
    key = (match.env_digest, match.seeds, match.players)
    return next(
        each for each in league.matches() if (each.env_digest, each.seeds, each.players) == key
    )


def make_numbers(config: Any) -> Numbers:
    return Numbers(config)


def test_a_class_that_was_imported(league: League) -> None:
    match = played(league, (Numbers, CONFIG))
    assert match.env_config == '{"~dict":[["steps",3],["agents",2]]}'
    assert replay(league, match).returns == match.episode_returns
    assert replay(league, match, env=Numbers).returns == match.episode_returns
    with pytest.raises(InvalidInputError, match="config of the match"):
        replay(league, match, env=(Numbers, {"steps": 4}))


def test_an_id_of_gymnasium(league: League, registered: str) -> None:
    match = played(league, (registered, {"config": CONFIG}))
    assert replay(league, match).returns == match.episode_returns


def test_without_a_config_the_record_has_no_new_field(league: League, registered: str) -> None:
    for env in (Numbers, registered):
        match = played(league, env, seed=3)
        assert match.env_config == ""
        assert replay(league, match).returns == match.episode_returns


def test_matches_of_earlier_versions_ask_for_what_they_lack(league: League) -> None:
    match = replace(played(league, (Numbers, CONFIG)), env_config="")
    for env in (None, Numbers):
        with pytest.raises(InvalidInputError, match="pass env=.env, config. with the config"):
            replay(league, match, env=env)
    assert replay(league, match, env=(Numbers, CONFIG)).returns == match.episode_returns


def test_functions_are_called_only_if_they_are_trusted(league: League) -> None:
    match = played(league, (make_numbers, CONFIG))
    with pytest.raises(InvalidInputError, match="pass env=") as caught:
        replay(league, match)
    assert f"trust=['{__name__}.']" in str(caught.value)
    for trust in ([f"{__name__}."], [__name__], [make_numbers], ["tests."]):
        assert replay(league, match, trust=trust).returns == match.episode_returns
    with pytest.raises(InvalidInputError, match="trust is a list"):
        replay(league, match, trust="tests.")


@pytest.mark.parametrize(
    ("name", "trust"),
    [
        ("os:system", []),
        ("os:system", ["tests."]),
        ("posix:system", ["tests."]),
        (f"{__name__}:sys.exit", ["tests."]),  # a trusted module may have imported anything
        (f"{__name__}:subprocess.Popen", ["tests."]),
        ("builtins:dict", []),
        ("no_such_module_of_anyone:Env", []),
        ("gymnasium:make", []),
    ],
)
def test_a_store_names_nothing_that_is_called(league: League, name: str, trust: list[str]) -> None:
    digest = identify_env(name, CONFIG).digest
    match = replace(played(league, (Numbers, CONFIG)), env=name, env_digest=digest)
    with pytest.raises(InvalidInputError, match="pass env="):
        replay(league, match, trust=trust)


def test_environments_that_make_others_need_env(
    league: League, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = gym.envs.registration.EnvSpec("Old-v0", entry_point="shimmy.old:GymV21")
    monkeypatch.setitem(gym.registry, "Old-v0", spec)
    config = '{"env_id":"os:Env"}'
    match = played(league, (Numbers, CONFIG))
    digest = identify_env("Old-v0", {"env_id": "os:Env"}).digest
    hostile = replace(match, env="Old-v0", env_digest=digest, env_config=config)
    with pytest.raises(InvalidInputError, match="pass env="):
        replay(league, hostile)


def test_a_config_that_does_not_fit_the_digest_is_refused(league: League) -> None:
    match = played(league, (Numbers, CONFIG))
    with pytest.raises(InvalidInputError, match="with the digest"):
        replay(league, replace(match, env_config='{"steps":99}'))
    with pytest.raises(FormatError, match="env_config"):
        replay(league, replace(match, env_config="[1, 2]"))


@dataclass(frozen=True)
class Wind:
    speed: float


def test_what_a_match_cannot_hold_is_named(league: League) -> None:
    env = (Numbers, {"steps": 3, "wind": [Wind(0.5)], "score": make_numbers})
    match = played(league, env)
    with pytest.raises(InvalidInputError, match=r"pass env=\(env, config\)") as caught:
        replay(league, match)
    assert f"config['wind'][0], an object of the class {__name__}:Wind" in str(caught.value)
    assert f"config['score'], the function {__name__}:make_numbers" in str(caught.value)
    assert replay(league, match, env=env).returns == match.episode_returns


def test_lambdas_and_partials_are_asked_for(league: League) -> None:
    nameless = lambda config: Numbers(config)  # noqa: E731
    match = played(league, (nameless, CONFIG))
    with pytest.raises(InvalidInputError, match="pass env=.*only the program that played it has"):
        replay(league, match)
    assert replay(league, match, env=nameless).returns == match.episode_returns
    partial = functools.partial(make_numbers, CONFIG)
    match = played(league, partial)
    with pytest.raises(InvalidInputError, match="pass env=.*the arguments of the partial"):
        replay(league, match, trust=["tests."])
    assert replay(league, match, env=partial).returns == match.episode_returns


def test_outcomes_that_a_match_does_not_record(league: League) -> None:
    def first_wins(returns: Any, infos: Any) -> Any:
        return {role: number for number, role in enumerate(sorted(returns))}

    for number, outcome in enumerate((None, first_wins)):
        match = played(league, Numbers, seed=20 + number, outcome=outcome)
        assert replay(league, match).returns == match.episode_returns
        assert replay(league, match, outcome=outcome).returns == match.episode_returns
        with pytest.raises(MatchError, match="the outcomes differ"):
            replay(league, match, outcome="returns")
    usual = played(league, Numbers, seed=22)
    wrong = replace(usual, outcomes=played(league, Numbers, seed=23, outcome=first_wins).outcomes)
    assert replay(league, wrong).returns == usual.episode_returns
    with pytest.raises(MatchError, match="the outcomes differ"):
        replay(league, wrong, outcome="returns")


@pytest.mark.long
def test_a_fresh_process_needs_no_argument_or_says_which(league: League) -> None:
    """The process has imported no environment; with ``trust`` it imports the one of the match."""
    played(league, (Numbers, CONFIG), seed=31)
    program = f"""
import sys
from policystore import InvalidInputError
from policystore.league import League
league = League({league.store.url!r}, "replay")
match = next(league.matches(limit=1))
try:
    league.replay(match)
except InvalidInputError as error:
    print(error)
assert {PLACE!r} not in sys.modules
assert league.replay(match, trust=[{PLACE!r}]).returns == match.episode_returns
assert league.replay(match).returns == match.episode_returns  # imported now
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert f"pass env=, or trust=['{PLACE}.']" in done.stdout


def test_a_trusted_module_that_is_not_installed_is_named(league: League) -> None:
    match = replace(played(league, (Numbers, CONFIG)), env="no_such_module:Env")
    with pytest.raises(NotFoundError, match="no_such_module:Env"):
        replay(league, match, trust=["no_such_module"])
