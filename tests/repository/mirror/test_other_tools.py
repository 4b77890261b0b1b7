"""Copies of a store's folder by tools that know nothing of stores, while pushes go on.

The tools walk a folder in the order of its names and copy file by file, as rsync and
``aws s3 sync`` do. docs/mirrors.md gives the commands.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from policystore import PolicyStore
from policystore.testing import make_snapshot
from tests.support.mirrors import faults
from tests.support.s3_server import client

SAFE = ("policystore.json", "objects", "names", "kept", "leagues", "deleted", "objects")
UNSAFE = {
    "objects once": ("policystore.json", "objects", "names", "kept", "leagues", "deleted"),
    "records last": ("policystore.json", "objects", "objects", "names", "kept"),
}


def walk(folder: Path) -> Iterator[Path]:
    """List a folder, then what is in it, in the order of the names."""
    if folder.is_file():
        yield folder
    elif folder.is_dir():
        for path in sorted(folder.iterdir()):
            yield from walk(path)


def copy_plainly(
    source: Path,
    order: tuple[str, ...],
    copy: Callable[[Path, str], None],
    tick: Callable[[], None],
) -> None:
    """Copy folders one after the other; ``tick`` is called between any two steps."""
    for part in order:
        tick()
        for path in walk(source / part):
            copy(path, str(path.relative_to(source)))
            tick()


class Pusher:
    """Push, tag and delete at a given step of a copy.

    Attributes:
        steps: how many steps the copy has made.
    """

    def __init__(self, store: PolicyStore, at: int) -> None:
        self.store, self.at, self.steps = store, at, 0

    def __call__(self) -> None:
        if self.steps == self.at:
            self.store.push(make_snapshot(100), "a")
            self.store.tag("a@2", "best")
            self.store.push(make_snapshot(101), "b")
            self.store.push(make_snapshot(102))
        self.steps += 1


def begin(folder: Path) -> PolicyStore:
    store = PolicyStore(folder)
    store.push(make_snapshot(1), "a")
    store.tag("a@1", "best")
    store.push(make_snapshot(2))
    return store


def copy_to_folder(folder: Path, order: tuple[str, ...], at: int) -> tuple[PolicyStore, bool]:
    """Copy a store to a folder while it gets pushes; return the copy, and whether they came."""
    pusher = Pusher(begin(folder / "ours"), at)

    def copy(path: Path, key: str) -> None:
        target = folder / "theirs" / key
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or key.endswith("/@hint"):
            shutil.copyfile(path, target)

    copy_plainly(folder / "ours", order, copy, pusher)
    return PolicyStore(folder / "theirs"), pusher.steps > at


def check(store: PolicyStore) -> None:
    """Check that a copy is valid, and that everything in it can be pulled."""
    assert faults(store) == []
    for name in store.names():
        for version in store.log(name):
            store.pull(version.digest)
        for tag in store.tags(name):
            store.pull(f"{name}@{tag}")


def test_the_safe_order_gives_a_valid_store(tmp_path: Path) -> None:
    for at in range(0, 60, 2):
        theirs, pushed = copy_to_folder(tmp_path / str(at), SAFE, at)
        check(theirs)
        assert theirs.pull("a@1") == make_snapshot(1)
        if not pushed:
            break
    assert not pushed
    assert at > 10


@pytest.mark.parametrize("order", UNSAFE.values(), ids=UNSAFE.keys())
def test_another_order_can_lose_objects(tmp_path: Path, order: tuple[str, ...]) -> None:
    lost = []
    for at in range(0, 60, 3):
        theirs, pushed = copy_to_folder(tmp_path / str(at), order, at)
        lost += faults(theirs)
        if not pushed:
            break
    assert lost


def test_the_safe_order_into_a_bucket(tmp_path: Path, s3_bucket: str, s3_endpoint: str) -> None:
    s3 = client(s3_endpoint)
    for at in (9,):
        folder, sent = tmp_path / str(at), set()

        def upload(path: Path, key: str, at: int = at, sent: set[str] = sent) -> None:
            if key not in sent:  # a later pass skips what is there with the same size
                s3.upload_file(str(path), s3_bucket, f"{at}/{key}")
            sent.add(key)

        copy_plainly(folder, SAFE, upload, Pusher(begin(folder), at))
        options = {"endpoint_url": s3_endpoint}
        theirs = PolicyStore(f"s3://{s3_bucket}/{at}", storage_options=options, cache=False)
        check(theirs)
        assert theirs.pull("a@1") == make_snapshot(1)


def test_a_plain_copy_is_a_store_like_any_other(tmp_path: Path) -> None:
    """copy_to goes on with what another tool has copied, and the copy can be pushed to."""
    theirs, _ = copy_to_folder(tmp_path, SAFE, at=8)
    ours = PolicyStore(tmp_path / "ours")
    ours.copy_to(theirs)
    assert theirs.log("a") == ours.log("a")
    theirs.push(make_snapshot(7), "a")
    assert ours.copy_to(theirs).complete
    check(theirs)
