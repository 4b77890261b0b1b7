"""Verify a store: each object against its digest, each record and its place in its chain."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from policystore.backends.base import Backend, Problems
from policystore.digest import Digest, digest_of
from policystore.errors import NotFoundError, PolicyStoreError, StorageError
from policystore.format.keys import (
    MARKER,
    MAX_RECORD,
    NAMES,
    OBJECTS,
    digest_of_key,
    hint_key,
    is_key,
    name_of_prefix,
    number_of,
    object_key,
    tag_hint_key,
    tag_key,
    tag_of_prefix,
    tags_prefix,
    version_key,
    versions_prefix,
)
from policystore.format.policy import MAX_POLICY, check_object, decode_policy
from policystore.format.records import Hint, TagHint, TagMove, Version, check_marker
from policystore.repository.objects import ObjectReader, StoredPolicy
from policystore.repository.verify_report import Fault, VerifyReport

__all__ = ["verify_store"]

_Record = TypeVar("_Record", Version, TagMove)
_FOREIGN = "policystore never writes a key of this form, or this key is in the wrong place"


def verify_store(backend: Backend) -> VerifyReport:
    """Read everything and report what is wrong; change nothing.

    Other processes may write at the same time. Their new objects and records may or may not be
    checked. Only one policy at a time is held in memory.
    """
    return _Verification(backend).run()


@dataclass(frozen=True)
class _PolicyFacts:
    """The facts about a policy that each of its version records must repeat.

    Attributes:
        objects: digest -> size in bytes of each object of the policy.
        weights: the digest of its weights.
        acting: the digest of the weights that acting needs.
        state: the digest of its state.
    """

    objects: Mapping[Digest, int]
    weights: Digest
    acting: Digest
    state: Digest


class _Verification:
    """One run through a store.

    Args:
        backend: the storage of the store.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.objects = ObjectReader(backend)
        self.report = VerifyReport(backend.url)
        # None means that the policy is damaged, and that this was reported.
        self.policies: dict[Digest, _PolicyFacts | None] = {}

    def run(self) -> VerifyReport:
        """Check the marker, all objects and all names, and look for other keys."""
        with self._fault_recorder(MARKER):
            marker = self.backend.get(MARKER, limit=MAX_RECORD)
            check_marker(marker, self.backend.location(MARKER))
        with self._fault_recorder(OBJECTS):
            for key in sorted(self.backend.keys(OBJECTS, problems=[])):
                self._check_object(key)
        known = {MARKER}
        with self._fault_recorder(NAMES):
            # The run over all keys, below, reports what cannot be listed.
            for prefix in sorted(self.backend.prefixes(NAMES, "/@", problems=[])):
                name = name_of_prefix(prefix)
                if name is None:
                    self._add_fault(prefix, "policystore does not write names of this form")
                    continue
                with self._fault_recorder(prefix):
                    known.update(self._check_name(name))
        problems: Problems = []
        for key in sorted(self.backend.keys("", problems=problems)):
            if key in known or key.startswith(OBJECTS):
                continue
            # A key of a valid form may have been written after this run began.
            if not is_key(key) or self._is_absent(key):
                self._add_fault(key, _FOREIGN)
        for key, problem in problems:
            self._add_fault(key, problem)
        return self.report

    def _add_fault(self, key: str, problem: str) -> None:
        # The names of files may be any bytes, and a report has to be printable.
        shown = (text.encode("utf-8", "backslashreplace").decode() for text in (key, problem))
        self.report.faults.append(Fault(*shown))

    @contextlib.contextmanager
    def _fault_recorder(self, key: str) -> Iterator[None]:
        """Turn an error of the ``with`` block into a fault of ``key``, so that the run goes on."""
        try:
            yield
        except NotFoundError as error:
            self._add_fault(key, f"missing: {error}")
        except PolicyStoreError as error:
            self._add_fault(key, str(error))

    def _is_absent(self, key: str) -> bool:
        try:
            return self.backend.size(key) is None  # a listed key may be no file
        except StorageError:
            return True

    def _check_object(self, key: str) -> None:
        """Check a key below ``objects/``: its form, its digest, and that it is an object."""
        digest = digest_of_key(key)
        if digest is None:
            self._add_fault(key, _FOREIGN)
            return
        with self._fault_recorder(key):
            data = self.objects.read(digest, limit=None)
            self.report.objects += 1
            self.report.nbytes += memoryview(data).nbytes
            if check_object(data, self.backend.location(key)) == "tensor":
                self.report.tensors += 1
            else:
                self.report.policies += 1
                if memoryview(data).nbytes > MAX_POLICY:
                    self._add_fault(key, f"a policy object of more than {MAX_POLICY} bytes")
                else:
                    self._policy_facts(digest, data)

    def _policy_facts(
        self, digest: Digest, data: bytes | memoryview | None = None
    ) -> _PolicyFacts | None:
        """Read a policy with all its tensors, once.

        Args:
            digest: the digest of the policy object.
            data: the bytes of the policy object, if they were read already.

        Returns:
            The facts that the records of the policy must repeat; None if a part of the policy is
            damaged or missing. Such a fault is reported once.
        """
        if digest not in self.policies:
            self.policies[digest] = None
            with self._fault_recorder(object_key(digest)):
                data = self.objects.read(digest) if data is None else data
                parsed = decode_policy(data, object_key(digest), inline=False)
                objects = {item.digest: item.size for item in parsed.external.values()}
                objects[digest] = memoryview(data).nbytes
                snap = self.objects.snapshot(StoredPolicy(digest, objects[digest], parsed))
                self.policies[digest] = _PolicyFacts(
                    objects, snap.weights_digest, snap.acting_digest, snap.state_digest
                )
        return self.policies[digest]

    def _check_name(self, name: str) -> Iterator[str]:
        """Check the versions, the hint and the tags of a name, and yield the keys of these."""
        versions: dict[int, Version] = {}
        for key, version in self._check_chain(
            versions_prefix(name), lambda number: version_key(name, number), Version.from_bytes
        ):
            yield key
            if version is not None:
                self.report.versions += 1
                self._check_version(key, name, version)
                versions[version.number or 0] = version
        if versions:
            self.report.names += 1
        if not self._is_absent(hint_key(name)):
            yield hint_key(name)
            self._check_hint(name, newest=max(versions, default=0))
        for prefix in sorted(self.backend.prefixes(tags_prefix(name), "/")):
            tag = tag_of_prefix(prefix, name)
            if tag is None:
                self._add_fault(prefix, "policystore does not write tags of this form")
                continue
            yield from self._check_tag(name, tag, prefix, versions)

    def _check_hint(self, name: str, newest: int) -> None:
        """Check that the version that the hint names exists.

        Args:
            name: the name of the hint.
            newest: the newest version that was found; 0 for none.
        """
        with self._fault_recorder(hint_key(name)):
            data = self.backend.get(hint_key(name), limit=MAX_RECORD)
            hint = Hint.from_bytes(data, hint_key(name))
            # A push to a remote store writes hint and record at the same time, and may be cut off
            # before the record is created.
            one_ahead = self.backend.is_remote and hint.number == newest + 1
            key = version_key(name, hint.number)
            if not one_ahead and self.backend.size(key) is None:
                self._add_fault(key, "the hint names this version, and its record does not exist")

    def _check_version(self, key: str, name: str, version: Version) -> None:
        """Check the place of a version record, and compare it with the objects of its policy."""
        if version.name != name or version_key(name, version.number or 0) != key:
            self._add_fault(
                key, f"the record is of {version.ref}: it was moved or copied to this key"
            )
        policy_exists = True
        for digest in version.objects or [version.digest]:
            with self._fault_recorder(key):
                if self.backend.size(object_key(digest)) is None:
                    self._add_fault(key, f"the version needs the object {digest}, which is missing")
                    policy_exists &= digest != version.digest
        if not policy_exists:
            return
        facts = self._policy_facts(version.digest)
        if facts is not None:
            recorded = (version.weights_digest, version.acting_digest, version.state_digest)
            if (facts.weights, facts.acting, facts.state) != recorded:
                self._add_fault(key, "the recorded digests of parts are not those of the policy")
            if version.objects is not None and dict(version.objects) != dict(facts.objects):
                self._add_fault(key, "the recorded list of objects is not that of the policy")

    def _check_tag(
        self, name: str, tag: str, prefix: str, versions: dict[int, Version]
    ) -> Iterator[str]:
        """Check the moves of a tag, and yield their keys.

        Args:
            name: the name to which the tag belongs.
            tag: the tag.
            prefix: the start of the keys of its moves.
            versions: the versions of the name, by number.
        """
        self.report.tags += 1
        if not self._is_absent(tag_hint_key(name, tag)):
            yield tag_hint_key(name, tag)
            with self._fault_recorder(tag_hint_key(name, tag)):
                data = self.backend.get(tag_hint_key(name, tag), limit=MAX_RECORD)
                TagHint.from_bytes(data, tag_hint_key(name, tag))
        for key, move in self._check_chain(
            prefix, lambda number: tag_key(name, tag, number), TagMove.from_bytes
        ):
            yield key
            if move is None:
                continue
            if (move.name, move.tag) != (name, tag) or tag_key(name, tag, move.number) != key:
                self._add_fault(
                    key, "the record is of another tag: it was moved or copied to this key"
                )
            if move.target is None:
                continue
            target = versions.get(move.target)
            if target is None:
                # The version may have been pushed since the versions were listed.
                with self._fault_recorder(key):
                    target_key = version_key(name, move.target)
                    data = self.backend.get(target_key, limit=MAX_RECORD)
                    target = Version.from_bytes(data, self.backend.location(target_key))
            if target is not None and target.digest != move.digest:
                self._add_fault(key, f"the recorded digest is not that of {name}@{move.target}")

    def _check_chain(
        self,
        prefix: str,
        key_of: Callable[[int], str],
        parse: Callable[[bytes | memoryview, str], _Record],
    ) -> Iterator[tuple[str, _Record | None]]:
        """Check a list of numbered records, and yield each key below ``prefix`` with its record.

        Args:
            prefix: the start of the keys.
            key_of: returns the key of a number.
            parse: reads the bytes of a record.

        Yields:
            A key and its record; None for a record that cannot be read and for a foreign key.
        """
        numbers: dict[int, str] = {}
        for key in sorted(self.backend.keys(prefix)):
            number = number_of(key)
            if number is None and is_key(key):
                continue  # the hint of a tag
            if number is None or key_of(number) != key:
                self._add_fault(key, _FOREIGN)
                yield key, None
            else:
                numbers[number] = key
        previous: bytes | None = None
        number = 0
        for listed in [*sorted(numbers), None]:
            # Numbers have no gaps. A number that is not in the listing was created after the
            # listing, or is missing.
            while listed is None or number + 1 < listed:
                if self.backend.size(key_of(number + 1)) is None:
                    break
                number += 1
                record, previous = self._check_link(key_of(number), previous, parse)
                yield key_of(number), record
            if listed is None or listed <= number:
                continue
            if listed > number + 1:
                gap = f"{number + 1}" + (f" to {listed - 1}" if listed > number + 2 else "")
                self._add_fault(key_of(number + 1), f"missing: {gap}, and later numbers exist")
                previous = None
            number = listed
            record, previous = self._check_link(key_of(number), previous, parse)
            yield key_of(number), record

    def _check_link(
        self,
        key: str,
        previous: bytes | None,
        parse: Callable[[bytes | memoryview, str], _Record],
    ) -> tuple[_Record | None, bytes | None]:
        """Read a record of a chain, and compare it with the record before.

        Args:
            key: the key of the record.
            previous: the bytes of the record before; None if there is none that can be read.
            parse: reads the bytes of a record.

        Returns:
            The record and its bytes; None for what cannot be read, which is reported.
        """
        record, data = None, None
        with self._fault_recorder(key):
            data = bytes(self.backend.get(key, limit=MAX_RECORD))
            record = parse(data, self.backend.location(key))
            if previous is not None and record.previous != digest_of(previous):
                self._add_fault(key, "it does not follow the record before: a record was changed")
        return record, data
