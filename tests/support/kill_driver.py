"""Kill writers at random moments with SIGKILL, and check the store after each kill.

    python tests/support/kill_driver.py URL ENDPOINT KIND SEED KILLS

KIND is push, tag, delete, collect or copy. A child process makes one call after the other and
acknowledges each on a pipe. After the kill, the store must have no fault, and must show all
acknowledged calls; the call that was cut off may have been applied or not. This process opens no
store itself: it makes and checks everything in child processes, so that it may fork.
"""

from __future__ import annotations

import os
import pickle
import random
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

from policystore import PolicyStore
from policystore.backends.factory import open_backend
from policystore.backends.options import StorageOptions
from policystore.errors import NotFoundError
from tests.support import store_model as model
from tests.support.store_model import Op, State, merged, observe, policy

__all__ = ["run"]

KILLS_OF_A_STORE = 20
LONGEST = 0.15  # seconds from the first acknowledgement to the kill; of a bucket, ten times that
PATIENCE = 120  # seconds for the first call of a writer


def open_store(url: str, endpoint: str) -> PolicyStore:
    options = StorageOptions({"endpoint_url": endpoint} if endpoint else None)
    return PolicyStore.over(open_backend(url, options), cache=False)


def collect_now() -> Op:
    """Collect all that nothing needs now: no other process uses the store."""

    def apply(state: State) -> None:
        numbers = ((name, at) for name, each in state.deleted.items() for at in each)
        tagged = {(name, at) for name, tags in state.tags.items() for at in tags.values()}
        state.gone |= set(numbers) - tagged

    def run(store: PolicyStore) -> None:
        store.collect_garbage(timedelta(0), dry_run=False, exclusive=True)

    return Op("collect", run, apply, is_empty)


def is_empty(state: State) -> bool:
    """Return whether a store may not exist yet."""
    return not state.versions and not state.kept


def ops(kind: str, chance: random.Random, mirror: Callable[[], PolicyStore]) -> Iterator[Op]:
    """Yield calls without an end."""
    while True:
        seed, number = chance.randrange(8), chance.randrange(1, 8)
        push = model.push("a", seed)
        choices = {
            "push": [push, push, model.keep(seed)],
            "tag": [push, *[model.tag("a", number, "best")] * 3, model.untag("a", "best"),
                    *[model.annotate("a", number, "rated")] * 2],
            "delete": [push, push, model.delete("a", number, True), model.restore("a", number),
                       model.delete_name("a", True), model.prune("a", 2)],
            "collect": [push, model.delete("a", number, True), model.restore("a", number),
                        collect_now(), collect_now()],
            "copy": [push, model.tag("a", number, "best"),
                     Op("copy", lambda store: store.copy_to(mirror()) and None, lambda state: None,
                        is_empty)],
        }  # fmt: skip
        yield chance.choice(choices[kind])


def in_child(work: Callable[[], Any]) -> Any:
    """Return what a function returns in a child process."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with os.fdopen(writer, "wb") as stream:
            pickle.dump(work(), stream)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        data = stream.read()
    assert os.waitpid(child, 0)[1] == 0, "the check of a store ended with an error"
    return pickle.loads(data)


def write(store: PolicyStore, calls: Iterator[Op], writer: int) -> None:
    """Make calls and acknowledge each; the process is killed while this function runs."""
    for op in calls:
        try:
            outcome = op.run(store)
        except (NotFoundError, ValueError) as error:
            outcome = type(error).__name__
        os.write(writer, pickle.dumps(outcome).hex().encode() + b"\n")


def killed(chance: random.Random, longest: float, work: Callable[[int], None]) -> list[Any]:
    """Run a function in a child process, kill the process, and return what it acknowledged."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        work(writer)
    os.close(writer)
    if chance.random() < 0.8:
        select.select([reader], [], [], PATIENCE)
    time.sleep(chance.uniform(0.0, longest))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as stream:
        lines = stream.read().split(b"\n")[:-1]  # the last one may be cut off
    return [pickle.loads(bytes.fromhex(line.decode())) for line in lines]


def states_after(states: list[State], calls: Iterator[Op], outcomes: list[Any]) -> list[State]:
    """Return the states that a store may have after acknowledged calls and one that was cut off."""
    for outcome in outcomes:
        op = next(calls)
        states = [
            after
            for state in states
            for expected, after in op.outcomes(state)
            if expected == outcome
        ]
        assert states, f"{op.label} came to {outcome}"
    op = next(calls)
    return states + [after for state in states for _, after in op.outcomes(state)]


def examine(url: str, endpoint: str, seeds: set[int]) -> tuple[dict[str, Any], list[str]]:
    """Return what a store shows, and its faults."""
    store = open_store(url, endpoint)
    try:
        faults = [str(fault) for fault in store.verify().faults]
    except NotFoundError:
        return {}, []
    faults += [
        f"the policy {seed} is another one"
        for seed in seeds
        if store.pull(policy(seed).digest) != policy(seed)
    ]
    return observe(store), faults


def complete(url: str, endpoint: str) -> tuple[dict[str, Any], list[str]]:
    """Complete a copy that was cut off, and return what the copy shows, and its faults before."""
    store, mirror = open_store(url, endpoint), open_store(f"{url}-mirror", endpoint)
    faults: list[str] = []
    with suppress(NotFoundError):  # the copy was not even begun
        faults += [str(fault) for fault in mirror.verify().faults]
    try:
        store.copy_to(mirror)
    except NotFoundError:  # there is no store to copy
        return {}, faults
    return observe(mirror), faults + [str(fault) for fault in mirror.verify().faults]


def run(url: str, endpoint: str, kind: str, seed: int, kills: int) -> int:
    """Kill writers, and return how many calls they had acknowledged."""
    chance, acknowledged = random.Random(seed), 0
    states: list[State] = []
    for kill in range(kills):
        place = f"{url}/{kind}-{seed}-{kill // KILLS_OF_A_STORE}"
        if kill % KILLS_OF_A_STORE == 0:
            states = [State(stands_still=True)]

        def calls(place: str = place, kill: int = kill) -> Iterator[Op]:
            def mirror() -> PolicyStore:
                return open_store(f"{place}-mirror", endpoint)

            return ops(kind, random.Random(f"{seed}:{kill}"), mirror)

        def work(writer: int, place: str = place, calls: Any = calls) -> None:
            write(open_store(place, endpoint), calls(), writer)

        outcomes = killed(chance, LONGEST * (10 if endpoint else 1), work)
        acknowledged += len(outcomes)
        states = states_after(states, calls(), outcomes)
        seeds = set.intersection(*(state.roots() for state in states))
        seen, faults = in_child(lambda place=place, seeds=seeds: examine(place, endpoint, seeds))
        if kind == "copy":
            copied, more = in_child(lambda place=place: complete(place, endpoint))
            faults += more
            assert copied == seen, f"kill {kill}: the copy shows {copied}, the store {seen}"
        assert not faults, f"kill {kill} of {kind}: {faults}"
        states = merged(state for state in states if state.visible() == seen)
        assert states, f"kill {kill} of {kind}: after {len(outcomes)} calls the store shows {seen}"
    return acknowledged


if __name__ == "__main__":
    print(run(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])))
