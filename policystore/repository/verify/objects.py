"""Read objects in waves, each once, and check their bytes, their content and their records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

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
from policystore.repository.verify.missing import check_copy
from policystore.repository.verify.parts import KnownPartFiles, WaitingPolicy
from policystore.repository.verify.repair import repair_object
from policystore.repository.verify.report import Fault, FaultKind
from policystore.repository.verify.run import Need, Run, read_exactly

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
        self.sizes = run.inventory.objects
        self._waiting: list[WaitingPolicy] = []
        self._waiting_bytes = 0
        self._held: dict[bytes, bytes | memoryview] = {}
        self._held_bytes = 0
        self._part_files = KnownPartFiles()

    def check(self) -> None:
        """Read the objects, and report what is wrong with them."""
        run, old = self.run, self.run.inventory.old
        selection, report, trash = run.selection, run.report, run.inventory.trash
        policies = selection.order(
            (digest for digest in self.claims if digest in self.sizes and digest not in old), 1
        )
        others = selection.order(
            (
                digest
                for digest in self.sizes
                if not (digest in old or digest in self.claims or digest in self.claims.read_before)
            ),
            2,
        )
        copies = selection.order(trash, 3)
        report.total_objects = len(policies) + len(others) + len(copies)
        report.total_nbytes = sum(self.sizes[digest] for digest in [*policies, *others])
        report.total_nbytes += sum(trash[item] for item in copies)
        self._read_stage(1, policies, self._check_policy)
        self._read_stage(2, others, self._check_other)
        for wave in self._waves(copies, trash):
            workers = self._workers(sum(trash[item] for item in wave))
            faults = in_parallel(
                lambda item: check_copy(run.backend, item, trash[item]), wave, workers=workers
            )
            report.trash += len(faults)
            for fault in faults:
                if fault is not None:
                    run.add(fault)
            report.cursor = selection.cursor(3, wave[-1])
            run.tell()
        report.cursor = selection.next_share()

    def _read_stage(
        self, stage: int, digests: list[bytes], check: Callable[[bytes, bytes | memoryview], None]
    ) -> None:
        """Read objects in waves, and check each; tensors of waiting policies are read between."""
        run = self.run
        for wave in self._waves(digests, self.sizes):
            for digest, data in self._read_wave(wave):
                if data is not None:
                    check(digest, data)
                elif digest not in self.sizes:  # gone since the listing
                    run.missing.setdefault(digest, []).extend(self.claims.needs(digest))
            if self._waiting_bytes > _WAITING_BYTES or len(self._waiting) > _WAITING:
                self._read_tensors()
            if not self._waiting:
                run.report.cursor = run.selection.cursor(stage, wave[-1])
            run.tell()
        self._read_tensors()
        run.report.cursor = run.selection.cursor(max(stage + 1, run.selection.stage), None)

    def _waves(self, items: Iterable[bytes], sizes: dict[bytes, int]) -> Iterator[list[bytes]]:
        """Yield items that were not read, in lists of a limited number of bytes."""
        wave: list[bytes] = []
        nbytes = 0
        for item in items:
            size = sizes.get(item, -1)
            if size < 0:
                continue
            if wave and (nbytes + size > _WAVE_BYTES or len(wave) == _WAVE):
                yield wave
                wave, nbytes = [], 0
            wave.append(item)
            nbytes += size
        if wave:
            yield wave

    def _workers(self, nbytes: int) -> int:
        return max(self.run.backend.parallel, _THREADS if nbytes > 16 * _MIB else 1)

    def _read_wave(self, wave: list[bytes]) -> list[tuple[bytes, bytes | memoryview | None]]:
        """Read objects that were not read yet, and count them.

        Returns:
            Each digest with the bytes of its object; None for an object that is wrong or gone.
        """
        wave = [digest for digest in wave if self.sizes.get(digest, -1) >= 0]
        workers = self._workers(sum(self.sizes[digest] for digest in wave))
        results = in_parallel(self._read, wave, workers=workers)
        report = self.run.report
        for digest, result in zip(wave, results, strict=True):
            if result.fault is not None:
                self.run.add(result.fault, repaired=result.repaired)
            if result.data is not None:
                self.sizes[digest] = _GOOD
                report.objects += 1
                report.nbytes += memoryview(result.data).nbytes
            elif result.fault is not None:
                self.sizes[digest] = _BAD
            else:
                del self.sizes[digest]
        return [(digest, result.data) for digest, result in zip(wave, results, strict=True)]

    def _read(self, digest_bytes: bytes) -> _Read:
        """Read one object; look again, and try to repair the object, before a fault is reported."""
        digest = _digest(digest_bytes)
        backend, key = self.run.backend, object_key(digest)
        try:
            return _Read(read_exactly(backend, key, digest, self.sizes[digest_bytes]))
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

    def _check_policy(self, digest: bytes, data: bytes | memoryview) -> None:
        """Check a policy that a record names."""
        parsed = self._decode(digest, data)
        if parsed is None:
            return
        if not isinstance(parsed, ParsedPolicy):
            key = object_key(_digest(digest))
            for need in self.claims.needs(digest):
                self.run.add_fault(need.key, f"it names {key}, which is a tensor, not a policy")
            return
        if parsed.external:
            policy = WaitingPolicy(_digest(digest), memoryview(data).nbytes, parsed)
            self._waiting.append(policy)
            self._waiting_bytes += policy.nbytes
            return
        objects = {_digest(digest): memoryview(data).nbytes}
        facts = PolicyFacts(objects, self._part_files.of(data, parsed).digests(parsed.tensors))
        self.claims.compare(self.run, digest, facts)

    def _check_other(self, digest: bytes, data: bytes | memoryview) -> None:
        """Check an object that no record names as a policy."""
        parsed = self._decode(digest, data)
        if isinstance(parsed, ParsedPolicy) and digest not in self.claims.retired:
            key = object_key(_digest(digest))
            for item in parsed.external.values():
                self.run.need(bytes.fromhex(item.digest.hex), Need(key))

    def _decode(self, digest: bytes, data: bytes | memoryview) -> ParsedPolicy | Array | None:
        """Return the content of an object, and count the object; None for bytes that are wrong."""
        key = object_key(_digest(digest))
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
        places: dict[bytes, tuple[int, str]] = {}
        for policy in self._waiting:
            for place, item in policy.waits_for():
                digest = bytes.fromhex(item.digest.hex)
                places[digest] = min(place, places.get(digest, place))
        self._advance()
        for wave in self._waves(sorted(places, key=places.__getitem__), self.sizes):
            for digest in wave:
                if not self.run.selection.holds(digest) or digest in self.run.inventory.old:
                    self.run.report.total_objects += 1
                    self.run.report.total_nbytes += self.sizes[digest]
            for digest, data in self._read_wave(wave):
                if data is not None and self._check_tensor(digest, data):
                    self._hold(digest, data)
            self._advance()
            self.run.tell()
        for policy in self._waiting:
            self._compare(policy)
        self._waiting, self._waiting_bytes = [], 0

    def _check_tensor(self, digest: bytes, data: bytes | memoryview) -> bool:
        if self._decode(digest, data) is None:
            self.sizes[digest] = _BAD
            return False
        return True

    def _hold(self, digest: bytes, data: bytes | memoryview) -> None:
        """Keep the bytes of a tensor while memory lasts."""
        self._held[digest] = data
        self._held_bytes += memoryview(data).nbytes

    def _advance(self) -> None:
        """Feed the tensors that are held to the policies that wait for them."""
        wanted: set[bytes] = set()
        for policy in self._waiting:
            while not policy.is_stopped and (item := policy.next_tensor()) is not None:
                data = self._held.get(bytes.fromhex(item.digest.hex))
                if data is None:
                    break
                try:
                    policy.feed(data, self.run.backend.location(object_key(item.digest)))
                except FormatError as error:
                    # The policy stays where it is; its records are not compared.
                    self.run.add_fault(object_key(policy.digest), str(error), "damaged")
                    policy.stop()
            wanted.update(bytes.fromhex(item.digest.hex) for _, item in policy.waits_for())
        # The oldest tensors go first, and those that a policy still waits for go last.
        for digest in sorted(self._held, key=wanted.__contains__):
            if self._held_bytes <= _HELD_BYTES:
                break
            self._held_bytes -= memoryview(self._held.pop(digest)).nbytes

    def _compare(self, policy: WaitingPolicy) -> None:
        """Compare a policy with its records, after all its tensors were read."""
        digest = bytes.fromhex(policy.digest.hex)
        item = policy.next_tensor()
        parts = policy.part_digests() if item is None else None
        if item is not None and not policy.is_stopped:
            needs = self.claims.needs(digest)
            lost = False
            for _, each in policy.waits_for():
                tensor = bytes.fromhex(each.digest.hex)
                size = self.sizes.get(tensor)
                if size is None:
                    self.run.missing.setdefault(tensor, []).extend(needs)
                lost |= size is None or size == _BAD
            # Without a fault, the tensor was read and forgotten, because it took too much memory.
            self.run.report.uncompared += not lost
        self.claims.compare(self.run, digest, PolicyFacts(policy.objects, parts))


def _digest(digest: bytes) -> Digest:
    return Digest.of_digits(digest.hex())
