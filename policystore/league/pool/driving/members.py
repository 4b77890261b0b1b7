"""The members of a pool: the snapshots in the store that may be opponents, and heuristics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from policystore._util.log import logger
from policystore.errors import InvalidInputError, MismatchError, PolicyStoreError
from policystore.format.records import Version
from policystore.league.pool.driving.architecture import architecture_of, differences
from policystore.league.pool.messages import Candidate
from policystore.repository.lookup.state import read_state
from policystore.snapshot import Snapshot
from policystore.store import PolicyStore

__all__ = ["ARCHITECTURE", "HEURISTIC", "Member", "Members"]

ARCHITECTURE = "architecture"
"""Key in the ``source`` of a version: :func:`architecture_of` its policy."""

HEURISTIC = "heuristic:"


@dataclass(frozen=True)
class Member:
    """One snapshot of a pool.

    Attributes:
        candidate: how env runners know the snapshot.
        learner: id of the learner whose name the version is under; "" for a fixed opponent.
        time: when the version was pushed; fixed opponents come first.
    """

    candidate: Candidate
    learner: str
    time: Any = None


class Members:
    """Finds the members of a pool in the store.

    Args:
        store: the store.
        names: id of a learner -> name of its snapshots.
        fixed: refs of policies that are always members.
        heuristics: name -> id of a policy of the config that plays as it is.
        slots: kind -> what a slot of this kind held at the start.
    """

    def __init__(
        self,
        store: PolicyStore,
        names: Mapping[str, str],
        fixed: Iterable[str],
        heuristics: Mapping[str, str],
        slots: Mapping[str, Snapshot],
    ) -> None:
        self._store = store
        self._names = dict(names)
        self._fixed_refs = list(dict.fromkeys(fixed))
        self._slots = dict(slots)
        self._kinds = {architecture_of(snap): kind for kind, snap in slots.items()}
        # By learner and number: what a version is that was read; None if it fits no slot.
        self._read: dict[str, dict[int, Member | None]] = {learner: {} for learner in names}
        self._found: dict[str, dict[str, Member]] = {learner: {} for learner in names}
        self._fixed: list[Member] | None = None
        self._lists: dict[tuple[str, ...] | None, list[Member]] = {}
        self._by_name: dict[str, Member] = {}
        self._heuristics = [
            Member(Candidate(f"{HEURISTIC}{name}", f"{HEURISTIC}{name}", policy_id=pid), "")
            for name, pid in sorted(heuristics.items())
        ]
        self.misfits: dict[str, list[str]] = {}

    def misfit_error(self) -> MismatchError:
        """Return an error that lists the members that fit no slot, with the reasons."""
        listed = [f"  - {ref}: {' | '.join(why)}" for ref, why in [*self.misfits.items()][:20]]
        more = len(self.misfits) - len(listed)
        return MismatchError(
            f"{len(self.misfits)} stored opponents fit no slot, and are never loaded by force:\n"
            + "\n".join([*listed, *([f"  - and {more} more"] if more > 0 else [])])
            + "\nGive them slots of their own kind (slots={'a': […], 'b': […]}), use another name= "
            "for this pool, or delete them from the store."
        )

    def kind_of(self, snap: Snapshot) -> str | None:
        """Return the kind of slots that a policy fits; None if it fits none."""
        known = self._kinds.get(architecture_of(snap))
        if known is not None:
            return known
        fitting = [kind for kind, slot in self._slots.items() if not differences(snap, slot)]
        return fitting[0] if fitting else None

    def refresh(self, *, before_first: bool = False) -> None:
        """Read from the store what is new under the names, and leave out what was deleted.

        Fixed opponents stay as they were when they were first found.

        Args:
            before_first: whether the pool has yet to push the first snapshots. A fixed opponent of
                its own names, such as an anchor at version 1, may then be absent.

        Raises:
            NotFoundError: a fixed opponent does not exist.
            StorageError: the store cannot be read. Then the members are as before, of all
                learners.
        """
        if self._fixed is None:
            own = {*self._names.values()} if before_first else set()
            later = [ref for ref in self._fixed_refs if ref.partition("@")[0] in own]
            now = [self._fixed_member(ref) for ref in self._fixed_refs if ref not in later]
            self._fixed = None if later else now
        by_learner: dict[str, dict[str, Member]] = {}
        for learner, name in self._names.items():
            standing, versions = self._new_versions(name, self._read[learner])
            unknown = [each for each in versions if self._kind_noted(each) is None]
            pulled = self._store.pull_many([each.digest for each in unknown]) if unknown else {}
            for version in versions:
                kind = self._kind_noted(version)
                if kind is None:
                    kind = self._kind_or_misfit(version.ref, pulled[version.digest])
                member = None
                if kind is not None:
                    candidate = Candidate(str(version.digest), version.ref, kind)
                    member = Member(candidate, learner, version.time)
                self._read[learner][version.number or 0] = member
            found: dict[str, Member] = {}
            for member in (self._read[learner][number] for number in reversed(standing)):
                if member is not None:
                    # Of equal policies the newest version gives the name.
                    found.pop(member.candidate.player, None)
                    found[member.candidate.player] = member
            by_learner[learner] = found
        # Only now: a store that ends in between leaves no learner ahead of the others.
        self._found = by_learner
        self._lists.clear()
        snapshots = [each for found in self._found.values() for each in found.values()]
        self._by_name = {
            name: member
            for member in (*snapshots, *(self._fixed or ()), *self._heuristics)
            for name in (member.candidate.ref, member.candidate.player)
        }

    def of(self, learners: Sequence[str] | None) -> list[Member]:
        """Return the members, oldest first: heuristics, fixed opponents, and snapshots.

        Args:
            learners: whose snapshots to return; None for all. Heuristics and fixed opponents are
                returned only with None.
        """
        key = None if learners is None else tuple(learners)
        if key in self._lists:
            return self._lists[key]
        snapshots = [
            member
            for learner, of_learner in self._found.items()
            if learners is None or learner in learners
            for member in of_learner.values()
        ]
        snapshots.sort(key=lambda member: member.time)
        others = [*self._heuristics, *(self._fixed or [])] if learners is None else []
        seen = {member.candidate.player for member in others}
        found = others + [each for each in snapshots if each.candidate.player not in seen]
        self._lists[key] = found
        return found

    def find(self, ref: str) -> Member | None:
        """Return the member with a ref, a digest, or the name of a heuristic."""
        return self._by_name.get(ref)

    def has(self, player: str) -> bool:
        """Tell whether a player is a member."""
        return self.find(player) is not None

    def _new_versions(
        self, name: str, known: Mapping[int, Member | None]
    ) -> tuple[list[int], list[Version]]:
        """Return the numbers of the versions that stand, newest first, and those not yet known."""
        state = read_state(self._store._backend, name)
        standing = list(state.numbers())
        new = [number for number in standing if number not in known]
        return standing, list(self._store._resolver.read_versions(name, new))

    def _kind_noted(self, version: Version) -> str | None:
        return self._kinds.get(str(version.source.get(ARCHITECTURE)))

    def _kind_or_misfit(self, ref: str, snap: Snapshot) -> str | None:
        kind = self.kind_of(snap)
        if kind is None:
            self.misfits[ref] = [
                f"{f'slots of kind {kind!r}: ' if kind else ''}{'; '.join(differences(snap, slot))}"
                for kind, slot in self._slots.items()
            ]
            logger.warning("opponent pool: %s fits no slot: %s", ref, self.misfits[ref])
        return kind

    def _fixed_member(self, ref: str) -> Member:
        if ref.startswith(HEURISTIC):
            for member in self._heuristics:
                if member.candidate.player == ref:
                    return member
            known = ", ".join(each.candidate.player for each in self._heuristics) or "none"
            raise InvalidInputError(
                f"an anchor is {ref!r}, and heuristics= has {known}. Name the heuristic "
                "there, with the id of its policy."
            )
        try:
            snap = self._store.pull(ref)
        except PolicyStoreError as error:
            raise error.within(f"opponent {ref!r} of the pool in {self._store.url}") from error
        kind = self._kind_or_misfit(ref, snap)
        return Member(Candidate(str(snap.digest), ref, kind or ""), "")
