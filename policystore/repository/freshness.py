"""Check the objects of a policy again if the record that needs these objects comes late.

A push finds out which objects a store has, writes the others, and creates a record at last. In
between, the collector may move an object to the trash, because no record needs the object yet. The
object can be read from there, and the next collection puts it back, as long as the record is
created soon. After :data:`MAX_DELAY` the objects have to be checked again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from policystore._util.deadlines import Clock, LateError, boottime, deadline
from policystore.errors import StorageError

__all__ = ["MAX_DELAY", "Freshness"]

MAX_DELAY = 30 * 60.0
"""How many seconds after the first check of its objects a record may be created at most. The grace
of a collection has to be longer than this time and the time for which the collector works on one
object (:data:`policystore.repository.collect.sweep.MAX_MOVE`) together."""

_MAX_CHECKS = 10

_Out = TypeVar("_Out")


class Freshness:
    """Create records only while the last check of their objects is fresh.

    A record here is one that makes the collector keep objects: the record of a version, of a push
    without a name, or a mark that restores versions.

    Args:
        check: makes sure that the store has every object of the record, as a push does that writes
            each object. It may be called several times.
        again: the same for all calls but the first; by default ``check``.
        clock: the clock; it should count the time that the machine is suspended.
    """

    def __init__(
        self,
        check: Callable[[], object],
        *,
        again: Callable[[], object] | None = None,
        clock: Clock = boottime,
    ) -> None:
        self._checks = (check, check if again is None else again)
        self._clock = clock
        self._count = 0
        self._began = 0.0

    def check(self) -> None:
        """Check the objects, and note when the check began.

        Raises:
            StorageError: the storage failed, or each check takes longer than :data:`MAX_DELAY`.
            PolicyStoreError: what the check raises.
        """
        if self._count >= _MAX_CHECKS:
            raise StorageError(
                f"the objects of a policy were checked {_MAX_CHECKS} times, and each time more "
                f"than {MAX_DELAY / 60:.0f} minutes passed before the record of the policy could "
                "be written. Nothing was recorded. Use a faster connection, or a smaller policy."
            )
        began = self._clock()
        self._checks[min(self._count, 1)]()
        self._count += 1
        self._began = began

    def call(self, create: Callable[[], _Out]) -> _Out:
        """Call a function that creates the record, and return its result.

        No try to create the record begins later than :data:`MAX_DELAY` after the last check began.
        If it is later, or if a retry would be later, the objects are checked again, and the
        function is called again. So the function may create the record twice under the same key; it
        has to recognize its own record, as :meth:`RecordLog.append` does.

        Args:
            create: creates the record.

        Raises:
            PolicyStoreError: as in :meth:`check`, or what ``create`` raises.
        """
        if not self._count:
            self.check()
        while True:
            with suppress(LateError), deadline(self._began + MAX_DELAY, self._clock):
                return create()
            self.check()
