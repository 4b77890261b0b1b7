"""Test several writers and readers of one store, and answers that are lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from policystore.format.records import Version
from policystore.store import PolicyStore
from policystore.testing.snapshots import make_snapshot
from policystore.testing.storage import Intercepted, StoreTests

__all__ = ["ConcurrencyTests"]


class ConcurrencyTests(StoreTests):
    """Test several writers and readers of one store, and answers that are lost."""

    def test_threads_that_push_to_one_name_lose_nothing(self, store: PolicyStore) -> None:
        snaps = [make_snapshot(seed) for seed in range(40)]
        with ThreadPoolExecutor(8) as pool:
            versions = list(pool.map(lambda snap: store.push(snap, "a"), snaps))
        assert sorted(v.number or 0 for v in versions) == list(range(1, 41))
        assert {v.digest for v in store.log("a")} == {snap.digest for snap in snaps}
        assert store.verify().ok

    def test_another_writer_makes_the_store_during_the_first_push(self) -> None:
        backend = Intercepted(self.make_backend())

        def keys(prefix: str) -> Iterator[str]:
            self.open_store().push(make_snapshot(1), "a")
            return backend.inner.keys(prefix)

        backend.keys = keys
        assert self.open_over(backend).push(make_snapshot(2), "a").number == 2

    def test_threads_that_move_one_tag_lose_nothing(self, store: PolicyStore) -> None:
        for seed in range(8):
            store.push(make_snapshot(seed), "a")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: store.tag(f"a@{n}", "t"), range(1, 9)))
        assert len([key for key in self.raw_keys() if "@tags/t/0" in key]) == 8
        assert store.verify().ok

    def test_the_tag_ends_at_the_best_of_many_concurrent_offers(self, store: PolicyStore) -> None:
        """Let each writer move the tag only to a better version, in a random order."""
        returns = [3, 9, 1, 7, 8, 2, 6, 5, 4]
        pushed = [store.push(make_snapshot(n), "a", metrics={"r": n}) for n in returns]

        def offer(mine: Version) -> None:
            store.tag(
                mine, "best", when=lambda now: now is None or mine.metrics["r"] > now.metrics["r"]
            )

        with ThreadPoolExecutor(len(pushed)) as pool:
            list(pool.map(offer, pushed))
        assert store.tags("a")["best"].metrics == {"r": 9}
        assert store.verify().ok

    def test_a_reader_never_sees_a_version_that_it_cannot_pull(self, store: PolicyStore) -> None:
        store.push(make_snapshot(), "a")
        stop = threading.Event()
        failures: list[BaseException] = []

        def read() -> None:
            while not stop.is_set():
                try:
                    store.pull("a")
                    store.log("a")
                except BaseException as error:
                    failures.append(error)
                    return

        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        for seed in range(30):
            store.push(make_snapshot(seed, large=seed % 10 == 0), "a")
        stop.set()
        for reader in readers:
            reader.join()
        assert not failures

    def test_a_lost_answer_does_not_make_two_versions(self) -> None:
        backend = Intercepted(self.make_backend())
        store = self.open_over(backend)

        def create(key: str, data: bytes) -> bool:
            backend.inner.create(key, data)
            return False  # as an NFS server answers the second try, if its first answer was lost

        store.push(make_snapshot(0), "a")
        backend.create = create
        assert store.push(make_snapshot(1), "a").number == 2
        store.tag("a@1", "t")
        assert len(store.log("a")) == 2
        assert len([key for key in self.raw_keys() if "@tags/t/0" in key]) == 1
