"""Digests: BLAKE3 hashes of bytes, in a class of their own and not as strings.

BLAKE3 (O'Connor, Aumasson, Neves, Wilcox-O'Hearn, 2020) is fast enough that a verified read takes
no longer than an unverified one. ``b3sum`` checks the objects of a store without this library.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import blake3

from policystore.errors import InvalidInputError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["PREFIX", "Digest", "Hasher", "digest_of"]

PREFIX = "blake3:"
_HEX = re.compile(r"[0-9a-f]{64}\Z")
_PRINTED = re.compile(PREFIX + r"([0-9a-f]{64})\Z")


@dataclass(frozen=True, order=True)
class Digest:
    """The address of immutable bytes: the 64 hexadecimal digits of their BLAKE3 hash.

    ``str(digest)`` is ``blake3:…``. Equal digests mean equal bytes.

    Raises:
        InvalidInputError: ``hex`` is not 64 lower-case hexadecimal digits.
    """

    hex: str

    def __post_init__(self) -> None:
        if not isinstance(self.hex, str) or not _HEX.match(self.hex):
            raise InvalidInputError(
                f"a digest is 64 lower-case hexadecimal digits; found {self.hex!r:.100}. "
                "Use Digest.parse() for the form with the prefix 'blake3:'."
            )

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read the printed form, ``blake3:`` and 64 digits.

        Raises:
            InvalidInputError: a text of another form.
        """
        match = _PRINTED.match(text) if isinstance(text, str) else None
        if match is not None:
            return cls.of_digits(match[1])
        if not isinstance(text, str) or not text.startswith(PREFIX):
            raise InvalidInputError(f"a digest starts with {PREFIX!r}; found {text!r:.100}")
        return cls(text[len(PREFIX) :])

    @classmethod
    def of_digits(cls, digits: str) -> Digest:
        """Return a digest whose 64 digits were checked already, or were written by a hash function.

        A call that handles every object of a store would spend much of its time on a second check.
        """
        digest = object.__new__(cls)
        object.__setattr__(digest, "hex", digits)
        return digest

    # A dataclass would make a tuple for each of these calls.

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return self.hex == other.hex

    def __hash__(self) -> int:
        return hash(self.hex)

    def __str__(self) -> str:
        return PREFIX + self.hex

    @property
    def short(self) -> str:
        """``blake3:`` and the first 12 digits, for tables and messages."""
        return PREFIX + self.hex[:12]


class Hasher:
    """Compute the digest of bytes that come in pieces.

    The hash runs in one thread: a pool of threads does not survive ``fork``, and the forked process
    would hang.
    """

    def __init__(self) -> None:
        self._hash = blake3.blake3()

    def update(self, chunk: Buffer) -> None:
        """Add the next piece: bytes, or a contiguous buffer of bytes."""
        self._hash.update(chunk)

    def digest(self) -> Digest:
        """Return the digest of all pieces, joined together."""
        return Digest.of_digits(self._hash.hexdigest())


def digest_of(*chunks: Buffer) -> Digest:
    """Hash the concatenation of ``chunks`` without joining them.

    Args:
        chunks: bytes, or contiguous buffers of bytes.
    """
    hasher = Hasher()
    for chunk in chunks:
        hasher.update(chunk)
    return hasher.digest()
