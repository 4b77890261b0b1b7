"""Test names, the log, tags and hints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from policystore.errors import NotFoundError, ProtectedError
from policystore.format.records import Version
from policystore.format.spec import Spec
from policystore.snapshot import Snapshot
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
        moves = sorted(key for key in self.raw_keys() if "@tags/champion/0" in key)
        assert moves == [f"names/a/@tags/champion/{n:010d}.json" for n in (1, 2, 3, 4)]

    def test_a_protected_tag_is_moved_by_few(self, store: PolicyStore) -> None:
        for seed in range(3):
            store.push(make_snapshot(seed), "a")
        store.tag("a@1", "champion", author="dan")
        store.protect("a", "champion", by=["bob", "ann"], author="eve")
        assert store.tags("a")["champion"].number == 1
        said = r"'dan' .* 'champion' of 'a': eve protected it at \d{4}-.* only ann, bob may .*force"
        with pytest.raises(ProtectedError, match=said):
            store.tag("a@2", "champion", author="dan")
        with pytest.raises(ProtectedError, match=said):
            store.untag("a", "champion", author="dan")
        assert store.pull("a@champion") == make_snapshot(0)
        store.tag("a@2", "champion", author="ann")
        store.tag("a@3", "champion", author="dan", force=True)
        with pytest.raises(ProtectedError):
            store.tag("a@1", "champion", author="dan")
        store.unprotect("a", "champion", author="eve")
        store.tag("a@1", "champion", author="dan")
        history = store.tag_history("a", "champion")
        assert [(move.target, move.author, move.protected is not None) for move in history] == [
            (1, "dan", False),
            (3, "eve", False),
            (3, "dan", True),
            (2, "ann", True),
            (1, "eve", True),
            (1, "dan", False),
        ]
        assert store.verify().ok

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

    def test_versions_are_found_by_their_acting_weights(self, store: PolicyStore) -> None:
        one, other = (_with_critic(acting, critic=0.0) for acting in (1.0, 2.0))
        again = _with_critic(1.0, critic=5.0)  # another policy that acts with the same weights
        for snap, name in (
            (one, "a/x"),
            (other, "a/x"),
            (other, "a/y"),
            (again, "b"),
            (one, "a/x"),
        ):
            store.push(snap, name)
        assert again.digest != one.digest
        digest = one.acting_digest
        for form in (digest, str(digest), digest.short, digest.hex, digest.hex[:8]):
            found = store.find_acting(form)
            assert [version.ref for version in found] == ["a/x@3", "b@1", "a/x@1"]
        assert {version.acting for version in found} == {digest}
        assert [version.digest for version in found] == [one.digest, again.digest, one.digest]
        assert found[0] == store.log("a/x")[0]
        assert digest.short in str(found[0])
        assert [v.ref for v in store.find_acting(other.acting_digest)] == ["a/y@1", "a/x@2"]
        assert [v.ref for v in store.find_acting(digest, prefix="a/")] == ["a/x@3", "a/x@1"]
        assert [v.ref for v in self.open_store(read_only=True).find_acting(digest, "b")] == ["b@1"]

    def test_acting_weights_that_no_version_has_are_not_found(self, store: PolicyStore) -> None:
        with pytest.raises(NotFoundError):
            store.find_acting("ab" * 32)  # not even a store
        snap = _with_critic(1.0, critic=0.0)
        store.push(_with_critic(3.0, critic=0.0))  # without a name
        store.push(snap, "a/x")
        for digest in (snap.digest, _with_critic(3.0, critic=0.0).acting_digest, "00000000"):
            with pytest.raises(NotFoundError, match="none of the 1 versions"):
                store.find_acting(digest)
        with pytest.raises(NotFoundError, match="none of the 0 versions below 'b'"):
            store.find_acting(snap.acting_digest, prefix="b")


def _with_critic(acting: float, *, critic: float) -> Snapshot:
    """Make a snapshot of which acting needs one tensor, and training another."""
    weights = {"pi": np.full(3, acting, np.float32), "vf": np.full(3, critic, np.float32)}
    return Snapshot(weights=weights, spec=Spec(acting=["pi"]))
