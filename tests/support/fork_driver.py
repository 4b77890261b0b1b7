"""Start processes while threads of this process push and hash. The tests run this file as a program.

``fork_driver.py KIND URL COUNT``: COUNT children start one after the other, each while three
threads use the store. A child pulls and pushes, and checks what it pulled. KIND says how a child
starts: ``fork``, the start methods ``forkserver`` and ``spawn``, ``dataloader-fork`` and
``dataloader-spawn`` (a worker of torch's DataLoader), or ``ray`` (a task). The program prints the
number of children that did their work within a minute.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from typing import Any

import numpy as np

from policystore import PolicyStore, Snapshot, Spec

LARGE = 5_000_000  # floats; hashing them takes long enough to fork meanwhile
LIMIT = 60.0  # seconds


def snapshot(seed: int, large: bool = False) -> Snapshot:
    weights = {"w": np.full(LARGE if large else 300, seed, np.float32)}
    return Snapshot(weights=weights, spec=Spec(config={"seed": seed}))


def work(store: PolicyStore, seed: int) -> int:
    """Pull, hash and push in another process."""
    assert store.pull("first@1").digest == snapshot(0).digest
    if store.url.startswith("memory://"):
        for name in store.names("busy/"):
            assert store.resolve(name), name  # the copy of the parent's content is whole
    snap = snapshot(seed)
    name = f"child/{seed}"
    store.push(snap, name)
    assert store.pull(name).state_digest == snap.state_digest
    return seed


def keep_busy(store: PolicyStore, stop: threading.Event) -> list[threading.Thread]:
    def push(number: int) -> None:
        count = 0
        while not stop.is_set():
            count += 1
            store.push(snapshot(count), f"busy/{number}-{count % 7}")
            time.sleep(0.002)  # a store in memory would grow fast

    def hash_all() -> None:
        count = 0
        while not stop.is_set():
            count += 1
            assert snapshot(count, large=True).weights_digest

    def hold_lock() -> None:
        backend: Any = store._backend
        while not stop.is_set():
            with backend._space.lock:
                time.sleep(0.01)  # most forks happen here
            time.sleep(0.001)

    calls: list[Any] = [hash_all, lambda: push(1), lambda: push(2)]
    if store.url.startswith("memory://"):
        calls.append(hold_lock)
    threads = [threading.Thread(target=call, daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    return threads


class Worked:
    """A dataset whose items are made in the worker."""

    def __init__(self, store: PolicyStore, seed: int) -> None:
        self.store, self.seed = store, seed

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        return work(self.store, self.seed)


def forked(store: PolicyStore, seed: int) -> bool:
    child = os.fork()
    if child == 0:
        try:
            work(store, seed)
        except BaseException as error:
            print(f"child {seed}: {error!r}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.005)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return False


def by_start_method(kind: str, store: PolicyStore, seed: int) -> bool:
    process = multiprocessing.get_context(kind).Process(target=work, args=(store, seed))
    process.start()
    process.join(LIMIT)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode == 0


def by_data_loader(kind: str, store: PolicyStore, seed: int) -> bool:
    from torch.utils.data import DataLoader

    data: Any = Worked(store, seed)
    loader = DataLoader(data, num_workers=1, multiprocessing_context=kind, timeout=LIMIT)
    return [int(item) for item in loader] == [seed]


def by_ray(store: PolicyStore, seed: int) -> bool:
    import ray

    if not ray.is_initialized():
        ray.init(num_cpus=1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    return bool(ray.get(ray.remote(work).remote(store, seed), timeout=LIMIT) == seed)


def main(kind: str, url: str, count: int) -> int:
    store = PolicyStore(url)
    store.push(snapshot(0), "first")
    stop = threading.Event()
    threads = keep_busy(store, stop)
    done = 0
    for seed in range(1, count + 1):
        if kind == "fork":
            done += forked(store, seed)
        elif kind.startswith("dataloader-"):
            done += by_data_loader(kind.removeprefix("dataloader-"), store, seed)
        elif kind == "ray":
            done += by_ray(store, seed)
        else:
            done += by_start_method(kind, store, seed)
    stop.set()
    for thread in threads:
        thread.join()
    return done


if __name__ == "__main__":
    print(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
