"""What a page says of a league: ratings, payoffs, who beat whom, coverage, and what is left out."""

from __future__ import annotations

import datetime
import json
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from policystore import Digest
from policystore.format.records import Version
from policystore.format.records.matches import MatchTotal, Outcome, Returns
from policystore.report.columns import Strings
from policystore.report.league_document import LeagueDetail, choose_players, encode_league
from policystore.report.leagues import LeagueContent, LeaguePlayer, analyse_league, names_of_players
from tests.support.report_store import HOSTILE, START
from tests.support.sample_league import digest_of, sample_matches, sample_players, totals_of

EVERYTHING = LeagueDetail(players=1000, heat=200, opponents=5, never=50)


def version_of(ref: str, digest: str, hours: int = 0) -> Version:
    name, _, number = ref.rpartition("@")
    known = Digest.parse(digest)
    return Version(
        name=name,
        number=int(number),
        digest=known,
        weights_digest=known,
        acting_digest=known,
        state_digest=known,
        objects=None,
        previous=None,
        time=START + datetime.timedelta(hours=hours),
        author="ann",
        message="",
    )


def meeting(
    red: str, blue: str, red_wins: int, blue_wins: int, draws: int = 0, **more: Any
) -> MatchTotal:
    """Return the total of matches between two players, whose names stand for their digests."""
    ways = (((0, 0), draws), ((0, 1), blue_wins), ((1, 0), red_wins))
    fields = {"teams": {}, "env": "Soccer-v1", "env_digest": "", "matches": 1, "returns": {}}
    return MatchTotal(
        players={"blue": digest_of(blue), "red": digest_of(red)},
        episodes=red_wins + blue_wins + draws,
        outcomes=tuple(Outcome(ranks, count) for ranks, count in ways if count),
        **{**fields, **more},
    )


def league_of(*totals: MatchTotal, refs: tuple[str, ...] = (), **more: Any) -> LeagueContent:
    return LeagueContent("soccer", totals, {digest_of(ref): ref for ref in refs}, **more)


def encoded(content: LeagueContent, versions: list[Version] = [], **detail: int) -> dict[str, Any]:  # noqa: B006
    """Return the data of a league as the scripts of the page read it."""
    strings = Strings()
    chosen = LeagueDetail(**{**vars(EVERYTHING), **detail})
    times = [int(version.time.timestamp()) for version in versions]
    document = encode_league(analyse_league(content, versions), chosen, strings, times)
    plain: dict[str, Any] = json.loads(json.dumps(document, allow_nan=False))
    plain["labels"] = [strings.texts[player[0]] for player in plain["players"]]
    return plain


def test_players_stand_by_rating_with_error_and_win_rate():
    document = encoded(
        league_of(
            meeting("m@1", "m@2", 2, 8),
            meeting("m@3", "m@2", 7, 1, draws=2),
            refs=("m@1", "m@2", "m@3"),
        )
    )

    assert document["labels"] == ["m@3", "m@2", "m@1"]
    ratings = [player[6] for player in document["players"]]
    assert ratings == sorted(ratings, reverse=True)
    assert all(player[7] > 0 for player in document["players"])
    assert [player[8] for player in document["players"]] == [10, 20, 10]  # episodes
    assert [player[10] for player in document["players"]] == [1, 2, 1]  # opponents
    assert [player[11] for player in document["players"]] == [800, 500, 200]  # win rates


def test_the_pairs_of_the_map_stand_once_with_rate_interval_and_episodes():
    document = encoded(
        league_of(
            meeting("m@1", "m@2", 2, 8),
            meeting("m@3", "m@2", 7, 1, draws=2),
            refs=("m@1", "m@2", "m@3"),
        )
    )

    rows = [document["pairs"][at : at + 6] for at in range(0, len(document["pairs"]), 6)]
    assert document["heat"] == [0, 1, 2]
    assert [(row[0], row[1], row[2], row[5]) for row in rows] == [(0, 1, 800, 10), (1, 2, 800, 10)]
    assert all(0 < low < rate < high < 1000 for _, _, rate, low, high, _ in rows)


def test_best_and_worst_opponents_are_the_surest_ones():
    """A single won episode is no best opponent."""
    document = encoded(
        league_of(
            meeting("m@1", "lucky@1", 1, 0),
            meeting("m@1", "weak@1", 95, 5),
            meeting("m@1", "strong@1", 10, 90),
            refs=("m@1", "lucky@1", "weak@1", "strong@1"),
        ),
        opponents=1,
    )

    me = document["players"][document["labels"].index("m@1")]
    (best,), (worst,) = me[12], me[13]
    assert document["labels"][best[0]] == "weak@1"
    assert best[1:] == [950, 100]
    assert document["labels"][worst[0]] == "strong@1"
    assert worst[1:] == [100, 100]


def test_the_digest_says_which_version_a_player_is_and_no_label_does():
    """A writer may call its player as it likes."""
    versions = [
        version_of("m@1", digest_of("m@1")),
        version_of("m@2", digest_of("m@2")),
        version_of("m@3", digest_of("m@1")),  # the same policy again
    ]
    refs = {digest_of("m@1"): "m@3", digest_of("m@2"): "m@1", digest_of("gone"): "m@2"}
    content = LeagueContent(
        "soccer", (meeting("m@1", "m@2", 1, 2), meeting("gone", "m@2", 1, 2)), refs
    )

    players = {each.player: each for each in analyse_league(content, versions).players}
    one, two, gone = (players[digest_of(name)] for name in ("m@1", "m@2", "gone"))
    assert (one.label, one.version, one.number) == ("m@3", 2, 3)
    assert (two.label, two.version) == ("m@2", 1)
    assert (gone.label, gone.version) == ("m@2", None)
    document = encoded(content, versions)
    ids = {player[3]: player[2] for player in document["players"]}
    assert ids[None].startswith(digest_of("gone")[:15])
    assert ids[2] == ""


def test_a_player_without_ref_and_a_heuristic():
    total = MatchTotal(
        {"a": "heuristic:random", "b": digest_of("x")}, {}, "", "", 1, 2, (Outcome((1, 0), 2),), {}
    )

    labels = {each.label for each in analyse_league(LeagueContent("l", (total,)), []).players}
    assert labels == {"random", Digest.parse(digest_of("x")).short}


def test_coverage_counts_pairs_by_episodes_and_names_the_closest_that_never_met():
    refs = ("m@1", "m@2", "m@3", "m@4")
    document = encoded(
        league_of(
            meeting("m@1", "m@2", 1, 8),
            meeting("m@2", "m@3", 200, 300),
            meeting("m@3", "m@4", 700, 800),
            refs=refs,
        )
    )

    coverage = document["coverage"]
    assert coverage["pairs"] == 6
    assert coverage["bands"] == [3, 1, 0, 1, 1]
    never = [{document["labels"][at] for at in pair} for pair in coverage["never"]]
    assert never[0] == {"m@2", "m@4"}
    assert len(never) == 3


def test_players_that_never_met_are_not_compared_without_a_word():
    document = encoded(
        league_of(
            meeting("m@1", "m@2", 2, 8),
            meeting("x@1", "x@2", 2, 8, env="Rain-v1"),
            meeting("x@1", "x@1", 1, 0),
            refs=("m@1", "m@2", "x@1", "x@2"),
        )
    )

    said = " ".join(document["notes"])
    assert "2 groups of players that never met" in said
    assert "2 environments together" in said
    assert "1 result of players against themselves" in said


def test_environments_and_reasons_are_listed_most_episodes_first():
    document = encoded(
        league_of(
            meeting("m@1", "m@2", 1, 2, env="Rain-v1"),
            meeting("m@1", "m@2", 3, 4, matches=5),
            unknown={"restart": 2, "changed": 7},
        )
    )

    assert [row[0] for row in document["environments"]] == ["Soccer-v1", "Rain-v1"]
    assert document["environments"][0][2:] == [5, 7, 2]
    assert document["unknown"] == [["changed", 7], ["restart", 2]]
    assert document["unknown_episodes"] == 9


def test_a_cooperative_league_has_returns_and_no_ratings_of_nobody():
    returns = {
        "red": Returns(4, Fraction(10), Fraction(30)),
        "blue": Returns(4, Fraction(2), Fraction(3)),
    }
    total = MatchTotal(
        {"blue": digest_of("m@1"), "red": digest_of("m@2")}, {}, "Kitchen", "", 1, 4, (), returns
    )
    document = encoded(league_of(total, refs=("m@1", "m@2")))

    means = dict(
        zip(document["labels"], [player[9] for player in document["players"]], strict=True)
    )
    assert means == {"m@1": 0.5, "m@2": 2.5}
    assert all(player[6] is player[11] is None for player in document["players"])
    assert document["pairs"] == []
    assert document["notes"] == ["4 episodes without a known outcome."]


def test_sums_of_returns_that_no_float_holds_are_shown_as_infinite():
    """The sums of a record are exact, and may be larger than every float."""
    returns = {"red": Returns(1, Fraction(10**400), Fraction(10**800))}
    total = meeting("m@1", "m@2", 1, 0, returns=returns)

    document = encoded(league_of(total, refs=("m@1", "m@2")))
    assert "Infinity" in [player[9] for player in document["players"]]


def player_at(number: int, rating: float, version: int | None = None) -> LeaguePlayer:
    return LeaguePlayer(f"p{number}", f"m@{number}", version, "m", number, rating, 1.0, 9, None)


def test_a_map_of_many_players_has_the_best_and_the_newest():
    """By time, if the page knows the versions; else by number."""
    players = [player_at(number, -number) for number in range(10)]
    assert choose_players(players, 20, []) == list(range(10))
    assert choose_players(players, 4, []) == [0, 1, 8, 9]

    times = [100 - at for at in range(10)]  # the versions of low numbers are the newest
    dated = [player_at(number, -number, version=number) for number in range(10)]
    assert choose_players(dated, 4, times) == [0, 1, 2, 3]


def test_less_detail_shows_fewer_players_and_says_how_many_there_are():
    refs = sample_players(30)
    content = LeagueContent("soccer", totals_of(sample_matches(refs, pairs=500)), refs)
    document = encoded(content, players=12, heat=6, opponents=1, never=2)

    assert (len(document["players"]), document["player_count"]) == (12, 30)
    assert len(document["heat"]) == 6
    assert len(document["coverage"]["never"]) <= 2
    assert all(opponent[0] < 12 for player in document["players"] for opponent in player[12])
    assert document["coverage"]["pairs"] == 435


def test_a_league_of_very_many_players_is_cut_to_those_that_played_most(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("policystore.report.leagues._MOST_PLAYERS", 3)
    content = league_of(
        meeting("m@1", "m@2", 50, 8),
        meeting("m@2", "m@3", 20, 30),
        meeting("m@3", "m@4", 1, 1),
        refs=("m@1", "m@2", "m@3", "m@4"),
    )

    document = encoded(content)
    assert sorted(document["labels"]) == ["m@1", "m@2", "m@3"]
    assert (document["player_count"], document["rated_count"]) == (4, 3)


def test_a_rating_that_is_refused_is_named_and_the_rest_is_shown(monkeypatch: pytest.MonkeyPatch):
    from policystore import InvalidInputError

    def refuse(*totals: object, **options: object) -> None:
        raise InvalidInputError("too few matches")

    monkeypatch.setattr("policystore.report.leagues.ratings", refuse)
    document = encoded(league_of(meeting("m@1", "m@2", 50, 8), refs=("m@1", "m@2")))

    assert document["problem"] == "too few matches"
    assert [player[6] for player in document["players"]] == [None, None]
    assert len(document["pairs"]) == 6


def test_hostile_texts_are_cleaned_and_cut():
    total = meeting("a", "b", 1, 2, env=HOSTILE * 5)
    refs = {digest_of("a"): HOSTILE * 5, digest_of("b"): "__proto__@7"}
    document = encoded(LeagueContent("soccer", (total,), refs, unknown={HOSTILE: 3}))

    text = json.dumps(document, ensure_ascii=False)
    assert text.isprintable()
    assert max(len(label) for label in document["labels"]) < 300
    assert "__proto__@7" in document["labels"]


def test_names_are_found_in_refs():
    refs = ["soccer/main@17", "soccer/main@18", "random", "x@0", "x@champion", "a/b@2"]
    assert names_of_players(refs) == {"soccer/main", "a/b"}


def test_ratings_of_a_sample_league_follow_the_true_strengths():
    refs = sample_players(25)
    content = LeagueContent("soccer", totals_of(sample_matches(refs, pairs=2000)), refs)
    data = analyse_league(content, [])

    numbers = [each.number for each in data.players if each.name == "soccer/main"]
    assert np.corrcoef(numbers, np.arange(len(numbers)))[0, 1] < -0.95
