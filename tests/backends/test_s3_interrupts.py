"""Ctrl-C ends a call soon, also while a server does not answer."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from policystore import Snapshot
from tests.support.cells import sampled
from tests.support.fault_proxy import FaultProxy
from tests.support.s3_server import KEY, SECRET, client
from tests.support.waiting import until

Make = Callable[..., Snapshot]

# A server that does not answer is given up after 300 seconds, so that no test waits for that.
PROGRAM = """
    import signal, sys, threading
    import numpy as np
    from policystore import PolicyStore, Snapshot, Spec

    signal.signal(signal.SIGINT, signal.default_int_handler)
    options = {"endpoint_url": sys.argv[2], "config_kwargs": {"read_timeout": 300}}
    store = PolicyStore(sys.argv[1], storage_options=options, cache=False)
    snap = Snapshot(weights={f"w{i}": np.full((9 << 20) + i, 1, np.float32) for i in range(3)},
                    spec=Spec())
    print("under way", flush=True)
    try:
        {call}
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        {after}
"""


@contextmanager
def under_way(call: str, *args: str, after: str = "pass") -> Iterator[subprocess.Popen[str]]:
    program = textwrap.dedent(PROGRAM).replace("{call}", call).replace("{after}", after)
    command = [sys.executable, "-c", program, *args]
    credentials = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **credentials},
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "under way\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def silent() -> Iterator[tuple[str, list[socket.socket]]]:
    """Yield the URL of a server that accepts connections and never answers."""
    accepted: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        over = threading.Event()

        def accept() -> None:
            while not over.is_set():
                try:
                    accepted.append(server.accept()[0])
                except TimeoutError:
                    continue

        thread = threading.Thread(target=accept)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", accepted
        over.set()
        thread.join()
    for each in accepted:
        each.close()


CALLS = {  # with the number of requests that are under way at the same time
    "store.pull_many(['a@1', 'b', 'c', 'blake3:' + 'ab' * 32])": 4,
    "store.pull('a')": 2,
    "store.push(snap, 'a')": 2,
    "store.log('a')": 1,
    "store.verify()": 1,
    "store.tag('a@1', 't')": 1,
    "store.names()": 1,
}


@pytest.mark.parametrize("call", sampled(list(CALLS), next(iter(CALLS))))
def test_an_interrupt_does_not_wait_for_a_silent_server(
    call: str, silent: tuple[str, list[socket.socket]]
) -> None:
    (url, accepted), requests = silent, CALLS[call]
    with under_way(call, "s3://bucket/p", url) as process:
        until(lambda: len(accepted) >= requests)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
    assert (out, errors, process.returncode) == ("interrupted\n", "", 0)


@pytest.mark.long
def test_an_interrupted_upload_is_ended_and_the_store_can_be_used(
    s3_endpoint: str, s3_bucket: str
) -> None:
    after = "print(store.push(snap, 'a').number, store.pull('a') == snap, flush=True)"
    with FaultProxy(s3_endpoint, stall=300) as proxy:
        stalls = proxy.script("stall", method="PUT", path="partNumber", times=4)
        url = f"s3://{s3_bucket}/p"
        with under_way("store.push(snap, 'a')", url, proxy.endpoint, after=after) as process:
            until(lambda: stalls.made == 4)
            process.send_signal(signal.SIGINT)
            out, errors = process.communicate(timeout=60)
    assert (out, errors) == ("interrupted\n1 True\n", "")
    assert client(s3_endpoint).list_multipart_uploads(Bucket=s3_bucket).get("Uploads", []) == []
