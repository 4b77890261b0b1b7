"""Opponent pools in Tune: a trial that crashes, and goes on from its last checkpoint."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import pytest

import tests.support.tune_runs as tune_runs
from policystore import PolicyStore
from policystore.league import League
from policystore.league.pool import OpponentPool, every
from tests.support.pool_parts import configured
from tests.support.tune_runs import CrashAfterPush

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("ray_session")]


@pytest.mark.parametrize("stack", ["new", pytest.param("old", marks=pytest.mark.wide)])
def test_a_trial_that_crashed_goes_on_with_its_pool(tmp_path: Path, stack: str) -> None:
    store = PolicyStore(tmp_path / "store")
    league = League(store, "duo")
    crash = partial(CrashAfterPush, str(tmp_path / "flag"), 4, store, "duo/main")
    pool = OpponentPool(league, "main", ["opponent_0"], snapshot=every(2), callbacks=crash)

    (result,) = tune_runs.run(pool.configure(configured(stack)), tmp_path / "tune", 6, failures=1)

    assert result.error is None
    assert (tmp_path / "flag").exists()
    log = store.log("duo/main")[::-1]
    # The second life repeats iteration 4, and learns other weights.
    iterations = [each.source["iteration"] for each in log]
    assert iterations == [0, 2, 4, 4, 6]
    parents = [log.index(next(v for v in log if v.digest in each.parents)) for each in log[1:]]
    assert parents == [0, 1, 1, 3]
    assert len({each.source["run"] for each in log}) == 1
    shown = result.metrics["policystore"]["opponent_pool"]
    assert shown["main"]["snapshots"] == 4
    assert shown["main"]["candidates"] >= 4
    totals = league.totals()
    played = Counter(each.iteration for each in league.matches())
    assert set(played) == {1, 2, 3, 4, 5, 6}
    assert len({each.writer for each in league.matches()}) == 2  # a new list for each life
    assert totals.episodes >= shown["episodes"]
    digests = {str(each.digest) for each in log}
    assert {player for each in totals.matchups for player in each.players.values()} <= digests
