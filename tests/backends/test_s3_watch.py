"""The requests of a watch of a tag and of a name in a bucket."""

from __future__ import annotations

from collections.abc import Callable

from policystore import Snapshot
from tests.support.s3_server import Proxy
from tests.support.s3_stores import open_store, request_lines


def test_a_look_is_one_or_two_requests_without_a_body(
    proxy: Proxy, s3_bucket: str, make_snapshot: Callable[..., Snapshot]
) -> None:
    store = open_store(proxy, s3_bucket)
    for seed in range(2):
        store.push(make_snapshot(seed), "a")
    store.tag("a@1", "t")
    for ref, first in (("a@t", "names/a/@tags/t/0000000002.json"), ("a", "0000000003.json")):
        watch = store.watch(ref, interval=0.001)
        proxy.told()
        next(watch)
        assert len(request_lines(proxy, s3_bucket)) <= 14
        for _ in range(3):
            proxy.told()
            assert watch._look() is None
            lines = request_lines(proxy, s3_bucket)
            assert len(lines) == (1 if "@" in ref else 2)
            assert all(line.startswith("HEAD") for line in lines)
            assert any(first in line for line in lines)
    store.tag("a@2", "t")
    tagged = store.watch("a@t", interval=0.001, timeout=60.0)
    assert next(tagged).number == 2
    store.tag("a@1", "t")
    proxy.told()
    moved = tagged._look()
    assert moved is not None
    assert moved.number == 1
    # Without the hint of the tag, a search for the newest move would make 16 probes.
    assert len(request_lines(proxy, s3_bucket)) == 11
