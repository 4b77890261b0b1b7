"""Small policies on S3 servers of this machine, against boto3 with the same bytes.

Once on loopback, and once through a proxy that makes each request 20 ms longer. A call that needs
an answer before it can ask on is measured against so many requests of boto3, one after the other;
the proxy tells how many. No cache is used.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, NamedTuple

from policystore import PolicyStore, Snapshot
from scripts.benchmarks.lines.harness.delay import Proxy, delaying, rounds_of
from scripts.benchmarks.lines.harness.policies import arrays_of
from scripts.benchmarks.lines.harness.rows import Report
from scripts.benchmarks.lines.harness.s3 import bucket_of, client_of, options_of
from scripts.benchmarks.lines.harness.settings import Settings
from scripts.benchmarks.lines.harness.times import Prepared, Times, in_turn

__all__ = ["measure"]

_BYTES = 36_000  # of a policy with two layers of 64 units
_DELAY = 0.02
_COUNTING_DELAY = 0.1  # a request that a busy machine delays by less is still in its round
_THREADS = 64
_A_REQUEST = 1.3  # how much longer than boto3's one request each request in a row may take
_REQUESTS = {"pull by name": 4, "pull by tag": 4, "push": 7}
_NAME, _TAG = "bench/main", "bench/main@best"


class _Counted(NamedTuple):
    """How many requests a call makes, and how many of them wait for an answer before them."""

    requests: int
    rounds: int


def measure(settings: Settings, report: Report) -> None:
    for kind, endpoint in settings.s3.items():
        with delaying(endpoint, _DELAY) as slow:
            _one_server(settings, report, kind, endpoint, slow.url)
    if not settings.s3:
        report.omit("S3: no server (--s3 none)")


def _one_server(settings: Settings, report: Report, kind: str, endpoint: str, slow: Proxy) -> None:
    bucket = bucket_of(endpoint)
    store = _opened(endpoint, bucket)
    snaps = _snapshots()
    many = [store.push(next(snaps), f"league/p{number}").digest
            for number in range(10 if settings.quick else 100)]  # fmt: skip
    first = next(snaps)
    store.push(first, _NAME)
    store.tag(_NAME, "best")
    with delaying(endpoint, _COUNTING_DELAY) as proxy:
        counted = _count(_opened(proxy.url, bucket), proxy, snaps, settings.rounds(4))
    for call, at_most in _REQUESTS.items():
        report.limited(f"requests of a {call}, {kind}", counted[call].requests, at_most,
                       "requests", note=f"{counted[call].rounds} of them in a row")  # fmt: skip
    with ExitStack() as stack:
        for where, url in (("loopback", endpoint), (f"{_DELAY * 1e3:.0f} ms more", slow)):
            pool = stack.enter_context(ThreadPoolExecutor(_THREADS))
            site = _Site(f"{kind}, {where}", _opened(url, bucket), client_of(url, _THREADS),
                         bucket, pool)  # fmt: skip
            _one_by_one(settings, report, site, counted, first, snaps)
            _many(settings, report, site, many)


class _Site(NamedTuple):
    """A server as it is reached: directly or through the proxy."""

    label: str
    store: Any
    client: Any
    bucket: str
    pool: ThreadPoolExecutor

    def get(self, key: str) -> bytes:
        """Return the bytes of a key, by boto3."""
        body: bytes = self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return body

    def put(self, key: str, body: bytes) -> None:
        """Write the bytes of a key, by boto3."""
        self.client.put_object(Bucket=self.bucket, Key=key, Body=body)


def _opened(url: str, bucket: str) -> PolicyStore:
    return PolicyStore(f"s3://{bucket}/p", storage_options=options_of(url), cache=False)


def _snapshots() -> Iterator[Snapshot]:
    for seed in itertools.count():
        yield Snapshot(weights=arrays_of(_BYTES, seed, tensors=6))


def _count(
    store: PolicyStore, proxy: Proxy, snaps: Iterator[Snapshot], repeats: int
) -> dict[str, _Counted]:
    """Count requests of calls that were made before: a process proves once what a server does."""
    digest = store.resolve(_TAG)
    calls: dict[str, Callable[[], object]] = {
        "push": lambda: store.push(next(snaps), _NAME),
        "pull by name": lambda: store.pull(_NAME),
        "pull by tag": lambda: store.pull(_TAG),
        "pull by digest": lambda: store.pull(digest),
    }
    counted = {}
    for name, call in calls.items():
        call()
        found = []
        for _ in range(repeats):
            proxy.seen()
            call()
            seen = proxy.seen()
            found.append(_Counted(len(seen), rounds_of(seen)))
        # A busy machine can delay a request until another has its answer, but never the reverse.
        counted[name] = _Counted(
            max(each.requests for each in found), min(each.rounds for each in found)
        )
    return counted


def _one_by_one(
    settings: Settings, report: Report, site: _Site, counted: dict[str, _Counted],
    tagged: Snapshot, snaps: Iterator[Snapshot],
) -> None:  # fmt: skip
    """Measure single pushes and pulls against single requests of boto3."""
    store, digest = site.store, tagged.digest
    key = f"p/objects/{digest.hex[:2]}/{digest.hex}.safetensors"
    body = site.get(key)
    report.check(len(body) > _BYTES * 0.99, f"{site.label}: the object is too small")
    for ref in (digest, _TAG):
        report.check(store.pull(ref).digest == digest, f"{site.label}: a pull gave another policy")
    keys = (f"plain/{number}" for number in itertools.count())
    before = store.resolve(_NAME)
    times = in_turn(
        {
            "push": Prepared(lambda: next(snaps), lambda snap: store.push(snap, _NAME)),
            "put": Prepared(lambda: next(keys), lambda key: site.put(key, body)),
            "pull by digest": lambda: store.pull(digest),
            "pull by name": lambda: store.pull(_NAME),
            "pull by tag": lambda: store.pull(_TAG),
            "get": lambda: site.get(key),
        },
        settings.rounds(25),
        warm_up=2,
    )
    report.check(store.resolve(_NAME) != before, f"{site.label}: nothing was pushed")
    for call in ("push", "pull by digest", "pull by name", "pull by tag"):
        request = "put" if call == "push" else "get"
        rounds = counted[call].rounds
        report.compare(
            f"{call}: {site.label}",
            f"{rounds} x boto3's {request}_object of the policy", times[call],
            Times(tuple(rounds * each for each in times[request].seconds)), limit=_A_REQUEST,
        )  # fmt: skip


def _many(settings: Settings, report: Report, site: _Site, digests: list[Any]) -> None:
    """Measure pulls of many policies at once."""
    count = len(digests)
    names = [f"league/p{number}" for number in range(count)]
    keys = [f"p/objects/{digest.hex[:2]}/{digest.hex}.safetensors" for digest in digests]
    by_digest = site.store.pull_many(digests)
    report.check(
        [by_digest[digest].digest for digest in digests] == digests
        and [snap.digest for snap in site.store.pull_many(names).values()] == digests,
        f"{site.label}: pull_many gave other policies",
    )
    times = in_turn(
        {
            "digests": lambda: site.store.pull_many(digests),
            "names": lambda: site.store.pull_many(names),
            "threads": lambda: list(site.pool.map(site.get, keys)),
            "as many": lambda: list(site.pool.map(site.get, keys * 4)),
            "serial": lambda: [site.get(key) for key in keys],
        },
        settings.rounds(5),
    )
    what = f"pull_many of {count}: {site.label}"
    report.compare(what, "boto3 get_object, serial", times["digests"], times["serial"])
    report.compare(what, f"boto3 get_object, {_THREADS} threads", times["digests"],
                   times["threads"], limit=1.0)  # fmt: skip
    report.compare(
        f"pull_many of {count} by name: {site.label}",
        f"boto3, {_THREADS} threads, four requests for each", times["names"], times["as many"],
    )  # fmt: skip
