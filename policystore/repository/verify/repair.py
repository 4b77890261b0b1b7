"""Put back records and objects from another store, after a proof that the bytes are the right ones.

An object is proved by its digest. A record is proved by the record after it, which holds its
digest. So a record that nothing follows is not put back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, Protocol, TypeVar

from policystore._util.batches import batches
from policystore._util.concurrency import in_parallel
from policystore.backends.base import Backend
from policystore.digest import Digest, digest_of
from policystore.errors import NotFoundError, PolicyStoreError
from policystore.format.keys import object_key
from policystore.repository.objects import ObjectReader
from policystore.repository.verify.run import Answer, read_key

__all__ = ["ChainRepair", "repair_object"]

_PAGE = 256  # records that are read before the next ones are begun


class _Linked(Protocol):
    @property
    def previous(self) -> Digest | None: ...


_Record = TypeVar("_Record", bound=_Linked)


def repair_object(source: Backend, backend: Backend, digest: Digest) -> bytes | memoryview | str:
    """Copy an object from another store, in place of a damaged or missing one.

    Returns:
        The bytes of the object, which were checked against the digest before they were written; or
        why the object could not be repaired.
    """
    try:
        data = ObjectReader(source).read(digest, limit=None)
        backend.put(object_key(digest), [data])
    except NotFoundError:
        return f"{source.url} does not have the object"
    except PolicyStoreError as error:
        return str(error)
    return data


@dataclass
class ChainRepair(Generic[_Record]):
    """Put back the records of one list that are missing, damaged or changed.

    Attributes:
        source: the storage of the other store.
        backend: the storage of the store to repair.
        key: returns the key of a number, in both stores.
        parse, belongs, limit: as in :class:`~policystore.repository.verify.chain.ChainForm`.
        reason: why a record was not put back; empty if all were.
    """

    source: Backend
    backend: Backend
    key: Callable[[int], str]
    parse: Callable[[bytes | memoryview, str], _Record]
    belongs: Callable[[_Record, int], bool]
    limit: int
    reason: str = ""
    _repaired: dict[int, _Record] = field(default_factory=dict)

    def run(self, listed: list[int]) -> dict[int, _Record]:
        """Walk from the newest record to the first, and put back what the next record proves.

        Args:
            listed: the numbers that exist, in ascending order.

        Returns:
            The records that were put back, by number.
        """
        following: _Record | None = None
        above = 0
        for page in batches(reversed(listed), _PAGE):
            answers = in_parallel(
                partial(self._read, self.backend), page, workers=self.backend.parallel
            )
            for number, answer in zip(page, answers, strict=True):
                following = self._fill(above, number, following)
                following = self._step(number, answer, following)
                above = number
        self._fill(above, 0, following)
        return self._repaired

    def _fill(self, above: int, below: int, following: _Record | None) -> _Record | None:
        """Put back the records between two numbers, from above; return the lowest one."""
        for number in range(above - 1, below, -1):
            following = self._step(number, None, following)
            if following is None:
                return None  # nothing proves the records below
        return following

    def _read(self, backend: Backend, number: int) -> Answer:
        return read_key(backend, self.key(number), self.limit)

    def _parse(self, number: int, data: Answer) -> _Record | None:
        """Return the record in some bytes; None if the bytes are not a record of this place."""
        if not isinstance(data, bytes):
            return None
        try:
            record = self.parse(data, self.key(number))
        except PolicyStoreError:
            return None  # the check of the list has reported the record
        return record if self.belongs(record, number) else None

    def _step(self, number: int, data: Answer, following: _Record | None) -> _Record | None:
        """Put back one record if it is wrong, and return the record that then stands there.

        Args:
            number: the number of the record.
            data: what stands there now; None for nothing.
            following: the record with the next number; None if that record cannot be read.
        """
        present = self._parse(number, data)
        proof = None if following is None else following.previous
        if proof is None:
            if present is None:
                self.reason = "no later record proves which bytes are right"
            return present
        if isinstance(data, bytes) and digest_of(data) == proof:
            return present
        good = self._read(self.source, number)
        record = self._parse(number, good)
        if record is None or not isinstance(good, bytes) or digest_of(good) != proof:
            self.reason = (
                f"{self.source.url} does not have the record whose digest the next record holds"
            )
            return present
        try:
            # Nobody else writes over a record that exists, and a missing one is only created.
            if not isinstance(data, bytes) and self.backend.create(self.key(number), good):
                pass
            elif self._read(self.backend, number) != good:
                self.backend.replace(self.key(number), good)
        except PolicyStoreError as error:
            self.reason = str(error)
            return present
        self._repaired[number] = record
        return record
