"""Record the requests of real calls, and replay them against the model of these calls.

The recorder is a backend in memory whose requests are numbered in one order. The replay lets the
model's calls go on in the same order, so that conflicts of writers fall in the same way, and stops
at the first request that only one of the two makes.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from policystore.backends.base import Entry
from policystore.backends.memory import MemoryBackend
from scripts.benchmarks.scaling.assumptions import Assumptions, Client
from scripts.benchmarks.scaling.bucket import Bucket, Machine, Process
from scripts.benchmarks.scaling.engine import Call, Engine, Request, Task

__all__ = ["Made", "RecordingBackend", "Replay", "Trace"]

_PAGE = 1000  # keys in one answer of a listing


@dataclass(frozen=True)
class Made:
    """One request that was made: by whom, and whether the key existed, or was created."""

    client: str
    operation: str
    key: str
    found: bool


@dataclass
class Trace:
    """The requests of several clients, in the order in which the storage served them."""

    requests: list[Made] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def counts(self, client: str | None = None) -> Counter[str]:
        """Count the requests by kind, of one client or of all."""
        return Counter(
            made.operation for made in self.requests if client is None or made.client == client
        )


class RecordingBackend(MemoryBackend):
    """A storage in memory that counts as remote, and writes down each request.

    Args:
        name: the space of the memory, which several clients share.
        trace: where the requests are written down.
        client: the name of the client whose requests these are.
        before: called with operation and key before each request, outside of the lock.
    """

    def __init__(
        self,
        name: str,
        trace: Trace,
        client: str,
        before: Callable[[str, str], None] = lambda operation, key: None,
    ) -> None:
        super().__init__(name)
        self._trace, self._client, self._before = trace, client, before

    @property
    def is_remote(self) -> bool:
        return True

    @property
    def parallel(self) -> int:
        return 64

    def _made(self, operation: str, key: str, call: Callable[[], Any]) -> Any:
        self._before(operation, key)
        with self._trace.lock:
            found = key in self._space.data
            if operation == "CREATE":
                found = not found
            self._trace.requests.append(Made(self._client, operation, key, found))
            return call()

    def get(self, key: str, **options: Any) -> bytes | memoryview:
        return self._made("GET", key, lambda: super(RecordingBackend, self).get(key, **options))

    def size(self, key: str) -> int | None:
        return self._made("HEAD", key, lambda: super(RecordingBackend, self).size(key))

    def replace(self, key: str, data: bytes) -> None:
        self._made("PUT", key, lambda: super(RecordingBackend, self).replace(key, data))

    def put(self, key: str, chunks: Any, **options: Any) -> None:
        data = b"".join(chunks)
        if len(data) >= 1 << 20 and self.size(key) is not None:  # as the backend of S3
            return
        self.replace(key, data)

    def create(self, key: str, data: bytes) -> bool:
        return self._made("CREATE", key, lambda: super(RecordingBackend, self).create(key, data))

    def _pages(self, prefix: str, count: int) -> None:
        for _ in range(max(1, -(-count // _PAGE))):
            self._made("LIST", prefix, lambda: None)

    def entries(self, prefix: str, **options: Any) -> Iterator[Entry]:
        found = list(super().entries(prefix, **options))
        self._pages(prefix, len(found))
        yield from found

    def prefixes(self, prefix: str, delimiter: str, **options: Any) -> Iterator[str]:
        listed = {
            entry.key[: end + len(delimiter)]
            for entry in super().entries(prefix)
            if (end := entry.key.find(delimiter, len(prefix))) >= 0
        }
        self._pages(prefix, len(listed))
        yield from sorted(listed)

    def delete(self, key: str) -> None:
        self._made("DELETE", key, lambda: super(RecordingBackend, self).delete(key))

    def copy(self, key: str, target: str) -> None:
        self._made("HEAD", key, lambda: None)  # as the backend of S3
        self._made("COPY", key, lambda: super(RecordingBackend, self).copy(key, target))

    def server_time(self) -> float:
        for operation in ("PUT", "LIST", "DELETE"):
            self._made(operation, "tmp/x", lambda: None)
        return super().server_time()

    def verify_exclusive_create(self, key: str, data: bytes) -> None:
        if self.create(key, data):
            self.create(key, data)


class Replay:
    """Run the model's calls in the order of a trace.

    Args:
        keys: the values of the keys that exist before.
        client: the defaults of policystore.

    Attributes:
        counts: the requests of the model, by client and kind.
        results: the result of each call, by the name of its client.
    """

    def __init__(self, keys: dict[str, Any], client: Client) -> None:
        self.engine = Engine(seed=0)
        self.bucket = Bucket(self.engine, Assumptions(), client)
        self.bucket.keys.update(keys)
        self.engine.send = self._wait
        self.processes: dict[str, Process] = {}
        self.counts: dict[str, Counter[str]] = {}
        self.results: dict[str, list[Any]] = {}

    def process(self, name: str) -> Process:
        """Return the process of a client, made at the first call."""
        if name not in self.processes:
            self.processes[name] = Process(Machine(), name)
            self.counts[name] = Counter()
            self.results[name] = []
        return self.processes[name]

    def start(self, name: str, call: Call) -> None:
        """Begin a call of a client, up to its first requests."""

        def done(result: Any, error: BaseException | None) -> None:
            if error is not None:
                raise error
            self.results[name].append(result)

        task = Task(call, self.process(name))
        task.done = done
        self.engine.resume(task, None)

    @staticmethod
    def _wait(request: Request, task: Task) -> None:
        task.owner.trace.append((request, task))

    def run(self, requests: Iterable[Made]) -> None:
        """Serve the model's requests in the order of a trace.

        Raises:
            AssertionError: the model does not make a request of the trace, or gets another answer,
                or has requests left at the end.
        """
        for number, made in enumerate(requests):
            process = self.processes[made.client]
            waiting = process.trace
            index = next(
                (
                    n
                    for n, (request, _) in enumerate(waiting)
                    if (request.operation, request.key) == (made.operation, made.key)
                ),
                None,
            )
            if index is None:
                raise AssertionError(
                    f"request {number}: {made}, and the model waits for {[r for r, _ in waiting]}"
                )
            request, task = waiting.pop(index)
            found = request.key in self.bucket.keys
            answer = self.bucket.apply(request)
            if request.nbytes and request.operation == "GET":
                answer = True if found else None
            if request.operation == "CREATE":
                found = answer
            elif request.operation == "PUT":
                found = made.found
            if found != made.found:
                raise AssertionError(f"request {number}: {made}, and the model finds {found}")
            self.counts[made.client][made.operation] += 1
            self.engine.resume(task, answer)
            self.engine.run()
        left = {name: each.trace for name, each in self.processes.items() if each.trace}
        if left:
            raise AssertionError(f"the model makes further requests: {left}")
