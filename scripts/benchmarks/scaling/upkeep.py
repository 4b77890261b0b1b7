"""Scenario 4: upkeep beside ten thousand watches of one bucket; also long reads of records."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from policystore.format.keys import mark_key, tag_key, version_key
from scripts.benchmarks.scaling.assumptions import Assumptions, Client
from scripts.benchmarks.scaling.bucket import Bucket, Machine, Process
from scripts.benchmarks.scaling.calls import Calls
from scripts.benchmarks.scaling.engine import Call, Engine, FailedError, Request, Sleep

__all__ = ["Beside", "beside"]

_NAME, _TAG = "soccer/main", "champion"
_WARM_UP = 10.0  # seconds that do not count
_WINDOW = 600  # seconds


@dataclass
class Beside:
    """What came out of one run.

    Attributes:
        job_rate: requests a second of the upkeep; 0 without.
        rate: requests a second in all, refusals included.
        refused: the share of these that were refused.
        looks: seconds of the looks, sorted.
        failed: looks that raised an error.
        splits: the seconds at which partitions were split.
        windows: the share of requests that were refused, in each ten minutes.
    """

    job_rate: float
    rate: float
    refused: float
    looks: list[float]
    failed: int
    splits: list[float]
    windows: list[float]


def beside(
    assumed: Assumptions,
    *,
    client: Client,
    watches: int,
    jobs: dict[str, tuple[str, int]],
    seconds: float = 40.0,
    share: float = 0.1,
    seed: int = 4,
    boundaries: tuple[str, ...] = (),
) -> Beside:
    """Simulate watches of a tag that does not move, and upkeep that reads as fast as it can.

    Args:
        assumed: the machines and the bucket.
        client: the defaults of policystore.
        watches: how many processes watch.
        jobs: name -> the start of the keys that the job reads, and the bytes of each key.
        seconds: how long.
        share: the part of watches, requests at once and bucket that is simulated.
        seed: of the random numbers.
        boundaries: the partitions of the bucket; none for a new bucket.
    """
    assumed = assumed.part(share)
    engine = Engine(seed, assumed.lock_poll)
    bucket = Bucket(engine, assumed, client, boundaries=boundaries)
    bucket.keys[tag_key(_NAME, _TAG, 1)] = True
    end = _WARM_UP + seconds
    looks: list[float] = []
    failed = [0]
    done: Counter[str] = Counter()

    def watch(process: Process) -> Call:
        calls = Calls(process, client, {})
        yield Sleep(engine.rng.uniform(0.0, client.interval))
        turn = engine.rng.randrange(10)
        while engine.now < end:
            began, turn = engine.now, turn + 1
            try:
                yield from calls.has(tag_key(_NAME, _TAG, 2))
                if turn % 10 == 0:
                    yield from calls.has(mark_key(_NAME, 1))
                elif turn % 10 == 5:
                    yield from calls.get(tag_key(_NAME, _TAG, 1))
                if began >= _WARM_UP:
                    looks.append(engine.now - began)
            except FailedError:
                failed[0] += 1
            jitter = engine.rng.uniform(1.0 - client.watch_jitter, 1.0 + client.watch_jitter)
            yield Sleep(client.interval * jitter)

    def read(job: str, start: str, nbytes: int, worker: int) -> Call:
        number = worker
        while engine.now < end:
            number += 100
            key = (
                f"{start}{engine.rng.getrandbits(256):064x}"
                if start.startswith("objects/")
                else version_key(start, number)
            )
            if not nbytes:
                bucket.keys.setdefault(key, True)
            yield Request("GET", key, nbytes)
            if engine.now >= _WARM_UP:
                done[job] += 1

    for _ in range(round(watches * share)):
        process = Process(Machine())
        engine.start(watch(process), process)
    for job, (start, nbytes) in jobs.items():
        process = Process(Machine(), job, slowness=1.0 / share)
        for worker in range(max(1, round(client.parallel * share))):
            engine.start(read(job, start, nbytes, worker), process, done=lambda *_: None)
    engine.run(end)
    total = sum(count for second, count in bucket.seconds.items() if second >= _WARM_UP)
    refused = sum(bucket.refused.values()) / max(1, bucket.total())
    rate = total / seconds / share
    job_rate = sum(done.values()) / seconds / share
    windows = []
    for start in range(0, int(end) - 1, _WINDOW):
        span = range(start, start + _WINDOW)
        asked = sum(bucket.seconds[second] for second in span)
        windows.append(sum(bucket.refused_seconds[second] for second in span) / max(1, asked))
    splits = [time for time, _ in bucket.splits]
    return Beside(job_rate, rate, refused, sorted(looks), round(failed[0] / share), splits, windows)
