"""The calls of a store, request by request, as the modules of policystore make them.

``tests/test_scale.py`` replays traces of real calls, of writers and readers at the same time, and
compares each request. Names without deletions only: no call here meets a mark.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from policystore.backends.s3 import _MIN_LARGE
from policystore.digest import Digest
from policystore.format.keys import (
    MARKER,
    hint_key,
    mark_key,
    object_key,
    tag_hint_key,
    tag_key,
    version_key,
)
from policystore.format.refs import MAX_NUMBER
from policystore.repository.lookup.changes import _AT_MARKS, _AT_SAME, _ROUND
from policystore.repository.record_log import _PROBES
from scripts.benchmarks.scaling.assumptions import Client, Shape
from scripts.benchmarks.scaling.bucket import Process
from scripts.benchmarks.scaling.engine import Both, Call, FailedError, Request, Sleep

__all__ = ["Calls", "Hint", "Move", "Policy", "Record", "Watched", "key_of"]


class Record(NamedTuple):
    """The record of a version: the digest of its policy, and who wrote it."""

    digest: str
    nonce: str


class Hint(NamedTuple):
    """The hint of a name."""

    number: int
    digest: str


class Move(NamedTuple):
    """A move of a tag, and the hint of a tag."""

    number: int
    target: int
    digest: str


@dataclass(frozen=True)
class Policy:
    """A policy that a scenario moves: its digests, and its sizes.

    Attributes:
        digest: of the policy object.
        tensors: digest and bytes of each tensor that is an object of its own.
        nbytes: bytes of the policy object.
    """

    digest: str
    nbytes: int
    tensors: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, shape: Shape, rng: Any) -> Policy:
        """Make a policy of a shape, with random digests."""
        tensors = tuple((f"{rng.getrandbits(256):064x}", size) for size in shape.tensors)
        return cls(f"{rng.getrandbits(256):064x}", shape.policy, tensors)


def key_of(digest: str) -> str:
    """Return the key of an object."""
    return object_key(Digest(digest))


@dataclass
class Watched:
    """What a watch has seen: the newest number, and how many looks it has made."""

    number: int = 0
    looks: int = 0


class Calls:
    """The calls of one process.

    Args:
        process: the process.
        client: the defaults of policystore.
        read: reads an object of a digest and a size: through a cache, or from the bucket.
        policies: the policies by digest; a pull needs the tensors of the policy that it finds.
    """

    def __init__(
        self,
        process: Process,
        client: Client,
        policies: dict[str, Policy],
        read: Callable[[str, int], Call] | None = None,
    ) -> None:
        self.process, self.client, self.policies = process, client, policies
        self.read = read or self.fetch

    # Requests

    @staticmethod
    def get(key: str) -> Call:
        """Read a record; None if it is absent."""
        return (yield Request("GET", key))

    @staticmethod
    def get_or_none(key: str) -> Call:
        """Read a hint or what may not be needed: a failure is as if it were absent."""
        try:
            return (yield Request("GET", key))
        except FailedError:
            return None

    @staticmethod
    def has(key: str) -> Call:
        """Ask whether a key exists."""
        return (yield Request("HEAD", key))

    @staticmethod
    def fetch(digest: str, nbytes: int) -> Call:
        """Read an object from the bucket."""
        return (yield Request("GET", key_of(digest), nbytes))

    # Lists of numbered records

    def newest(
        self, key: Callable[[int], str], hint: int | None, first: Any = None, *, looked: bool = True
    ) -> Call:
        """Find the newest number of a list; returns the number and its record.

        As ``RecordLog.newest``; ``first`` is the record 1, if ``first_look`` has read it.
        """
        at_once = min(_PROBES, self.client.parallel)
        low, high, step = 0, MAX_NUMBER + 1, 1
        seen: dict[int, Any] = {}
        if hint is not None:
            points = [hint, hint + 1]
        elif looked:
            points = [1, 2]
        elif first is None:
            return 0, None
        else:
            low, points, seen = 1, [2], {1: first}
        while True:
            points = sorted({min(number, high - 1) for number in points if number > low})
            answers = yield Both([self.get(key(number)) for number in points], self.client.parallel)
            for number, data in zip(points, answers, strict=True):
                if data is not None:
                    seen[number] = data
                    low = max(low, number)
            absent = [n for n, d in zip(points, answers, strict=True) if d is None and n > low]
            high = min([high, *absent])
            if high - low <= 1:
                return low, seen.get(low)
            if high > MAX_NUMBER:
                points = [low + (step << doubling) for doubling in range(at_once)]
                step <<= at_once
            else:
                width = high - low
                points = [low + max(1, width * i // (at_once + 1)) for i in range(1, at_once + 1)]

    def newest_mark(self, name: str) -> Call:
        """Look for marks of a name that has none."""
        number, _ = yield from self.newest(partial(mark_key, name), 0)
        return number

    # Pulls

    def policy_object(self, digest: str | None) -> Call:
        """Read a policy object that is probably needed; False if there is no such guess."""
        if digest is None:
            return False
        try:
            yield from self.read(digest, self.policies[digest].nbytes)
        except FailedError:
            return False
        return True

    def tensors(self, digest: str) -> Call:
        """Read the tensors of a policy that are objects of their own."""
        calls = [self.read(*each) for each in self.policies[digest].tensors]
        yield Both(calls, self.client.parallel)
        return digest

    def _nothing(self) -> Call:
        return None
        yield

    def look_up_tag(self, name: str, tag: str, *, prefetch: bool) -> Call:
        """Find the version of a tag; returns number, digest, and whether the object was read."""
        tag_hint, _ = yield Both(
            [self.get_or_none(tag_hint_key(name, tag)), self.get_or_none(hint_key(name))]
        )
        number = None if tag_hint is None else tag_hint.number
        guess = None if tag_hint is None else tag_hint.digest
        (_, move), _, _, fetched = yield Both(
            [
                self.newest(partial(tag_key, name, tag), number),
                self.newest_mark(name),
                self._nothing()
                if tag_hint is None
                else self.get_or_none(version_key(name, tag_hint.target)),
                self.policy_object(guess if prefetch else None),
            ]
        )
        if tag_hint is None or move.target != tag_hint.target:
            yield Request("GET", version_key(name, move.target))
        return move.target, move.digest, fetched and guess == move.digest

    def look_up_name(self, name: str, *, prefetch: bool) -> Call:
        """Find the newest version of a name; returns as :meth:`look_up_tag`."""
        hint, first = yield Both([self.get_or_none(hint_key(name)), self.get(version_key(name, 1))])
        guess = None if first is None else first.digest
        if hint is not None:
            guess = hint.digest
        _, (number, record), fetched = yield Both(
            [
                self.newest_mark(name),
                self.newest(
                    partial(version_key, name),
                    None if hint is None else hint.number,
                    first,
                    looked=False,
                ),
                self.policy_object(guess if prefetch else None),
            ]
        )
        return number, record.digest, fetched and guess == record.digest

    def pull(self, name: str, tag: str | None = None) -> Call:
        """Pull what a tag, or a name, means now; returns the number and the digest."""
        if tag is None:
            number, digest, fetched = yield from self.look_up_name(name, prefetch=True)
        else:
            number, digest, fetched = yield from self.look_up_tag(name, tag, prefetch=True)
        if not fetched:
            yield from self.read(digest, self.policies[digest].nbytes)
        yield from self.tensors(digest)
        return number, digest

    def pull_digest(self, digest: str) -> Call:
        """Pull a policy by its digest."""
        yield from self.read(digest, self.policies[digest].nbytes)
        return (yield from self.tensors(digest))

    def pull_version(self, name: str, number: int, digest: str) -> Call:
        """Pull a Version that the process has: the policy, and beside it the record."""
        yield Both([self.pull_digest(digest), self.get_or_none(version_key(name, number))])
        return number, digest

    # Watches

    def watch_read(self, name: str, tag: str, watched: Watched) -> Call:
        """Read the newest records of a tag, as ``ChangeDetector.read``."""
        keys, first = partial(tag_key, name, tag), not watched.number
        hint: Any = None
        if first:
            yield from self.get_or_none(hint_key(name))
        if first or self.client.hint_first:
            hint = yield from self.get_or_none(tag_hint_key(name, tag))
        known = None if hint is None else hint.number
        if not first and (known is None or known < watched.number):
            known = watched.number
        number, _ = yield from self.newest(keys, known)
        yield from self.newest_mark(name)
        return number

    def look(self, name: str, tag: str, watched: Watched) -> Call:
        """Look once at a tag, as ``Watch``; returns its version if it has changed, else None."""
        if watched.number:
            watched.looks += 1
            turn = watched.looks % _ROUND
            calls = [self.has(tag_key(name, tag, watched.number + 1))]
            if turn == _AT_SAME:
                calls.append(self.get(tag_key(name, tag, watched.number)))
            elif turn == _AT_MARKS:
                calls.append(self.has(mark_key(name, 1)))
            found = yield Both(calls, 2)
            if not found[0]:
                return None
        number = yield from self.watch_read(name, tag, watched)
        target, digest, _ = yield from self.look_up_tag(name, tag, prefetch=False)
        watched.number = number
        return target, digest

    def follow(self, name: str, tag: str, watched: Watched, rng: Any) -> Call:
        """Look again and again until the tag has changed, and pull; returns number and digest.

        A look that fails is made again, after pauses that double up to a minute. After a pull that
        fails, a new watch begins, which finds the version again.
        """
        failures = 0
        interval, jitter = self.client.interval, self.client.watch_jitter
        while True:
            found = None
            try:
                found = yield from self.look(name, tag, watched)
                failures = 0
                if found is not None:
                    return (yield from self.pull_version(name, *found))
            except FailedError:
                failures += 1
                if found is not None:
                    watched.number = watched.looks = 0
            pause = min(interval * 2.0**failures, max(interval, 60.0))
            yield Sleep(pause * rng.uniform(1.0 - jitter, 1.0 + jitter))

    # Pushes

    def put(self, digest: str, nbytes: int) -> Call:
        """Write an object; a larger one is looked for first."""
        key = key_of(digest)
        if nbytes >= _MIN_LARGE and (yield Request("HEAD", key)):
            return
        yield Request("PUT", key, nbytes, True)

    def upload(self, policy: Policy) -> Call:
        """Write the tensors, and then the policy object."""
        yield Both([self.put(*each) for each in policy.tensors], self.client.parallel)
        yield from self.put(policy.digest, policy.nbytes)

    def verify_create(self) -> Call:
        """Prove once that the storage refuses to create a key that exists."""
        if "creates" not in self.process.known:
            yield Request("CREATE", MARKER, 0, True)
            self.process.known.add("creates")

    def ensure_store(self) -> Call:
        """Read the marker, once in a process; the store of a scenario exists."""
        if "store" not in self.process.known:
            yield Request("GET", MARKER)
            self.process.known.add("store")

    def push(self, name: str, policy: Policy, nonce: str, rng: Any = random) -> Call:
        """Push a version; returns its number and how often another writer took a number first.

        ``rng`` is for a pause after a conflict, which policystore does not make.
        """
        known = "store" in self.process.known
        _, hint = yield Both([self.ensure_store(), self.get_or_none(hint_key(name))])
        size = policy.nbytes + sum(nbytes for _, nbytes in policy.tensors)
        if size >= _MIN_LARGE:
            yield from self.verify_create()
        find = self.newest(partial(version_key, name), None if hint is None else hint.number)
        beside = Both([find, self.verify_create()])
        calls = [self.upload(policy), self._run(beside)]
        if known and hint is None:
            calls.append(self.get(MARKER))
        _, ((number, record), _), *_ = yield Both(calls)
        if number and record is None:
            yield Request("GET", version_key(name, number))
        conflicts = 0
        while True:
            number += 1
            create = Request("CREATE", version_key(name, number), 0, Record(policy.digest, nonce))
            hint_call = self._write_hint(name, Hint(number, policy.digest))
            # Only with the first try: the number of a later try is often taken, too.
            beside = number > 1 and (not conflicts or self.client.hint_each_try)
            if beside:
                created, _ = yield Both([self._one(create), hint_call])
            else:
                created = yield create
            if not created:
                taken = yield Request("GET", version_key(name, number))
                created = taken.nonce == nonce
            if created:
                if number > 1 and not beside:
                    yield from hint_call
                return number, conflicts
            conflicts += 1
            if self.client.conflict_pause:
                longest = min(self.client.conflict_pause * conflicts, 2.0)
                yield Sleep(rng.uniform(0.0, longest))

    def _write_hint(self, name: str, hint: Hint) -> Call:
        """Write the hint, and look for a mark, at the same time; failures are logged only."""
        with contextlib.suppress(FailedError):
            yield Both(
                [self._one(Request("PUT", hint_key(name), 0, hint)), self.has(mark_key(name, 1))]
            )

    @staticmethod
    def _one(request: Request) -> Call:
        return (yield request)

    @staticmethod
    def _run(both: Both) -> Call:
        return (yield both)
