"""Child processes of every kind use a bucket that their parent uses at the same time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import multiprocessing, os, pickle, sys, threading
import numpy as np
from policystore import PolicyStore, Snapshot, Spec

URL, ENDPOINT, WAY, CHILDREN = sys.argv[1], sys.argv[2], sys.argv[3], 4


def snap(n):
    return Snapshot(weights={"w": np.full(3, n)}, spec=Spec())


def use(store, number):
    assert store.pull("a@1") == snap(0)
    store.push(snap(number), "a")
    store.push(snap(number), f"child-{number}")
    assert store.pull(f"child-{number}") == snap(number)
    assert len(store.pull_many([f"a@{n}" for n in (1, 1, 2)])) == 2


def by_fork(store, how):
    children = []
    for number in range(1, CHILDREN + 1):
        child = os.fork()
        if not child:
            use(store, number)
            # sys.exit runs what was registered for the end of the process, os._exit does not.
            sys.exit(0) if how == "exit" else os._exit(0)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def by_multiprocessing(store, way):
    context = multiprocessing.get_context(way)
    children = [context.Process(target=use, args=(store, n)) for n in range(1, CHILDREN + 1)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    return [child.exitcode for child in children]


if __name__ == "__main__":
    store = PolicyStore(URL, storage_options={"endpoint_url": ENDPOINT}, cache=False)
    store.push(snap(0), "a")
    store.push(snap(0), "a")
    stop, errors, rounds = threading.Event(), [], [0] * 4

    def busy(index):  # pulls and pushes are under way while the process forks
        try:
            while not stop.is_set():
                assert store.pull("a@1") == snap(0)
                store.push(snap(-index), f"thread-{index}")
                rounds[index] += 1
        except BaseException as error:
            errors.append(repr(error))

    threads = [threading.Thread(target=busy, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    method, _, how = WAY.partition(" ")
    codes = by_fork(store, how) if method == "os.fork" else by_multiprocessing(store, method)
    before = list(rounds)
    while any(now < then + 2 for now, then in zip(rounds, before)) and not errors:
        stop.wait(0.01)  # the parent goes on
    stop.set()
    for thread in threads:
        thread.join()
    numbers = sorted(version.number for version in store.log("a"))
    print(codes, numbers, errors, store.verify().ok)
"""


@pytest.mark.long
@pytest.mark.parametrize("way", ["os.fork", "os.fork exit", "fork", "forkserver", "spawn"])
def test_children_pull_and_push_while_threads_of_the_parent_do(
    way: str, s3_endpoint: str, s3_bucket: str, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"  # a file, because spawned processes import it
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program), f"s3://{s3_bucket}/p", s3_endpoint, way],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.stdout.strip() == "[0, 0, 0, 0] [1, 2, 3, 4, 5, 6] [] True", done.stderr
