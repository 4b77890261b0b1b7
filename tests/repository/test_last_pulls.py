"""A pull of a ref that was pulled before is one round of requests, and sees each later change."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from threading import get_ident

import numpy as np
import pytest

from policystore import FormatError, IntegrityError, NotFoundError, PolicyStore, Snapshot
from policystore.format.keys import hint_key, mark_key, object_key, tag_key, version_key
from policystore.format.records import Hint
from policystore.format.refs import Ref
from policystore.repository.lookup import last_pulls
from scripts.benchmarks.scaling.replay import RecordingBackend, Trace

NAME, TAG = "soccer/main", "soccer/main@best"


def snap(seed: int) -> Snapshot:
    return Snapshot(weights={"w": np.full(3, seed, np.float32)})


class Clients:
    """A writer and a reader of one store in memory, each with what it remembers.

    Attributes:
        before: called with operation and key before each request of the reader.
    """

    def __init__(self) -> None:
        self.space, self.trace = uuid.uuid4().hex, Trace()
        self.before: Callable[[str, str], None] = lambda operation, key: None
        self.writer = self.store("writer", lambda operation, key: None)
        self.reader = self.store("reader", lambda operation, key: self.before(operation, key))
        for seed in (1, 2, 3):
            self.writer.push(snap(seed), NAME)
        self.writer.tag(f"{NAME}@2", "best")

    def store(self, client: str, before: Callable[[str, str], None]) -> PolicyStore:
        return PolicyStore.over(
            RecordingBackend(self.space, self.trace, client, before), cache=False
        )

    def requests(self, ref: str = NAME) -> list[tuple[str, str]]:
        """Let the reader pull a ref, and return the requests of that."""
        self.trace.requests.clear()
        self.reader.pull(ref)
        return sorted((made.operation, made.key) for made in self.trace.requests)


@pytest.fixture
def clients() -> Clients:
    return Clients()


def test_a_pull_by_name_again_asks_only_what_proves_something(clients: Clients) -> None:
    first = clients.reader.pull(NAME)
    assert clients.requests() == sorted(
        ("GET", key)
        for key in (
            version_key(NAME, 3),  # there is a version 3, and its digest
            version_key(NAME, 4),  # no later version
            mark_key(NAME, 1),  # no version was deleted
            object_key(first.digest),
        )
    )


def test_a_pull_by_tag_again_asks_only_what_proves_something(clients: Clients) -> None:
    first = clients.reader.pull(TAG)
    assert clients.requests(TAG) == sorted(
        ("GET", key)
        for key in (
            tag_key(NAME, "best", 1),
            tag_key(NAME, "best", 2),
            mark_key(NAME, 1),
            object_key(first.digest),
        )
    )
    assert clients.reader.pull(TAG).ref == f"{NAME}@2"


def test_a_name_with_marks_has_its_newest_mark_read_again(clients: Clients) -> None:
    clients.writer.delete(f"{NAME}@1")
    clients.reader.pull(NAME)
    marks = [key for _, key in clients.requests() if "@marks" in key]
    assert marks == [mark_key(NAME, 1), mark_key(NAME, 2)]


@pytest.mark.parametrize("ref", [NAME, TAG])
def test_each_change_by_others_is_seen_by_the_next_pull(clients: Clients, ref: str) -> None:
    def pulled() -> str:
        return str(clients.reader.pull(ref).ref)

    by_name = ref == NAME
    assert pulled() == pulled() == (f"{NAME}@3" if by_name else f"{NAME}@2")
    for seed in (4, 5):
        clients.writer.push(snap(seed), NAME)
        clients.writer.tag(f"{NAME}@{seed}", "best")
        assert pulled() == pulled() == pulled() == f"{NAME}@{seed}"
    clients.writer.delete(f"{NAME}@5", force=True)
    if by_name:
        assert pulled() == pulled() == f"{NAME}@4"
    else:
        for _ in range(2):
            with pytest.raises(NotFoundError, match="points to a deleted version"):
                pulled()
    clients.writer.restore(f"{NAME}@5")
    assert pulled() == pulled() == f"{NAME}@5"
    if not by_name:
        clients.writer.untag(NAME, "best")
        for _ in range(2):
            with pytest.raises(NotFoundError, match="no tag"):
                pulled()
    clients.writer.delete_name(NAME, force=True)
    for _ in range(2):
        with pytest.raises(NotFoundError):
            pulled()


@pytest.mark.parametrize("request_number", range(4))
def test_what_was_confirmed_before_a_pull_began_is_in_it(
    clients: Clients, request_number: int
) -> None:
    """Another process pushes at each moment of a pull: the pull gives a version at least as new."""
    clients.reader.pull(NAME)
    clients.reader.pull(NAME)
    made: list[int] = []
    me = get_ident()

    def push_meanwhile(operation: str, key: str) -> None:
        made.append(get_ident())
        if len(made) == request_number + 1:
            clients.writer.push(snap(50), NAME)

    clients.before = push_meanwhile
    assert clients.reader.pull(NAME).ref in (f"{NAME}@3", f"{NAME}@4")
    clients.before = lambda operation, key: None
    assert clients.reader.pull(NAME).ref == f"{NAME}@4"
    assert me in made


def test_a_name_that_moves_between_pulls_costs_one_wasted_round(clients: Clients) -> None:
    counts = []
    for seed in range(10, 15):
        clients.writer.push(snap(seed), NAME)
        counts.append(len(clients.requests()))
    # A first pull; one that finds that the name has moved; then the hint is asked first.
    assert counts == [6, 10, 6, 6, 6]
    assert [len(clients.requests()) for _ in range(2)] == [6, 4]


def test_a_store_that_was_made_anew_is_noticed(clients: Clients) -> None:
    for _ in range(2):
        clients.reader.pull(NAME)
        clients.reader.pull(TAG)
    clients.writer._backend._space.data.clear()  # type: ignore[attr-defined]
    with pytest.raises(NotFoundError):
        clients.reader.pull(NAME)
    anew = clients.store("anew", lambda operation, key: None)
    for seed in (21, 22, 23):
        anew.push(snap(seed), NAME)
    anew.tag(f"{NAME}@1", "best")
    assert clients.reader.pull(NAME) == snap(23)
    assert clients.reader.pull(TAG) == snap(21)


def test_a_mark_that_was_replaced_is_noticed(clients: Clients) -> None:
    other = Clients()
    clients.writer.delete(f"{NAME}@1")
    other.writer.delete(f"{NAME}@3")
    for _ in range(2):
        assert clients.reader.pull(NAME) == snap(3)
    data, others = (each.writer._backend._space.data for each in (clients, other))  # type: ignore[attr-defined]
    data[mark_key(NAME, 1)] = others[mark_key(NAME, 1)]
    assert clients.reader.pull(NAME) == snap(2)


def test_own_pushes_and_moves_of_tags_are_remembered_or_forgotten(clients: Clients) -> None:
    reader = clients.reader
    reader.pull(TAG)
    for seed in (31, 32):
        reader.push(snap(seed), NAME)
        assert len(clients.requests()) == 4
        assert reader.pull(NAME) == snap(seed)
        reader.tag(NAME, "best")
        assert len(clients.requests(TAG)) == 7
        assert reader.pull(TAG) == snap(seed)


def test_damage_is_found_also_by_a_pull_again(clients: Clients) -> None:
    data = clients.writer._backend._space.data  # type: ignore[attr-defined]
    digest = clients.reader.pull(NAME).digest
    record = data[version_key(NAME, 3)]
    data[version_key(NAME, 3)] = b"{}"
    with pytest.raises(FormatError):
        clients.reader.pull(NAME)
    data[version_key(NAME, 3)] = record
    del data[object_key(digest)]
    with pytest.raises(IntegrityError, match="needs the object"):
        clients.reader.pull(NAME)


@pytest.mark.parametrize("ref", [NAME, TAG])
def test_a_lost_record_does_not_hide_the_later_ones_for_ever(clients: Clients, ref: str) -> None:
    clients.reader.pull(ref)
    for seed in (4, 5):
        clients.writer.push(snap(seed), NAME)
        clients.writer.tag(f"{NAME}@{seed}", "best")
    data = clients.writer._backend._space.data  # type: ignore[attr-defined]
    del data[version_key(NAME, 4)], data[tag_key(NAME, "best", 2)]
    pulled = [clients.reader.pull(ref).ref for _ in range(11)]
    assert pulled[0] in (f"{NAME}@3", f"{NAME}@2")
    assert pulled[9:] == [f"{NAME}@5"] * 2


@pytest.mark.parametrize("ref", [NAME, TAG])
def test_a_lost_mark_does_not_hide_the_later_ones_for_ever(clients: Clients, ref: str) -> None:
    clients.reader.pull(ref)
    clients.writer.delete(f"{NAME}@1")
    number = 3 if ref == NAME else 2
    clients.writer.delete(f"{NAME}@{number}", force=True)
    data = clients.writer._backend._space.data  # type: ignore[attr-defined]
    del data[mark_key(NAME, 1)]
    for _ in range(9):
        assert clients.reader.pull(ref).ref == f"{NAME}@{number}"
    if ref == NAME:
        assert clients.reader.pull(ref).ref == f"{NAME}@2"
    else:
        with pytest.raises(NotFoundError, match="points to a deleted version"):
            clients.reader.pull(ref)


@pytest.mark.parametrize(("ref", "hints"), [(NAME, 1), (TAG, 2)])
def test_one_pull_of_ten_reads_the_hints_beside_the_four_requests(
    clients: Clients, ref: str, hints: int
) -> None:
    clients.reader.pull(ref)
    counts = [len(clients.requests(ref)) for _ in range(20)]
    assert counts == ([4] * 9 + [4 + hints]) * 2


def test_a_hint_that_is_one_ahead_starts_no_search(clients: Clients) -> None:
    """Its record is on its way, or its writer was cut off."""
    clients.reader.pull(NAME)
    digest = clients.reader.resolve(NAME)
    data = clients.writer._backend._space.data  # type: ignore[attr-defined]
    data[hint_key(NAME)] = Hint(4, digest).to_bytes()
    assert [len(clients.requests()) for _ in range(10)] == [4] * 9 + [5]


def test_nothing_of_a_ref_that_was_forgotten_is_kept(clients: Clients) -> None:
    pulls = clients.reader._resolver.last_pulls
    clients.reader.pull(TAG)
    clients.reader.pull(TAG)
    pulls.forget(Ref(NAME, tag="best"))
    assert (pulls._pulls, pulls._counts) == ({}, {})


def test_what_is_remembered_is_bounded(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_pulls, "_MOST", 3)
    for number in range(5):
        clients.writer.push(snap(number), f"n{number}")
        assert clients.reader.pull(f"n{number}") == snap(number)
    assert len(clients.reader._resolver.last_pulls._pulls) <= 3
    assert len(clients.reader._resolver.last_pulls._counts) <= 3
    assert hint_key("n4") not in [key for _, key in clients.requests("n4")]
