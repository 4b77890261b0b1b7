"""Put load on scripts/examples/serve_http.py, and move the tag once meanwhile.

    ./.venv/bin/python scripts/examples/load_http.py                  # a plain network
    ./.venv/bin/python scripts/examples/load_http.py --recurrent      # an LSTM; a session a client

The script makes a store with two policies of random weights, starts the server on this machine, and
asks it from many clients at once. It compares each action with the action of the policy that the
answer names. It prints requests a second and latencies, as the clients see them. The exit status is
1 if a request failed, an action is not of the policy that the answer names, one batch was answered
by two policies, or only one policy has answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
sys.path.insert(0, str(Path(__file__).resolve().parent))

from serving import NAME, TAG, Expected, Tally, make_store

SERVER = Path(__file__).with_name("serve_http.py")
STARTS = 120.0  # seconds that the server has to start


class Client:
    """One connection to the server.

    Plain sockets need less time than a library, so that the figures are those of the server.
    """

    def __init__(self, port: int) -> None:
        self._port = port

    async def open(self) -> Client:
        """Connect to the server."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send a request; return the status and the document of the answer."""
        data = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"content-length: {len(data)}\r\n\r\n"
        )
        self._writer.write(head.encode() + data)
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        length = next(int(x.partition(":")[2]) for x in lines if x.startswith("content-length:"))
        return int(lines[0].split()[1]), json.loads(await self._reader.readexactly(length))

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()


async def play(port: int, number: int, given: argparse.Namespace, tally: Tally, end: float) -> None:
    """Ask for actions, one after the other, until the end."""
    observations = [obs.tolist() for obs in tally.expected.observations]
    client = await Client(port).open()
    index = number
    while time.perf_counter() < end:
        index = (index + 1) % len(observations)
        body: dict[str, Any] = {"observation": observations[index]}
        if given.recurrent:
            body["session"] = f"client {number} {index}"
        began = time.perf_counter()
        status, answer = await client.ask("POST", "/act", body)
        if status == 200:
            tally.answered(index, time.perf_counter() - began, answer)
        else:
            tally.failed(f"{status}: {answer}")
        if given.recurrent:  # each episode is one step long, so that its action is known
            await client.ask("DELETE", f"/sessions/client%20{number}%20{index}")
    client.close()


async def put_load(port: int, given: argparse.Namespace, store: Any, tally: Tally) -> str:
    """Run all clients, and move the tag when half of the time has passed; return a table."""
    began = time.perf_counter()
    end = began + given.seconds
    players = [
        asyncio.create_task(play(port, number, given, tally, end))
        for number in range(given.clients)
    ]
    await asyncio.sleep(given.seconds / 2)
    await asyncio.to_thread(store.tag, f"{NAME}@2", TAG)
    tagged = time.perf_counter()
    await asyncio.gather(*players)
    return tally.report(began, tagged)


async def check_health(port: int, tally: Tally) -> None:
    """Ask the server whether it still follows the tag."""
    client = await Client(port).open()
    status, health = await client.ask("GET", "/health")
    client.close()
    if status != 200 or health["error"]:
        tally.failed(f"health: {status} {health}")


async def wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    """Wait until the server answers."""
    end = time.monotonic() + STARTS
    while time.monotonic() < end and server.poll() is None:
        try:
            client = await Client(port).open()
        except OSError:
            await asyncio.sleep(0.1)
            continue
        await client.ask("GET", "/health")
        client.close()
        return
    raise SystemExit("the server did not start")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def add_load_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the load, which serve_ray.py has as well."""
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to put load")
    parser.add_argument("--clients", type=int, default=32, help="how many ask at once")
    parser.add_argument("--hidden", type=int, default=64, help="units of each layer")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_load_options(parser)
    parser.add_argument("--recurrent", action="store_true")
    parser.add_argument("--interval", type=float, default=0.5, help="of the server's looks")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="policystore-serve-") as folder:
        store = make_store(folder, recurrent=given.recurrent, hidden=given.hidden)
        tally = Tally(Expected(store))
        port = free_port()
        command = [sys.executable, SERVER, folder, f"{NAME}@{TAG}", "--port", str(port)]
        with subprocess.Popen([*command, "--interval", str(given.interval)]) as server:
            try:
                asyncio.run(wait_for(port, server))
                print(asyncio.run(put_load(port, given, store, tally)))
                asyncio.run(check_health(port, tally))
            finally:
                server.terminate()
    for failure in tally.failures[:5]:
        print(failure)
    return 0 if tally.is_good() else 1


if __name__ == "__main__":
    sys.exit(main())
