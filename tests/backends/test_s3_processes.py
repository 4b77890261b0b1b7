"""Threads and forked processes that use one bucket."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from policystore import (
    PolicyStore,
    Snapshot,
)
from tests.support.s3_server import Proxy, Request
from tests.support.s3_stores import (
    run_program,
)

Make = Callable[..., Snapshot]


@pytest.mark.long
def test_threads_share_one_store(store: PolicyStore, make_snapshot: Make) -> None:
    snaps = [make_snapshot(seed) for seed in range(24)]
    with ThreadPoolExecutor(24) as pool:
        versions = list(pool.map(lambda snap: store.push(snap, "a"), snaps))
        pulled = list(pool.map(store.pull, versions))
    assert pulled == snaps
    assert sorted(v.number or 0 for v in versions) == list(range(1, 25))


def test_sixty_four_requests_are_under_way_at_once(
    store: PolicyStore, proxy: Proxy, make_snapshot: Make
) -> None:
    version = store.push(make_snapshot(), "a")
    meeting = threading.Barrier(64, timeout=20)

    def meet(request: Request) -> None:
        meeting.wait()  # broken, and all requests with it, unless 64 of them come

    proxy.before = meet
    with ThreadPoolExecutor(64) as pool:
        assert set(pool.map(lambda _: store.pull(version).digest, range(64))) == {version.digest}


def test_a_forked_process_makes_its_own_connections(
    s3_endpoint: str, s3_bucket: str, make_snapshot: Make
) -> None:
    program = """
        import os, signal, sys, threading
        import numpy as np
        from policystore import PolicyStore, Snapshot, Spec

        def snap(n):
            return Snapshot(weights={"w": np.full(3, n)}, spec=Spec())

        store = PolicyStore(sys.argv[1], storage_options={"endpoint_url": sys.argv[2]})
        store.push(snap(0), "a")
        stop = threading.Event()

        def busy():  # requests are under way while the process forks
            while not stop.is_set():
                store.pull("a@1")

        readers = [threading.Thread(target=busy) for _ in range(4)]
        for reader in readers:
            reader.start()
        children = []
        for n in range(1, 5):
            child = os.fork()
            if not child:
                signal.alarm(120)  # a child that waits for the parent's connections is killed
                assert store.pull("a@1") == snap(0)
                store.push(snap(n), "a")
                os._exit(0)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        stop.set()
        for reader in readers:
            reader.join()
        assert store.pull("a@1") == snap(0)  # the parent's connections are as they were
        print(codes, sorted(v.number for v in store.log("a")), store.verify().ok)
    """
    out = run_program(program, f"s3://{s3_bucket}/p", s3_endpoint)
    assert out.strip() == "[0, 0, 0, 0] [1, 2, 3, 4, 5] True"


def test_a_process_forked_while_a_connection_is_made(
    s3_endpoint: str, s3_bucket: str, make_snapshot: Make
) -> None:
    program = """
        import gc, os, signal, sys, weakref
        from policystore import PolicyStore
        from policystore.backends import filesystems

        store = PolicyStore(sys.argv[1], storage_options={"endpoint_url": sys.argv[2]})
        store.names()
        inherited = weakref.ref(store._backend._opened[1])
        with filesystems._LOCK:  # as another thread of the parent would hold it
            child = os.fork()
            if not child:
                signal.alarm(40)  # ends a child that waits for ever
                print(store.names())
                sys.stdout.flush()
                gc.collect()
                assert inherited()  # its end would write into the parent's sockets
                os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), store.names())
    """
    url = f"s3://{s3_bucket}/p"
    PolicyStore(url, storage_options={"endpoint_url": s3_endpoint}).push(make_snapshot(), "a")
    assert run_program(program, url, s3_endpoint).split("\n")[:2] == ["['a']", "0 ['a']"]


def test_nothing_is_imported_or_asked_before_the_first_request(
    proxy: Proxy, s3_bucket: str
) -> None:
    program = """
        import sys
        from policystore import PolicyStore
        store = PolicyStore(sys.argv[1], storage_options={"endpoint_url": sys.argv[2]})
        import pickle; pickle.loads(pickle.dumps(store)); repr(store)
        print({"fsspec", "s3fs", "botocore", "aiohttp", "asyncio"} & set(sys.modules))
    """
    assert run_program(program, f"s3://{s3_bucket}/p", proxy.endpoint).strip() == "set()"
    assert proxy.told() == []
