"""The ledger of an opponent pool has exactly what the environments saw, on both API stacks."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import ray

from policystore import PolicyStore
from policystore.format.records.matches import Match
from policystore.league import League
from policystore.league.pool import OpponentPool, every, uniform
from policystore.league.pool.driving import booking
from policystore.league.pool.driving.booking import merged
from tests.support.league_arena import Witness
from tests.support.league_driver import runners_of
from tests.support.league_games import configured
from tests.support.league_oracle import Verdict, compare, player_prints, read_log
from tests.support.new_stack_algorithms import built

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("ray_session")]

# Reasons for which an episode is unknown that never ended.
NOT_ENDED = ("unfinished at a reset", "environment failed")


def _pool(league: League) -> OpponentPool:
    return OpponentPool(
        league,
        learner="main",
        slots=["opponent_0", "opponent_1"],
        sampler=uniform(),
        snapshot=every(2),
        heuristics={"fixed": "fixed"},
        callbacks=Witness,
    )


def _config(cell: str, pool: OpponentPool, log: Path, *, runners: int = 2, evals: int = 1) -> Any:
    return configured(
        cell,
        log,
        callbacks=pool,
        mapping=pool.policy_mapping_fn,
        runners=runners,
        envs=2,
        evals=evals,
        heuristics=["fixed"],
        fragment=15,
    )


class Booked:
    """The matches that go to the ledger, one for each episode: equal ones are joined there.

    Args:
        monkeypatch: of pytest.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.single: list[Match] = []

        def noted(matches: Iterable[Match]) -> list[Match]:
            each = list(matches)
            self.single += each
            return merged(each)

        monkeypatch.setattr(booking, "merged", noted)

    def verdict(
        self,
        store: PolicyStore,
        log: Path,
        *,
        lost: bool = False,
        evaluation: bool | None = None,
    ) -> tuple[Verdict, Any]:
        """Compare the ledger as another process would read it with the truth."""
        league = League(store, "duel")
        # Each return has a part that no other episode has, and all sums are exact.
        assert _sums(league.matches()) == _sums(self.single)
        totals = league.totals()
        snaps = [store.pull(f"duel/main@{each.number}") for each in store.log("duel/main")]
        ended = sum(n for reason, n in totals.unknown.items() if reason not in NOT_ENDED)
        verdict = compare(
            self.single,
            log,
            player_prints(snaps),
            learners={"main": [str(snap.digest) for snap in snaps]},
            unknown=10**9 if lost else ended,
            lost=lost,
            evaluation=evaluation,
        )
        assert totals.episodes == verdict.recorded
        return verdict, totals


def _sums(matches: Iterable[Match]) -> dict[Any, Any]:
    """Return episodes and sums of returns for each role of the same players."""
    found: dict[Any, Any] = {}
    for match in matches:
        for role, returns in match.returns.items():
            key = (tuple(sorted(match.players.items())), role)
            episodes, total, squares = found.get(key, (0, Fraction(0), Fraction(0)))
            found[key] = (
                episodes + returns.episodes,
                total + returns.sum,
                squares + returns.squares,
            )
    return found


@pytest.mark.parametrize("cell", [pytest.param("old PPO", marks=pytest.mark.wide), "new PPO"])
def test_the_ledger_has_each_episode_once_after_kill_and_resume(
    cell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    booked = Booked(monkeypatch)
    log = tmp_path / "log"
    log.mkdir()
    store = PolicyStore(tmp_path / "store")
    with built(_config(cell, _pool(League(store, "duel")), log)) as algo:
        for _ in range(5):
            algo.train()
        # The old API stack has no save_to_path().
        saved = algo.save(str(tmp_path / "checkpoint")).checkpoint.path
    verdict, totals = booked.verdict(store, log)
    assert verdict.faults == []
    assert verdict.recorded >= 30
    assert totals.players

    # The resumed Algorithm goes on in the same league; one of its env runners dies.
    with built(_config(cell, _pool(League(store, "duel")), log)) as algo:
        algo.restore(saved)
        algo.train()
        ray.kill(runners_of(algo)["train 1"], no_restart=False)
        for _ in range(6):
            algo.train()
    later, totals = booked.verdict(store, log, lost=True)
    assert later.faults == []
    assert later.recorded > verdict.recorded
    # What other env runners played is recorded, or counted.
    missing = [seen for seen in later.missing if seen.worker != 1 or seen.evaluation]
    assert len(missing) <= sum(totals.unknown.values())
    assert any(seen.worker == 1 for seen in read_log(log))


@pytest.mark.parametrize("cell", ["old PPO", pytest.param("new PPO", marks=pytest.mark.wide)])
def test_evaluations_alone_are_recorded(
    cell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    booked = Booked(monkeypatch)
    log = tmp_path / "log"
    log.mkdir()
    store = PolicyStore(tmp_path / "store")
    pool = _pool(League(store, "duel"))
    # All env runners live in this process, and share the table of who plays.
    with built(_config(cell, pool, log, runners=0, evals=0)) as algo:
        for _ in range(3):
            algo.evaluate()

    verdict, _ = booked.verdict(store, log, evaluation=True)
    assert verdict.faults == []
    assert verdict.recorded >= 5
