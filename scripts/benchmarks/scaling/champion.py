"""Scenario 1: all env runners of a thousand machines get the same new champion."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from policystore.format.keys import hint_key, tag_hint_key, tag_key, version_key
from scripts.benchmarks.scaling.assumptions import Assumptions, Client, Shape, dollars
from scripts.benchmarks.scaling.bucket import Bucket, Machine, Process
from scripts.benchmarks.scaling.calls import Calls, Hint, Move, Policy, Record, Watched
from scripts.benchmarks.scaling.engine import Call, Engine, Sleep
from scripts.benchmarks.scaling.machine import broadcast, cached_reader

__all__ = ["ARRIVALS", "WARM", "WAYS", "Result", "champion", "looks_a_day"]

NAME, TAG = "soccer/main", "champion"
WAYS = {
    "each": "each runner by itself, `cache=False`",
    "cache": "each runner, cache of the machine",
    "machine": "one watch for each machine",
    "ray": "one process for all, Ray's object store",
}
ARRIVALS = {"at once": "at once", "watch": "by a watch"}
WARM = ("objects/", "objects/40/", "objects/80/", "objects/c0/")
_AT_ONCE = 0.1  # seconds within which all begin
_LONGEST = 600.0  # seconds after which a runner without the champion counts as failed
_LOCAL = 0.5  # seconds between two looks of a process at what its machine has found
_NUMBER = 50  # versions, and moves of the tag, before


@dataclass
class Result:
    """What came out of one run.

    Attributes:
        times: when each runner held the champion, in seconds after the tag was moved, sorted.
        failed: runners whose pull raised an error.
        counts: requests that were answered, by kind.
        refused: 503 answers.
        peak: the most requests in a second, refusals included.
        peak_bytes: the most bytes in a second.
        sent: all bytes that the bucket sent.
        dollars: the price of the requests.
    """

    times: list[float]
    failed: int
    counts: Counter[str]
    refused: int
    peak: int
    peak_bytes: int
    sent: int
    dollars: float = field(default=0.0)

    @property
    def requests(self) -> int:
        """All requests that were answered."""
        return sum(self.counts.values())

    def time(self, share: float) -> float:
        """Return when a share of those that hold the champion held it."""
        if not self.times:
            return float("inf")
        return self.times[min(len(self.times) - 1, int(share * len(self.times)))]


def _begin(bucket: Bucket, policy: Policy, before: str) -> None:
    """Put the records of a name into the bucket, whose tag has just been moved."""
    keys = bucket.keys
    for number in range(1, _NUMBER + 1):
        digest = policy.digest if number == _NUMBER else before
        keys[version_key(NAME, number)] = Record(digest, f"n{number}")
        keys[tag_key(NAME, TAG, number)] = Move(number, number, digest)
    keys[hint_key(NAME)] = Hint(_NUMBER, policy.digest)
    keys[tag_hint_key(NAME, TAG)] = Move(_NUMBER, _NUMBER, policy.digest)


def champion(
    assumed: Assumptions,
    shape: Shape,
    way: str,
    arrival: str,
    *,
    client: Client,
    seed: int = 1,
    share: float = 1.0,
    boundaries: tuple[str, ...] = (),
) -> Result:
    """Simulate how all runners get a new champion.

    Args:
        assumed: the machines and the bucket.
        shape: the champion.
        way: a key of :data:`WAYS`.
        arrival: a key of :data:`ARRIVALS`.
        client: the defaults of policystore.
        seed: of the random numbers.
        share: the part of the machines, and of the bucket, that is simulated.
        boundaries: the partitions of the bucket; none for a new bucket.
    """
    assumed = assumed.part(share)
    engine = Engine(seed, assumed.lock_poll)
    bucket = Bucket(engine, assumed, client, boundaries=boundaries)
    policy = Policy.of(shape, engine.rng)
    before = Policy(f"{engine.rng.getrandbits(256):064x}", shape.policy)
    policies = {policy.digest: policy, before.digest: before}
    _begin(bucket, policy, before.digest)
    times: list[float] = []
    failed = [0]

    def done(_: Any, error: BaseException | None) -> None:
        if error is None:
            times.append(engine.now)
        else:
            failed[0] += 1

    def lost(_: Any, error: BaseException | None) -> None:
        if error is not None:
            failed[0] += assumed.runners_per_node

    def get(process: Process) -> Call:
        """Get the champion, as one process does."""
        machine = process.machine
        read = None if way in ("each", "ray") else cached_reader(engine, machine, assumed)
        calls = Calls(process, client, policies, read)
        if arrival == "at once":
            yield Sleep(engine.rng.uniform(0.0, _AT_ONCE))
            return (yield from calls.pull(NAME, TAG))
        yield Sleep(engine.rng.uniform(0.0, client.interval))
        watched = Watched(_NUMBER - 1, engine.rng.randrange(10))
        return (yield from calls.follow(NAME, TAG, watched, engine.rng))

    if way == "ray":
        _share_by_ray(engine, assumed, policy, get, times, round(assumed.nodes / share))
    else:
        for _ in range(assumed.nodes):
            machine = Machine()
            if way == "machine":
                process = Process(machine)
                call = _shared(engine, assumed, policy, get(process), times)
                engine.start(call, process, done=lost)
                continue
            for _ in range(assumed.runners_per_node):
                process = Process(machine)
                engine.start(get(process), process, done=done)
    engine.run(_LONGEST)
    failed[0] += assumed.runners - len(times) - failed[0] if way != "ray" else 0
    peak, peak_bytes = bucket.peak()
    # Through Ray, one process asks the bucket, however many machines there are.
    factor = 1.0 if way == "ray" else 1.0 / share
    counts = Counter({kind: round(count * factor) for kind, count in bucket.counts.items()})
    return Result(
        sorted(times),
        round(failed[0] * factor),
        counts,
        round(sum(bucket.refused.values()) * factor),
        round(peak * factor),
        round(peak_bytes * factor),
        round(bucket.sent * factor),
        dollars(counts),
    )


def _shared(
    engine: Engine, assumed: Assumptions, policy: Policy, first: Call, times: list[float]
) -> Call:
    """Let one process of a machine get the champion, and the others read it from the cache."""
    yield from first
    times.append(engine.now)
    nbytes = policy.nbytes + sum(size for _, size in policy.tensors)
    for _ in range(assumed.runners_per_node - 1):
        wait = engine.rng.uniform(0.0, _LOCAL) + nbytes / assumed.hash_bytes
        times.append(engine.now + wait)


def _share_by_ray(
    engine: Engine,
    assumed: Assumptions,
    policy: Policy,
    get: Any,
    times: list[float],
    machines: int,
) -> None:
    """Let one process get the champion, and Ray bring it to all machines."""

    def spread(_: Any, error: BaseException | None) -> None:
        if error is not None:
            raise error
        nbytes = policy.nbytes + sum(size for _, size in policy.tensors)
        held = broadcast(assumed, nbytes, machines)
        # The driver calls its runners one after the other.
        for runner in range(machines * assumed.runners_per_node):
            called = (runner + 1) / assumed.ray_calls
            times.append(engine.now + max(called, held[runner % machines]))

    process = Process(Machine())
    engine.start(get(process), process, done=spread)


def looks_a_day(client: Client, watches: int) -> Counter[str]:
    """Count the requests of a day in which a tag does not move, by running ten looks of a watch."""
    engine = Engine(0)
    bucket = Bucket(engine, Assumptions(), client)
    policy = Policy("ab" * 32, 1000)
    _begin(bucket, policy, policy.digest)
    calls = Calls(Process(Machine()), client, {policy.digest: policy})
    watched = Watched(_NUMBER)

    def looks() -> Call:
        for _ in range(10):
            yield from calls.look(NAME, TAG, watched)

    engine.start(looks(), calls.process)
    engine.run()
    tens = watches * 86_400 / client.interval / 10
    return Counter({kind: round(count * tens) for kind, count in bucket.counts.items()})
