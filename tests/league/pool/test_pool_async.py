"""Opponent pools with algorithms whose env runners sample while the learner updates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.impala import IMPALAConfig

from policystore import PolicyStore
from policystore.league import League, OpponentPool, every, opponents_of, uniform
from policystore.rllib import check_sync
from tests.support.new_stack_algorithms import until
from tests.support.pool_parts import PARTS, configured, open_lists, shown

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("ray_session")]


@pytest.mark.wide
@pytest.mark.parametrize("kind", [IMPALAConfig, APPOConfig])
def test_an_asynchronous_training_records_its_matches(tmp_path: Path, kind: Any) -> None:
    league = League(PolicyStore(tmp_path / "store"), "duo")
    pool = OpponentPool(
        league, "main", ["opponent_0"], sampler=uniform(), snapshot=every(4), refresh=1
    )
    result: Any = {}
    with PARTS["new"].built(pool.configure(configured("new", kind=kind, runners=2))) as algo:

        def enough() -> bool:
            result.update(shown(algo.train()))
            return result["episodes"] >= 30 and result["main"]["candidates"] >= 3

        until(enough, "30 episodes against three opponents")
        holding = opponents_of(algo)
        report = check_sync(algo)

    digests = {str(each.digest) for each in league.store.log("duo/main")}
    assert result["unknown"] == result["failed"] == 0
    assert result["error"] is None
    assert league.totals().episodes >= result["episodes"]
    matches = list(league.matches())
    assert {player for each in matches for player in each.players.values()} <= digests
    # Each match has one learner, with the weights that it played with, and one opponent.
    assert {len(each.played) for each in matches} == {1}
    weights = {digest for each in matches for pair in each.played.values() for digest in pair}
    assert len(weights) >= 3
    assert set(holding) == {"train 1", "train 2"}
    for name, held in holding.items():
        (row,) = (each for each in report if (each.worker, each.policy) == (name, "opponent_0"))
        assert row.status == "own"
        assert held["opponent_0"].startswith("duo/main@")
    assert open_lists(league) == 0
