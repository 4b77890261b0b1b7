"""A proxy on loopback between a client of S3 and its server, that makes faults on purpose.

    with FaultProxy(endpoint) as proxy:
        store = PolicyStore("s3://bucket/p", storage_options={"endpoint_url": proxy.endpoint})
        proxy.script("lose-answer", method="PUT", path="@versions/")  # the next one only
        proxy.plan(seed=7, rate=0.1)  # every tenth request from now on, of any kind
        …
        proxy.calm()
        print(proxy.faults)  # how many of each kind

Requests are passed on as they are, with the Host that the client signed. The proxy runs in a thread
of its own. A server that checks signatures, as Ceph does, accepts the requests.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import struct
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args
from urllib.parse import unquote

Fault: TypeAlias = Literal[
    "refuse",  # the connection breaks, and new connections are refused for a moment
    "reset-request",  # the connection is reset in the middle of the request; nothing is applied
    "lose-answer",  # the server applies the request, and no answer arrives
    "reset-response",  # the server applies the request; reset in the middle of the answer
    "truncate",  # the server applies the request; the answer ends too early
    "error-500",  # InternalError; nothing is applied
    "error-500-applied",  # InternalError, although the server has applied the request
    "slow-down",  # 503 SlowDown for this request and the next ones
    "stall",  # no answer before the client gives up; nothing is applied
    "stall-applied",  # the same, after the server has applied the request
    "delay",  # the answer comes late, after those of later requests
    "stale-list",  # a listing is answered as it was answered before
    "shuffle-list",  # the entries of a page come in another order
    "repeat-list",  # the entries of a page come twice
]
FAULTS: tuple[Fault, ...] = get_args(Fault)
LIST_FAULTS: tuple[Fault, ...] = ("stale-list", "shuffle-list", "repeat-list")
NOT_APPLIED: tuple[Fault, ...] = ("refuse", "reset-request", "error-500", "slow-down", "stall")

LOOPBACK = "127.0.0.1"
_REFUSED = 0.05  # seconds without a listening socket
_BURST = 4  # answers of 503 in a row
_DELAY = 0.2  # seconds at most
_STALE = 8  # earlier answers of one listing
_LIMIT = 1 << 26  # bytes of a line of the protocol at most


@dataclass
class Request:
    """A request: its head as the client sent it, and its body.

    Attributes:
        method: such as ``"PUT"``.
        path: the path and the query, without escapes.
    """

    method: str
    path: str
    head: bytes
    body: bytes = b""

    @property
    def is_list(self) -> bool:
        return self.method == "GET" and "list-type=2" in self.path

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass
class Answer:
    head: bytes
    body: bytes
    has_body: bool = True

    def to_bytes(self) -> bytes:
        return self.head + self.body


@dataclass
class Rule:
    """A fault for some of the requests that fit.

    Attributes:
        skip: how many of these requests pass before the first fault.
        times: how many faults are still to come.
        made: how many faults were made.
    """

    kind: Fault
    method: str | None
    path: str
    skip: int
    times: int
    made: int = 0

    def takes(self, request: Request) -> bool:
        """Return whether this request gets the fault, and count it."""
        fits = self.method in (None, request.method) and re.search(self.path, request.path)
        if not fits or self.times == 0:
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        self.made += 1
        return True


@dataclass
class Plan:
    """Faults at random. The same request gets the same faults under the same seed."""

    seed: int
    rate: float
    kinds: Sequence[Fault]
    in_a_row: int
    where: Callable[[Request], bool]
    _tries: Counter[str] = field(default_factory=Counter)
    _row: Counter[str] = field(default_factory=Counter)

    def choose(self, request: Request) -> Fault | None:
        if not self.where(request):
            return None
        name = str(request)
        self._tries[name] += 1
        chance = random.Random(f"{self.seed} {name} {self._tries[name]}")
        kinds = [kind for kind in self.kinds if request.is_list or kind not in LIST_FAULTS]
        if not kinds or self._row[name] >= self.in_a_row or chance.random() >= self.rate:
            del self._row[name]
            return None
        self._row[name] += 1
        return chance.choice(kinds)


class FaultProxy:
    """Pass requests on to a server, and make the faults that :meth:`script` and :meth:`plan` say.

    Args:
        endpoint: the URL of the server.
        stall: how many seconds a stalled request gets no answer, before its connection is reset.

    Attributes:
        endpoint: the URL of the proxy, for clients.
        faults: how many faults of each kind were made.
        requests: the last requests, in order, also those that the server never saw.
        fault_log: the last faults: the kind and the request.
    """

    def __init__(self, endpoint: str, *, stall: float = 30.0) -> None:
        host, _, port = endpoint.removeprefix("http://").rstrip("/").partition(":")
        self._target = (host, int(port or 80))
        self._stall = stall
        self.endpoint = ""
        self.faults: Counter[Fault] = Counter()
        self.requests: deque[Request] = deque(maxlen=100_000)
        self.fault_log: deque[tuple[Fault, str]] = deque(maxlen=100_000)
        self._rules: list[Rule] = []
        self._plan: Plan | None = None
        self._burst = 0
        self._stale: dict[str, deque[Answer]] = {}
        self._port = 0
        self._open: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)
        self._ready = threading.Event()
        self._stop = asyncio.Event()

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    # What the test says

    def script(
        self, kind: Fault, *, method: str | None = None, path: str = "", skip: int = 0,
        times: int = 1,
    ) -> Rule:  # fmt: skip
        """Make a fault for requests that fit, and return the rule, which counts its faults.

        Args:
            kind: the fault.
            method: the method of the requests; None for any.
            path: a regular expression that is searched for in the path and the query.
            skip: how many of these requests pass before the first fault.
            times: how many faults to make; -1 for one each time.
        """
        rule = Rule(kind, method, path, skip, times)
        self._rules = [*self._rules, rule]
        return rule

    def plan(
        self, seed: int, rate: float, kinds: Sequence[Fault] = FAULTS, *, in_a_row: int = 3,
        where: Callable[[Request], bool] = lambda request: True,
    ) -> None:  # fmt: skip
        """Make faults at random from now on, for requests without a rule.

        Args:
            seed: the same seed gives the n-th try of a request the same fault.
            rate: which part of the requests gets a fault, 0 to 1.
            kinds: the faults.
            in_a_row: how many tries of one request get a fault before one passes.
            where: which requests get faults.
        """
        self._plan = Plan(seed, rate, kinds, in_a_row, where)

    def calm(self) -> None:
        """Make no more faults. The rules and the plan are dropped."""
        self._rules, self._plan, self._burst = [], None, 0

    # Connections

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._listen()
        self.endpoint = f"http://{LOOPBACK}:{self._port}"
        self._ready.set()
        await self._stop.wait()
        self._close_port()
        await asyncio.sleep(0.01)  # each connection has a reader from now on
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await asyncio.sleep(0.01)  # closed connections end in a later turn of the loop

    def _listen(self) -> None:
        self._listener = socket.create_server((LOOPBACK, self._port), backlog=512)
        self._listener.setblocking(False)
        self._port = self._listener.getsockname()[1]
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        with suppress(BlockingIOError):
            connection, _ = self._listener.accept()
            connection.setblocking(False)
            task = self._loop.create_task(self._pass_on(connection))
            self._open.add(task)
            task.add_done_callback(self._open.discard)

    def _close_port(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener)
            self._listener.close()

    async def _refuse(self) -> None:
        """Refuse new connections for a moment."""
        if self._listener.fileno() < 0:
            return  # another connection does
        self._close_port()
        await asyncio.sleep(_REFUSED)
        while self._listener.fileno() < 0 and not self._stop.is_set():
            with suppress(OSError):  # another program may have the port for a moment
                self._listen()
                return
            await asyncio.sleep(0.05)

    async def _pass_on(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection, limit=_LIMIT)
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        try:
            while (request := await self._read_head(reader)) is not None:
                self.requests.append(request)
                kind = self._choose(request)
                if kind is not None:
                    self.faults[kind] += 1
                    self.fault_log.append((kind, str(request)))
                if kind == "refuse":
                    _reset(writer)
                    await self._refuse()
                    return
                if not await self._read_body(request, reader, writer, kind == "reset-request"):
                    _reset(writer)
                    return
                if kind in ("error-500", "slow-down"):
                    writer.write(_refusal(kind))
                    await writer.drain()
                    continue
                if kind == "stall":
                    await self._stalled(reader, writer)
                    return
                if server is None or server[0].at_eof():
                    if server is not None:
                        server[1].close()
                    server = await asyncio.open_connection(*self._target, limit=_LIMIT)
                answer = await self._ask(request, *server)
                if not await self._answer(kind, request, answer, reader, writer):
                    return
        except (OSError, EOFError, asyncio.CancelledError):  # the end of the proxy cancels
            _reset(writer)
        finally:
            writer.close()
            if server is not None:
                server[1].close()

    async def _ask(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Answer:
        """Pass a request on to the server and read the answer."""
        writer.write(re.sub(rb"\r\n[Ee]xpect:[^\r]*", b"", request.head) + request.body)
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        while head.split(None, 2)[1].startswith(b"1"):  # 100 Continue
            head = await reader.readuntil(b"\r\n\r\n")
        fields = _fields(head)
        if request.method == "HEAD" or head.split(None, 2)[1] in (b"204", b"304"):
            return Answer(head, b"", has_body=False)
        if "chunked" in fields.get("transfer-encoding", ""):
            body = b""
            while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readuntil(b"\r\n")
            return Answer(_with_length(head, len(body)), body)
        if "content-length" in fields:
            return Answer(head, await reader.readexactly(int(fields["content-length"])))
        body = await reader.read()
        return Answer(_with_length(head, len(body)), body)

    async def _answer(
        self, kind: Fault | None, request: Request, answer: Answer,
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
    ) -> bool:  # fmt: skip
        """Send an answer to the client, with a fault; return whether the connection goes on."""
        if kind == "stall-applied":
            await self._stalled(reader, writer)
            return False
        if kind in ("lose-answer", "reset-response", "truncate"):
            if kind != "lose-answer":
                cut = len(answer.head) if answer.body else 0
                writer.write(answer.to_bytes()[: cut + len(answer.body) // 2])
                await writer.drain()
            if kind != "truncate":
                _reset(writer)
            return False
        if kind == "error-500-applied":
            answer = Answer(_refusal(kind), b"")
        if kind == "delay":
            await asyncio.sleep(random.uniform(0, _DELAY))
        if request.is_list and answer.head.split(None, 2)[1] == b"200":
            answer = self._listing(kind, request, answer)
        writer.write(answer.to_bytes())
        await writer.drain()
        return "close" not in _fields(answer.head).get("connection", "").lower()

    def _listing(self, kind: Fault | None, request: Request, answer: Answer) -> Answer:
        """Return the answer to a listing, with a fault, and remember the right one."""
        earlier = self._stale.setdefault(request.path, deque(maxlen=_STALE))
        told = answer
        if kind == "stale-list" and earlier:
            told = random.choice(list(earlier))
        elif kind in ("shuffle-list", "repeat-list"):
            body = answer.body
            for tag in (b"Contents", b"CommonPrefixes"):
                entry = re.compile(rb"<%s>.*?</%s>" % (tag, tag), re.DOTALL)
                entries = entry.findall(body) * (2 if kind == "repeat-list" else 1)
                random.shuffle(entries)
                if found := entry.search(body):
                    rest = entry.sub(b"", body)
                    body = rest[: found.start()] + b"".join(entries) + rest[found.start() :]
            told = Answer(_with_length(answer.head, len(body)), body)
        if not earlier or earlier[-1].body != answer.body:
            earlier.append(answer)
        return told

    async def _stalled(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send nothing until the client closes the connection, or a time has passed."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(reader.read(1), self._stall)
        _reset(writer)

    def _choose(self, request: Request) -> Fault | None:
        for rule in self._rules:
            if rule.takes(request):
                return rule.kind
        if self._burst:
            self._burst -= 1
            return "slow-down"
        kind = None if self._plan is None else self._plan.choose(request)
        if kind == "slow-down":
            self._burst = random.randrange(_BURST)
        return kind

    async def _read_head(self, reader: asyncio.StreamReader) -> Request | None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (EOFError, OSError):
            return None  # the client has closed the connection
        method, path, _ = head.split(b" ", 2)
        return Request(method.decode(), unquote(path.decode("latin-1")), head)

    async def _read_body(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
        breaks: bool,
    ) -> bool:  # fmt: skip
        """Read the body of a request; return False if the connection breaks in its middle."""
        fields = _fields(request.head)
        if "100-continue" in fields.get("expect", "").lower():
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if "chunked" in fields.get("transfer-encoding", ""):
            while True:
                line = await reader.readuntil(b"\r\n")
                size = int(line.split(b";")[0], 16)
                request.body += line + await reader.readexactly(size + 2)
                if not size or breaks:
                    return not breaks
        size = int(fields.get("content-length", 0))
        request.body = await reader.readexactly(size // 2 if breaks else size)
        return not breaks


def _fields(head: bytes) -> dict[str, str]:
    """Return the fields of a head by their names in small letters."""
    lines = head.decode("latin-1").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if line)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _with_length(head: bytes, size: int) -> bytes:
    """Return a head that declares a body of this size."""
    kept = re.sub(rb"\r\n(?:[Cc]ontent-[Ll]ength|[Tt]ransfer-[Ee]ncoding):[^\r]*", b"", head)
    return kept[:-2] + b"Content-Length: %d\r\n\r\n" % size


def _refusal(kind: Fault) -> bytes:
    status, code = (
        (b"503 Slow", b"SlowDown") if kind == "slow-down" else (b"500 No", b"InternalError")
    )
    body = b"<Error><Code>%s</Code><Message>made by the proxy</Message></Error>" % code
    head = b"HTTP/1.1 %s\r\nContent-Type: application/xml\r\n\r\n" % status
    return _with_length(head, len(body)) + body


def _reset(writer: asyncio.StreamWriter) -> None:
    """Reset the connection to a client, so that what was not read yet is lost."""
    raw = writer.get_extra_info("socket")
    with suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
