"""Matches of a training in the league: one batch an iteration, each once, also without a store."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest

from policystore import PolicyStore
from policystore.errors import StorageError
from policystore.league import League
from policystore.league.pool.driving.booking import Book, merged, with_labels
from tests.support.pool_parts import match, player

ONE, TWO, THREE = player(1), player(2), player(3)


@pytest.fixture
def league(tmp_path: Path) -> League:
    return League(PolicyStore(tmp_path / "store"), "duo")


def test_equal_matches_become_one() -> None:
    learner = {"played": {"a": (player(7), player(8))}}
    wins, losses = match(ONE, TWO, wins=1), match(ONE, TWO, losses=1)
    trained = dataclasses.replace(wins, **learner)

    found = merged([wins, match(ONE, THREE, draws=1), losses, trained, wins, trained])

    assert [each.episodes for each in found] == [3, 1, 2]
    first = found[0]
    assert [(each.ranks, each.episodes) for each in first.outcomes] == [((0, 1), 2), ((1, 0), 1)]
    assert first.returns["a"].episodes == 3
    assert first.returns["a"].sum == first.returns["a"].squares == 2
    assert found[2].played == learner["played"]


def test_a_snapshot_that_was_pushed_meanwhile_gets_its_ref() -> None:
    given = dataclasses.replace(match(ONE, TWO, wins=1), refs={"b": "duo/old@1"})
    refs = {ONE: "duo/main@4", TWO: "duo/main@5"}

    assert with_labels(given, lambda one: refs.get(one, "")).refs == {
        "a": "duo/main@4",
        "b": "duo/old@1",
    }
    assert with_labels(given, lambda one: "") is given


def test_an_iteration_is_one_batch_with_its_iteration_and_environment(league: League) -> None:
    book = Book(league, ("soccer", player(5)))
    book.read()

    book.add([match(ONE, TWO, wins=1), match(ONE, THREE, wins=1)], 4, {"a reason": 2})

    totals = league.totals()
    assert (totals.matches, totals.episodes, dict(totals.unknown)) == (2, 2, {"a reason": 2})
    assert {(each.iteration, each.env) for each in league.matches()} == {(4, "soccer")}
    assert book.tally.scores(ONE, TWO) == (1, 1)
    assert (book.matches, book.episodes, book.unknown.total(), book.waiting) == (2, 2, 2, 0)


def test_matches_wait_for_an_absent_store_and_are_then_recorded_once(
    league: League, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    book, record = Book(league), league.record
    book.read()

    def absent(matches: object) -> None:
        raise StorageError("no route to the store")

    with caplog.at_level(logging.WARNING):
        monkeypatch.setattr(league, "record", absent)
        book.add([match(ONE, TWO, wins=1)], 1, {})
        book.add([match(ONE, TWO, losses=1)], 2, {})
    assert (book.waiting, book.error) == (2, "no route to the store")
    assert len(caplog.records) == 1
    assert book.tally.scores(ONE, TWO) == (1, 2)  # samplers know them at once
    book.read()
    assert book.tally.scores(ONE, TWO) == (1, 2)  # and go on knowing them

    monkeypatch.setattr(league, "record", record)
    book.flush()

    assert (book.waiting, book.error, league.totals().matches) == (0, None, 2)
    assert [each.iteration for each in league.matches()] == [2, 1]


def test_the_last_unknown_episodes_are_recorded_without_matches(league: League) -> None:
    book = Book(league)
    book.add([], 1, {"the env runner ended": 3})
    assert dict(league.totals().unknown) == {}

    book.flush(last=True)
    book.flush(last=True)

    assert dict(league.totals().unknown) == {"the env runner ended": 3}
    assert league.totals().matches == 0


def test_the_end_of_a_training_ends_its_list(
    league: League, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    book = Book(league)
    book.add([match(ONE, TWO, wins=1)], 1, {})

    book.end()

    assert not league.seal()  # there is none to end
    book.add([match(ONE, TWO, wins=1)], 2, {})
    assert league.totals().writers == 2
    assert league.totals().matches == 2

    def fail() -> None:
        raise StorageError("away")

    monkeypatch.setattr(league, "seal", fail)
    book.end()
    assert "the list of matches was not ended: away" in caplog.text


def test_a_learner_against_its_own_latest_snapshot_is_scored_for_its_pool(league: League) -> None:
    book = Book(league)
    book.read()
    won = match(ONE, ONE, wins=3, losses=1, draws=2)
    first = dataclasses.replace(won, played={"a": (player(7), player(8))})
    second = dataclasses.replace(won, played={"b": (player(7), player(8))})
    itself = dataclasses.replace(won, played={"a": (ONE, ONE), "b": (ONE, ONE)})

    book.add([first, second, itself], 1, {})

    assert book.tally.scores(ONE, ONE) == (3 + 1 + 1 + 1, 12)
    book.read()
    assert book.tally.scores(ONE, ONE) == (6, 12)


def test_the_book_reads_what_others_have_recorded(league: League) -> None:
    book = Book(league)
    book.read()
    other = League(league.store, "duo")
    other.record([match(ONE, TWO, wins=4)])
    assert book.tally.scores(ONE, TWO) == (0, 0)

    book.add([match(TWO, ONE, wins=1)], 1, {})
    book.read()

    assert book.tally.scores(ONE, TWO) == (4, 5)
    assert book.tally.scores(TWO, ONE) == (1, 5)
