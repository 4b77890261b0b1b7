"""A moto server on loopback, and a proxy that records requests and can refuse or lose them."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

import boto3

KEY, SECRET = "AKIDOFTHETESTS", "SECRETOFTHETESTS"
LOOPBACK = "127.0.0.1"


def client(endpoint: str) -> Any:
    """Return a client of boto3, to look into a bucket without policystore."""
    return boto3.client("s3", endpoint_url=endpoint, aws_access_key_id=KEY,
                        aws_secret_access_key=SECRET, region_name="us-east-1")  # fmt: skip


@contextmanager
def moto_server() -> Iterator[str]:
    from moto.s3.responses import S3Response
    from moto.server import ThreadedMotoServer

    # moto looks whether a key exists, and writes it later: without the lock, two threads that create
    # one key at the same time both succeed.
    lock, put = threading.Lock(), S3Response._key_response_put

    def put_alone(self: Any, *args: Any, **kwargs: Any) -> Any:
        with lock:
            return put(self, *args, **kwargs)

    server = ThreadedMotoServer(ip_address=LOOPBACK, port=0, verbose=False)
    with mock.patch.object(S3Response, "_key_response_put", put_alone):
        server.start()
        host, port = server.get_host_and_port()
        try:
            yield f"http://{host}:{port}"
        finally:
            server.stop()


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def __str__(self) -> str:
        conditional = " if-none-match" if "if-none-match" in self.headers else ""
        ranged = " ranged" if "range" in self.headers else ""
        return f"{self.method} {self.path}{conditional}{ranged}"


@dataclass
class Answer:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


def error(status: int, code: str) -> Answer:
    text = f"<Error><Code>{code}</Code><Message>told by the test</Message></Error>"
    return Answer(status, {"Content-Type": "application/xml"}, text.encode())


Meddle = Callable[[Request], "Answer | None"]


def _another_thread_runs(but: set[int]) -> bool:
    """Return whether a thread of this process runs, or waits for a processor (Linux)."""
    for thread in Path("/proc/self/task").glob("*"):
        try:
            stat = "" if int(thread.name) in but else (thread / "stat").read_text()
        except OSError:
            continue  # the thread has ended
        if stat.rpartition(")")[2].split()[:1] == ["R"]:
            return True
    return False


class Proxy:
    """Passes requests on to a server, unless ``before`` answers them itself.

    Attributes:
        seen: every request, in order.
        before: answers instead of the server, or returns None to pass the request on.
        lose: whether an answer is dropped after the server has applied the request.
        after: changes an answer on its way back.
        quiet: if not 0, requests pass in rounds. A round begins when all requests of the one before
            have their answers, this many seconds have passed without a new request, and no thread
            of this process is about to run. It takes all requests that wait then. So the number of
            rounds is the length of the longest chain of requests that each need an answer to the
            one before, also on a machine that keeps the threads waiting for a processor.
    """

    def __init__(self, endpoint: str) -> None:
        self.target = endpoint.removeprefix("http://")
        self.seen: list[Request] = []
        self.before: Meddle = lambda request: None
        self.lose: Callable[[Request], bool] = lambda request: False
        self.after: Callable[[Request, Answer], Answer] = lambda request, answer: answer
        self.quiet = 0.0
        self._last = 0.0
        self._turn = threading.Lock()  # of what follows
        self._waiting: set[int] = set()  # ids of the threads whose requests wait for a round
        self._passed: set[int] = set()  # of the threads whose requests are in the present round
        self._rounds = 0
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65537)
                if not self.raw_requestline or not self.parse_request():
                    self.close_connection = True
                    return
                proxy._handle(self)

            def log_message(self, *args: Any) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: Any) -> None: ...  # a client may close its connection

        self._server = Server((LOOPBACK, 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.endpoint = f"http://{LOOPBACK}:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def told(self) -> list[str]:
        """Return the requests since the last call of this method, one line for each."""
        lines, self.seen = [str(request) for request in self.seen], []
        return lines

    def rounds(self) -> int:
        """Return the number of rounds since the last call of this method."""
        with self._turn:
            count, self._rounds = self._rounds, 0
        return count

    def _wait_for_a_round(self) -> None:
        me = threading.get_native_id()
        with self._turn:
            self._waiting.add(me)
            self._last = time.monotonic()
        while True:
            with self._turn:
                if me in self._passed:
                    return
                left = self._last + self.quiet - time.monotonic()
                if not self._passed and left <= 0 and not _another_thread_runs(self._waiting):
                    self._passed, self._waiting = self._waiting, set()
                    self._rounds += 1
            time.sleep(min(max(left, 0.005), 0.05))

    def _answered(self) -> None:
        with self._turn:
            self._passed.discard(threading.get_native_id())
            self._last = time.monotonic()

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        headers = {name.lower(): value for name, value in handler.headers.items()}
        if headers.get("expect", "").lower() == "100-continue":
            handler.send_response_only(100)
            handler.end_headers()
        body = handler.rfile.read(int(headers.get("content-length", 0)))
        request = Request(handler.command, handler.path, headers, body)
        self.seen.append(request)
        if self.quiet:
            self._wait_for_a_round()
        try:
            answer = self.before(request) or self.after(request, self._pass_on(request))
        finally:
            self._answered()
        if self.lose(request):
            handler.close_connection = True
            handler.connection.close()
            return
        handler.send_response_only(answer.status)
        for name, value in answer.headers.items():
            handler.send_header(name, value)
        if "Transfer-Encoding" in answer.headers:
            handler.end_headers()
            handler.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(answer.body), answer.body))
            return
        if "Content-Length" not in answer.headers:
            handler.send_header("Content-Length", str(len(answer.body)))
        handler.end_headers()
        handler.wfile.write(answer.body)

    def _pass_on(self, request: Request) -> Answer:
        connection = http.client.HTTPConnection(self.target, timeout=30)
        try:
            connection.request(request.method, request.path, request.body, request.headers)
            response = connection.getresponse()
            body = response.read()
            kept = {name: value for name, value in response.getheaders()
                    if name.lower() not in ("transfer-encoding", "connection", "content-length")}  # fmt: skip
            if request.method == "HEAD":
                kept["Content-Length"] = response.getheader("Content-Length") or "0"
            return Answer(response.status, kept, body)
        finally:
            connection.close()
