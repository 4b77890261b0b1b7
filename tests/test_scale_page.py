"""docs/scale.md: the page has what scripts/benchmarks/scale.py prints; the model of a bucket."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from policystore.format.keys import hint_key, tag_hint_key, tag_key, version_key
from scripts.benchmarks.scaling.assumptions import POLICIES, Assumptions, Client
from scripts.benchmarks.scaling.bucket import Bucket, Machine, Process
from scripts.benchmarks.scaling.calls import Calls, Hint, Move, Policy, Record, Watched
from scripts.benchmarks.scaling.champion import ARRIVALS, WAYS, champion
from scripts.benchmarks.scaling.engine import Both, Call, Engine, FailedError, Request, Sleep
from scripts.benchmarks.scaling.machine import Cache, broadcast, cached_reader
from scripts.benchmarks.scaling.report import BEFORE, Tables

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def tables() -> Tables:
    return Tables(json.loads((DOCS / "assets" / "scale-calibration.json").read_text()))


def written(row: tuple[str, ...]) -> str:
    return f"| {' | '.join(row)} |"


def test_the_page_has_what_the_script_prints(tables: Tables) -> None:
    """All quick tables, and of each slow one a row. The script writes the page: --page."""
    page = (DOCS / "scale.md").read_text()
    for make in (tables.assumptions, tables.measured, tables.watching):
        assert make() in page, make.__name__
    for way, arrival, shape in (("machine", "watch", POLICIES[0]), ("ray", "at once", POLICIES[2])):
        result = tables.run(shape, way, arrival)
        row = tables.champion_row((WAYS[way], ARRIVALS[arrival], shape.label), result)
        assert written(row) in page
    assert written(tables.publish_row(200, True, False, "before", BEFORE)) in page


def test_each_run_is_the_same_and_another_seed_another(tables: Tables) -> None:
    runs = [
        champion(Assumptions(), POLICIES[1], "cache", "watch", client=Client(), share=0.002, seed=s)
        for s in (5, 5, 6)
    ]
    assert runs[0] == runs[1]
    assert runs[0].times != runs[2].times


def test_the_model_makes_the_requests_that_were_measured(tables: Tables) -> None:
    """The calibration has counted what s3fs sent to a real server for each call."""
    engine = Engine(0)
    bucket = Bucket(engine, Assumptions(), Client())
    old, new = (Policy(digit * 64, 1000) for digit in "ab")
    for number in range(1, 4):
        bucket.keys[version_key("a", number)] = Record(old.digest, f"n{number}")
    bucket.keys[hint_key("a")] = Hint(3, old.digest)
    for number in (1, 2):
        bucket.keys[tag_key("a", "champion", number)] = Move(number, number, old.digest)
    bucket.keys[tag_hint_key("a", "champion")] = Move(2, 2, old.digest)
    process = Process(Machine())
    process.known |= {"store", "creates"}
    calls = Calls(process, Client(), {old.digest: old, new.digest: new})
    watched = Watched(2)

    def counted(call: Call) -> dict[str, int]:
        bucket.counts.clear()
        engine.start(call, process)
        engine.run()
        return dict(sorted(bucket.counts.items()))

    made = {
        "push": counted(calls.push("a", new, "n")),
        "pull by digest": counted(calls.pull_digest(old.digest)),
        "pull by name": counted(calls.pull("a")),
        "pull by tag": counted(calls.pull("a", "champion")),
        "look of a watch": counted(calls.look("a", "champion", watched)),
    }
    bucket.keys[tag_key("a", "champion", 3)] = Move(3, 3, old.digest)
    bucket.keys[tag_hint_key("a", "champion")] = Move(3, 3, old.digest)
    made["look that sees a change"] = counted(calls.look("a", "champion", watched))
    assert made == tables.calibration["calls"]


def run_all(bucket: Bucket, calls: list[Call]) -> list[Any]:
    """Run generators, each as a process of its own; return results and errors."""
    ended: list[Any] = []
    done: Callable[..., None] = lambda result, error: ended.append(error or result)  # noqa: E731
    for call in calls:
        bucket.engine.start(call, Process(Machine()), done=done)
    bucket.engine.run()
    return ended


def one(key: str) -> Call:
    return (yield Request("HEAD", key))


@pytest.mark.parametrize(("tries", "fail"), [(6, True), (12, False)])
def test_a_partition_serves_its_rate_and_refuses_the_rest(*, tries: int, fail: bool) -> None:
    """1,000 requests at 100 a second need 10 seconds: more than 3, and less than 30."""
    assumed = Assumptions(reads=100.0, client_seconds=0.0)
    bucket = Bucket(Engine(1), assumed, Client(throttled_attempts=tries))
    ended = run_all(bucket, [one("names/a") for _ in range(1000)])
    errors = sum(isinstance(each, FailedError) for each in ended)
    assert bool(errors) is fail
    assert bucket.counts["HEAD"] == 1000 - errors
    assert max(bucket.seconds[s] - bucket.refused_seconds[s] for s in bucket.seconds) <= 201
    assert bucket.engine.now >= (1000 - errors - 100) / 100.0


def test_an_overloaded_partition_is_split_and_a_single_key_is_not() -> None:
    assumed = Assumptions(reads=10.0, split_after=20.0, client_seconds=0.0)

    def often(key: str) -> Call:
        for _ in range(1000):
            with contextlib.suppress(FailedError):
                yield Request("HEAD", key)
            yield Sleep(0.1)

    for keys in ("abcd", "aaaa"):
        bucket = Bucket(Engine(1), assumed, Client())
        run_all(bucket, [often(key) for key in keys])
        assert (bucket.partitions > 1) is (keys == "abcd")


def test_a_machine_downloads_an_object_once() -> None:
    engine, assumed, machine = Engine(1), Assumptions(), Machine()
    bucket = Bucket(engine, assumed, Client())
    read = cached_reader(engine, machine, assumed)
    for _ in range(10):
        engine.start(read("ab" * 32, 1_000_000), Process(machine))
    engine.run()
    assert bucket.counts == Counter(GET=1)
    assert (machine.cache.hits, machine.cache.misses) == (9, 1)


def test_a_cache_removes_what_was_used_least_recently() -> None:
    cache = Cache(max_bytes=10)
    for digest in "abc":
        cache.add(digest, 3)
    assert cache.has("a")
    cache.add("d", 3)
    assert [digest for digest in "abcd" if cache.has(digest)] == ["a", "c", "d"]


def test_ray_brings_an_object_to_more_machines_in_each_round() -> None:
    assumed = Assumptions(ray_fetch=1.0, ray_sends=2)
    assert broadcast(assumed, 0, 9) == [0.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]


def test_a_failed_call_ends_the_calls_beside_it() -> None:
    engine = Engine(1)
    bucket = Bucket(engine, Assumptions(writes=0.0), Client(throttled_attempts=1))

    def write() -> Call:
        yield Request("PUT", "a", 0, True)

    def both() -> Call:
        yield Both([write(), one("b"), one("c")], at_once=1)

    assert isinstance(run_all(bucket, [both()])[0], FailedError)
    assert bucket.counts["HEAD"] == 0
