"""Scenario 2: trials that publish every minute, to one name or to a name each."""

from __future__ import annotations

import random
import statistics
from collections import Counter
from dataclasses import dataclass
from typing import Any

from policystore.format.keys import hint_key, version_key
from scripts.benchmarks.scaling.assumptions import Assumptions, Client, Shape, dollars
from scripts.benchmarks.scaling.bucket import Bucket, Machine, Process
from scripts.benchmarks.scaling.calls import Calls, Hint, Policy, Record
from scripts.benchmarks.scaling.engine import Call, Engine, FailedError, Sleep

__all__ = ["Published", "publish"]

_PERIOD = 60.0
_READ_EVERY = 1.0  # seconds between two pulls by name, by one reader


@dataclass
class Published:
    """What came out of one run.

    Attributes:
        pushes: how many pushes succeeded.
        failed: how many raised an error.
        seconds: how long each push took, sorted.
        conflicts: for each push, how often another writer took the number first, sorted.
        counts: requests of the pushes, by kind.
        refused: 503 answers.
        peak: the most requests in a second.
        exact: the share of moments at which the hint named the newest version and its policy.
        behind: the most versions by which the hint was behind.
        pulls: seconds of the pulls by name that one reader made meanwhile, sorted.
        pull_requests: requests of each of these pulls.
    """

    pushes: int
    failed: int
    seconds: list[float]
    conflicts: list[int]
    counts: Counter[str]
    refused: int
    peak: int
    exact: float
    behind: int
    pulls: list[float]
    pull_requests: float

    def requests(self) -> float:
        """Return the requests of one push, on average."""
        return sum(self.counts.values()) / max(1, self.pushes)

    def dollars_a_day(self, writers: int, period: float = _PERIOD) -> float:
        """Return the price of a day in which each of the writers pushes once in a period."""
        return dollars(self.counts) / max(1, self.pushes) * writers * 86_400 / period


def publish(
    assumed: Assumptions,
    shape: Shape,
    writers: int,
    *,
    client: Client,
    one_name: bool,
    together: bool,
    minutes: int = 3,
    seed: int = 2,
) -> Published:
    """Simulate trials that push once a minute each.

    Args:
        assumed: the machines and the bucket.
        shape: what is pushed; each push has bytes of its own.
        writers: how many trials.
        client: the defaults of policystore.
        one_name: whether all push to one name, or each to a name of its own.
        together: whether all push at the same moment of each minute, or at any moments.
        minutes: how long.
        seed: of the random numbers.
    """
    engine = Engine(seed, assumed.lock_poll)
    bucket = Bucket(engine, assumed, client)
    first = Policy.of(shape, engine.rng)
    policies = {first.digest: first}
    names = ["soccer/main"] if one_name else [f"soccer/t{n:04d}" for n in range(writers)]
    for name in names:
        for number in range(1, 51):
            bucket.keys[version_key(name, number)] = Record(first.digest, f"n{number}")
        bucket.keys[hint_key(name)] = Hint(50, first.digest)
    seconds: list[float] = []
    conflicts: list[int] = []
    failed = [0]
    pulls: list[tuple[float, int]] = []
    looks: list[tuple[bool, int]] = []
    end = minutes * _PERIOD

    def write(writer: int, process: Process, rng: random.Random) -> Call:
        calls = Calls(process, client, policies)
        process.known |= {"store", "creates"}
        name = names[writer % len(names)]
        start = 0.0 if together else rng.uniform(0.0, _PERIOD)
        yield Sleep(start + rng.uniform(0.0, 0.05))
        for turn in range(minutes):
            policy = Policy.of(shape, rng)
            policies[policy.digest] = policy
            began = engine.now
            try:
                _, lost = yield from calls.push(name, policy, f"{writer}-{turn}", rng)
                seconds.append(engine.now - began)
                conflicts.append(lost)
            except FailedError:
                failed[0] += 1
            yield Sleep(max(0.0, began + _PERIOD - engine.now))

    def read(process: Process) -> Call:
        calls = Calls(process, client, policies)
        while engine.now < end:
            began, before = engine.now, process.requests
            yield from calls.pull(names[0])
            pulls.append((engine.now - began, process.requests - before))
            yield Sleep(_READ_EVERY)

    def observe() -> Call:
        number, name = 50, names[0]
        while engine.now < end:
            while version_key(name, number + 1) in bucket.keys:
                number += 1
            hint: Hint = bucket.keys[hint_key(name)]
            record: Any = bucket.keys[version_key(name, number)]
            looks.append((hint == Hint(number, record.digest), number - hint.number))
            yield Sleep(0.1)

    processes = [Process(Machine()) for _ in range(writers)]
    for writer, process in enumerate(processes):
        engine.start(write(writer, process, random.Random(1000 + writer)), process)  # noqa: S311
    reader = Process(Machine())
    engine.start(read(reader), reader)
    engine.start(observe())
    engine.run()
    counts = Counter(bucket.counts)
    counts.subtract({"GET": sum(requests for _, requests in pulls)})
    return Published(
        len(seconds),
        failed[0],
        sorted(seconds),
        sorted(conflicts),
        counts,
        sum(bucket.refused.values()),
        bucket.peak()[0],
        statistics.fmean(is_exact for is_exact, _ in looks),
        max(behind for _, behind in looks),
        sorted(each for each, _ in pulls),
        statistics.fmean(requests for _, requests in pulls),
    )
