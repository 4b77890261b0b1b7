"""Read objects in waves, each once, and check their bytes, their content and their records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from policystore._util.concurrency import in_parallel
from policystore.digest import Digest
from policystore.errors import (
    FormatError,
    NotFoundError,
    PolicyStoreError,
    StorageError,
)
from policystore.format.arrays import Array
from policystore.format.keys import object_key
from policystore.format.policy import MAX_POLICY, ParsedPolicy, decode_object
from policystore.repository.verify.claims import Claims, PolicyFacts
from policystore.repository.verify.listing import GONE, Flag, bytes_of
from policystore.repository.verify.missing import check_copy
from policystore.repository.verify.parts import KnownPartFiles, WaitingPolicy
from policystore.repository.verify.repair import repair_object
from policystore.repository.verify.report import Fault, FaultKind
from policystore.repository.verify.run import Need, Run, read_exactly
from policystore.repository.verify.selection import Places

__all__ = ["ObjectCheck"]

_MIB = 1 << 20
_WAVE_BYTES = 128 * _MIB  # objects that are read at once; a larger object is read alone
_WAVE = 512
_WAITING_BYTES = 64 * _MIB  # policy objects whose tensors have not been read
_WAITING = 4096
_HELD_BYTES = 256 * _MIB  # tensors that policies may still need
_THREADS = 4  # where requests take no time; hash functions run beside each other

_GOOD, _BAD = -1, -2  # in the place of the size of an object that was read


class _Read(NamedTuple):
    """The result of reading one object.

    Attributes:
        data: its bytes; None if they are wrong, or if the object is gone.
        fault: what is, or was, wrong.
        repaired: whether the fault was repaired.
    """

    data: bytes | memoryview | None
    fault: Fault | None = None
    repaired: bool = False


class ObjectCheck:
    """Read the objects that a run has to read.

    Policies with a record come first, with their tensors, so that the digests in the records can be
    compared. Then come all other objects, and the trash.

    Args:
        run: the run.
        claims: what the records say of the policies.
    """

    def __init__(self, run: Run, claims: Claims) -> None:
        self.run = run
        self.claims = claims
        self.listed = run.inventory.objects
        self.sizes = self.listed.sizes
        self._waiting: dict[int, WaitingPolicy] = {}
        self._waiting_bytes = 0
        self._held: dict[bytes, bytes | memoryview] = {}
        self._held_bytes = 0
        self._part_files = KnownPartFiles()

    def check(self) -> None:
        """Read the objects, and report what is wrong with them."""
        run, selection, report = self.run, self.run.selection, self.run.report
        objects, trash = self.listed, run.inventory.trash
        places = objects.digests.in_order()
        flags = np.frombuffer(objects.flags, np.uint8)[places]
        named = flags & (Flag.OLD | Flag.NAMED) == Flag.NAMED
        other = flags & (Flag.OLD | Flag.NAMED | Flag.READ_BEFORE) == 0
        policies = selection.order(objects.digests, places[named], 1)
        others = selection.order(objects.digests, places[other], 2)
        copies = selection.order(trash.digests, trash.digests.in_order(), 3)
        del places, flags, named, other
        report.total_objects = len(policies) + len(others) + len(copies)
        report.total_nbytes = (
            _nbytes(policies.data, self.sizes)
            + _nbytes(others.data, self.sizes)
            + _nbytes(copies.data, trash.sizes)
        )
        self._read_stage(1, policies, self._check_policy)
        self._read_stage(2, others, self._check_other)

        def check(place: int) -> Fault | None:
            return check_copy(run.backend, trash.digests.item(place), trash.sizes[place])

        for wave in self._waves(copies.data, trash.sizes):
            faults = in_parallel(check, wave, workers=self._workers(_nbytes(wave, trash.sizes)))
            report.trash += len(faults)
            for fault in faults:
                if fault is not None:
                    run.add(fault)
            report.cursor = selection.cursor(3, trash.digests.item(wave[-1]))
            run.tell()
        report.cursor = selection.next_share()

    def _read_stage(
        self, stage: int, places: Places, check: Callable[[int, bytes | memoryview], None]
    ) -> None:
        """Read objects in waves, and check each; tensors of waiting policies are read between."""
        run = self.run
        for wave in self._waves(places.data, self.sizes):
            for place, data in self._read_wave(wave):
                if data is not None:
                    check(place, data)
                elif self.sizes[place] == GONE:
                    digest = self.listed.digests.item(place)
                    run.missing.setdefault(digest, []).extend(self.claims.needs(place))
            if self._waiting_bytes > _WAITING_BYTES or len(self._waiting) > _WAITING:
                self._read_tensors()
            if not self._waiting:
                last = self.listed.digests.item(wave[-1])
                run.report.cursor = run.selection.cursor(stage, last)
            run.tell()
        self._read_tensors()
        run.report.cursor = run.selection.cursor(max(stage + 1, run.selection.stage), None)

    def _waves(self, places: Iterable[int], sizes: Sequence[int]) -> Iterator[list[int]]:
        """Yield the places of objects that were not read, in lists of a limited size in bytes."""
        wave: list[int] = []
        nbytes = 0
        for place in places:
            size = sizes[place]
            if size < 0:
                continue
            if wave and (nbytes + size > _WAVE_BYTES or len(wave) == _WAVE):
                yield wave
                wave, nbytes = [], 0
            wave.append(place)
            nbytes += size
        if wave:
            yield wave

    def _workers(self, nbytes: int) -> int:
        return max(self.run.backend.parallel, _THREADS if nbytes > 16 * _MIB else 1)

    def _read_wave(self, wave: list[int]) -> list[tuple[int, bytes | memoryview | None]]:
        """Read objects that were not read yet, and count them.

        Returns:
            Each place with the bytes of its object; None for an object that is wrong or gone.
        """
        wave = [place for place in wave if self.sizes[place] >= 0]
        workers = self._workers(_nbytes(wave, self.sizes))
        results = in_parallel(self._read, wave, workers=workers)
        report = self.run.report
        for place, result in zip(wave, results, strict=True):
            if result.fault is not None:
                self.run.add(result.fault, repaired=result.repaired)
            if result.data is not None:
                self.sizes[place] = _GOOD
                report.objects += 1
                report.nbytes += memoryview(result.data).nbytes
            elif result.fault is not None:
                self.sizes[place] = _BAD
            else:
                self.sizes[place] = GONE
        return [(place, result.data) for place, result in zip(wave, results, strict=True)]

    def _digest(self, place: int) -> Digest:
        return Digest.of_digits(self.listed.digests.item(place).hex())

    def _read(self, place: int) -> _Read:
        """Read one object; look again, and try to repair the object, before a fault is reported."""
        digest = self._digest(place)
        backend, key = self.run.backend, object_key(digest)
        try:
            return _Read(read_exactly(backend, key, digest, self.sizes[place]))
        except PolicyStoreError:
            pass  # a push may have replaced a damaged copy, and a collector may have taken it away
        try:
            size = backend.size(key)
            if size is None:
                return _Read(None)
            return _Read(read_exactly(backend, key, digest, size))
        except NotFoundError:
            return _Read(None)
        except PolicyStoreError as error:
            kind: FaultKind = "storage" if isinstance(error, StorageError) else "damaged"
            fault = Fault(key, str(error), kind)
        if self.run.source is None:
            return _Read(None, fault)
        repaired = repair_object(self.run.source, self.run.backend, digest)
        if isinstance(repaired, str):
            return _Read(None, Fault(key, f"{fault.problem}. Not repaired: {repaired}", fault.kind))
        return _Read(repaired, fault, repaired=True)

    def _check_policy(self, place: int, data: bytes | memoryview) -> None:
        """Check a policy that a record names."""
        digest = self._digest(place)
        parsed = self._decode(digest, data)
        if parsed is None:
            return
        if not isinstance(parsed, ParsedPolicy):
            key = object_key(digest)
            for need in self.claims.needs(place):
                self.run.add_fault(need.key, f"it names {key}, which is a tensor, not a policy")
            return
        if parsed.external:
            policy = WaitingPolicy(digest, memoryview(data).nbytes, parsed)
            self._waiting[place] = policy
            self._waiting_bytes += policy.nbytes
            return
        objects = {digest: memoryview(data).nbytes}
        facts = PolicyFacts(objects, self._part_files.of(data, parsed).digests(parsed.tensors))
        self.claims.compare(self.run, place, facts)

    def _check_other(self, place: int, data: bytes | memoryview) -> None:
        """Check an object that no record names as a policy."""
        digest = self._digest(place)
        parsed = self._decode(digest, data)
        if isinstance(parsed, ParsedPolicy) and not self.listed.flags[place] & Flag.RETIRED:
            key = object_key(digest)
            for item in parsed.external.values():
                self.run.need(bytes_of(item.digest), Need(key))

    def _decode(self, digest: Digest, data: bytes | memoryview) -> ParsedPolicy | Array | None:
        """Return the content of an object, and count the object; None for bytes that are wrong."""
        key = object_key(digest)
        try:
            content = decode_object(data, self.run.backend.location(key))
        except FormatError as error:
            self.run.add_fault(key, str(error), "damaged")
            return None
        if not isinstance(content, ParsedPolicy):
            self.run.report.tensors += 1
            return content
        self.run.report.policies += 1
        if memoryview(data).nbytes > MAX_POLICY:
            self.run.add_fault(key, f"a policy object of more than {MAX_POLICY} bytes", "damaged")
        return content

    # Tensors of policies

    def _read_tensors(self) -> None:
        """Read the tensors that policies wait for, and compare the policies with their records."""
        if not self._waiting:
            return
        ranks: dict[int, tuple[int, str]] = {}
        for policy in self._waiting.values():
            for rank, item in policy.waits_for():
                place = self.listed.digests.place(bytes_of(item.digest))
                if place is not None:
                    ranks[place] = min(rank, ranks.get(place, rank))
        self._advance()
        digests, flags = self.listed.digests, self.listed.flags
        for wave in self._waves(sorted(ranks, key=ranks.__getitem__), self.sizes):
            for place in wave:
                if not self.run.selection.holds(digests.item(place)) or flags[place] & Flag.OLD:
                    self.run.report.total_objects += 1
                    self.run.report.total_nbytes += self.sizes[place]
            for place, data in self._read_wave(wave):
                if data is not None and self._check_tensor(place, data):
                    self._hold(digests.item(place), data)
            self._advance()
            self.run.tell()
        for place, policy in self._waiting.items():
            self._compare(place, policy)
        self._waiting, self._waiting_bytes = {}, 0

    def _check_tensor(self, place: int, data: bytes | memoryview) -> bool:
        if self._decode(self._digest(place), data) is None:
            self.sizes[place] = _BAD
            return False
        return True

    def _hold(self, digest: bytes, data: bytes | memoryview) -> None:
        """Keep the bytes of a tensor while memory lasts."""
        self._held[digest] = data
        self._held_bytes += memoryview(data).nbytes

    def _advance(self) -> None:
        """Feed the tensors that are held to the policies that wait for them."""
        wanted: set[bytes] = set()
        for policy in self._waiting.values():
            while not policy.is_stopped and (item := policy.next_tensor()) is not None:
                data = self._held.get(bytes_of(item.digest))
                if data is None:
                    break
                try:
                    policy.feed(data, self.run.backend.location(object_key(item.digest)))
                except FormatError as error:
                    # The policy stays where it is; its records are not compared.
                    self.run.add_fault(object_key(policy.digest), str(error), "damaged")
                    policy.stop()
            wanted.update(bytes_of(item.digest) for _, item in policy.waits_for())
        # The oldest tensors go first, and those that a policy still waits for go last.
        for digest in sorted(self._held, key=wanted.__contains__):
            if self._held_bytes <= _HELD_BYTES:
                break
            self._held_bytes -= memoryview(self._held.pop(digest)).nbytes

    def _compare(self, place: int, policy: WaitingPolicy) -> None:
        """Compare a policy with its records, after all its tensors were read."""
        item = policy.next_tensor()
        parts = policy.part_digests() if item is None else None
        if item is not None and not policy.is_stopped:
            needs = self.claims.needs(place)
            lost = False
            for _, each in policy.waits_for():
                tensor = bytes_of(each.digest)
                size = self.listed.size(tensor)
                if size == GONE:
                    self.run.missing.setdefault(tensor, []).extend(needs)
                lost |= size in (GONE, _BAD)
            # Without a fault, the tensor was read and forgotten, because it took too much memory.
            self.run.report.uncompared += not lost
        self.claims.compare(self.run, place, PolicyFacts(policy.objects, parts))


def _nbytes(places: Iterable[int], sizes: Sequence[int]) -> int:
    return sum(sizes[place] for place in places)
