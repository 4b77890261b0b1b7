"""Keep what the records of a store say of policies, until the policies are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import blake3

from policystore.digest import Digest
from policystore.format.keys import version_key
from policystore.format.records import Kept, Version
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

    Each claim takes about 300 bytes: the digest of the policy, where the record is, and two
    shortened digests of what it says.

    Args:
        selection: the objects that this run reads.

    Attributes:
        retired: the policies of deleted versions.
        read_before: the tensors of policies that the run before this one has read.
    """

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._claims: dict[bytes, tuple[str, int, bytes]] = {}
        self._more: dict[bytes, list[tuple[str, int, bytes]]] = {}
        self.retired: set[bytes] = set()
        self.read_before: set[bytes] = set()

    def add(self, record: Version | Kept, need: Need) -> None:
        """Add what a record says; ``need`` says where the record is."""
        digest = bytes.fromhex(record.digest.hex)
        said = _short_objects(record.objects)
        if isinstance(record, Version):
            said += _short_parts((record.weights_digest, record.acting_digest, record.state_digest))
        claim = (need.name or need.key, need.number, said)
        first = self._claims.setdefault(digest, claim)
        if first[2] != said:
            self._more.setdefault(digest, []).append(claim)
        self._note_read_before(digest, record.objects or {})

    def _note_read_before(self, digest: bytes, objects: Iterable[Digest]) -> None:
        selection = self._selection
        if selection.stage == 1 and not selection.first:
            return
        position = selection.position(digest)
        if selection.stage > 1 or position < selection.first:
            self.read_before.update(bytes.fromhex(each.hex) for each in objects)

    def retire(self, digest: Digest) -> None:
        """Note that a version of this policy is deleted."""
        self.retired.add(bytes.fromhex(digest.hex))

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._claims

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._claims)

    def needs(self, digest: bytes) -> list[Need]:
        """Return the records that need a policy; of equal records the first."""
        return [_need(claim) for claim in self._of(digest)]

    def _of(self, digest: bytes) -> list[tuple[str, int, bytes]]:
        claim = self._claims.get(digest)
        return [] if claim is None else [claim, *self._more.get(digest, ())]

    def compare(self, run: Run, digest: bytes, facts: PolicyFacts) -> None:
        """Compare what the records say of a policy with the facts, and report the differences."""
        objects, parts = _short_objects(facts.objects), _short_parts(facts.parts)
        for claim in self._of(digest):
            said_objects, said_parts = claim[2][:16], claim[2][16:]
            key = _need(claim).key
            if said_parts and parts and said_parts != parts:
                run.add_fault(key, "the recorded digests of parts are not those of the policy")
            if said_objects != _NOTHING and said_objects != objects:
                run.add_fault(key, "the recorded list of objects is not that of the policy")


_NOTHING = bytes(16)


def _need(claim: tuple[str, int, bytes]) -> Need:
    place, number, _ = claim
    return Need(version_key(place, number), place, number) if number else Need(place)


def _short_objects(objects: Mapping[Digest, int] | None) -> bytes:
    if objects is None:
        return _NOTHING
    return _short(f"{digest.hex}:{size}" for digest, size in sorted(objects.items()))


def _short_parts(parts: tuple[Digest, Digest, Digest] | None) -> bytes:
    return b"" if parts is None else _short(digest.hex for digest in parts)


def _short(texts: Iterable[str]) -> bytes:
    return blake3.blake3(" ".join(texts).encode("ascii")).digest()[:16]
