"""Make calls of a backend fail, die or be interrupted by another writer at chosen moments."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from policystore.backends.base import Backend, Entry, Problems
from policystore.errors import StorageError

__all__ = ["DiedError", "FaultyBackend", "Kind", "Plan"]

Kind: TypeAlias = Literal[
    "refused", "lost", "own create refused", "killed before", "killed after", "another writer"
]

_WRITES = {"put", "create", "replace", "delete", "copy"}


class DiedError(BaseException):
    """End a process that was killed: no handler of the package catches this error."""


@dataclass
class Plan:
    """What happens at one call of a backend.

    Attributes:
        at: the number of the call, from 0 on.
        kind: what happens: the call is refused and not applied; it is applied and its answer is
            lost; a creation is applied and refused, as if the first try of the same request had
            created the key; the process is killed before or after the call is applied; or another
            writer comes first.
        other: the work of the other writer.
        fired: whether the call came.
        dies_after: after how many more calls the process is killed; None if it is not.
    """

    at: int
    kind: Kind
    other: Callable[[], None] | None = None
    fired: bool = False
    dies_after: int | None = None


class FaultyBackend:
    """Pass calls on to a backend, and make one of them fail.

    Args:
        backend: the backend.

    Attributes:
        ahead: by how many seconds the clock of the storage seems to be ahead.
    """

    def __init__(self, backend: Backend) -> None:
        self.ahead = 0.0
        self._backend = backend
        self._dead = False
        self._lock = threading.Lock()
        self.follow(None)

    def follow(self, plan: Plan | None) -> None:
        """Count calls from 0 on, and follow a plan; None for no fault."""
        self._plan, self._count = plan, 0

    @property
    def url(self) -> str:
        return self._backend.url

    @property
    def is_remote(self) -> bool:
        return self._backend.is_remote

    @property
    def parallel(self) -> int:
        return self._backend.parallel

    def location(self, key: str) -> str:
        return self._backend.location(key)

    def get(self, key: str, **options: Any) -> bytes | memoryview:
        return self._call("get", key, **options)

    def head(self, key: str, count: int) -> bytes:
        return self._call("head", key, count)

    def size(self, key: str) -> int | None:
        return self._call("size", key)

    def put(self, key: str, chunks: Any, **options: Any) -> None:
        self._call("put", key, chunks, **options)

    def create(self, key: str, data: bytes) -> bool:
        return self._call("create", key, data)

    def verify_exclusive_create(self, key: str, data: bytes) -> None:
        self._call("verify_exclusive_create", key, data)

    def replace(self, key: str, data: bytes) -> None:
        self._call("replace", key, data)

    def keys(self, prefix: str, *, problems: Problems | None = None) -> Iterator[str]:
        yield from self._call("keys", prefix, problems=problems)

    def entries(self, prefix: str, *, problems: Problems | None = None) -> Iterator[Entry]:
        yield from self._call("entries", prefix, problems=problems)

    def prefixes(self, prefix: str, delimiter: str, **options: Any) -> Iterator[str]:
        yield from self._call("prefixes", prefix, delimiter, **options)

    def server_time(self) -> float:
        return self._call("server_time") + self.ahead

    def delete(self, key: str) -> None:
        self._call("delete", key)

    def copy(self, key: str, target: str) -> None:
        self._call("copy", key, target)

    def _call(self, name: str, *args: Any, **options: Any) -> Any:
        with self._lock:
            if self._dead:
                raise DiedError  # a dead process makes no calls, not even to clean up
            plan = self._plan
            mine = plan is not None and self._count == plan.at and not plan.fired
            self._count += 1
            if plan is not None and plan.fired and plan.dies_after is not None:
                self._dead = self._count > plan.at + 1 + plan.dies_after
                if self._dead:
                    raise DiedError
            if plan is not None and mine:
                if plan.kind == "own create refused" and name != "create":
                    plan.at += 1  # wait for a creation
                    mine = False
                else:
                    plan.fired = True
                    self._dead = plan.kind.startswith("killed")
        if plan is None or not mine:
            return getattr(self._backend, name)(*args, **options)
        if plan.kind == "killed before":
            raise DiedError
        if plan.kind == "refused" or (plan.kind == "lost" and name not in _WRITES):
            raise StorageError(f"{name} of {args[:1]}: refused by the test")
        if plan.kind == "another writer":
            run_in_thread(plan.other or (lambda: None))
        result = getattr(self._backend, name)(*args, **options)
        if plan.kind == "killed after":
            raise DiedError
        if plan.kind == "lost":
            raise StorageError(f"{name} of {args[:1]}: the answer was lost by the test")
        return False if plan.kind == "own create refused" else result


def run_in_thread(work: Callable[[], None]) -> None:
    """Run the work of another writer: in a thread of its own, as another process would."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # raised in the calling thread
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
