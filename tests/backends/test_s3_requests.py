"""The requests of each call to a bucket: which, how many, and how many one after another."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from policystore import (
    FormatError,
    IntegrityError,
    NotFoundError,
    PolicyStore,
    Snapshot,
    Spec,
)
from tests.support.s3_server import Answer, Proxy, Request, client
from tests.support.s3_stores import (
    RECORD,
    open_store,
    request_lines,
)

Make = Callable[..., Snapshot]


class Counter:
    """Counts the requests of calls, and the rounds: requests that were made one after another.

    Args:
        proxy: passes the requests on.
        bucket: the bucket of the store.
        quiet: as for the proxy; with 0, no rounds are counted.

    Attributes:
        counts: requests and rounds, by the name of the call.
        lines: the requests, by the name of the call.
    """

    def __init__(self, proxy: Proxy, bucket: str, *, quiet: float = 0.12) -> None:
        self._proxy, self._bucket = proxy, bucket
        self.counts: dict[str, tuple[int, int]] = {}
        self.lines: dict[str, list[str]] = {}
        proxy.quiet = quiet

    def __call__(self, what: str, call: Callable[[], Any]) -> Any:
        self._proxy.told()
        self._proxy.rounds()
        result = call()
        self.lines[what] = request_lines(self._proxy, self._bucket)
        self.counts[what] = (len(self.lines[what]), self._proxy.rounds())
        return result

    def show(self) -> None:
        """Print all requests; pytest shows them if a test fails."""
        for what, each in self.lines.items():
            print(f"{what}: {self.counts[what]}")
            for line in each:
                print(f"    {line}")


def test_the_requests_of_every_call(
    store: PolicyStore, proxy: Proxy, s3_bucket: str, make_snapshot: Make
) -> None:
    """Compare the number of requests, and of requests one after another, with fixed numbers.

    Change a number only on purpose, and say so in the commit.
    """
    expected = {
        "push, new store": (10, 5),  # one looks for a store in the folder above
        "push": (8, 3),  # without a hint, it may be the first version: it looks for the marker
        "push, new process": (9, 3),
        "push, new name": (6, 3),
        "push without a name": (3, 2),
        "push, large": (10, 5),
        "push, large, again": (9, 4),
        "pull by digest": (1, 1),
        "pull by digest, large": (3, 2),
        "tag": (11, 7),
        "pull by number": (4, 2),
        "pull by name": (5, 2),
        "pull by name, again": (4, 1),
        "pull by name, large": (8, 3),
        "pull by tag": (7, 2),
        "pull by tag, again": (4, 1),
        "pull of the own push": (4, 1),
        "resolve": (4, 2),
        "names": (2, 1),
        "names, prefix": (2, 1),
    }
    count = Counter(proxy, s3_bucket)
    counts, lines = count.counts, count.lines

    def other() -> PolicyStore:
        return open_store(proxy, s3_bucket)

    count("push, new store", lambda: store.push(make_snapshot(0), "a"))
    version = count("push", lambda: store.push(make_snapshot(1), "a"))
    count("push, new process", lambda: other().push(make_snapshot(2), "a"))
    count("push, new name", lambda: store.push(make_snapshot(2), "b"))
    count("push without a name", lambda: store.push(make_snapshot(3)))
    large = count("push, large", lambda: store.push(make_snapshot(4, large=True), "a"))
    count("push, large, again", lambda: store.push(make_snapshot(4, large=True), "a"))
    count("tag", lambda: store.tag("a@2", "champion"))
    for number in (1, 3, 1, 2):
        store.tag(f"a@{number}", "champion")
    count("pull by digest", lambda: store.pull(version.digest))
    count("pull by digest, large", lambda: store.pull(large.digest))
    count("pull by number", lambda: store.pull("a@2"))
    reader = other()
    count("pull by name", lambda: reader.pull("b"))
    count("pull by name, again", lambda: reader.pull("b"))
    count("pull by name, large", lambda: reader.pull("a"))
    count("pull by tag", lambda: reader.pull("a@champion"))
    count("pull by tag, again", lambda: reader.pull("a@champion"))
    count("pull of the own push", lambda: store.pull("b"))
    client(proxy.endpoint).delete_object(Bucket=s3_bucket, Key="p/names/a/@hint")
    count("pull by name, no hint", lambda: other().pull("a"))
    count("resolve", lambda: store.resolve("b"))
    count("names", store.names)
    count("names, prefix", lambda: store.names("a"))
    count.show()
    # Sixteen at once open connections of their own, on a busy machine one after another.
    assert counts.pop("pull by name, no hint")[0] == 25
    assert count.counts == expected
    # Tensors of less than a MiB are sent again. For a larger tensor a HEAD request comes first.
    again_sent = sorted(line for line in lines["push, large, again"] if "objects" in line)
    assert [line.split()[0] for line in again_sent] == ["HEAD", "PUT", "PUT"]


@pytest.mark.long
def test_the_requests_of_annotations(
    store: PolicyStore, proxy: Proxy, s3_bucket: str, make_snapshot: Make
) -> None:
    """The table in docs/store.md has these numbers."""
    for seed in range(4):
        store.push(make_snapshot(seed), "a")
    for number in (1, 3):
        store.tag("a@4", "champion")
        store.tag("a@2", "champion")
        store.annotate(f"a@{number}", note="n")
    expected = {
        "annotate": (4, 3),
        "annotations": (4 + 2, 4),
        "version by number": (5 + 2 + 3, 3),  # two annotations and one tag
        "version by name": (8 + 1 + 3, 3),
        "version by tag": (9 + 2 + 3, 3),
        "version alone": (3, 2),
        "log": (9, 3),
        "log with all": (9 + 2 + 5 + 3, 4),
    }
    count = Counter(proxy, s3_bucket)
    count("annotate", lambda: store.annotate("a@2", note="n"))
    store.annotate("a@2", note="n")
    store.annotate("a", note="n")
    count("annotations", lambda: store.annotations("a@2"))
    count("version by number", lambda: store.version("a@2"))
    count("version by name", lambda: store.version("a"))
    count("version by tag", lambda: store.version("a@champion"))
    count("version alone", lambda: store.version("a@2", tags=False, annotations=False))
    count("log", lambda: store.log("a"))
    count("log with all", lambda: store.log("a", tags=True, annotations=True))
    count.show()
    assert count.counts == expected


def test_deleted_versions_cost_a_pull_no_round(
    store: PolicyStore, proxy: Proxy, s3_bucket: str, make_snapshot: Make
) -> None:
    for seed in range(5):
        store.push(make_snapshot(seed), "a")
    store.tag("a@1", "champion")
    store.prune("a", keep_last=3)
    for _ in range(2):
        store.delete("a")
    expected = {
        "pull by name": (8, 2),
        "pull by number": (5, 2),
        "pull by tag": (8, 2),
        "pull by tag, again": (5, 1),
        "push": (7, 3),
        "pull by name, newest": (7, 2),
        "pull by name, newest, again": (5, 1),
    }
    count = Counter(proxy, s3_bucket)
    fresh = open_store(proxy, s3_bucket)
    assert count("pull by name", lambda: fresh.pull("a")).ref == "a@3"
    count("pull by number", lambda: store.pull("a@1"))
    count("pull by tag", lambda: store.pull("a@champion"))
    count("pull by tag, again", lambda: store.pull("a@champion"))
    count("push", lambda: store.push(make_snapshot(20), "a"))
    count("pull by name, newest", lambda: open_store(proxy, s3_bucket).pull("a"))
    count("pull by name, newest, again", lambda: store.pull("a"))
    count.show()
    assert count.counts == expected


@pytest.mark.long
def test_the_requests_of_deletions(
    store: PolicyStore, proxy: Proxy, s3_bucket: str, make_snapshot: Make
) -> None:
    for seed in range(9):
        store.push(make_snapshot(seed), "a")
    store.push(make_snapshot(1), "b")
    store.tag("a@2", "champion")
    expected = {
        "tag again": (11, 6),
        "delete": (21, 14),
        "prune": (19, 12),
        "tags": (11, 4),
        "tag_history": (5, 3),
        "restore": (14, 9),
        "delete_name": (12, 9),
        "names, deleted": (8, 3),
    }
    count = Counter(proxy, s3_bucket)
    count("tag again", lambda: store.tag("a@3", "champion"))
    count("delete", lambda: store.delete("a@4"))
    count("prune", lambda: store.prune("a", keep_last=2))
    count("tags", lambda: store.tags("a"))
    count("tag_history", lambda: store.tag_history("a", "champion"))
    count("restore", lambda: store.restore("a@4"))
    count("delete_name", lambda: store.delete_name("b"))
    count("names, deleted", store.names)
    count.show()
    assert count.counts == expected


@pytest.mark.long
def test_a_mistyped_name_or_tag_costs_few_requests(
    store: PolicyStore, proxy: Proxy, s3_bucket: str, s3_endpoint: str, make_snapshot: Make
) -> None:
    store.push(make_snapshot(), "soccer/main")
    store.tag("soccer/main", "champion")
    raw = client(s3_endpoint)
    with ThreadPoolExecutor(8) as pool:
        keys = [f"p/names/soccer/n{i:04d}/@versions/0000000001.json" for i in range(2500)]
        list(pool.map(lambda k: raw.put_object(Bucket=s3_bucket, Key=k, Body=b"x"), keys))
    count = Counter(proxy, s3_bucket, quiet=0.0)
    for ref, said in {
        "soccer/mian": "soccer/main",
        "socer/main": "soccer/main",
        "soccer/main@champoin": "champion",
        "soccer/n24": "soccer/n24",
        "zzz": "The names are: soccer/",
    }.items():
        with pytest.raises(NotFoundError, match=said):
            count(ref, lambda ref=ref: store.pull(ref))
        assert len(request_lines(proxy, s3_bucket)) <= 20, ref
    count("names", lambda: store.names("soccer/m"))
    assert count.counts["names"][0] == 2


def test_every_get_is_one_ranged_request(
    store: PolicyStore, proxy: Proxy, make_snapshot: Make
) -> None:
    store.push(make_snapshot(large=True), "a")
    proxy.told()
    store.pull("a")
    gets = [request for request in proxy.seen if request.method == "GET"]
    assert gets
    assert all("range" in request.headers for request in gets)
    # One byte more than the limit shows a longer object.
    small = {r.headers["range"] for r in gets if "names/" in r.path and "marks/" not in r.path}
    assert small == {"bytes=0-65536"}
    assert {r.headers["range"] for r in gets if "marks/" in r.path} == {"bytes=0-1048576"}


def test_a_too_long_object_is_not_read_to_its_end(
    store: PolicyStore, proxy: Proxy, s3_bucket: str, s3_endpoint: str, make_snapshot: Make
) -> None:
    store.push(make_snapshot(), "a")
    key = f"p/{RECORD}0000000001.json"
    client(s3_endpoint).put_object(Bucket=s3_bucket, Key=key, Body=b"x" * (8 << 20))
    sent: list[int] = []

    def measured(request: Request, answer: Answer) -> Answer:
        sent.append(len(answer.body))
        return answer

    proxy.after = measured
    with pytest.raises(FormatError, match=r"8388608 bytes, and at most 65536"):
        store.pull("a")
    assert max(sent) <= (64 << 10) + 1


def test_a_server_that_ignores_ranges_is_cut_off(
    store: PolicyStore, proxy: Proxy, s3_bucket: str, s3_endpoint: str, make_snapshot: Make
) -> None:
    store.push(make_snapshot(), "a")

    for headers, said in (
        ({}, "8388608 bytes"),
        ({"Transfer-Encoding": "chunked"}, "more than 65536"),
    ):

        def everything(request: Request, headers: dict[str, str] = headers) -> Answer | None:
            if request.method == "GET" and "versions" in request.path:
                return Answer(200, headers, b"x" * (8 << 20))
            return None

        proxy.before = everything
        with pytest.raises(FormatError, match=f"{said}.*at most 65536"):
            store.pull("a")


def test_objects_without_bytes(s3_endpoint: str, proxy: Proxy, s3_bucket: str) -> None:
    client(s3_endpoint).put_object(Bucket=s3_bucket, Key="p/x", Body=b"")
    backend = open_store(proxy, s3_bucket)._backend
    assert bytes(backend.get("x")) == bytes(backend.get("x", limit=5)) == b""
    assert backend.head("x", 10) == b""
    assert backend.size("x") == 0


def test_a_folder_key_of_a_web_console_is_ignored(
    s3_endpoint: str, store: PolicyStore, s3_bucket: str, make_snapshot: Make
) -> None:
    client(s3_endpoint).put_object(Bucket=s3_bucket, Key="p/", Body=b"")
    store.push(make_snapshot(), "a")
    assert store.verify().ok


@pytest.mark.long
def test_listings_of_more_than_a_page(
    store: PolicyStore, proxy: Proxy, s3_bucket: str, s3_endpoint: str
) -> None:
    raw = client(s3_endpoint)
    with ThreadPoolExecutor(8) as pool:
        keys = {f"names/n{i:04d}/@versions/0000000001.json" for i in range(1005)}
        list(pool.map(lambda k: raw.put_object(Bucket=s3_bucket, Key=f"p/{k}", Body=b"x"), keys))
    assert set(store._backend.keys("names/")) == keys
    assert len(store.names()) == 1005
    assert set(store._backend.prefixes("names/", "/")) == {k.partition("@")[0] for k in keys}
    assert len([line for line in proxy.told() if "list-type" in line]) == 7


def test_objects_of_one_mib_are_not_sent_twice_and_damaged_ones_are(
    store: PolicyStore, proxy: Proxy, s3_bucket: str, s3_endpoint: str
) -> None:
    snap = Snapshot(weights={"w": np.arange(2 << 20, dtype=np.float32)}, spec=Spec())
    version = store.push(snap, "a")
    assert version.objects is not None
    tensor = next(d for d in version.objects if d != version.digest).hex
    key = f"p/objects/{tensor[:2]}/{tensor}.safetensors"
    proxy.told()
    store.push(snap, "a")
    assert not [request for request in proxy.seen if len(request.body) >= 1 << 20]
    raw = client(s3_endpoint)
    data = bytearray(raw.get_object(Bucket=s3_bucket, Key=key)["Body"].read())
    data[-1] ^= 1
    raw.put_object(Bucket=s3_bucket, Key=key, Body=bytes(data))
    with pytest.raises(IntegrityError):
        store.pull("a")
    store.push(snap, "a")
    assert store.pull("a") == snap


def test_an_absent_key_raises_not_found(store: PolicyStore, make_snapshot: Make) -> None:
    store.push(make_snapshot(), "a")
    with pytest.raises(NotFoundError, match="no key s3://"):
        store._backend.get("x")
    with pytest.raises(NotFoundError):
        store._backend.head("x", 5)
    assert store._backend.size("x") is None
