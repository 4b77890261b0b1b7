"""The requests of verify and stats to a bucket."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from policystore import PolicyStore, Snapshot
from tests.support.s3_server import Proxy

Make = Callable[..., Snapshot]


def test_verify_and_stats_read_each_key_once_and_many_at_the_same_time(
    store: PolicyStore, proxy: Proxy, make_snapshot: Make
) -> None:
    names = [f"n{number}" for number in range(3)]
    for seed, name in enumerate(names):
        store.push(make_snapshot(seed), name)
        store.push(make_snapshot(seed + 100), name)
        store.tag(f"{name}@1", "t")
    proxy.told()
    proxy.rounds()
    proxy.quiet = 0.08

    report = store.verify()
    requests, rounds = Counter(proxy.told()), proxy.rounds()
    assert report.ok
    assert max(requests.values()) == 1
    # The marker, the listing, and 2 versions, 2 objects, a hint, and a tag with its hint of each name.
    assert sum(requests.values()) == 2 + 7 * len(names)
    # The marker, the listing, the records, the objects; a busy machine may take a wave in parts.
    assert 4 <= rounds <= 12

    proxy.quiet = 0.0
    store.stats()
    assert len(proxy.told()) == 6  # the marker, and a listing of each tree
    store.stats(details=True)
    # As for the collector: the leagues, the records of a name, and a probe of a newer version.
    assert len(proxy.told()) == 8 + 4 * len(names)
