"""Opponent pools where env runners normalise observations, or keep other state of agents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.connectors.env_to_module import MeanStdFilter

from policystore import PolicyStore
from policystore.errors import InvalidInputError
from policystore.league import League, OpponentPool, every, uniform
from tests.support.pool_parts import PARTS, configured, shown

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("ray_session")]
STACKS = pytest.mark.parametrize("stack", ["new", "old"])
OF_SNAPSHOT = ("agent_ids=", "omit=", "from_runner=")


def filtered(stack: str, **more: Any) -> Any:
    config = configured(stack, **more)
    if stack == "old":
        return config.env_runners(observation_filter="MeanStdFilter")
    return config.env_runners(
        env_to_module_connector=lambda env, spaces, device: MeanStdFilter(multi_agent=True)
    )


class Counting(ConnectorV2):  # type: ignore[misc]
    """A connector of a user that has a state."""

    def __call__(self, *, batch: Any, **_: Any) -> Any:
        return batch

    def get_state(self, *_: Any, **__: Any) -> dict[str, Any]:
        return {"seen": 1}

    def set_state(self, state: Any) -> None:
        pass


@STACKS
def test_a_filter_is_refused_with_what_can_be_done(tmp_path: Path, stack: str) -> None:
    pool = OpponentPool(League(PolicyStore(tmp_path / "store"), "duo"), slots=["opponent_0"])
    with pytest.raises(InvalidInputError, match="cannot begin") as raised:
        pool.configure(filtered(stack)).build_algo()
    text = str(raised.value)
    assert text.count("\n  - ") == 1
    assert "MeanStdFilter" in text
    assert "filters='ignore'" in text
    assert not any(argument in text for argument in OF_SNAPSHOT)


def test_another_state_of_agents_is_refused_with_what_can_be_done(tmp_path: Path) -> None:
    pool = OpponentPool(League(PolicyStore(tmp_path / "store"), "duo"), slots=["opponent_0"])
    config = configured("new").env_runners(
        env_to_module_connector=lambda env, spaces, device: Counting()
    )
    with pytest.raises(InvalidInputError, match="cannot begin") as raised:
        pool.configure(config).build_algo()
    text = str(raised.value)
    assert text.count("\n  - ") == 1
    assert "the connectors Counting have a state that belongs to agents" in text
    assert "filters='ignore'" in text
    assert not any(argument in text for argument in OF_SNAPSHOT)


@STACKS
@pytest.mark.parametrize("merged", [True, pytest.param(False, marks=pytest.mark.wide)])
def test_ignored_filters_let_a_pool_play_all_the_same(
    tmp_path: Path, stack: str, merged: bool
) -> None:
    store = PolicyStore(tmp_path / "store")
    league = League(store, "duo")
    pool = OpponentPool(
        league, slots=["opponent_0"], sampler=uniform(), snapshot=every(1), filters="ignore"
    )
    config = filtered(stack, runners=0 if merged else 1)
    if not merged and stack == "old":
        config.env_runners(use_worker_filter_stats=False)
    elif not merged:
        config.env_runners(merge_env_runner_states=False, broadcast_env_runner_states=False)
    with PARTS[stack].built(pool.configure(config)) as algo:
        results = [shown(algo.train()) for _ in range(4)]

    assert results[-1]["failed"] == results[-1]["unknown"] == 0
    assert results[-1]["main"]["candidates"] >= 3
    assert results[-1]["swaps"] >= 2
    digests = {str(each.digest) for each in store.log("duo/main")}
    totals = league.totals()
    assert totals.episodes >= results[-1]["episodes"] >= 8
    assert {player for each in totals.matchups for player in each.players.values()} <= digests
    snap = store.pull("duo/main")
    keeps = merged and stack == "old"  # there, filters belong to policies
    assert bool(snap.state.get("connectors" if stack == "old" else "MeanStdFilter")) == keeps
    assert any("MeanStd" in place for place in snap.spec.omitted) != keeps
