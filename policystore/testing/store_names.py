"""Test names, the log, tags and hints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from policystore.errors import (
    NotFoundError,
)
from policystore.format.records import Version
from policystore.store import PolicyStore
from policystore.testing.snapshots import make_snapshot
from policystore.testing.storage import Intercepted, StoreTests

__all__ = ["NameTests"]


class NameTests(StoreTests):
    """Test names, the log, tags and hints."""

    def test_names_and_log(self, store: PolicyStore) -> None:
        for name in ("soccer/main", "soccer", "Soccer/main", "soccer-b/x", "a"):
            store.push(make_snapshot(), name)
        assert store.names() == ["Soccer/main", "a", "soccer", "soccer-b/x", "soccer/main"]
        assert store.names("soccer/") == ["soccer/main"]
        assert store.names("soccer") == ["soccer", "soccer-b/x", "soccer/main"]
        assert store.names("nothing") == []
        for seed in range(1, 5):
            store.push(make_snapshot(seed), "a")
        assert [v.number for v in store.log("a")] == [5, 4, 3, 2, 1]
        assert [v.number for v in store.log("a", limit=2)] == [5, 4]
        assert store.log("a", limit=0) == []
        assert store.log("a")[0].digest == make_snapshot(4).digest

    def test_tags_move_and_keep_their_history(self, store: PolicyStore) -> None:
        for seed in range(3):
            store.push(make_snapshot(seed), "a")
        assert store.tags("a") == {}
        assert store.tag("a@1", "champion").number == 1
        assert store.tag("a", "champion").number == 3
        assert store.tag("a@champion", "Best").number == 3
        assert {tag: v.number for tag, v in store.tags("a").items()} == {"Best": 3, "champion": 3}
        store.untag("a", "champion")
        assert list(store.tags("a")) == ["Best"]
        with pytest.raises(NotFoundError, match="champion"):
            store.pull("a@champion")
        with pytest.raises(NotFoundError, match="champion"):
            store.untag("a", "champion")
        store.tag("a@2", "champion")
        assert store.resolve("a@champion") == make_snapshot(1).digest
        moves = sorted(key for key in self.raw_keys() if "@tags/champion/" in key)
        assert moves == [f"names/a/@tags/champion/{n:010d}.json" for n in (1, 2, 3, 4)]

    def test_when_decides_whether_a_tag_moves(self, store: PolicyStore) -> None:
        for seed in range(3):
            store.push(make_snapshot(seed), "a")
        seen: list[int | None] = []

        def asked(answer: bool) -> Callable[[Version | None], bool]:
            def when(now: Version | None) -> bool:
                seen.append(None if now is None else now.number)
                return answer

            return when

        assert store.tag("a@1", "t", when=asked(False)) is None
        assert store.tags("a") == {}
        for number, answer, stands in ((2, True, 2), (3, False, 2), (1, True, 1)):
            found = store.tag(f"a@{number}", "t", when=asked(answer))
            assert found is not None
            assert found.number == stands == store.tags("a")["t"].number
        store.untag("a", "t")
        assert store.tag("a@3", "t", when=asked(True)) == store.log("a")[0]
        assert seen == [None, None, 2, 2, None]
        with pytest.raises(ZeroDivisionError):
            store.tag("a@1", "t", when=lambda now: bool(1 / 0))
        assert store.tags("a")["t"].number == 3

    def test_a_lost_or_wrong_hint_changes_nothing(self, store: PolicyStore) -> None:
        for seed in range(20):
            store.push(make_snapshot(seed), "a")
        hint = self.raw_read("names/a/@hint")
        assert b'"number":20' in hint
        wrong = [b"", b"{}", b"\xff", b"x" * 70_000, hint.replace(b"20", b"3"),
                 hint.replace(b"20", b"999"), hint.replace(b"20", b"0")]  # fmt: skip
        for data in wrong:
            self.raw_write("names/a/@hint", data)
            assert store.resolve("a") == make_snapshot(19).digest
        self.raw_delete("names/a/@hint")
        assert store.push(make_snapshot(20), "a").number == 21

    def test_without_a_hint_probes_grow_with_the_logarithm_of_the_versions(self) -> None:
        backend = Intercepted(self.make_backend())
        store = self.open_over(backend)
        for _ in range(64):
            store.push(make_snapshot(), "a")
        probed: list[str] = []

        def counted(call: Callable[..., Any]) -> Callable[..., Any]:
            def count(key: str, **kwargs: Any) -> Any:
                if "@versions" in key:
                    probed.append(key)
                return call(key, **kwargs)

            return count

        backend.size, backend.get = counted(backend.inner.size), counted(backend.inner.get)
        store.resolve("a")
        # The newest and the next one, and the newest again if a probe does not read it; a remote
        # store reads the first one, too, beside the hint.
        assert len(probed) <= (4 if backend.is_remote and backend.parallel == 1 else 3)
        self.raw_delete("names/a/@hint")
        probed.clear()
        store.resolve("a")
        assert len(probed) <= (15 if backend.parallel == 1 else 2 + 3 * 16)
