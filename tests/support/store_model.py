"""A plain model of a store: what each call should do, without keys, bytes and other writers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import Any

from policystore import PolicyStore, Snapshot
from policystore.errors import InvalidInputError, NotFoundError
from policystore.testing import make_snapshot

__all__ = ["GRACE", "Op", "State", "merged", "observe", "policy"]

GRACE = timedelta(days=7)


@cache
def policy(seed: int) -> Snapshot:
    """Return a policy; those of the seeds 6 and 7 share a large tensor."""
    return make_snapshot(seed, large=seed >= 6)


@dataclass
class State:
    """What a store keeps.

    Attributes:
        versions: name -> number -> seed of the policy.
        deleted: name -> number of a deleted version -> which deletion took it, and when, in seconds.
        tags: name -> tag -> number.
        notes: name and number -> the notes of the version, in any order.
        kept: seeds of the policies that were pushed without a name.
        gone: names and numbers of deleted versions whose objects may be collected.
        now: the clock of the storage, in seconds.
        stands_still: whether all that is written seems to be written at the time 0.
        deletions: how many deletions there were.
        forced: which of the deletions took tagged versions on purpose.
    """

    versions: dict[str, dict[int, int]] = field(default_factory=dict)
    deleted: dict[str, dict[int, tuple[int, float]]] = field(default_factory=dict)
    tags: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: dict[tuple[str, int], list[str]] = field(default_factory=dict)
    kept: set[int] = field(default_factory=set)
    gone: set[tuple[str, int]] = field(default_factory=set)
    now: float = 0.0
    stands_still: bool = False
    deletions: int = 0
    forced: set[int] = field(default_factory=set)

    def delete(self, name: str, numbers: list[int], *, force: bool = False) -> None:
        self.deletions += 1
        if force:
            self.forced.add(self.deletions)
        when = 0.0 if self.stands_still else self.now
        self.deleted.setdefault(name, {}).update(dict.fromkeys(numbers, (self.deletions, when)))

    def restore(self, name: str, numbers: list[int]) -> None:
        for number in numbers:
            del self.deleted[name][number]
            self.gone.discard((name, number))

    def heal(self, name: str) -> None:
        """Restore tagged versions whose deletion was cut off."""
        deleted = self.deleted.get(name, {})
        tagged = {at for at in self.tags.get(name, {}).values() if at in deleted}
        self.restore(name, [at for at in tagged if deleted[at][0] not in self.forced])

    def standing(self, name: str) -> dict[int, int]:
        deleted = self.deleted.get(name, {})
        versions = self.versions.get(name, {})
        return {number: seed for number, seed in versions.items() if number not in deleted}

    def standing_tags(self, name: str) -> dict[str, int]:
        standing = self.standing(name)
        return {tag: at for tag, at in self.tags.get(name, {}).items() if at in standing}

    def decisive(self) -> str:
        """Return all that decides what calls do, apart from what may be collected."""
        serials = {
            name: [(at, serial) for at, (serial, _) in sorted(numbers.items())]
            for name, numbers in self.deleted.items()
        }
        ranks = {
            name: [
                (at, sorted({s for _, s in pairs}).index(serial), serial in self.forced)
                for at, serial in pairs
            ]
            for name, pairs in serials.items()
            if pairs
        }
        tags = {name: sorted(tags.items()) for name, tags in self.tags.items() if tags}
        versions = {name: numbers for name, numbers in self.versions.items() if numbers}
        notes = {place: sorted(texts) for place, texts in self.notes.items()}
        return repr([sorted(each.items()) for each in (versions, ranks, tags, notes)])

    def visible(self) -> dict[str, Any]:
        """Return what a reader sees, in the form of :func:`observe`."""
        return {
            name: (
                {number: policy(seed).digest for number, seed in self.standing(name).items()},
                self.standing_tags(name),
                {
                    number: sorted(self.notes[name, number])
                    for number in self.standing(name)
                    if (name, number) in self.notes
                },
            )
            for name in sorted(self.versions)
            if self.standing(name)
        }

    def roots(self) -> set[int]:
        """Return the seeds of all policies that stand or are kept."""
        named = (seed for name in self.versions for seed in self.standing(name).values())
        return self.kept | set(named)

    def not_collected(self) -> set[int]:
        """Return the seeds of all policies that no collection may have taken."""
        return self.kept | {
            seed
            for name, versions in self.versions.items()
            for number, seed in versions.items()
            if (name, number) not in self.gone
        }


def merged(states: Iterable[State]) -> list[State]:
    """Return one state for all that differ only in what is kept, and in what may be collected."""
    found: dict[str, State] = {}
    for state in states:
        one = found.setdefault(state.decisive(), state)
        one.kept &= state.kept
        one.gone |= state.gone
    return list(found.values())


def observe(store: PolicyStore) -> dict[str, Any]:
    """Return the versions, tags and notes of each name of a store."""
    seen: dict[str, Any] = {}
    for name in store.names():
        log = store.log(name, tags=True, annotations=True)
        seen[name] = (
            {version.number: version.digest for version in log},
            {tag: version.number for version in log for tag in version.tags or ()},
            {
                version.number: sorted(each.note for each in version.annotations)
                for version in log
                if version.annotations
            },
        )
    return seen


@dataclass(frozen=True)
class Op:
    """A call of a store, and what it should do.

    Attributes:
        label: the call, for messages.
        run: makes the call and returns an outcome that can be compared.
        apply: changes a model and returns the same outcome, or raises the same class of error.
        may_fail: whether the call may raise a NotFoundError in place of its effect.
        overtaken: returns the state after the call found that another writer had taken its effect
            away, took it back, and raised a NotFoundError.
        unseen: returns the outcome and the state after a deletion took place at the same time, and
            was cut off before it saw the call.
    """

    label: str
    run: Callable[[PolicyStore], Any]
    apply: Callable[[State], Any]
    may_fail: Callable[[State], bool] = lambda state: False
    overtaken: Callable[[State], State] | None = None
    unseen: Callable[[State], tuple[Any, State]] | None = None

    def outcomes(self, state: State) -> list[tuple[Any, State]]:
        """Return the possible outcomes, each with the state after it."""
        after = copy.deepcopy(state)
        try:
            found = [(self.apply(after), after)]
        except Exception as error:
            found = [(type(error).__name__, after)]
        if self.may_fail(state):
            found.append((NotFoundError.__name__, state))
        return found


def push(name: str, seed: int) -> Op:
    def apply(state: State) -> str:
        versions = state.versions.setdefault(name, {})
        number = len(versions) + 1
        versions[number] = seed
        return f"{name}@{number}"

    return Op(f"push {seed} to {name}", lambda store: store.push(policy(seed), name).ref, apply)


def keep(seed: int) -> Op:
    def apply(state: State) -> str:
        state.kept.add(seed)
        return policy(seed).digest.hex

    return Op(f"keep {seed}", lambda store: store.push(policy(seed)).digest.hex, apply)


def pull(name: str, at: str) -> Op:
    def apply(state: State) -> str:
        standing = state.standing(name)
        number = int(at) if at.isdigit() else max(standing, default=0)
        if at and not at.isdigit():
            number = state.tags.get(name, {}).get(at, 0)
        if number not in standing:
            raise NotFoundError("")
        return policy(standing[number]).digest.hex

    ref = f"{name}@{at}" if at else name

    def run(store: PolicyStore) -> str:
        snap = store.pull(ref)
        assert snap._encode().policy.digest == snap.digest  # the arrays, not the address alone
        return snap.digest.hex

    return Op(f"pull {ref}", run, apply)


def tag(name: str, number: int, word: str) -> Op:
    def apply(state: State) -> str:
        if number not in state.standing(name):
            raise NotFoundError("")
        state.tags.setdefault(name, {})[word] = number
        return f"{name}@{number}"

    def take_back(state: State) -> State:
        # The tag moves back to where it pointed, or is removed if that version was deleted, too.
        after = copy.deepcopy(state)
        if word not in after.standing_tags(name):
            after.tags.get(name, {}).pop(word, None)
        return after

    def unseen(state: State) -> tuple[str, State]:
        after = copy.deepcopy(state)
        if number in after.versions.get(name, {}):
            after.tags.setdefault(name, {})[word] = number
        return f"{name}@{number}", after

    return Op(
        f"tag {name}@{number} {word}",
        lambda store: store.tag(f"{name}@{number}", word).ref,
        apply,
        overtaken=take_back,
        unseen=unseen,
    )


def annotate(name: str, number: int, note: str) -> Op:
    def apply(state: State) -> str:
        if number not in state.standing(name):
            raise NotFoundError("")
        state.notes.setdefault((name, number), []).append(note)
        return f"{name}@{number} {note}"

    def run(store: PolicyStore) -> str:
        made = store.annotate(f"{name}@{number}", note=note)
        return f"{made.ref} {made.note}"

    return Op(f"annotate {name}@{number} {note}", run, apply)


def untag(name: str, word: str) -> Op:
    def apply(state: State) -> None:
        if word not in state.tags.get(name, {}):
            raise NotFoundError("")
        del state.tags[name][word]

    return Op(f"untag {name} {word}", lambda store: store.untag(name, word), apply)


def log(name: str) -> Op:
    def apply(state: State) -> list[str]:
        if not state.standing(name):
            raise NotFoundError("")
        return [f"{name}@{number}" for number in sorted(state.standing(name), reverse=True)]

    return Op(f"log {name}", lambda store: [each.ref for each in store.log(name)], apply)


def names() -> Op:
    return Op("names", lambda store: store.names(), lambda state: sorted(state.visible()))


def verify() -> Op:
    """Verify the store; a call that failed may have made the store, or not."""
    return Op(
        "verify",
        lambda store: [str(each) for each in store.verify().faults],
        lambda state: [],
        lambda state: not state.versions and not state.kept,
    )


def delete(name: str, number: int, force: bool) -> Op:
    def apply(state: State) -> str:
        if number not in state.standing(name):
            raise NotFoundError("")
        if not force:
            state.heal(name)
        if not force and number in state.tags.get(name, {}).values():
            raise InvalidInputError("")
        state.delete(name, [number], force=force)
        return f"{name}@{number}"

    def run(store: PolicyStore) -> str:
        version = store.delete(f"{name}@{number}", force=force)
        return "" if version is None else version.ref

    return Op(f"delete {name}@{number} force={force}", run, apply)


def delete_name(name: str, force: bool) -> Op:
    def apply(state: State) -> int:
        if not force:
            state.heal(name)
        standing = sorted(state.standing(name))
        if not standing:
            raise NotFoundError("")
        if not force and state.standing_tags(name):
            raise InvalidInputError("")
        state.delete(name, standing, force=force)
        return len(standing)

    return Op(
        f"delete_name {name} force={force}",
        lambda store: store.delete_name(name, force=force),
        apply,
    )


def restore(name: str, number: int) -> Op:
    """Restore a version; with number 0 all versions that the last deletion took."""

    def numbers_of(state: State) -> list[int]:
        deleted = state.deleted.get(name, {})
        if number:
            return [number] if number in deleted else []
        newest = max((serial for serial, _ in deleted.values()), default=0)
        return sorted((at for at in deleted if deleted[at][0] == newest), reverse=True)

    def apply(state: State) -> list[str]:
        versions = state.versions.get(name, {})
        if not versions or (number and number not in versions):
            raise NotFoundError("")
        standing = state.standing(name)
        if standing if not number else number in standing:
            raise InvalidInputError("")
        numbers = numbers_of(state)
        state.restore(name, numbers)
        return [f"{name}@{each}" for each in numbers]

    return Op(
        f"restore {name}@{number}",
        lambda store: [each.ref for each in store.restore(f"{name}@{number}" if number else name)],
        apply,
        lambda state: any((name, each) in state.gone for each in numbers_of(state)),
    )


def prune(name: str, keep_last: int) -> Op:
    def apply(state: State) -> list[int]:
        state.heal(name)
        standing = sorted(state.standing(name), reverse=True)
        if not standing:
            raise NotFoundError("")
        kept = {*standing[:keep_last], *state.standing_tags(name).values()}
        pruned = [number for number in standing if number not in kept]
        if pruned:
            state.delete(name, pruned)
        return pruned

    return Op(
        f"prune {name} keep_last={keep_last}",
        lambda store: store.prune(name, keep_last=keep_last).pruned,
        apply,
    )


def collect() -> Op:
    def apply(state: State) -> None:
        for name in state.deleted:
            state.heal(name)
        state.gone |= {
            (name, number)
            for name, numbers in state.deleted.items()
            for number, (_, when) in numbers.items()
            if state.now - when >= GRACE.total_seconds()
            and number not in state.tags.get(name, {}).values()
        }

    def run(store: PolicyStore) -> None:
        store.collect_garbage(GRACE, dry_run=False)

    return Op("collect", run, apply)
