"""Opponent pools with algorithms that learn from a replay buffer, and send weights seldom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.sac import SACConfig

from policystore import PolicyStore
from policystore.errors import InvalidInputError
from policystore.league import League, OpponentPool, every, uniform
from tests.support.new_stack_algorithms import until
from tests.support.pool_parts import PARTS, configured, open_lists, shown
from tests.support.pool_witness import played, recorded, witness

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("ray_session")]


@pytest.mark.wide
@pytest.mark.parametrize("kind", [DQNConfig, SACConfig])
def test_a_training_from_a_replay_buffer_records_who_really_played(
    tmp_path: Path, kind: Any
) -> None:
    store = PolicyStore(tmp_path / "store")
    league = League(store, "duo")
    pool = OpponentPool(
        league,
        "main",
        ["opponent_0"],
        sampler=uniform(),
        snapshot=every(3),
        learner_agents={"main": ["a"]},
        callbacks=witness(tmp_path / "episodes"),
    )
    result: Any = {}
    with PARTS["new"].built(pool.configure(configured("new", kind=kind, runners=2))) as algo:

        def enough() -> bool:
            result.update(shown(algo.train()))
            return result["episodes"] >= 20 and result["main"]["candidates"] >= 3

        until(enough, "20 episodes against three opponents")

    by_process = played(tmp_path / "episodes", store, ["duo/main"])
    seen = sum(by_process.values(), type(recorded(league))())
    assert recorded(league) == seen
    assert league.totals().unknown == {}
    assert set(seen) <= {str(each.digest) for each in store.log("duo/main")}
    assert len(seen) >= 3
    assert len(by_process) == 2
    assert result["swaps"] >= 3
    assert result["failed"] == 0
    weights = {digest for each in league.matches() for digest in each.played["a"]}
    assert len(weights) >= 3  # the learner learns
    assert open_lists(league) == 0


@pytest.mark.parametrize("kind", [DQNConfig, SACConfig])
def test_the_default_buffer_for_a_single_agent_is_refused(tmp_path: Path, kind: Any) -> None:
    pool = OpponentPool(League(PolicyStore(tmp_path / "store"), "duo"), "main", ["opponent_0"])
    config = configured("new", kind=kind)
    config.replay_buffer_config["type"] = kind().replay_buffer_config["type"]

    with pytest.raises(InvalidInputError, match="is for a single agent") as raised:
        pool.configure(config).build_algo()

    assert "'type': 'MultiAgentEpisodeReplayBuffer'" in str(raised.value)
    assert str(raised.value).count("\n  - ") == 1
