"""What a notebook and a terminal show of a league and of its totals."""

from __future__ import annotations

from policystore import PolicyStore
from policystore.league import League
from tests.support.html_page import HOSTILE, SHOWN, Page
from tests.support.sample_league import digest_of, sample_league


class Printer:
    """The part of IPython's printer that is used."""

    def __init__(self) -> None:
        self.printed = ""

    def text(self, text: str) -> None:
        self.printed += text


def screen(league: League) -> str:
    printer = Printer()
    league._repr_pretty_(printer, False)
    return printer.printed


def duel(store: PolicyStore, **more: object) -> League:
    league = League(store, "soccer")
    players = {"red": digest_of("a"), "blue": "heuristic:random"}
    league.record(
        [{"players": players, "episodes": 10, "wins": {"red": 7, "blue": 2}, "draws": 1, **more}]
    )
    return league


def test_a_league_shows_ratings_best_first_and_what_was_recorded():
    league = sample_league(PolicyStore("memory://views-ratings"), players=70, pairs=900)

    lines = screen(league).splitlines()
    assert lines[0] == repr(league)
    assert lines[1].split() == ["player", "rating", "error", "win", "rate", "episodes"]
    assert len(lines) == 2 + 20 + 3
    assert lines[22] == "and 50 players more"
    assert "70 players, 900 matches, 18,000 episodes in 2 environments" in lines[23]
    assert "120 episodes played and not recorded: the opponent changed" in lines[24]
    page = Page(league._repr_html_())
    assert page.has_only_harmless_elements()
    assert page.tags.count("tr") == 51
    assert "League soccer in memory://views-ratings" in page.texts


def test_repr_asks_the_storage_nothing():
    league = League(PolicyStore("s3://no-such-bucket-of-policystore/x"), "soccer")
    assert "soccer" in repr(league)
    assert str(league) == repr(league)


def test_totals_show_who_played_how_much():
    totals = duel(PolicyStore("memory://views-totals"), returns={"red": [1.0] * 10}).totals()

    head, first, second, facts = str(totals).splitlines()
    assert head.split() == ["player", "episodes", "won", "drawn", "opponents", "mean", "return"]
    assert first.split()[1:] == ["10", "7", "1", "1", "1"]
    assert second.split() == ["heuristic:random", "10", "2", "1", "1"]
    assert facts == "2 players, 1 match, 10 episodes in 1 environment"
    assert Page(totals._repr_html_()).has_only_harmless_elements()
    assert "League soccer" in Page(totals._repr_html_()).texts


def test_a_league_without_matches_and_one_of_a_store_that_is_not_there():
    empty = League(PolicyStore("memory://views-empty"), "soccer")
    assert "0 players, 0 matches" in screen(empty)
    assert "0 players, 0 matches" in str(empty.totals())
    assert Page(empty._repr_html_()).has_only_harmless_elements()


def test_a_damaged_league_says_so_in_place_of_an_error():
    league = duel(PolicyStore("memory://views-damaged"))
    backend = league.store._backend
    key = next(key for key in backend.keys("leagues/soccer/") if "@matches" in key)
    backend.replace(key, b"{")
    again = League(league.store, "soccer")

    assert screen(again).startswith(repr(again) + ": ")
    assert Page(again._repr_html_()).has_only_harmless_elements()


def test_teams_win_together_and_cooperative_matches_have_returns_alone():
    store = PolicyStore("memory://views-teams")
    league = League(store, "soccer")
    players = {"a": digest_of("x"), "b": digest_of("x"), "c": digest_of("y"), "d": digest_of("z")}
    teams = {"a": "north", "b": "north", "c": "south", "d": "south"}
    league.record(
        [{"players": players, "teams": teams, "episodes": 5, "wins": {"north": 3, "south": 2}}]
    )
    rows = {line.split()[0]: line.split()[1:] for line in str(league.totals()).splitlines()[1:4]}
    assert rows[f"{digest_of('x')[:15]}"] == ["5", "3", "0", "2"]
    assert rows[f"{digest_of('y')[:15]}"] == ["5", "2", "0", "2"]

    kitchen = League(store, "kitchen")
    kitchen.record(
        [{"players": {"a": digest_of("x")}, "episodes": 2, "returns": {"a": [1.0, 2.0]}}]
    )
    head, row, _ = str(kitchen.totals()).splitlines()
    assert head.split() == ["player", "episodes", "opponents", "mean", "return"]
    assert row.split()[1:] == ["2", "0", "1.5"]
    assert "player" not in screen(kitchen).splitlines()[1].split()


def test_hostile_texts_are_escaped_in_every_view():
    league = duel(PolicyStore("memory://views-hostile"), refs={"red": HOSTILE}, env=HOSTILE)
    league.unknown(HOSTILE, 3)
    league.record([{"players": {"a": digest_of("x")}, "episodes": 1, "refs": {"a": HOSTILE}}])
    for shown in (league._repr_html_(), league.totals()._repr_html_()):
        page = Page(shown)
        assert page.has_only_harmless_elements()
        assert any(SHOWN[:40] in text for text in page.texts)
    for text in (screen(league), str(league.totals())):
        assert "".join(text.split("\n")).isprintable()
