"""Names and tags: append-only lists of numbered records, moved only by creating the next number.

Numbers are dense: N+1 is created only after N was read, so that the newest is found by doubling
probes, and two writers at once cannot leave a gap or share a number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from policystore.backends.base import Backend
from policystore.errors import FormatError, NotFoundError, StorageError
from policystore.layout import MAX_NUMBER, MAX_RECORD, hint_key, tag_key, version_key
from policystore.records import Hint

__all__ = ["NumberedList", "tag_list", "version_list"]


@dataclass(frozen=True)
class NumberedList:
    """Records 1, 2, 3, … under keys of one backend.

    Attributes:
        backend: where.
        key: the key of a number.
        hint: the key of the hint, if there is one.
    """

    backend: Backend
    key: Callable[[int], str]
    hint: str | None = None

    def read(self, number: int) -> bytes:
        """The bytes of one record.

        Raises:
            NotFoundError: there is no such number.
        """
        return bytes(self.backend.get(self.key(number), limit=MAX_RECORD))

    def latest(self) -> int:
        """The newest number, 0 for an empty list; a number of probes that hardly grows.

        A number created meanwhile may or may not be seen.
        """
        low = self._hinted()
        if low and not self._exists(low):
            low = 0
        step = 1
        while self._exists(low + step):
            low += step
            step *= 2
        high = low + step  # absent
        while high - low > 1:
            middle = (low + high) // 2
            if self._exists(middle):
                low = middle
            else:
                high = middle
        return low

    def append(self, make: Callable[[int, bytes | None], bytes], nonce: str) -> bytes:
        """Create the next number, whoever else is creating.

        Args:
            make: the record for a number, given the one before it; called again for each number
                that somebody else took. What it raises ends this, with nothing created.
            nonce: what the record holds as its nonce, by which it is known again.

        Returns:
            The bytes of the record that now stands.
        """
        number = self.latest()
        previous = self.read(number) if number else None
        while number < MAX_NUMBER:
            number += 1
            data = make(number, previous)
            if self.backend.create(self.key(number), data):
                return data
            previous = self.read(number)
            if previous == data or nonce.encode("ascii") in previous:
                # Refused because of our own first try, whose answer was lost on the way.
                return previous
        raise StorageError(f"{self.backend.location(self.key(number))}: no numbers are left")

    def _exists(self, number: int) -> bool:
        return number <= MAX_NUMBER and self.backend.size(self.key(number)) is not None

    def _hinted(self) -> int:
        if self.hint is None:
            return 0
        try:
            data = self.backend.get(self.hint, limit=MAX_RECORD)
            return Hint.from_bytes(data, self.backend.location(self.hint)).number
        except (NotFoundError, FormatError, StorageError):
            # The hint only saves probes; verify() reports one that cannot be read.
            return 0


def version_list(backend: Backend, name: str) -> NumberedList:
    """The versions of a name."""
    return NumberedList(backend, lambda number: version_key(name, number), hint_key(name))


def tag_list(backend: Backend, name: str, tag: str) -> NumberedList:
    """The moves of a tag."""
    return NumberedList(backend, lambda number: tag_key(name, tag, number))
