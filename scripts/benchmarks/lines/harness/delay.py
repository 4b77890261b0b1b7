"""A proxy that makes each HTTP request longer by a delay, and does nothing else.

    python -m scripts.benchmarks.lines.harness.delay HOST:PORT SECONDS LOG

prints its own port. Each connection has a thread and a connection of its own to the server, and
stays open as long as both want it. For each request, a line of ``LOG`` has the time at which the
request arrived, the time at which the first byte of its answer did, the method and the path.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from scripts.benchmarks.lines.harness.processes import environment

__all__ = ["Proxy", "Seen", "delaying", "rounds_of"]

_LOOPBACK = "127.0.0.1"
_BYTES = 1 << 18  # of one read


class Seen(NamedTuple):
    """One request: seconds of the system's monotonic clock, method and path."""

    began: float
    answered: float
    method: str
    path: str


def rounds_of(seen: list[Seen]) -> int:
    """Return the length of the longest chain of requests, each begun after the answer before it.

    A client that needs an answer before it can ask on makes such a chain. Requests that are under
    way at the same time count once.
    """
    count, end = 0, float("-inf")
    for request in sorted(seen, key=lambda each: each.answered):
        if request.began >= end:
            count, end = count + 1, request.answered
    return count


class Proxy:
    """A proxy that runs in a process of its own.

    Attributes:
        url: its URL.
    """

    def __init__(self, url: str, log: Path) -> None:
        self.url = url
        self._log = log
        self._read = 0

    def seen(self) -> list[Seen]:
        """Return the requests since the last call, in the order of their answers."""
        with self._log.open() as file:
            file.seek(self._read)
            lines = [line for line in file if line.endswith("\n")]
        self._read += sum(len(line) for line in lines)
        fields = (line.split() for line in lines)
        return [Seen(float(began), float(end), *rest) for began, end, *rest in fields]


@contextmanager
def delaying(endpoint: str, seconds: float) -> Iterator[Proxy]:
    """Run a proxy to a server during the block.

    Args:
        endpoint: the URL of the server, ``http://HOST:PORT``.
        seconds: how much longer each request takes.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "requests"
        log.touch()
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, endpoint.removeprefix("http://"), str(seconds), log],
            stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=environment(),
        )  # fmt: skip
        try:
            port = process.stdout.readline().strip() if process.stdout else ""
            if not port:
                raise RuntimeError("the delaying proxy did not start")
            yield Proxy(f"http://{_LOOPBACK}:{port}", log)
        finally:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()


class _Requests:
    """The bytes that a client sends, request by request."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._held = b""

    def head(self) -> bytes:
        """Return the next request's line and headers; nothing if there is none."""
        while b"\r\n\r\n" not in self._held:
            data = self._client.recv(_BYTES)
            if not data:
                return b""
            self._held += data
        head, end, self._held = self._held.partition(b"\r\n\r\n")
        return head + end

    def send_body(self, head: bytes, server: socket.socket) -> None:
        """Pass the body on that belongs to the headers."""
        headers = {
            name.strip().lower(): value.strip().lower()
            for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
        }
        if headers.get(b"transfer-encoding") == b"chunked":
            while size := int(self._line(server).partition(b";")[0], 16):
                self._pass_on(size + 2, server)
            while self._line(server).strip():
                pass  # trailers
        else:
            self._pass_on(int(headers.get(b"content-length", b"0")), server)

    def _line(self, server: socket.socket) -> bytes:
        while b"\n" not in self._held:
            self._held += self._more()
        line, end, self._held = self._held.partition(b"\n")
        server.sendall(line + end)
        return line

    def _pass_on(self, count: int, server: socket.socket) -> None:
        while count:
            data = self._held or self._more()
            server.sendall(data[:count])
            self._held = data[count:]
            count -= min(count, len(data))

    def _more(self) -> bytes:
        data = self._client.recv(_BYTES)
        if not data:
            raise ConnectionError("the client went away in the middle of a request")
        return data


def _serve(client: socket.socket, target: tuple[str, int], delay: float, note: _Note) -> None:
    """Pass the requests of one connection on, until one side closes it."""
    pending: deque[tuple[float, str]] = deque()
    with suppress(OSError), client, socket.create_connection(target) as server:
        for each in (client, server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_answer, args=(server, client, pending, note), daemon=True).start()
        requests = _Requests(client)
        while head := requests.head():
            method, path, _ = head.decode("latin-1").split(" ", 2)
            pending.append((time.monotonic(), f"{method} {path}"))
            time.sleep(delay)
            server.sendall(head)
            requests.send_body(head, server)


def _answer(
    server: socket.socket, client: socket.socket, pending: deque[tuple[float, str]], note: _Note
) -> None:
    """Pass answers on as they come, and note when the first bytes of each came."""
    with suppress(OSError):
        while data := server.recv(_BYTES):
            # A server says "100 Continue" before the body of a request: that is no answer yet.
            interim = data.startswith(b"HTTP/1.1 100") and data.endswith(b"\r\n\r\n")
            if pending and not (interim and data.count(b"\r\n\r\n") == 1):
                began, what = pending.popleft()
                note(f"{began} {time.monotonic()} {what}\n")
            client.sendall(data)
        client.shutdown(socket.SHUT_RDWR)


_Note = Callable[[str], object]


def main() -> None:
    host, _, port = sys.argv[1].rpartition(":")
    delay = float(sys.argv[2])
    with Path(sys.argv[3]).open("a", buffering=1) as log:
        listening = socket.create_server((_LOOPBACK, 0), backlog=512)
        print(listening.getsockname()[1], flush=True)
        while True:
            client, _ = listening.accept()
            threading.Thread(
                target=_serve, args=(client, (host, int(port)), delay, log.write), daemon=True
            ).start()


if __name__ == "__main__":
    main()
