"""A model of a bucket of S3: partitions with request rates, latencies, bandwidth and refusals."""

from __future__ import annotations

import bisect
import math
from collections import Counter
from typing import Any

from scripts.benchmarks.scaling.assumptions import Assumptions, Client
from scripts.benchmarks.scaling.engine import Engine, FailedError, Request, Task

__all__ = ["Bucket", "Machine", "Partition", "Process"]

_SAMPLES = 1 << 15  # latencies that are drawn beforehand
_READS = frozenset(("GET", "HEAD", "LIST"))
_LOG_STEP = 64  # each so many keys of a partition are noted, to find where to split it


class Machine:
    """The network of one machine.

    Attributes:
        free_at: when the network has moved all bytes that it was given.
    """

    __slots__ = ("cache", "disk_free_at", "free_at", "locks")

    def __init__(self) -> None:
        self.free_at = 0.0
        self.disk_free_at = 0.0
        self.cache: Any = None
        self.locks: dict[str, Any] = {}


class Process:
    """One process that uses the store, such as an env runner.

    Attributes:
        machine: where it runs.
        slowness: a factor for the processor time of its requests: a process that stands for a part
            of itself has less of a processor.
        cpu_free_at: when its client can make the next request.
        requests: how many requests it has made, with retries.
        known: what it remembers between calls: whether the store exists, and so on.
        trace: its requests that wait, if a trace is replayed.
    """

    __slots__ = ("cpu_free_at", "known", "machine", "name", "requests", "slowness", "trace")

    def __init__(self, machine: Machine, name: str = "", slowness: float = 1.0) -> None:
        self.machine, self.name, self.slowness = machine, name, slowness
        self.cpu_free_at = 0.0
        self.requests = 0
        self.known: set[str] = set()
        self.trace: list[tuple[Request, Task]] = []


class Partition:
    """A range of keys with a limit of requests a second, as a bucket of tokens for each kind."""

    __slots__ = ("busy_since", "last", "noted", "reads", "refused", "seen", "served", "writes")

    def __init__(self, assumed: Assumptions, now: float) -> None:
        self.reads = assumed.reads * assumed.burst
        self.writes = assumed.writes * assumed.burst
        self.last = now
        self.busy_since: float | None = None
        self.noted: list[str] = []
        self.seen = self.served = self.refused = 0


class Bucket:
    """Serve the requests of all processes.

    Args:
        engine: the simulated time.
        assumed: the rates, latencies and bandwidths.
        client: how processes try again.
        boundaries: the first keys of the partitions after the first one; none for a new bucket.

    Attributes:
        keys: the value of each key that the scenario reads; objects need none.
        counts: requests that were answered, by kind.
        refused: 503 answers, by kind.
        failures: requests that failed at all tries.
        received, sent: bytes of bodies and of answers.
        seconds: requests in each second, with refusals.
        second_bytes: bytes in each second.
        refused_seconds: refusals in each second.
        splits: when partitions were split, and at which key.
        latencies: seconds until each successful answer, retries included; None to keep none.
    """

    def __init__(
        self,
        engine: Engine,
        assumed: Assumptions,
        client: Client,
        *,
        boundaries: tuple[str, ...] = (),
    ) -> None:
        self.engine, self.assumed, self.client = engine, assumed, client
        self.keys: dict[str, Any] = {}
        self.counts: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.failures = 0
        self.received = self.sent = 0
        self.seconds: Counter[int] = Counter()
        self.second_bytes: Counter[int] = Counter()
        self.refused_seconds: Counter[int] = Counter()
        self.latencies: list[float] | None = None
        self.splits: list[tuple[float, str]] = []
        self._starts = sorted(boundaries)
        self._partitions = [Partition(assumed, 0.0) for _ in range(len(boundaries) + 1)]
        self._free_at = 0.0
        rng, sigma = engine.rng, assumed.sigma
        self._factors = [math.exp(sigma * rng.gauss(0.0, 1.0)) for _ in range(_SAMPLES)]
        self._next = 0
        engine.send = self.send

    @property
    def partitions(self) -> int:
        """How many partitions the bucket has now."""
        return len(self._partitions)

    def total(self) -> int:
        """Return how many requests were answered or refused."""
        return sum(self.counts.values()) + sum(self.refused.values())

    def peak(self) -> tuple[int, int]:
        """Return the most requests, and the most bytes, of one second."""
        return max(self.seconds.values(), default=0), max(self.second_bytes.values(), default=0)

    # One request

    def send(self, request: Request, task: Task) -> None:
        """Make a request of a task's process for the first time."""
        process, engine = task.owner, self.engine
        process.requests += 1
        cpu = self.assumed.client_seconds * process.slowness
        start = max(engine.now, process.cpu_free_at) + cpu
        process.cpu_free_at = start
        if request.nbytes and request.operation in ("PUT", "CREATE"):
            start = self._moved(process.machine, request.nbytes, start)
            self.received += request.nbytes
        engine.at(start, self._arrive, request, task, 0, engine.now)

    def _arrive(self, request: Request, task: Task, attempt: int, began: float) -> None:
        """Answer a request after its latency, or refuse it, after which the client tries again."""
        engine = self.engine
        now, operation = engine.now, request.operation
        self.seconds[int(now)] += 1
        if self._admits(request.key, operation in _READS, now):
            self._next = (self._next + 1) % _SAMPLES
            latency = self.assumed.medians[operation] * self._factors[self._next]
            engine.at(now + latency, self._answer, request, task, began)
            return
        self.refused[operation] += 1
        self.refused_seconds[int(now)] += 1
        attempt += 1
        again = now + self.assumed.refusal
        client = self.client
        if attempt >= client.throttled_attempts:
            engine.at(again, self._fail, request, task)
            return
        pause = min(client.first_pause * 2.0 ** (attempt - 1), client.longest_pause)
        low, high = client.jitter
        again += pause * (low + (high - low) * engine.rng.random()) + self.assumed.client_seconds
        task.owner.requests += 1
        engine.at(again, self._arrive, request, task, attempt, began)

    def _fail(self, request: Request, task: Task) -> None:
        self.failures += 1
        self.engine.resume(task, None, FailedError(str(request)))

    def _answer(self, request: Request, task: Task, began: float) -> None:
        """Apply a request, at the moment of its answer, and send the bytes of the answer."""
        engine = self.engine
        operation = request.operation
        self.counts[operation] += 1
        value = self.apply(request)
        if operation == "GET" and request.nbytes and value is not None:
            self.sent += request.nbytes
            end = self._moved(task.owner.machine, request.nbytes, engine.now)
            engine.at(end, self._received, task, value, began)
            return
        self._received(task, value, began)

    def _received(self, task: Task, value: Any, began: float) -> None:
        if self.latencies is not None:
            self.latencies.append(self.engine.now - began)
        self.engine.resume(task, value)

    def apply(self, request: Request) -> Any:
        """Apply a request to the keys, and return its answer.

        Returns:
            For GET the value; None if the key is absent. For HEAD whether the key exists. For
            CREATE whether the key was created.
        """
        operation, key, keys = request.operation, request.key, self.keys
        if operation == "GET":
            # Objects are not held one by one: what a scenario pulls exists.
            return True if request.nbytes else keys.get(key)
        if operation == "HEAD":
            return key in keys
        if operation == "PUT":
            keys[key] = request.value
        elif operation == "CREATE":
            if key in keys:
                return False
            keys[key] = request.value
            return True
        return None

    def _moved(self, machine: Machine, nbytes: int, now: float) -> float:
        """Return when bytes have gone through the connection, the machine and the bucket.

        Machine and bucket move what they are given one after the other, which takes as long for
        the last byte as if they shared their bandwidth fairly.
        """
        assumed = self.assumed
        machine.free_at = max(machine.free_at, now) + nbytes / assumed.node
        self._free_at = max(self._free_at, now) + nbytes / assumed.bucket
        end = max(now + nbytes / assumed.connection, machine.free_at, self._free_at)
        self.second_bytes[int(end)] += nbytes
        return end

    # Partitions

    def _admits(self, key: str, is_read: bool, now: float) -> bool:
        """Take a token of the partition of a key; False if there is none."""
        index = bisect.bisect_right(self._starts, key)
        part = self._partitions[index]
        assumed = self.assumed
        passed, part.last = now - part.last, now
        reads, writes = assumed.reads, assumed.writes
        part.reads = min(part.reads + passed * reads, reads * assumed.burst)
        part.writes = min(part.writes + passed * writes, writes * assumed.burst)
        part.seen += 1
        if part.seen % _LOG_STEP == 0:
            part.noted.append(key)
        if (part.reads if is_read else part.writes) >= 1.0:
            if is_read:
                part.reads -= 1.0
            else:
                part.writes -= 1.0
            part.served += 1
            if part.busy_since is not None and part.served > 50 * part.refused:
                part.busy_since = None
            return True
        part.refused += 1
        if part.busy_since is None:
            part.busy_since, part.served, part.refused = now, 0, 1
        elif now - part.busy_since >= assumed.split_after:
            self._split(index, now)
        return False

    def _split(self, index: int, now: float) -> None:
        """Split a partition at the middle one of the keys that were asked for.

        A partition of a single key cannot be split: that is the limit of a hot key.
        """
        part = self._partitions[index]
        noted = sorted(part.noted)
        part.busy_since, part.noted, part.served, part.refused = now, [], 0, 0
        after = [key for key in noted[len(noted) // 2 :] if key > noted[0]]
        if not after:
            return
        bisect.insort(self._starts, after[0])
        self._partitions.insert(index + 1, Partition(self.assumed, now))
        self.splits.append((now, after[0]))
