"""Extend the list of versions of a name in the target of a copy."""

from __future__ import annotations

from dataclasses import replace

from policystore.digest import Digest, digest_of
from policystore.errors import InvalidInputError, StorageError
from policystore.format.keys import version_key
from policystore.format.records import Origin, Version
from policystore.format.refs import MAX_NUMBER
from policystore.repository.mirror.sides import Record, Sides
from policystore.repository.record_log import version_log

__all__ = ["VersionList"]

_WINDOW = 1024  # records that are read together


class VersionList:
    """The versions of a name in the target, up to a number that this list knows.

    Other writers may push at the same time. Their versions are read where a number that this list
    wants to create is taken.

    Args:
        sides: the two stores.
        name: the name.

    Attributes:
        number: the newest version that this list knows; 0 for none.
        last: the bytes of its record.
        marks: the newest mark of the name, as the hint says; 0 for none.
        numbers: nonce -> number of each version that this list has read.
        copies: the nonces of those that were copied from elsewhere, with their numbers.
    """

    def __init__(self, sides: Sides, name: str) -> None:
        self._sides, self._name = sides, name
        self.numbers: dict[str, int] = {}
        self.copies: dict[str, int] = {}
        self._scanned: range | None = None
        log = version_log(sides.target, name)
        hint, first = log.first_look()
        newest = log.newest(hint, first)
        self.marks = 0 if hint is None else hint.marks
        self.number = newest.number
        self.last = newest.data
        if newest.number and newest.data is None:
            self.last = log.read(newest.number)

    def scan(self, first: int) -> None:
        """Read the versions from ``first`` to :attr:`number` that were not read yet."""
        end = self.number + 1 if self._scanned is None else self._scanned.start
        for start in range(first, end, _WINDOW):
            numbers = range(start, min(start + _WINDOW, end))
            for record in self._sides.versions(self._sides.target, self._name, numbers):
                self._add(record.version, record.number)
        self._scanned = range(min(first, end), self.number + 1)

    def _add(self, version: Version, number: int) -> None:
        self.numbers.setdefault(version.nonce, number)
        if version.origin is not None:
            self.copies.setdefault(version.nonce, number)

    def create_next(self, data: bytes) -> bool:
        """Create the next version with given bytes; return False if its number is taken.

        A record that exists with the same bytes counts as created.
        """
        key = version_key(self._name, self.number + 1)
        found = self._sides.create_or_read(key, data)
        if found != data:
            return False
        self.number += 1
        self.last = data
        return True

    def append(self, record: Record) -> tuple[int, bool]:
        """Make the record of a version of the source anew, under the next free number.

        Returns:
            The number of the version in the target, and whether this call created the record:
            another copy may have copied the version before.
        """
        nonce = record.version.nonce
        data = found = b""
        while nonce not in self.numbers:
            number = self.number + 1
            if number > MAX_NUMBER:
                location = self._sides.target.location(version_key(self._name, self.number))
                raise StorageError(f"{location}: no numbers are left after this version")
            previous = None if self.last is None else digest_of(self.last)
            data = _made_anew(record, number, previous)
            key = version_key(self._name, number)
            found = self._sides.create_or_read(key, data)
            version = Version.from_bytes(found, self._sides.target.location(key))
            self.number, self.last = number, found
            self._add(version, number)
        return self.numbers[nonce], bool(data) and found == data


def _made_anew(record: Record, number: int, previous: Digest | None) -> bytes:
    """Return the record of a version under another number, with its origin."""
    version = record.version
    origin = Origin(version.name or "", record.number, digest_of(record.data))
    renumbered = replace(version, number=number, previous=previous, origin=origin)
    try:
        return renumbered.to_bytes()
    except InvalidInputError:
        # The origin makes the record too long. Readers find the objects in the policy object.
        try:
            return replace(renumbered, objects=None).to_bytes()
        except InvalidInputError as error:
            raise InvalidInputError(
                f"its record has no room to say from which version it was copied ({error})"
            ) from None
