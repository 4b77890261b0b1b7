"""Remember in the target how far a copy has come, where the lists of versions differ."""

from __future__ import annotations

from policystore.digest import digest_of
from policystore.errors import FormatError, IntegrityError, NotFoundError
from policystore.format.keys import MAX_RECORD, copied_key
from policystore.format.records import Copied
from policystore.repository.mirror.sides import Record, Sides

__all__ = ["Cursors"]


class Cursors:
    """The cursor of one name, for one source.

    Args:
        sides: the two stores.
        name: the name.
    """

    def __init__(self, sides: Sides, name: str) -> None:
        (first,) = sides.versions(sides.source, name, [1])
        self._sides, self._name = sides, name
        # Version 1 belongs to the source as long as the source exists.
        self._key = copied_key(name, first.version.nonce)

    def read(self, source: int, target: int, marks: int) -> Copied | None:
        """Read the cursor; None if there is none that fits the two stores as they are now.

        Args:
            source, target: the newest versions of the two stores.
            marks: the newest mark of the source.
        """
        sides = self._sides
        try:
            data = sides.target.get(self._key, limit=MAX_RECORD)
            cursor = Copied.from_bytes(data, sides.target.location(self._key))
            if cursor.number > source or cursor.target > target or cursor.marks != marks:
                return None
            (record,) = sides.versions(sides.source, self._name, [cursor.number])
        except (NotFoundError, FormatError, IntegrityError):
            return None
        # Another source may have the same version 1: a copy that has gone on differently.
        return cursor if digest_of(record.data) == cursor.record else None

    def write(self, last: Record, marks: int, target: int) -> None:
        """Write the cursor.

        Args:
            last: the version of the source up to which all were copied.
            marks, target: as in :class:`Copied`.
        """
        cursor = Copied(last.number, digest_of(last.data), marks, target)
        self._sides.replace(self._key, cursor.to_bytes())
