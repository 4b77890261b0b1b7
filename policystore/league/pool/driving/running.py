"""A pool that plays: gathers records, records matches, takes snapshots, makes tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ray.rllib.algorithms.algorithm import Algorithm

from policystore._util.log import logger
from policystore.errors import StorageError
from policystore.league.pool.driving.booking import Book, with_labels
from policystore.league.pool.driving.gather import Gatherer
from policystore.league.pool.driving.members import Members
from policystore.league.pool.driving.resetting import reset_learner
from policystore.league.pool.driving.settings import DriverSettings, Learner
from policystore.league.pool.driving.snapshots import Snapshots
from policystore.league.pool.driving.tables import Tables
from policystore.rllib.callbacks.results import env_steps

__all__ = ["RunningPool"]

_FIRST_TIMEOUT = 120.0  # seconds for the pushes of the first snapshots
_START, _RESTORED = "start of training", "after a restore of weights that the pool does not have"


class RunningPool:
    """The pool of one Algorithm, from its first sample or restore to the next restore.

    Args:
        algorithm: the Algorithm.
        settings: the settings of the driver.
        members: the members of the pool.
        snapshots: takes snapshots of the learners.
        gatherer: talks to the env runners.
        book: records the matches.
        names: id of a learner -> name of its snapshots.
        round_: number of the last tables that were made.

    Raises:
        PolicyStoreError: the store cannot be used, the pool's members do not fit, or a sampler
            returned something of the wrong form.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        settings: DriverSettings,
        members: Members,
        snapshots: Snapshots,
        gatherer: Gatherer,
        book: Book,
        names: Mapping[str, str],
        round_: int,
    ) -> None:
        self._algorithm = algorithm
        self._settings = settings
        self._members = members
        self._snapshots = snapshots
        self._gatherer = gatherer
        self._book = book
        self._names = names
        self._pushed = dict.fromkeys(names, 0)
        self._swaps = self._failed = 0
        members.refresh(before_first=True)
        if members.misfits:
            raise members.misfit_error()
        self._first_snapshots()
        members.refresh()
        if members.misfits:
            raise members.misfit_error()
        book.read()
        self._tables = Tables(
            settings.learners,
            members,
            book.tally,
            seed=settings.seed,
            decay=settings.decay,
            same_for_all=settings.same_for_all,
            round_=round_,
        )
        self.send_new_tables()

    @property
    def round(self) -> int:
        """Number of the last tables that were made."""
        return self._draws.round

    def _first_snapshots(self) -> None:
        """Take a snapshot of each learner that has none in the store, and wait for the pushes."""
        iteration = int(self._algorithm.iteration)
        for learner, head in self._snapshots.heads.items():
            if not head.player or not self._members.has(head.player):
                message = _RESTORED if iteration else _START
                self._snapshots.take(self._algorithm, learner, iteration, message, {})
        self._snapshots.wait(_FIRST_TIMEOUT, "the first snapshots of the pool")

    def send_new_tables(self) -> None:
        """Make tables from what the league knows now, and send them to all env runners."""
        self._draws = self._tables.draws(self._snapshots.heads)
        self.send_tables()

    def send_tables(self) -> None:
        """Send the present tables to all env runners."""
        self._gatherer.tell(self._algorithm, self._draws)

    def gather(self, wait: float | None = None) -> int:
        """Ask all env runners for their records, and record the matches.

        Args:
            wait: seconds in which the env runners may answer.

        Returns:
            How many env runners did not answer.
        """
        gathered = self._gatherer.gather(self._algorithm, wait=wait)
        self._swaps += gathered.swaps
        self._failed += gathered.failed
        matches = [with_labels(record.match, self._ref) for record in gathered.records]
        self._book.add(matches, int(self._algorithm.iteration), gathered.unknown)
        return len(gathered.silent)

    def _ref(self, player: str) -> str:
        member = self._members.find(player)
        return "" if member is None else member.candidate.ref

    def finish_iteration(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Gather, record, take snapshots, and send new tables; return entries for the result.

        Raises:
            PolicyStoreError: a push failed for a reason that a retry cannot solve; or a function of
                the user returned something of the wrong form.
        """
        self._snapshots.raise_fatal()
        iteration = int(result.get("training_iteration", self._algorithm.iteration))
        self._look_for_pushed()  # first, so that the matches get the refs of new snapshots
        silent = self.gather()
        if iteration % self._settings.refresh == 0:
            self._read_others()
        win_rates = self._take_snapshots(iteration, result)
        self.send_new_tables()
        return self._report(win_rates, silent)

    def _read_others(self) -> None:
        """Look for snapshots and matches that other processes have added."""
        try:
            self._members.refresh()
            self._book.read()
        except StorageError as error:
            logger.warning("opponent pool: goes on with the members that it knows: %s", error)

    def _look_for_pushed(self) -> None:
        newest = self._snapshots.newest()
        if newest == self._pushed:
            return
        try:
            self._members.refresh()
        except StorageError as error:
            logger.warning("opponent pool: new snapshots are not candidates yet: %s", error)
            return
        self._pushed = newest

    def _take_snapshots(self, iteration: int, result: Mapping[str, Any]) -> dict[str, float]:
        """Ask the triggers, and take the snapshots; return the win rates against the pool."""
        win_rates = {}
        for learner in self._settings.learners:
            progress = self._tables.progress(learner, self._snapshots.heads, iteration, result)
            win_rates[learner.id] = progress.win_rate
            reason = learner.snapshot(progress)
            if not reason:
                continue
            metrics: dict[str, Any] = {"win_rate": progress.win_rate, "episodes": progress.episodes}
            steps = env_steps(result)
            if steps is not None:
                metrics["env_steps"] = steps
            message = reason if isinstance(reason, str) else f"snapshot of {learner.id}"
            try:
                self._snapshots.take(self._algorithm, learner.id, iteration, message, metrics)
            except StorageError as error:
                logger.warning("opponent pool: no snapshot of %r: %s", learner.id, error)
                continue
            self._reset_perhaps(learner, iteration)
        return win_rates

    def _reset_perhaps(self, learner: Learner, iteration: int) -> None:
        seed = [self._settings.seed, iteration, self._snapshots.heads[learner.id].count]
        if np.random.default_rng(seed).random() >= learner.reset:
            return
        ref = learner.reset_to or f"{self._names[learner.id]}@1"
        snap = reset_learner(self._algorithm, self._settings.league.store, learner.id, ref)
        if snap is not None:
            self._snapshots.reset(learner.id, snap, iteration)

    def _report(self, win_rates: Mapping[str, float], silent: int) -> dict[str, Any]:
        status, book = self._snapshots.status(), self._book
        heads = self._snapshots.heads
        learners = {
            learner.id: {
                "candidates": self._tables.counts[learner.id],
                "win_rate": win_rates[learner.id],
                "snapshots": heads[learner.id].count,
                "resets": heads[learner.id].resets,
                "player": heads[learner.id].player,
                "name": self._names[learner.id],
                "pushed": status[learner.id]["pushed"],
                "error": status[learner.id]["error"],
            }
            for learner in self._settings.learners
        }
        return {
            "matches": book.matches,
            "episodes": book.episodes,
            "unknown": book.unknown.total(),
            "waiting": book.waiting,
            "swaps": self._swaps,
            "failed": self._failed,
            "silent": silent,
            "round": self._draws.round,
            "error": book.error,
            **learners,
        }
