"""scripts/benchmarks/scaling: the model makes the same requests as policystore does."""

from __future__ import annotations

import json
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from policystore import PolicyStore, Snapshot, Version
from policystore.format.keys import MARKER, hint_key, tag_hint_key, tag_key, version_key
from scripts.benchmarks.scaling.assumptions import Client
from scripts.benchmarks.scaling.calls import Calls, Hint, Move, Policy, Record, Watched, key_of
from scripts.benchmarks.scaling.replay import RecordingBackend, Replay, Trace

WRITERS, PUSHES, READERS = 8, 3, 16


def snap(seed: int, *, large: bool = False) -> Snapshot:
    size = 300_000 if large else 100  # 1.2 MB
    layers = 4 if large else 1
    rng = np.random.default_rng(seed)
    return Snapshot(
        weights={f"w{n}": rng.standard_normal(size).astype(np.float32) for n in range(layers)}
    )


def policy_of(snapshot: Snapshot) -> Policy:
    encoded = snapshot._encode()
    return Policy(
        encoded.policy.digest.hex,
        encoded.policy.size,
        tuple((each.digest.hex, each.size) for each in encoded.tensors.values()),
    )


class Situation:
    """Real clients of one store in memory, whose requests are recorded."""

    def __init__(self, before: Callable[[str, str], None] = lambda operation, key: None) -> None:
        self.space, self.trace, self.before = uuid.uuid4().hex, Trace(), before
        self.policies: dict[str, Policy] = {}
        self.outside = self.store("outside")

    def store(self, client: str) -> PolicyStore:
        backend = RecordingBackend(self.space, self.trace, client, self.before)
        return PolicyStore.over(backend, cache=False)

    def make(self, seed: int, *, large: bool = False) -> Snapshot:
        made = snap(seed, large=large)
        policy = policy_of(made)
        self.policies[policy.digest] = policy
        return made

    def keys(self) -> dict[str, Any]:
        """Return the keys that exist now, with the values that the model gives them."""
        values: dict[str, Any] = {}
        for key, data in self.outside._backend._space.data.items():  # type: ignore[attr-defined]
            values[key] = True
            if key.startswith("names/"):
                record = json.loads(data)
                digest = (record.get("digest") or "").removeprefix("blake3:")
                if "@tags" in key:
                    values[key] = Move(record["number"], record["target"], digest)
                elif key.endswith("@hint"):
                    values[key] = Hint(record["number"], digest)
                else:
                    values[key] = Record(digest, record["nonce"])
        return values

    def begin(self) -> dict[str, Any]:
        """Forget the requests so far, and return the keys."""
        self.trace.requests.clear()
        return self.keys()

    def calls(self, replay: Replay, client: str) -> Calls:
        return Calls(replay.process(client), Client(), self.policies)

    def compare(self, replay: Replay) -> None:
        """Serve the model in the order of the real requests, and compare the counts."""
        replay.run(self.trace.requests)
        for client, counts in replay.counts.items():
            assert counts == self.trace.counts(client), client


def test_writers_that_fight_for_numbers_make_the_requests_of_the_model() -> None:
    """Eight writers push three times each to one name, in whatever order the threads come."""
    rng = random.Random(1)
    gate = threading.Barrier(WRITERS)
    met: set[int] = set()
    first = version_key("soccer/main", 2)

    def before(operation: str, key: str) -> None:
        # All eight try to create the same number first: seven conflicts are certain.
        if (operation, key) == ("CREATE", first) and threading.get_ident() not in met:
            met.add(threading.get_ident())
            gate.wait(60)
        time.sleep(rng.random() * 0.0005)

    situation = Situation()
    situation.outside.push(situation.make(0), "soccer/main")
    keys = situation.begin()
    situation.before = before
    stores = {f"w{n}": situation.store(f"w{n}") for n in range(WRITERS)}
    snaps = {
        name: [situation.make(100 + 10 * n + turn) for turn in range(PUSHES)]
        for n, name in enumerate(stores)
    }
    made: dict[str, list[Version]] = {}

    def push_all(name: str) -> None:
        made[name] = [stores[name].push(each, "soccer/main") for each in snaps[name]]

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(push_all, stores))

    replay = Replay(keys, Client())
    for name in stores:
        calls = situation.calls(replay, name)

        def push(calls: Calls = calls, name: str = name) -> Any:
            results = []
            for turn, each in enumerate(snaps[name]):
                policy = situation.policies[each.digest.hex]
                results.append((yield from calls.push("soccer/main", policy, f"{name}-{turn}")))
            return results

        replay.start(name, push())
    situation.compare(replay)
    for name, versions in made.items():
        assert [each.number for each in versions] == [n for n, _ in replay.results[name][0]]
    conflicts = sum(count for result in replay.results.values() for _, count in result[0])
    creates = sum((counts["CREATE"] for counts in replay.counts.values()), 0)
    assert conflicts >= WRITERS - 1
    assert creates == WRITERS * PUSHES + conflicts + WRITERS  # each proves once that it creates
    assert replay.bucket.keys[hint_key("soccer/main")]


@pytest.mark.parametrize("large", [False, True])
def test_readers_make_the_requests_of_the_model(*, large: bool) -> None:
    """Fifteen readers pull by tag, by name and by digest while a writer pushes three times."""
    situation = Situation()
    for seed in range(3):
        situation.outside.push(situation.make(seed, large=large), "soccer/main")
    for number in (1, 2):
        situation.outside.tag(f"soccer/main@{number}", "champion")
    digest = next(iter(situation.policies))
    keys = situation.begin()
    rng = random.Random(2)
    situation.before = lambda operation, key: time.sleep(rng.random() * 0.0005)
    stores = {f"r{n}": situation.store(f"r{n}") for n in range(READERS)}
    refs = ["soccer/main@champion", "soccer/main", f"blake3:{digest}"]

    def pull_all(name: str) -> None:
        for turn in range(2):
            stores[name].pull(refs[(int(name[1:]) + turn) % 3])

    fresh = situation.make(50, large=large)
    pushes = [(fresh, "soccer/main"), (fresh, "soccer/main"), (snap(0, large=large), "soccer/b")]

    def write() -> None:
        for each, name in pushes:
            stores["r0"].push(each, name)

    with ThreadPoolExecutor(READERS) as pool:
        readers = [pool.submit(pull_all, name) for name in list(stores)[1:]]
        pool.submit(write).result(60)
        for each in readers:
            each.result(60)

    replay = Replay(keys, Client())

    def pull(calls: Calls, name: str) -> Any:
        for turn in range(2):
            kind = (int(name[1:]) + turn) % 3
            if kind == 2:
                yield from calls.pull_digest(digest)
            else:
                yield from calls.pull("soccer/main", "champion" if kind == 0 else None)

    for name in list(stores)[1:]:
        replay.start(name, pull(situation.calls(replay, name), name))

    def push(calls: Calls) -> Any:
        for turn, (each, name) in enumerate(pushes):
            yield from calls.push(name, situation.policies[each.digest.hex], f"n{turn}")

    replay.start("r0", push(situation.calls(replay, "r0")))
    situation.compare(replay)


def test_a_watch_makes_the_requests_of_the_model() -> None:
    """A watch looks 25 times; the tag moves twice, the second time by several moves at once."""
    situation = Situation()
    for seed in range(4):
        situation.outside.push(situation.make(seed), "soccer/main")
    situation.outside.tag("soccer/main@1", "champion")
    keys = situation.begin()
    watch = situation.store("w").watch("soccer/main@champion", interval=0.001)
    moves = {4: [2], 17: [3, 1, 4]}
    served: list[tuple[list[Any], dict[str, Any]]] = []
    for look in range(25):
        for number in moves.get(look, []):
            situation.outside.tag(f"soccer/main@{number}", "champion")
        after = situation.begin()
        watch._look()
        served.append((list(situation.trace.requests), after))

    replay = Replay(keys, Client())
    calls, watched = situation.calls(replay, "w"), Watched()
    found = []
    for requests, after in served:
        replay.bucket.keys.update(after)
        replay.start("w", calls.look("soccer/main", "champion", watched))
        replay.run(requests)
        assert replay.counts["w"] == Counter(made.operation for made in requests)
        replay.counts["w"].clear()
        found.append(replay.results["w"].pop())
    assert [each[0] for each in found if each is not None] == [1, 2, 4]
    assert MARKER in keys
    assert tag_hint_key("soccer/main", "champion") in keys
    assert tag_key("soccer/main", "champion", 1) in keys
    assert key_of(found[0][1]) in keys
