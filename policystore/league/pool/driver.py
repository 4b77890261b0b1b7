"""The driver of an opponent pool: the calls of RLlib in the process of the Algorithm.

Before the first sample the driver checks the Algorithm, takes the first snapshots, and sends each
env runner the tables from which it draws opponents. After each iteration the driver asks all env
runners for their records, records the matches in the league, takes snapshots, and sends new tables.
All state is in the league and the store, but for a few plain values in each checkpoint.
"""

from __future__ import annotations

import functools
import re
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm

from policystore._util.log import logger
from policystore.errors import PolicyStoreError, StorageError
from policystore.league.pool.driving.booking import Book
from policystore.league.pool.driving.checks import check_algorithm
from policystore.league.pool.driving.gather import Gatherer
from policystore.league.pool.driving.members import Members
from policystore.league.pool.driving.running import RunningPool
from policystore.league.pool.driving.settings import DriverSettings
from policystore.league.pool.driving.snapshots import Head, Snapshots
from policystore.league.pool.samplers import anchors_of
from policystore.rllib.callbacks.lineage import Ancestor, Lineage, Restore, Tracker, start_of
from policystore.rllib.callbacks.restore import block_until_restored, restore_added_policies
from policystore.rllib.callbacks.results import add_to_result
from policystore.rllib.callbacks.trial import TRIAL, TrialParams, trial_of
from policystore.rllib_schema.trials import name_part
from policystore.snapshot import Snapshot

__all__ = ["Driver"]

_NOTE = "opponent_pool"
_TIME = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d")
_LAST_WAIT = 10.0  # seconds for the last records, before the workers are stopped


class Driver:
    """Drives the pool of one Algorithm.

    Args:
        settings: the settings.
        algorithm: an Algorithm whose workers were made, and have not sampled.

    Raises:
        InvalidInputError: the Algorithm does not fit the pool; the message lists why. In Tune, the
            first ``train()`` raises this.
    """

    def __init__(self, settings: DriverSettings, algorithm: Algorithm) -> None:
        self._settings = settings
        self._algorithm = algorithm
        store = settings.league.store
        restore_added_policies(algorithm)
        experiment, trial = trial_of(algorithm)
        tracker = Tracker.of(algorithm, f"{experiment}/{trial}" if trial else uuid.uuid4().hex)
        part = name_part(trial or tracker.run)
        self._names = {each.id: each.name.replace(TRIAL, part) for each in settings.learners}
        self._in_tune = bool(trial)
        self._snapshots = Snapshots(
            store,
            self._names,
            run=tracker.run,
            league=settings.league.name,
            # Without a time in the folder name, versions may come from another run of that name.
            resumes=bool(trial and _TIME.search(tracker.run)),
            trial_source=TrialParams(algorithm).source,
            lineage=Lineage(start=start_of(algorithm)),
        )
        self._gatherer = Gatherer(settings.exchange)
        self._book = Book(settings.league, settings.env_of(algorithm.config))
        self._round = 0
        self._pool: RunningPool | None = None
        self._error: PolicyStoreError | None = None
        slots = self._checked_slots()
        anchors = [ref for each in settings.learners for ref in anchors_of(each.sampler)]
        self._members = Members(
            store, self._names, [*settings.opponents, *anchors], settings.heuristics, slots
        )
        tracker.follow(self)
        tracker.note(_NOTE, self._state)
        self._wrap()

    def _checked_slots(self) -> Mapping[str, Snapshot]:
        """Check the Algorithm; return what a slot of each kind holds now."""
        settings = self._settings
        checked = check_algorithm(
            self._algorithm,
            store=settings.league.store,
            learners=[each.id for each in settings.learners],
            slots=settings.slots,
            heuristics=settings.heuristics,
            filters=settings.filters,
            mapping=settings.mapping,
            opponents=settings.opponents_each,
        )
        for warning in checked.warnings:
            logger.warning("opponent pool: %s", warning)
        try:
            checked.raise_if_bad(self._description())
        except PolicyStoreError as error:
            if not self._in_tune:
                raise
            # In Tune an error raised here would be reported as ActorDiedError.
            self._error = error
            block_until_restored(self._algorithm, error)
        return checked.slots

    def _start(self) -> None:
        """Begin, or go on after a restore.

        Raises:
            PolicyStoreError: as :class:`RunningPool`, or the Algorithm does not fit the pool.
        """
        if self._error is not None:
            raise self._error
        if self._pool is not None:
            return
        try:
            self._pool = RunningPool(
                self._algorithm,
                self._settings,
                self._members,
                self._snapshots,
                self._gatherer,
                self._book,
                self._names,
                self._round,
            )
        except PolicyStoreError as error:
            raise error.within(self._description()) from error

    # RLlib's calls -------------------------------------------------------------------------------

    def on_train_result(self, result: dict[str, Any]) -> None:
        """Gather, record, take snapshots, make new tables, and report."""
        if self._pool is None:
            return
        began = time.perf_counter()
        report = self._pool.finish_iteration(result)
        report["seconds"] = time.perf_counter() - began
        add_to_result(result, _NOTE, report)

    def on_evaluate_end(self) -> None:
        """Gather what evaluation workers have recorded."""
        if self._pool is not None:
            self._pool.gather()

    def on_env_runners_recreated(self) -> None:
        """Send the present tables, so that restarted env runners draw from them at once."""
        if self._pool is not None:
            self._pool.send_tables()

    # Called by the Tracker -----------------------------------------------------------------------

    def newest_copies(self) -> dict[str, list[Ancestor]]:
        """Return the snapshots from which the next ones descend, for a checkpoint's record."""
        return self._snapshots.newest_copies()

    def restored(self, algorithm: Algorithm, restore: Restore) -> None:
        """Go on where the checkpoint was; the next iteration reads the pool from the store."""
        self._snapshots.restored(restore)
        note = restore.notes.get(_NOTE, {"learners": {}, "itself": {}, "round": 0})
        for learner in self._snapshots.heads:
            known = note["learners"].get(learner)
            head = Head(iteration=restore.iteration) if known is None else Head.from_json(known)
            self._snapshots.heads[learner] = head
        self._book.tally.itself = {
            player: [float(number) for number in score] for player, score in note["itself"].items()
        }
        # Env runners that kept running ignore tables whose number is lower than that of their own.
        self._round = max(self._present_round(), int(note["round"]))
        self._pool = None

    def _state(self) -> dict[str, Any]:
        """Return plain values for a checkpoint, after everything that waits is recorded."""
        self._book.flush()
        heads = self._snapshots.heads
        itself = self._book.tally.itself
        return {
            "learners": {pid: head.to_json() for pid, head in heads.items()},
            "itself": {
                head.player: itself[head.player] for head in heads.values() if head.player in itself
            },
            "round": self._present_round(),
        }

    def _present_round(self) -> int:
        return self._round if self._pool is None else self._pool.round

    # ---------------------------------------------------------------------------------------------

    def holding(self) -> dict[str, dict[str, str]]:
        """Return, by env runner, what each of its slots held when it last answered."""
        return {name: dict(life.holding) for name, life in self._gatherer.lives.items()}

    def _description(self) -> str:
        names = ", ".join(f"{pid!r} as {name!r}" for pid, name in self._names.items())
        return f"opponent pool of {names} in {self._settings.league.store.url}"

    def _wrap(self) -> None:
        algorithm = self._algorithm
        for name in ("step", "evaluate"):
            setattr(algorithm, name, self._starting(getattr(algorithm, name)))
        algorithm.cleanup = self._flushing(algorithm.cleanup)

    def _starting(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def start_and_call(*args: Any, **kwargs: Any) -> Any:
            self._start()
            return method(*args, **kwargs)

        return start_and_call

    def _flushing(self, cleanup: Callable[[], None]) -> Callable[[], None]:
        """Return a ``cleanup`` that gathers the last records, and waits for the pushes."""

        @functools.wraps(cleanup)
        def gather_clean_and_wait() -> None:
            try:
                if self._pool is not None:
                    self._pool.gather(_LAST_WAIT)
            except Exception as error:  # whatever it is, the workers have to be stopped
                logger.error("opponent pool: the last records were not gathered: %r", error)
            try:
                cleanup()
            finally:
                lost = self._finish()
            if lost and not self._in_tune:
                raise StorageError(lost)

        return gather_clean_and_wait

    def _finish(self) -> str:
        """Wait for pushes; return what was lost, as text."""
        texts = []
        try:
            self._snapshots.wait(self._settings.timeout, self._description())
        except StorageError as error:
            texts.append(str(error))
        self._book.flush(last=True)
        if self._book.waiting:
            texts.append(f"{self._book.waiting} matches were not recorded: {self._book.error}")
            logger.error("%s: %s", self._description(), texts[-1])
        self._book.end()
        return "\n".join(texts)
