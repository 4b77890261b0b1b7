"""Searches over whole stores: results, order, cost in requests, memory, typos and damage."""

from __future__ import annotations

import datetime
import logging
import math
import secrets
from collections import Counter
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest

from policystore import (
    FormatError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    PolicyStore,
    Snapshot,
    VersionList,
)
from policystore._util import log
from policystore.backends.base import Backend
from policystore.format.keys import version_key
from policystore.repository import writer
from policystore.testing.storage import Intercepted

START = datetime.datetime(2026, 11, 1, tzinfo=datetime.timezone.utc)
SNAP = Snapshot(weights={"w": np.zeros(3, np.float32)})


def refs(versions: VersionList) -> list[str]:
    return [version.ref for version in versions]


@pytest.fixture(scope="module")
def store() -> PolicyStore:
    """Return a store of 13 versions, one pushed each day of November 2026.

    soccer/main has version 1 to 6 with ``return`` 10 to 60; soccer/b/foe has 1 to 3, with NaN, no
    and a text as ``return``; duo has 1 to 3, of which 2 is deleted; gone has 1, which is deleted.
    """
    store = PolicyStore(f"memory://{secrets.token_hex(8)}")
    days = iter(range(31))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "now", lambda: START + datetime.timedelta(days=next(days)))
        for number in range(1, 7):
            author = "ann" if number % 2 else "bob"
            metrics = {"return": 10 * number, "nested": {"x": number}}
            store.push(SNAP, "soccer/main", metrics=metrics, author=author, message=f"try {number}")
        for value in ({"return": math.nan}, {}, {"return": "high"}):
            store.push(SNAP, "soccer/b/foe", metrics=value, author="ann")
        for number in range(1, 4):
            store.push(SNAP, "duo", metrics={"return": 100.5 + number}, source={"it": number})
        store.push(SNAP, "gone")
    store.tag("soccer/main@3", "champion")
    store.tag("soccer/main@3", "best")
    store.tag("duo@3", "champion")
    store.tag("duo@1", "old")
    store.delete("duo@2", message="broken env")
    store.delete("gone")
    return store


@pytest.fixture(autouse=True)
def _warnings_are_logged_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_REMEMBERED", set())


def test_without_arguments_all_versions_that_stand_come_by_name(store: PolicyStore) -> None:
    versions = store.versions()

    assert type(versions) is VersionList
    assert refs(versions) == [
        "duo@3", "duo@1", "soccer/b/foe@3", "soccer/b/foe@2", "soccer/b/foe@1",
        *(f"soccer/main@{number}" for number in (6, 5, 4, 3, 2, 1)),
    ]  # fmt: skip
    assert versions[0] == store.log("duo")[0]
    assert versions[0].tags is None


def test_names_conditions_times_and_limits_combine(store: PolicyStore) -> None:
    found = store.versions(
        "soccer/**",
        where="return > 20 and author == 'ann'",
        since=START + datetime.timedelta(days=3),
        sort="-return",
        limit=1,
    )

    assert refs(found) == ["soccer/main@5"]
    assert refs(store.versions("soccer/*", where="return > 20 and author == 'ann'")) == [
        "soccer/main@5", "soccer/main@3",
    ]  # fmt: skip
    assert refs(store.versions("soccer/main", where="nested.x in (1, 6)")) == [
        "soccer/main@6", "soccer/main@1",
    ]  # fmt: skip
    assert refs(store.versions(where="source.it == 3 or message contains 'TRY 2'")) == [
        "duo@3", "soccer/main@2",
    ]  # fmt: skip


def test_since_takes_times_of_any_zone_and_durations(
    store: PolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone = datetime.timezone(datetime.timedelta(hours=2))
    moment = (START + datetime.timedelta(days=4)).astimezone(zone)
    assert refs(store.versions("soccer/main", since=moment)) == ["soccer/main@6", "soccer/main@5"]

    later = START + datetime.timedelta(days=7)
    monkeypatch.setattr("policystore.store.searching.now", lambda: later)
    two_days = datetime.timedelta(days=2)
    assert refs(store.versions("soccer/main", since=two_days)) == ["soccer/main@6"]
    assert refs(store.versions("soccer/main", where="age <= 2d")) == ["soccer/main@6"]
    assert len(store.versions("soccer/main", since=datetime.timedelta.max)) == 6


def test_orders_put_nan_and_what_is_absent_last(store: PolicyStore) -> None:
    up, down = store.versions("soccer/**", sort="return"), store.versions(sort="-return")

    assert refs(up) == [
        *(f"soccer/main@{number}" for number in range(1, 7)),
        "soccer/b/foe@3", "soccer/b/foe@1", "soccer/b/foe@2",
    ]  # fmt: skip
    assert refs(down) == [
        "duo@3", "duo@1", *(f"soccer/main@{number}" for number in range(6, 0, -1)),
        "soccer/b/foe@3", "soccer/b/foe@1", "soccer/b/foe@2",
    ]  # fmt: skip
    by_two = store.versions("soccer/main", sort=["author", "-time"])
    assert [version.number for version in by_two] == [5, 3, 1, 6, 4, 2]
    assert refs(store.versions(sort="-time", limit=2)) == ["duo@3", "duo@1"]
    assert refs(store.versions(sort="`nested.x`", limit=1)) == ["soccer/main@1"]


def test_only_versions_that_a_tag_points_to(store: PolicyStore) -> None:
    assert refs(store.versions(tag="champion")) == ["duo@3", "soccer/main@3"]
    assert refs(store.versions("soccer/*", tag="champion")) == ["soccer/main@3"]
    assert refs(store.versions(tag="champion", where="return > 50")) == ["duo@3"]
    store.tag("duo@1", "moved")
    assert refs(store.versions("duo", tag="moved")) == ["duo@1"]
    store.untag("duo", "moved")
    assert store.versions("duo", tag="moved") == []


def test_tags_are_fields_and_are_read_only_when_they_are_named(store: PolicyStore) -> None:
    found = store.versions(where="tag in ('champion', 'old')")

    assert {version.ref: version.tags for version in found} == {
        "duo@3": ("champion",), "duo@1": ("old",), "soccer/main@3": ("best", "champion"),
    }  # fmt: skip
    assert refs(store.versions("soccer/main", where="tag == null", limit=2)) == [
        "soccer/main@6", "soccer/main@5",
    ]  # fmt: skip


def test_deleted_versions_are_found_only_by_name_of_the_field(store: PolicyStore) -> None:
    found = store.versions(where="deleted")

    assert refs(found) == ["duo@2", "gone@1"]
    assert "broken env" in str(found[0].deleted)
    assert refs(store.versions("duo", where="deleted or not deleted")) == [
        "duo@3",
        "duo@2",
        "duo@1",
    ]
    assert refs(store.versions("gone", where="deleted")) == ["gone@1"]
    with pytest.raises(NotFoundError, match="no version of 'gone'"):
        store.versions("gone")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"name": "a//b"}, "empty"),
    ({"name": "a/[b]*"}, "no pattern"),
    ({"where": "return >"}, r"^where: expected a value"),
    ({"where": 3}, "where: an expression is a string"),
    ({"tag": "7"}, "tag"),
    ({"since": "yesterday"}, "since is a time with a zone"),
    ({"since": datetime.datetime(2026, 1, 1)}, "lacks its zone"),
    ({"since": datetime.timedelta(days=-1)}, "positive"),
    ({"since": datetime.date(2026, 1, 1)}, "since"),
    ({"sort": "-"}, "sort is a field"),
    ({"sort": "return desc"}, "sort is a field"),
    ({"sort": ["return", 3]}, "sort is a field"),
    ({"sort": 3}, "sort is a field"),
    ({"sort": "my metric"}, "stands in backquotes"),
    ({"sort": "tags"}, "tags has several values"),
    ({"limit": -1}, "limit"),
    ({"limit": 1.5}, "limit"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_arguments_are_refused_before_anything_is_read(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        PolicyStore("memory://nothing-is-here").versions(**arguments)


class Counted:
    """A store over a backend that counts its requests, and says that it takes 8 at once."""

    def __init__(self, store: PolicyStore) -> None:
        inner = store._backend
        backend: Any = Intercepted(inner)
        self._made: list[str] = []  # several threads append

        def count(name: str) -> Any:
            call = getattr(inner, name)

            def counted(key: str, *args: Any, **more: Any) -> Any:
                self._made.append(f"{name} {key.partition('/')[0]}")
                return call(key, *args, **more)

            return counted

        for name in ("get", "size", "head", "keys", "entries", "prefixes"):
            setattr(backend, name, count(name))
        backend.is_remote, backend.parallel = True, 8
        self.store = PolicyStore.over(cast(Backend, backend), cache=False)

    def requests(self) -> Counter[str]:
        """Return the requests since the last call."""
        made, self._made[:] = list(self._made), []
        return Counter(made)


@pytest.fixture(scope="module")
def large() -> PolicyStore:
    """Return a store of 5 names with 100 versions each; versions 1 of all names have a tag."""
    store = PolicyStore(f"memory://{secrets.token_hex(8)}")
    for name in range(5):
        for number in range(100):
            store.push(SNAP, f"n/{name}", metrics={"return": number})
        store.tag(f"n/{name}@1", "first")
    for elo in (900.0, 1200.0):
        store.annotate("n/2@40", metrics={"elo": elo, "return": 1.5}, note=f"rated {elo}")
    return store


def test_the_cost_of_a_search_in_requests(large: PolicyStore) -> None:
    counted = Counted(large)

    assert len(counted.store.versions("n/*", where="number > 50")) == 250
    # Two listings; for each name its hint, version 1, the newest, the next, a mark; other records.
    records = 5 * 5 + 5 * 99
    assert counted.requests() == {"prefixes names": 1, "keys deleted": 1, "get names": records}
    assert len(counted.store.versions("n/0")) == 100
    assert counted.requests() == {"get names": 5 + 99}
    # A metric: a listing of the annotations of each name, and a request for each annotation.
    assert len(counted.store.versions("n/*", where="return >= 90")) == 50
    listings = {"prefixes names": 1, "keys deleted": 1, "entries names": 5}
    assert counted.requests() == {**listings, "get names": records + 2}
    assert len(counted.store.versions("n/2", where="elo > 1000")) == 1
    assert counted.requests() == {"entries names": 1, "get names": 5 + 99 + 2}


def test_the_cost_of_a_search_by_tag(large: PolicyStore) -> None:
    counted = Counted(large)

    assert len(counted.store.versions("n/*", tag="first")) == 5
    assert counted.requests() == {"prefixes names": 1, "keys deleted": 1, "get names": 5 * 6}


def test_tags_cost_a_listing_and_the_moves_of_each_tag(large: PolicyStore) -> None:
    counted = Counted(large)

    assert len(counted.store.versions("n/*", where="tag == 'first'")) == 5
    records = 5 * 5 + 5 * 99 + 5 * 3
    assert counted.requests() == {"prefixes names": 6, "keys deleted": 1, "get names": records}


def test_a_limit_without_an_order_ends_the_search(large: PolicyStore) -> None:
    counted = Counted(large)

    assert refs(counted.store.versions(limit=3)) == ["n/0@100", "n/0@99", "n/0@98"]
    assert counted.requests()["get names"] == 5 * 5 + 7
    assert counted.store.versions(limit=0) == []
    assert not counted.requests()


def test_with_a_limit_and_an_order_few_versions_stay_in_memory(
    large: PolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from policystore.repository.search import search

    monkeypatch.setattr(search, "_SPARE", 10)
    lengths: list[int] = []
    sort_rows = search.sort_rows
    monkeypatch.setattr(
        search,
        "sort_rows",
        lambda rows, orders: (lengths.append(len(rows)), sort_rows(rows, orders)),
    )

    found = large.versions(sort="-return", limit=7)

    assert [version.metrics["return"] for version in found] == [99] * 5 + [98] * 2
    assert refs(found)[:5] == [f"n/{name}@100" for name in range(5)]
    assert max(lengths) <= 2 * 7 + 10
    assert len(lengths) > 20


# Annotations


def test_metrics_of_annotations_count_as_those_of_the_push(large: PolicyStore) -> None:
    (found,) = large.versions(where="elo > 1000")

    assert found.ref == "n/2@40"
    assert found.all_metrics["elo"] == 1200.0
    assert [each.metrics["elo"] for each in found.annotations or ()] == [900.0, 1200.0]
    assert refs(large.versions("n/2", where="return == 1.5")) == ["n/2@40"]
    assert refs(large.versions("n/2", sort="-elo", limit=1)) == ["n/2@40"]
    assert refs(large.versions(where="note contains 'Rated 900'")) == ["n/2@40"]
    assert large.best("n/*", "elo").ref == "n/2@40"
    assert refs(large.versions(tag="first", where="elo == null and note == null"))[0] == "n/0@1"


def test_tags_and_annotations_are_read_for_a_caller_who_asks(large: PolicyStore) -> None:
    asked = large.versions("n/2", tags=True, annotations=True)
    unasked = large.versions("n/2", where="number in (1, 40)")

    assert (asked[-1].tags, asked[-1].annotations) == (("first",), ())
    assert len(asked[60].annotations or ()) == 2
    assert [(each.tags, each.annotations) for each in unasked] == [(None, None)] * 2
    tagged = large.versions("n/2", tag="first", tags=True, annotations=True)
    assert [(each.tags, each.annotations) for each in tagged] == [(("first",), ())]


# Typos


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Return the warnings of policystore so far, as a list that grows."""
    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler = Keep()
    logging.getLogger("policystore").addHandler(handler)
    yield messages
    logging.getLogger("policystore").removeHandler(handler)


def test_a_metric_that_no_version_has_is_told_once(store: PolicyStore, said: list[str]) -> None:
    for _ in range(2):
        assert store.versions("soccer/main", where="retrun > 3") == []

    (message,) = said
    assert "none of the 6 versions" in message
    assert "'retrun'. Did you mean 'return'? The metrics are: nested.x, return" in message


TYPOS: list[tuple[dict[str, Any], str]] = [
    ({"where": "authr == 'ann'"}, "Did you mean 'author'?"),
    ({"where": "author == ann"}, "A text stands in quotes: 'ann'."),
    ({"where": "source.itt > 3"}, "'source.itt'. Did you mean 'it'?"),
    ({"sort": "-nested.y"}, "Did you mean 'nested.x'?"),
    ({"name": "socer/*"}, "no name in"),
    ({"name": "socer/*"}, "Did you mean 'soccer/"),
    ({"name": "soccer/x*"}, "no name in"),
    ({"tag": "champoin"}, "has the tag 'champoin'"),
]


@pytest.mark.parametrize(("arguments", "message"), TYPOS)
def test_typos_are_told(
    store: PolicyStore, said: list[str], arguments: dict[str, Any], message: str
) -> None:
    store.versions(**arguments)

    assert len(said) == 1
    assert message in said[0]


def test_nothing_is_said_of_searches_that_may_find_nothing(
    store: PolicyStore, said: list[str]
) -> None:
    assert store.versions(where="return > 1000") == []
    assert len(store.versions(where="elo == null")) == 11
    assert len(store.versions(where="elo > 3 or author == 'bob'")) == 3
    assert store.versions("soccer/main", where="elo == null and author == 'eve'") == []
    assert said == []


def test_a_name_that_does_not_exist_is_an_error_with_near_names(store: PolicyStore) -> None:
    with pytest.raises(NotFoundError, match=r"Did you mean 'soccer/main'"):
        store.versions("soccer/mian")
    with pytest.raises(NotFoundError, match="Did you mean 'soccer/main'"):
        store.versions("soccer/mian", tag="champion")
    with pytest.raises(NotFoundError, match="no policy store"):
        PolicyStore("memory://never-made").versions("a/*")


# Damage


@pytest.fixture
def damaged() -> PolicyStore:
    """Return a store in which one record is damaged, and another one is missing."""
    store = PolicyStore(f"memory://{secrets.token_hex(8)}")
    for name in ("a", "b", "c"):
        for number in range(3):
            store.push(SNAP, name, metrics={"return": number})
    space = cast(Any, store._backend)._space
    key = version_key("a", 2)
    store._backend.replace(key, bytes(store._backend.get(key))[:-5])
    space.data.pop(version_key("b", 1))
    return store


def test_damage_is_an_error_unless_the_caller_wants_the_rest(damaged: PolicyStore) -> None:
    with pytest.raises(FormatError, match="0000000002"):
        damaged.versions()
    with pytest.raises(IntegrityError, match="version 1 of 'b'.*is missing"):
        damaged.versions("b")

    found = damaged.versions(skip_damaged=True)

    assert refs(found) == ["a@3", "a@1", "b@3", "b@2", "c@3", "c@2", "c@1"]
    assert len(found.problems) == 2
    assert "0000000002" in found.problems[0]
    assert "version 1 of 'b'" in found.problems[1]
    assert "left out: " in str(found)
    assert found.copy().problems == found.problems
    assert damaged.versions("c", skip_damaged=True).problems == ()


def test_a_damaged_annotation_leaves_its_version_in_the_list(damaged: PolicyStore) -> None:
    damaged.annotate("c@2", metrics={"elo": 1.0})
    (key,) = [key for key in damaged._backend.keys("names/c/") if "@notes" in key]
    damaged._backend.replace(key, b"{}")
    with pytest.raises(FormatError, match="@notes"):
        damaged.versions("c", sort="elo")

    found = damaged.versions("c", sort="elo", skip_damaged=True)

    assert refs(found) == ["c@3", "c@2", "c@1"]
    assert "@notes" in found.problems[0]


# best


def test_the_best_version_by_a_metric(store: PolicyStore) -> None:
    assert store.best("soccer/main", "return").number == 6
    assert store.best("soccer/main", "return", "min").number == 1
    assert store.best("**", "return", mode="max").ref == "duo@3"
    assert store.best("soccer/**", "metrics.nested.x", where="author == 'ann'").number == 5
    assert store.best("soccer/**", "return", "min").ref == "soccer/main@1"


def test_of_equal_values_the_last_push_is_the_best() -> None:
    store = PolicyStore(f"memory://{secrets.token_hex(8)}")
    for name, value in (("b", 3.0), ("b", 3.0), ("a", 3.0), ("a", math.inf), ("a", math.nan)):
        store.push(SNAP, name, metrics={"return": value})

    assert store.best("*", "return").ref == "a@1"
    assert store.best("b", "return").ref == "b@2"
    assert store.best("a", "return").ref == "a@1"


NOT_BEST: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
    (("soccer/main", "retrun"), {}, "Did you mean 'return'? The metrics are: nested.x, return"),
    (("soccer/b/*", "return"), {}, "no version of 'soccer/b/*'"),
    (("soccer/main", "return"), {"where": "author == 'eve'"}, "that meets \"author == 'eve'\""),
    (("soccer/x*", "return"), {}, "no name fits 'soccer/x*'"),
    (("socer/main", "return"), {}, "Did you mean 'soccer/main'?"),
]


@pytest.mark.parametrize(("arguments", "more", "message"), NOT_BEST)
def test_where_nothing_is_the_best_the_error_says_why(
    store: PolicyStore, arguments: tuple[Any, ...], more: dict[str, Any], message: str
) -> None:
    with pytest.raises(NotFoundError) as caught:
        store.best(*arguments, **more)

    assert message in str(caught.value)


def test_wrong_arguments_of_best(store: PolicyStore) -> None:
    for arguments in (("duo", "return", "maximum"), ("duo", ""), ("duo", 3), ("", "return")):
        with pytest.raises(InvalidInputError):
            store.best(*arguments)  # type: ignore[arg-type]
