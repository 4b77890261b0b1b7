"""The arguments of an opponent pool, and the config that it makes."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import cloudpickle
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.policy.policy import PolicySpec

import policystore.league
import policystore.league.pool
from policystore import PolicyStore
from policystore.errors import InvalidInputError, ReadOnlyError
from policystore.league import League
from policystore.league.pool import (
    OpponentPool,
    Role,
    every,
    keep_last,
    league_exploiter,
    main_agent,
    main_exploiter,
    prioritised,
    uniform,
    when_better,
)
from tests.support.envs import Duo, Solo


@pytest.fixture
def league(tmp_path: Path) -> League:
    return League(PolicyStore(tmp_path / "store"), "duo")


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"learner": []}, "roles by id"),
        ({"learner": {"main": "main"}}, "roles by id"),
        ({"slots": "opponent_0"}, "list of policy ids"),
        ({"slots": []}, "list of policy ids"),
        ({"slots": {}}, "at least one slot"),
        ({"slots": ["main"]}, "a slot is a frozen policy"),
        ({"slots": ["s", "s"]}, "a slot is a frozen policy"),
        ({"sampler": prioritised}, "makes a sampler when it is called"),
        ({"sampler": 3}, "a sampler is a function"),
        ({"snapshot": when_better}, "makes a trigger when it is called"),
        ({"snapshot": 10}, "snapshot is a function"),
        ({"candidates": keep_last}, "has to be called"),
        ({"candidates": 20}, "candidates is a function"),
        ({"name": "not a name"}, "name"),
        ({"name": "duo/{run}"}, "placeholder"),
        ({"name": {"mian": "duo/main"}}, "mian"),
        ({"learner": ["a", "b"], "name": "duo/main"}, "a name each|need a name each"),
        ({"learner": ["a", "b"], "name": {"a": "duo/x", "b": "duo/x"}}, "name of its own"),
        ({"learner": "a b"}, "cannot be part of a name"),
        ({"learner": {"main": Role(live=["other"])}}, "live= of 'main' names"),
        ({"learner": {"main": Role(against=["other"])}}, "against= of 'main' names"),
        (
            {"learner": {"main": main_agent()}, "snapshot": every(2)},
            "snapshot= would change nothing",
        ),
        (
            {"learner": {"main": main_agent()}, "sampler": uniform()},
            "sampler= would change nothing",
        ),
        ({"opponents": "duo/main@1"}, "list of refs"),
        ({"heuristics": ["random"]}, "policy ids by name"),
        ({"heuristics": {"a b": "random"}}, "name of a heuristic"),
        ({"learner_agents": {"mian": ["a"]}}, "learner_agents= names .'mian'., .* .'main'."),
        ({"learner_agents": {"main": "ab"}}, "lists of agents by learner"),
        ({"seed": -1}, "seed"),
        ({"decay": 2}, "decay"),
        ({"refresh": 0}, "refresh"),
        ({"filters": "merge"}, "filters"),
        ({"timeout": -1}, "timeout"),
        ({"outcome": "wins"}, "outcome"),
        ({"first_episodes": 0}, "first_episodes"),
        ({"callbacks": 3}, "callbacks="),
    ],
)
def test_arguments_of_the_wrong_form(league: League, more: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidInputError, match=text):
        OpponentPool(league, **{"slots": ["opponent_0"], **more})


def test_a_league_comes_first_and_can_be_written(tmp_path: Path, league: League) -> None:
    with pytest.raises(InvalidInputError, match="takes a league first"):
        OpponentPool(league.store, "main", ["opponent_0"])  # type: ignore[arg-type]
    read_only = League(PolicyStore(tmp_path / "store", read_only=True), "duo")
    with pytest.raises(ReadOnlyError):
        OpponentPool(read_only, "main", ["opponent_0"])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Role(reset=2),
        lambda: Role(share=0),
        lambda: Role(live="main"),
        lambda: Role(against=[1]),  # type: ignore[list-item]
        lambda: Role(sampler=uniform),  # type: ignore[arg-type]
        lambda: main_agent(self_play=2),
        lambda: main_exploiter(win_rate=70),
        lambda: league_exploiter(reset=-1),
        lambda: main_agent(at_most=0),
    ],
)
def test_roles_of_the_wrong_form(make: Any) -> None:
    with pytest.raises(InvalidInputError):
        make()


def test_a_pool_pickles_with_its_mapping(league: League) -> None:
    pool = OpponentPool(league, ["main", "other"], {"a": ["a_0"], "b": ["b_0", "b_1"]})

    assert pool.learners == ("main", "other")
    assert pool.slots == ("a_0", "b_0", "b_1")
    copy = cloudpickle.loads(cloudpickle.dumps(pool))
    assert (copy.learners, copy.slots, repr(copy)) == (pool.learners, pool.slots, repr(pool))
    assert isinstance(copy.settings["driver"].league, League)
    mapping = pickle.loads(pickle.dumps(pool.policy_mapping_fn))
    assert mapping("a", None) == pool.policy_mapping_fn("a", None)


def test_configure_sets_what_a_config_lacks(league: League) -> None:
    pool = OpponentPool(league, "main", ["opponent_0"], heuristics={"random": "random"})
    own = PolicySpec(config={"gamma": 0.5})
    config = PPOConfig().environment(Duo).multi_agent(policies={"random": own})

    assert pool.configure(config) is config

    assert set(config.policies) == {"main", "opponent_0", "random"}
    assert config.policies["random"] is own
    assert config.policies_to_train == ["main"]
    assert config.policy_mapping_fn is pool.policy_mapping_fn
    assert config.callbacks_class is pool


def test_configure_makes_no_heuristic_of_an_untrained_network(league: League) -> None:
    pool = OpponentPool(league, "main", ["opponent_0"], heuristics={"random": "rnd"})
    config = PPOConfig().environment(Duo)
    with pytest.raises(InvalidInputError, match="'random' is played by the policy 'rnd', which"):
        pool.configure(config)
    modules = {pid: RLModuleSpec() for pid in ("main", "opponent_0", "rnd")}
    config.rl_module(rl_module_spec=MultiRLModuleSpec(rl_module_specs=modules))
    assert set(pool.configure(config).policies) == {"main", "opponent_0", "rnd"}


def test_the_mapping_function_alone_warns(league: League, caplog: pytest.LogCaptureFixture) -> None:
    pool = OpponentPool(league, "main", ["opponent_0"])
    episode = SimpleNamespace(id_="1", agent_ids={"a"})
    for _ in range(2):
        pool.policy_mapping_fn("a", episode)
    assert caplog.text.count("call config.callbacks(pool) as the last one") == 1
    caplog.clear()

    other = OpponentPool(league, "main", ["opponent_0", "opponent_1"])
    other()  # RLlib makes the callbacks
    other.policy_mapping_fn("a", episode)
    assert caplog.text == ""


def test_configure_replaces_no_callbacks(league: League) -> None:
    from ray.rllib.algorithms.callbacks import DefaultCallbacks

    class Mine(DefaultCallbacks):  # type: ignore[misc]
        pass

    pool = OpponentPool(league, "main", ["opponent_0"])
    with pytest.raises(InvalidInputError, match=r"callbacks=MyCallbacks"):
        pool.configure(PPOConfig().callbacks(Mine))


def test_configure_refuses_an_environment_of_a_single_agent(league: League) -> None:
    pool = OpponentPool(league, "main", ["opponent_0"])
    with pytest.raises(InvalidInputError, match=r"envs\.Solo is for a single agent"):
        pool.configure(PPOConfig().environment(Solo))
    pool.configure(PPOConfig().environment("a registered name"))


def test_all_public_names_of_pools_are_names_of_policystore_league() -> None:
    for name in policystore.league.pool.__all__:
        assert name in policystore.league.__all__
        assert getattr(policystore.league, name) is getattr(policystore.league.pool, name)
