"""Keep what the records of a store say of policies, until the policies are read."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import blake3

from policystore.digest import Digest
from policystore.format.keys import version_key
from policystore.format.records import Kept, Version
from policystore.repository.verify.listing import (
    Flag,
    Inventory,
    bytes_of,
    kept_key_of,
)
from policystore.repository.verify.run import Need, Run
from policystore.repository.verify.selection import Selection

__all__ = ["Claims", "PolicyFacts"]


@dataclass(frozen=True)
class PolicyFacts:
    """The facts about a policy that each of its records must repeat.

    Attributes:
        objects: digest -> size in bytes of each object of the policy.
        parts: the digests of its weights, of the weights that acting needs, and of its state; None
            if they are not known.
    """

    objects: Mapping[Digest, int]
    parts: tuple[Digest, Digest, Digest] | None


class Claims:
    """What versions that stand, and pushes without a name, say of their policies.

    Each policy takes 44 bytes: where the record is, and two shortened digests of what it says.
    Policies that were not listed are left out: nothing is compared with them.

    Args:
        inventory: the keys of the store. Its objects get flags.
        selection: the objects that this run reads.
    """

    def __init__(self, inventory: Inventory, selection: Selection) -> None:
        self._selection = selection
        self._objects = inventory.objects
        self._kept = inventory.kept
        self._names: list[str] = []
        self._claims = bytearray()
        # place of an object -> the number of its first claim, from 1 on; 0 for no claim
        self._first = array("I", bytes(4 * len(inventory.objects.sizes)))
        self._more: dict[int, list[bytes]] = {}

    def add(self, record: Version | Kept, need: Need, kept: int = 0) -> None:
        """Add what a record says.

        Args:
            record: the record.
            need: says where the record is.
            kept: if the record is that of a push without a name, its place in the inventory.
        """
        digest = bytes_of(record.digest)
        self._flag_read_before(digest, record.objects or {})
        place = self._objects.digests.place(digest)
        if place is None:
            return
        self._objects.flags[place] |= Flag.NAMED
        parts = (
            (record.weights_digest, record.acting_digest, record.state_digest)
            if isinstance(record, Version)
            else None
        )
        said = (_short_objects(record.objects), _short_parts(parts))
        claim = _CLAIM.pack(
            kept if need.name is None else self._number_of(need.name), need.number, *said
        )
        number = self._first[place]
        if not number:
            self._claims += claim
            self._first[place] = len(self._claims) // _CLAIM.size
        elif _CLAIM.unpack(self._claim(number))[2:] != said:
            self._more.setdefault(place, []).append(claim)

    def _number_of(self, name: str) -> int:
        if not self._names or self._names[-1] != name:  # names are read one by one
            self._names.append(name)
        return len(self._names) - 1

    def _flag_read_before(self, digest: bytes, objects: Iterable[Digest]) -> None:
        """Flag the tensors of a policy that the run before this one has read."""
        selection = self._selection
        if selection.stage == 1 and not selection.first:
            return
        if selection.stage > 1 or selection.position(digest) < selection.first:
            for each in objects:
                self._objects.set_flag(bytes_of(each), Flag.READ_BEFORE)

    def retire(self, digest: Digest) -> None:
        """Note that a version of this policy is deleted."""
        self._objects.set_flag(bytes_of(digest), Flag.RETIRED)

    def needs(self, place: int) -> list[Need]:
        """Return the records that need the policy at a place; of equal records the first."""
        return [self._need(*_CLAIM.unpack(claim)[:2]) for claim in self._of(place)]

    def _of(self, place: int) -> list[bytes]:
        number = self._first[place]
        return [self._claim(number), *self._more.get(place, ())] if number else []

    def _claim(self, number: int) -> bytes:
        return bytes(self._claims[(number - 1) * _CLAIM.size : number * _CLAIM.size])

    def _need(self, source: int, number: int) -> Need:
        if not number:
            return Need(kept_key_of(self._kept.item(source)))
        name = self._names[source]
        return Need(version_key(name, number), name, number)

    def compare(self, run: Run, place: int, facts: PolicyFacts) -> None:
        """Compare what the records say of a policy with the facts, and report the differences."""
        objects, parts = _short_objects(facts.objects), _short_parts(facts.parts)
        for claim in self._of(place):
            source, number, said_objects, said_parts = _CLAIM.unpack(claim)
            if _NOTHING not in (said_parts, parts) and said_parts != parts:
                key = self._need(source, number).key
                run.add_fault(key, "the recorded digests of parts are not those of the policy")
            if said_objects != _NOTHING and said_objects != objects:
                key = self._need(source, number).key
                run.add_fault(key, "the recorded list of objects is not that of the policy")


_CLAIM = struct.Struct("<IQ16s16s")
_NOTHING = bytes(16)


def _short_objects(objects: Mapping[Digest, int] | None) -> bytes:
    if objects is None:
        return _NOTHING
    return _short(f"{digest.hex}:{size}" for digest, size in sorted(objects.items()))


def _short_parts(parts: tuple[Digest, Digest, Digest] | None) -> bytes:
    return _NOTHING if parts is None else _short(digest.hex for digest in parts)


def _short(texts: Iterable[str]) -> bytes:
    return blake3.blake3(" ".join(texts).encode("ascii")).digest()[:16]
