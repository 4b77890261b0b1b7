"""Verify: every object against its digest, every record readable and chained, nothing missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from policystore.backends.base import Backend, Problems
from policystore.digest import Digest, digest_of
from policystore.errors import IntegrityError, NotFoundError, PolicyStoreError, StorageError
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
    tag_key,
    tag_of_prefix,
    tags_prefix,
    version_key,
    versions_prefix,
)
from policystore.format.policy import MAX_POLICY, check_object, decode_policy
from policystore.format.records import Hint, TagMove, Version, check_marker
from policystore.repository.objects import ObjectReader, StoredPolicy

__all__ = ["Fault", "VerifyReport", "verify_store"]

_Record = TypeVar("_Record", Version, TagMove)


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: the key it was seen at, and a sentence on it."""

    key: str
    problem: str


@dataclass(repr=False)
class VerifyReport:
    """What verify saw. ``ok`` means that everything pushed can be pulled.

    Attributes:
        url: the store.
        objects, nbytes: objects read, and their bytes.
        policies, tensors: how many of them are of which kind.
        names, versions, tags: how many records of each were read; tags that were taken away count.
        faults: everything that is wrong, in the order of the walk.
    """

    url: str
    objects: int = 0
    nbytes: int = 0
    policies: int = 0
    tensors: int = 0
    names: int = 0
    versions: int = 0
    tags: int = 0
    faults: list[Fault] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there is no fault."""
        return not self.faults

    def raise_if_bad(self) -> None:
        """Raise IntegrityError with the whole report if there is a fault."""
        if self.faults:
            raise IntegrityError(str(self))

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        lines = [
            f"{self.url}: {self.objects} objects ({self.nbytes:,} bytes: {self.policies} policies, "
            f"{self.tensors} tensors), {self.names} names, {self.versions} versions, "
            f"{self.tags} tags: " + ("ok" if self.ok else f"{len(self.faults)} faults")
        ]
        lines += [f"  {fault.key}: {fault.problem}" for fault in self.faults]
        return "\n".join(lines)


def verify_store(backend: Backend) -> VerifyReport:
    """Read everything and report what is wrong; changes nothing, and needs no quiet store.

    One policy at a time is in memory. What is pushed meanwhile may or may not be looked at.
    """
    return _Walk(backend).run()


@dataclass(frozen=True)
class _Policy:
    objects: Mapping[Digest, int]
    weights: Digest
    acting: Digest
    state: Digest


class _Walk:
    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.objects = ObjectReader(backend)
        self.report = VerifyReport(backend.url)
        self.policies: dict[Digest, _Policy | None] = {}  # None: not whole, and noted

    def run(self) -> VerifyReport:
        with self._noting(MARKER):
            marker = self.backend.get(MARKER, limit=MAX_RECORD)
            check_marker(marker, self.backend.location(MARKER))
        with self._noting(OBJECTS):
            for key in sorted(self.backend.keys(OBJECTS, problems=[])):
                self._object(key)
        known = {MARKER}
        with self._noting(NAMES):
            for prefix in sorted(self.backend.prefixes(NAMES, "/@")):
                name = name_of_prefix(prefix)
                if name is None:
                    self._fault(prefix, "this is no name as policystore writes it")
                    continue
                with self._noting(prefix):
                    known.update(self._name(name))
        problems: Problems = []
        for key in sorted(self.backend.keys("", problems=problems)):
            # What has come since the walk began has the form of a key of ours.
            if key in known or key.startswith(OBJECTS):
                continue
            if not is_key(key) or self._is_absent(key):
                self._fault(key, "policystore did not write this key, or not there")
        for key, problem in problems:
            self._fault(key, problem)
        return self.report

    def _fault(self, key: str, problem: str) -> None:
        # Names on a disk may be any bytes; a report can be printed.
        shown = (text.encode("utf-8", "backslashreplace").decode() for text in (key, problem))
        self.report.faults.append(Fault(*shown))

    def _is_absent(self, key: str) -> bool:
        try:
            return self.backend.size(key) is None  # listed, but no file
        except StorageError:
            return True

    def _noting(self, key: str) -> _Noting:
        return _Noting(self, key)

    def _object(self, key: str) -> None:
        digest = digest_of_key(key)
        if digest is None:
            self._fault(key, "policystore did not write this key, or not there")
            return
        with self._noting(key):
            data = self.objects.read(digest, limit=None)
            self.report.objects += 1
            self.report.nbytes += memoryview(data).nbytes
            if check_object(data, self.backend.location(key)) == "tensor":
                self.report.tensors += 1
            else:
                self.report.policies += 1
                if memoryview(data).nbytes > MAX_POLICY:
                    self._fault(key, f"a policy object of more than {MAX_POLICY} bytes")
                else:
                    self._policy(digest, data)

    def _policy(self, digest: Digest, data: bytes | memoryview | None = None) -> _Policy | None:
        """What a policy really is; None where it is not whole, which is noted once."""
        if digest not in self.policies:
            self.policies[digest] = None
            with self._noting(object_key(digest)):
                data = self.objects.read(digest) if data is None else data
                parsed = decode_policy(data, object_key(digest), inline=False)
                objects = {item.digest: item.size for item in parsed.external.values()}
                objects[digest] = memoryview(data).nbytes
                snap = self.objects.whole(StoredPolicy(digest, objects[digest], parsed))
                self.policies[digest] = _Policy(
                    objects, snap.weights_digest, snap.acting_digest, snap.state_digest
                )
        return self.policies[digest]

    def _name(self, name: str) -> Iterator[str]:
        """Check one name; gives the keys that belong to it."""
        versions: dict[int, Version] = {}
        for key, version in self._chain(
            versions_prefix(name), lambda number: version_key(name, number), Version.from_bytes
        ):
            yield key
            if version is not None:
                self.report.versions += 1
                self._version(key, name, version)
                versions[version.number or 0] = version
        if versions:
            self.report.names += 1
        if not self._is_absent(hint_key(name)):
            yield hint_key(name)
            with self._noting(hint_key(name)):
                data = self.backend.get(hint_key(name), limit=MAX_RECORD)
                hint = Hint.from_bytes(data, hint_key(name))
                newest = version_key(name, hint.number)
                # A push to a remote store writes both at once, and may be cut off in between.
                ahead = self.backend.parallel > 1 and hint.number == max(versions, default=0) + 1
                if not ahead and self.backend.size(newest) is None:
                    self._fault(newest, "the hint knows of this version, and it is not there")
        for prefix in sorted(self.backend.prefixes(tags_prefix(name), "/")):
            tag = tag_of_prefix(prefix, name)
            if tag is None:
                self._fault(prefix, "this is no tag as policystore writes it")
                continue
            yield from self._tag(name, tag, prefix, versions)

    def _version(self, key: str, name: str, version: Version) -> None:
        if version.name != name or version_key(name, version.number or 0) != key:
            self._fault(key, f"the record is of {version.ref}: it was moved or copied here")
        present = True
        for digest in version.objects or [version.digest]:
            with self._noting(key):
                if self.backend.size(object_key(digest)) is None:
                    self._fault(key, f"the object {digest} that it needs is missing")
                    present &= digest != version.digest
        if not present:
            return
        policy = self._policy(version.digest)
        if policy is not None:
            said = (version.weights_digest, version.acting_digest, version.state_digest)
            if (policy.weights, policy.acting, policy.state) != said:
                self._fault(key, "the digests of the parts are not those of the policy")
            if version.objects is not None and dict(version.objects) != dict(policy.objects):
                self._fault(key, "the objects that it lists are not those of the policy")

    def _tag(self, name: str, tag: str, prefix: str, versions: dict[int, Version]) -> Iterator[str]:
        self.report.tags += 1
        for key, move in self._chain(
            prefix, lambda number: tag_key(name, tag, number), TagMove.from_bytes
        ):
            yield key
            if move is None:
                continue
            if (move.name, move.tag) != (name, tag) or tag_key(name, tag, move.number) != key:
                self._fault(key, "the record is of another tag: it was moved or copied here")
            if move.target is None:
                continue
            target = versions.get(move.target)
            if target is None:
                # It may have come since the versions were listed.
                with self._noting(key):
                    at = version_key(name, move.target)
                    found = self.backend.get(at, limit=MAX_RECORD)
                    target = Version.from_bytes(found, self.backend.location(at))
            if target is not None and target.digest != move.digest:
                self._fault(key, f"its digest is not that of {name}@{move.target}")

    def _chain(
        self,
        prefix: str,
        key_of: Callable[[int], str],
        parse: Callable[[bytes | memoryview, str], _Record],
    ) -> Iterator[tuple[str, _Record | None]]:
        """Every key under ``prefix``, with its record where that is readable."""
        numbers: dict[int, str] = {}
        for key in sorted(self.backend.keys(prefix)):
            number = number_of(key)
            if number is None or key_of(number) != key:
                self._fault(key, "policystore did not write this key, or not there")
                yield key, None
            else:
                numbers[number] = key
        before: bytes | None = None
        number = 0
        for listed in [*sorted(numbers), None]:
            # Numbers are dense, so one that a listing lacks has come since, or is missing.
            while listed is None or number + 1 < listed:
                if self.backend.size(key_of(number + 1)) is None:
                    break
                number += 1
                record, before = self._link(key_of(number), before, parse)
                yield key_of(number), record
            if listed is None or listed <= number:
                continue
            if listed > number + 1:
                gap = f"{number + 1}" + (f" to {listed - 1}" if listed > number + 2 else "")
                self._fault(key_of(number + 1), f"missing: {gap}, and later ones are there")
                before = None
            number = listed
            record, before = self._link(key_of(number), before, parse)
            yield key_of(number), record

    def _link(
        self,
        key: str,
        before: bytes | None,
        parse: Callable[[bytes | memoryview, str], _Record],
    ) -> tuple[_Record | None, bytes | None]:
        """One record of a chain and its bytes; None where it cannot be read, which is noted."""
        record, data = None, None
        with self._noting(key):
            data = bytes(self.backend.get(key, limit=MAX_RECORD))
            record = parse(data, self.backend.location(key))
            if before is not None and record.previous != digest_of(before):
                self._fault(key, "it does not continue the record before: history was changed")
        return record, data


class _Noting:
    """Turns an error of the store into a fault, so that the walk goes on."""

    def __init__(self, walk: _Walk, key: str) -> None:
        self.walk = walk
        self.key = key

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, NotFoundError):
            self.walk._fault(self.key, f"missing: {error}")
            return True
        if isinstance(error, PolicyStoreError):
            self.walk._fault(self.key, str(error))
            return True
        return False
