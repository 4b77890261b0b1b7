"""Try every order in which several calls can make their requests to one storage in memory.

An actor is a function of a backend and a clock, such as a push or a collection: the real code. Its
next request depends only on the answers to its requests so far. So an actor is run from its start
with recorded answers until it makes a new request; then it is stopped. Each such run is remembered.
The explorer keeps the storage itself, makes one request of one actor after another, and visits every
state once: the content of the storage, the time, and the answers that each actor has got.

A request is atomic. A look at the clock belongs to the request that follows. The clock moves only
where the explorer moves it, before any request. An actor may be dead in every state: the check of
:class:`Explorer` is made as if no actor ever went on.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from policystore.backends.memory import MemoryBackend
from policystore.errors import PolicyStoreError
from policystore.format.keys import LEAGUES, MARKER, TEMPORARY

Act = Callable[[Any, Callable[[], float]], Any]
"""An actor: a function of a backend and a clock."""

Contents = dict[str, tuple[bytes, float]]
"""The bytes and the time of each key."""

_CLOCK = "clock"


@dataclass(frozen=True)
class Request:
    """A request that an actor wants to make; ``name`` is the call of the backend."""

    name: str
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()

    @property
    def key(self) -> str:
        return str(self.args[0]) if self.args else ""

    @property
    def is_private(self) -> bool:
        """Whether no other actor can notice or change what the request does.

        Hints are only hints: every reader has to cope with any hint.
        """
        return (
            self.name in (_CLOCK, "verify_exclusive_create")
            or self.key == MARKER
            or self.key.startswith((LEAGUES, TEMPORARY))
            or self.key.endswith("@hint")
        )

    def __str__(self) -> str:
        return f"{self.name}({', '.join(str(arg) for arg in self.args if isinstance(arg, str))})"


@dataclass
class Ended:
    """The end of an actor: its result, or the error that it raised."""

    result: Any = None
    error: Exception | None = None


class _StoppedError(BaseException):
    """End a run of an actor that has no more recorded answers."""


class _Recorded:
    """A backend that answers with recorded answers, and stops the actor at its next request."""

    url, is_remote, parallel = "memory://model", False, 1

    def __init__(self, answers: Sequence[tuple[str, Any]]) -> None:
        self.answers = iter(answers)
        self.pending: Request | None = None

    def location(self, key: str) -> str:
        return key

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if not hasattr(Storage, name):
            raise AttributeError(name)
        return lambda *args, **kwargs: self.ask(name, *args, **kwargs)

    def ask(self, name: str, *args: Any, **kwargs: Any) -> Any:
        if self.pending is not None:
            raise _StoppedError
        kind, answer = next(self.answers, ("none", None))
        if kind == "none":
            if name in ("put", "create", "replace"):  # freeze what a caller might change
                data = args[1] if name != "put" else [b"".join(args[1])]
                args = (args[0], tuple(data) if isinstance(data, list) else bytes(data))
            kept = {key: value for key, value in kwargs.items() if key in ("limit", "problems")}
            self.pending = Request(name, args, tuple(kept.items()))
            raise _StoppedError
        if kind == "error":
            raise answer
        return iter(answer) if kind == "list" else answer


@dataclass
class _Node:
    """What an actor does after given answers; ``following`` leads on by the next answer."""

    actor: int
    number: int
    answers: tuple[tuple[str, Any], ...]
    then: Request | Ended
    following: dict[Any, _Node] = field(default_factory=dict)


class Storage(MemoryBackend):
    """The storage of the model. Bytes that exist are not written again and do not get younger."""

    def put(self, key: str, chunks: Any, **kwargs: Any) -> None:
        if self._space.data.get(key) != b"".join(chunks):
            super().put(key, chunks)


class LostError(AssertionError):
    """Say that the model check has found a loss, and by which steps."""


class Explorer:
    """Visit every state that some actors can reach.

    Args:
        contents: the storage at the start.
        now: the time at the start.
        actors: the actors, by name.
        jumps: how many seconds the clock jumps, one jump after another, each at any time.
        check: called with each different storage and time; raises an error if something is lost.
        most: how many states to visit at most.
        check_ends: called with each different storage, time, and ends of actors, by the names of the
            actors; the other actors may be dead. Raises an error if something is wrong.
    """

    def __init__(
        self,
        contents: Contents,
        now: float,
        actors: dict[str, Act],
        jumps: Sequence[float],
        check: Callable[[Contents, float], None],
        most: int = sys.maxsize,
        check_ends: Callable[[Contents, float, dict[str, Ended]], None] | None = None,
    ) -> None:
        self._check_ends = check_ends
        self._start = contents, now
        self._names, self._actors = list(actors), list(actors.values())
        self._jumps = list(jumps)
        self._check = check
        self._most = most
        self._backend = Storage("the storage of the model")
        self._count = 0
        self._checked: set[Any] = set()
        self._visited: dict[Any, int] = {}
        self.schedules = 0
        self.states = self.runs = self.stores = 0  # counted
        self.ends: set[str] = set()

    def explore(self) -> int:
        """Visit all states, and return how many schedules lead through them."""
        contents, now = self._start
        roots = tuple(self._run(index, ()) for index in range(len(self._actors)))
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(100_000)
        try:
            self.schedules = self._visit(contents, now, 0, roots, [])
            return self.schedules
        finally:
            sys.setrecursionlimit(limit)

    def _visit(
        self,
        contents: Contents,
        now: float,
        jumped: int,
        nodes: tuple[_Node, ...],
        steps: list[str],
    ) -> int:
        store = frozenset(contents.items())
        state = (store, jumped, tuple(node.number for node in nodes))
        if state in self._visited:
            return self._visited[state]
        self.states += 1
        if (store, now) not in self._checked:
            self._checked.add((store, now))
            self.stores += 1
            self._guard(lambda: self._check(contents, now), steps)
        self._look_at_ends(contents, now, store, nodes, steps)
        schedules = 0
        if self.states < self._most:
            if jumped < len(self._jumps):
                later = now + self._jumps[jumped]
                schedules += self._visit(
                    contents, later, jumped + 1, nodes, [*steps, f"clock: {self._jumps[jumped]}"]
                )
            for index, node in enumerate(nodes):
                if isinstance(node.then, Request):
                    after, following, request = self._step(contents, now, node)
                    taken = [*steps, f"{self._names[index]}: {request}"]
                    self._check_end(following.then, taken)
                    schedules += self._visit(
                        after,
                        now,
                        jumped,
                        (*nodes[:index], following, *nodes[index + 1 :]),
                        taken,
                    )
        if not schedules:
            schedules = 1
        self._visited[state] = schedules
        return schedules

    def _check_end(self, then: Request | Ended, steps: list[str]) -> None:
        if isinstance(then, Ended):
            if isinstance(then.error, AssertionError):
                raise LostError(f"{then.error}\n  " + "\n  ".join(steps))
            self.ends.add(type(then.error).__name__)

    def _look_at_ends(
        self, contents: Contents, now: float, store: Any, nodes: tuple[_Node, ...], steps: list[str]
    ) -> None:
        check = self._check_ends
        named = zip(self._names, nodes, strict=True)
        ends = {name: node.then for name, node in named if isinstance(node.then, Ended)}
        errors = tuple((name, type(end.error)) for name, end in ends.items())
        if check is None or (store, now, errors) in self._checked:
            return
        self._checked.add((store, now, errors))
        self._guard(lambda: check(contents, now, ends), steps)

    def _guard(self, check: Callable[[], None], steps: list[str]) -> None:
        try:
            check()
        except AssertionError as error:
            raise LostError(f"{error}\n  " + "\n  ".join(steps)) from None

    def _step(self, contents: Contents, now: float, node: _Node) -> tuple[Contents, _Node, Request]:
        """Make the next request of an actor, with the private ones before it."""
        space = self._backend._space
        space.data = {key: data for key, (data, _) in contents.items()}
        space.times = {key: time for key, (_, time) in contents.items()}
        space.clock = lambda: now
        request = node.then
        assert isinstance(request, Request)
        while True:
            node = self._answer(node, request, now)
            if not request.is_private or not isinstance(node.then, Request):
                break
            request = node.then
        times = space.times
        return {key: (data, times[key]) for key, data in space.data.items()}, node, request

    def _answer(self, node: _Node, request: Request, now: float) -> _Node:
        kind: str
        try:
            if request.name == _CLOCK:
                kind, answer, key = "value", now, now
            else:
                answer = getattr(self._backend, request.name)(*request.args, **dict(request.kwargs))
                kind, key = "value", answer
                if isinstance(answer, Iterator):
                    kind, answer = "list", tuple(answer)
                    key = answer
        except PolicyStoreError as error:
            kind, answer, key = "error", error, (type(error), str(error))
        following = node.following.get((kind, key))
        if following is None:
            following = self._run(node.actor, (*node.answers, (kind, answer)))
            node.following[kind, key] = following
        return following

    def _run(self, actor: int, answers: tuple[tuple[str, Any], ...]) -> _Node:
        """Run an actor with recorded answers until it makes a new request or ends."""
        self.runs += 1
        backend = _Recorded(answers)
        nonces = iter(range(1, 1000))

        def token(nbytes: int = 16) -> str:
            return f"{actor:02x}{next(nonces):0{2 * nbytes - 2}x}"

        then: Request | Ended
        with mock.patch.object(secrets, "token_hex", token):
            try:
                then = Ended(self._actors[actor](backend, lambda: float(backend.ask(_CLOCK))))
            except _StoppedError:
                assert backend.pending is not None
                then = backend.pending
            except (PolicyStoreError, AssertionError) as error:
                then = Ended(error=error)
        self._count += 1
        return _Node(actor, self._count, answers, then)
