"""Choose the objects that one run of verify reads: a share of them, new ones, those not yet read.

A digest is a number of 256 bits. A share is a range of these numbers, which may go over the end to
the beginning. A run reads the objects of its share in ascending order, so one digest says how far
the run has come.
"""

from __future__ import annotations

import datetime
import re
import secrets
import time
from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from policystore._util.messages import brief
from policystore.errors import InvalidInputError
from policystore.repository.packed_digests import PackedDigests

__all__ = ["Places", "Selection", "make_selection", "parse_since"]

Places: TypeAlias = "npt.NDArray[np.uint32]"
"""Places of digests, as :class:`~policystore.repository.packed_digests.PackedDigests` has them."""

_ALL = 1 << 256
_CURSOR = re.compile(r"v1:([123]):([0-9a-f]{64}):([0-9a-f]{1,65}):([0-9a-f]{1,65})\Z")


@dataclass(frozen=True)
class Selection:
    """The objects that a run still has to read.

    Attributes:
        start: the number at which the share begins.
        width: how many numbers the share has.
        stage: 1 while policies with a record are read, 2 for all other objects, 3 for the trash.
        first: the first number of the stage that was not read, counted from ``start``.
    """

    start: int = 0
    width: int = _ALL
    stage: int = 1
    first: int = 0

    def position(self, digest: bytes) -> int:
        """Return the number of a digest, counted from the start of the share."""
        return (int.from_bytes(digest[:32], "big") - self.start) % _ALL

    def holds(self, digest: bytes) -> bool:
        """Return whether the share has a digest, also if an earlier run has read it."""
        return self.width == _ALL or self.position(digest) < self.width

    def order(self, digests: PackedDigests, places: Places, stage: int) -> Places:
        """Return what a stage has to read, in the order of the share.

        Args:
            digests: the digests.
            places: the places of digests, in the order of the digests.
            stage: the stage.
        """
        if stage < self.stage:
            return places[:0]

        def number(place: int) -> int:
            return int.from_bytes(digests.item(place)[:32], "big")

        def position(place: int) -> int:
            return self.position(digests.item(place))

        begin = bisect_left(places, self.start, key=number)
        turned = np.concatenate([places[begin:], places[:begin]])
        first = self.first if stage == self.stage else 0
        return turned[
            bisect_left(turned, first, key=position) : bisect_left(turned, self.width, key=position)
        ]

    def cursor(self, stage: int, last: bytes | None) -> str:
        """Return the text from which a later run goes on.

        Args:
            stage: the present stage.
            last: the last digest that was read; None if the stage has only begun.
        """
        first = 0 if last is None else self.position(last) + 1
        if stage == self.stage:
            first = max(first, self.first)
        return f"v1:{stage}:{self.start:064x}:{self.width:x}:{first:x}"

    def next_share(self) -> str | None:
        """Return the cursor of the next share; None if this share is the whole store."""
        if self.width == _ALL:
            return None
        following = replace(self, start=(self.start + self.width) % _ALL, stage=1, first=0)
        return following.cursor(1, None)


def make_selection(fraction: float | None, resume: str | None) -> Selection:
    """Return the objects that a run has to read.

    Args:
        fraction: which part of the objects to read, above 0 and at most 1; None for all.
        resume: the cursor of an earlier report; None to begin a new run. The new run of a fraction
            begins at a random place.

    Raises:
        InvalidInputError: not a fraction, or not a cursor.
    """
    if fraction is not None and (type(fraction) not in (int, float) or not 0 < fraction <= 1):
        raise InvalidInputError(
            f"fraction is the part of the objects to read, above 0 and at most 1, not "
            f"{brief(fraction)}; 0.1 reads a tenth of them"
        )
    width = _ALL if fraction is None else max(1, int(fraction * _ALL))
    if resume is None:
        return Selection(0 if width == _ALL else secrets.randbits(256), width)
    match = _CURSOR.match(resume) if isinstance(resume, str) else None
    if match is None or not 0 < int(match.group(3), 16) <= _ALL:
        raise InvalidInputError(
            f"resume is the cursor of an earlier report, report.cursor, not {brief(resume)}"
        )
    stage = int(match.group(1))
    start, written, first = (int(digits, 16) for digits in match.groups()[1:])
    begins = stage == 1 and first == 0
    return Selection(start, width if begins and fraction is not None else written, stage, first)


def parse_since(since: datetime.datetime | datetime.timedelta | None) -> float | None:
    """Return the time from which on keys are checked, in seconds since 1970; None for all keys.

    Args:
        since: a time with its zone, or how long ago, by the clock of this machine.

    Raises:
        InvalidInputError: another value.
    """
    if since is None:
        return None
    if isinstance(since, datetime.timedelta) and since > datetime.timedelta(0):
        return time.time() - since.total_seconds()
    if isinstance(since, datetime.datetime) and since.tzinfo is not None:
        return since.timestamp()
    raise InvalidInputError(
        "since is how long ago, as timedelta(days=1), or a datetime with its zone, as "
        f"datetime.now(timezone.utc), not {brief(since)}"
    )
