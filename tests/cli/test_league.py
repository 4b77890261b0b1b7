"""``policystore league``: what people and programs read of leagues, and what they change."""

from __future__ import annotations

import json
import re
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from policystore import PolicyStore
from policystore.cli.commands.league.matches import match_id, result_words
from policystore.cli.commands.league.playing import make_environment
from policystore.errors import MatchError
from policystore.format.records.matches import Match, Outcome, normal_match
from policystore.league import League, leagues
from policystore.league.tournament.replay import Replay
from policystore.league.tournament.report import TournamentReport
from tests.support.command import Command
from tests.support.sample_league import digest_of


def duel(red: str, blue: str, red_wins: int, blue_wins: int, draws: int = 0, **more: Any) -> Any:
    episodes = red_wins + blue_wins + draws
    return {
        "players": {"red": red, "blue": blue},
        "episodes": episodes,
        "wins": {"red": red_wins, "blue": blue_wins},
        "draws": draws,
        "env": "Soccer-v1",
        **more,
    }


@pytest.fixture
def league(store: PolicyStore) -> League:
    """Three versions of ``soccer/main``, each better than the one before, and a heuristic."""
    made = League(store, "soccer", author="ann")
    made.unknown("restart", 7)
    made.record(
        [
            duel("soccer/main@1", "heuristic:random", 9, 1),
            duel("soccer/main@2", "soccer/main@1", 14, 5, draws=1, seeds=list(range(20))),
        ]
    )
    made.record([duel("soccer/main@3", "soccer/main@2", 60, 40, env="Rain-v1", iteration=12)])
    return made


@pytest.mark.usefixtures("league")
def test_ls_lists_leagues_with_players_matches_and_episodes(
    policystore: Command, store: PolicyStore
) -> None:
    League(store, "chess/blitz").record([duel("soccer/main@1", "duo/p0", 1, 0)])
    ran = policystore.run("league", "ls")
    assert (ran.code, ran.err) == (0, "")
    head, chess, soccer = ran.out.splitlines()
    assert head.split()[:5] == ["league", "players", "matches", "episodes", "unknown"]
    assert chess.split()[:5] == ["chess/blitz", "2", "1", "1", "1"]  # nothing is unknown; 1 writer
    assert soccer.split()[:6] == ["soccer", "4", "3", "130", "7", "1"]
    assert "Rain-v1, Soccer-v1" in soccer

    document = policystore.json("league", "ls")
    row = document["leagues"][1]
    assert row["unknown"] == {"restart": 7}
    assert row["last"].endswith("+00:00")
    assert (row["players"], row["matches"], row["episodes"]) == (4, 3, 130)


def test_ls_of_a_store_without_leagues_says_how_one_begins(policystore: Command) -> None:
    ran = policystore.run("league", "ls")
    assert (ran.code, ran.out) == (0, "")
    assert "has no leagues" in ran.error
    assert policystore.json("league", "ls")["leagues"] == []


@pytest.mark.usefixtures("league")
@pytest.mark.parametrize(
    "words",
    [
        ["ratings", "socer"],
        ["payoffs", "Soccer"],
        ["matches", "socer"],
        ["replay", "socer", "abcdef12"],
        ["delete", "socer", "--yes"],
        ["report", "socer"],
    ],
)
def test_a_mistyped_league_is_not_found_and_the_one_meant_is_named(
    policystore: Command, store: PolicyStore, words: list[str]
) -> None:
    ran = policystore.run("league", *words)
    assert (ran.code, ran.out) == (3, "")
    assert "Did you mean 'soccer'?" in ran.error
    assert leagues(store) == ["soccer"]


@pytest.mark.usefixtures("league")
def test_a_text_that_is_no_name_is_refused(policystore: Command) -> None:
    assert policystore.run("league", "ratings", "!soccer").code == 2
    assert policystore.run("league", "ratngs", "soccer").code == 2


@pytest.mark.usefixtures("league")
def test_ratings_stand_best_first_and_follow_an_anchor(policystore: Command) -> None:
    ran = policystore.run("league", "ratings", "soccer")
    assert ran.code == 0
    players = [line.split()[1] for line in ran.out.splitlines()]
    assert players == [
        "player",
        "soccer/main@3",
        "soccer/main@2",
        "soccer/main@1",
        "heuristic:random",
    ]
    assert "2 environments together" in ran.err
    assert "--env chooses one" in ran.err

    document = policystore.json(
        "league", "ratings", "soccer", "--anchor", "soccer/main@1=1000", "--env", "Soccer-v1"
    )
    rows = {row["ref"] or row["player"]: row for row in document["ratings"]}
    assert rows["soccer/main@1"]["rating"] == 1000
    assert rows["soccer/main@2"]["rating"] > 1050
    assert "soccer/main@3" not in rows
    assert rows["heuristic:random"]["episodes"] == 10
    assert (document["league"], document["env"]) == ("soccer", "Soccer-v1")
    assert len(policystore.json("league", "ratings", "soccer", "-n", 2)["ratings"]) == 2


@pytest.mark.usefixtures("league")
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["ratings", "soccer", "--anchor", "soccer/main@1"], 2, "--anchor takes"),
        (["ratings", "soccer", "--anchor", "soccer/main@1=best"], 2, "best"),
        (["ratings", "soccer", "--anchor", "soccer/man@1=7"], 3, "soccer/main@1"),
        (["ratings", "soccer", "--model", "elo"], 2, "bradley-terry"),
        (["payoffs", "soccer", "--player", "soccer/main@9"], 3, "soccer/main@"),
        (["matches", "soccer", "--player", "soccer/main@9"], 3, "soccer/main"),
        (["matches", "soccer", "--since", "yesterday"], 2, "--since"),
        (["replay", "soccer", "xyz"], 2, "hexadecimal digits"),
        (["replay", "soccer", "0000000000"], 3, "no match"),
    ],
)
def test_wrong_arguments_are_named(
    policystore: Command, words: list[str], code: int, message: str
) -> None:
    ran = policystore.run("league", *words)
    assert ran.code == code
    assert message in ran.error


@pytest.mark.usefixtures("league")
def test_payoffs_have_each_pair_once_and_twice_as_json(policystore: Command) -> None:
    ran = policystore.run("league", "payoffs", "soccer")
    lines = ran.out.splitlines()
    assert len(lines) == 4
    row = next(line for line in lines if "soccer/main@3" in line)
    assert re.search(r"100 +(60|40) +0 +(40|60) ", row)

    records = policystore.json("league", "payoffs", "soccer")["payoffs"]
    assert len(records) == 6
    mine = policystore.json("league", "payoffs", "soccer", "--player", "soccer/main@2")["payoffs"]
    assert [(each["opponent_ref"], each["episodes"]) for each in mine] == [
        ("soccer/main@3", 100),
        ("soccer/main@1", 20),
    ]
    assert mine[1]["win_rate"] == 0.725
    assert 0.4 < mine[1]["low"] < 0.725 < mine[1]["high"] < 0.9
    shown = policystore.run("league", "payoffs", "soccer", "--player", "soccer/main@2").out
    assert [line.split()[1] for line in shown.splitlines()[1:]] == [
        "soccer/main@3",
        "soccer/main@1",
    ]


@pytest.mark.usefixtures("league")
def test_a_table_says_how_many_rows_it_lacks(policystore: Command) -> None:
    ran = policystore.run("league", "payoffs", "soccer", "--limit", 1)
    assert len(ran.out.splitlines()) == 2
    assert "and 2 pairs more; --limit shows more" in ran.err


@pytest.mark.usefixtures("league")
def test_matches_are_listed_newest_first_with_their_results(policystore: Command) -> None:
    ran = policystore.run("league", "matches", "soccer")
    assert (ran.code, ran.err) == (0, "")
    newest, second, oldest = ran.out.splitlines()[1:]
    assert "blue: soccer/main@2, red: soccer/main@3" in newest
    assert "blue 40, red 60" in newest
    assert "Rain-v1" in newest
    assert "blue 5, red 14, 1 draw" in second
    assert "heuristic:random" in oldest

    document = policystore.json("league", "matches", "soccer", "--player", "soccer/main@1", "-n", 1)
    (match,) = document["matches"]
    assert match["seeds"] == list(range(20))
    assert match["refs"] == {"blue": "soccer/main@1", "red": "soccer/main@2"}
    assert {"ranks": {"blue": 1, "red": 0}, "episodes": 14} in match["outcomes"]
    assert re.fullmatch("[0-9a-f]{64}", match["id"])
    assert ran.out.splitlines()[2].startswith(match["id"][:8])
    assert policystore.json("league", "matches", "soccer", "--since", "1h")["matches"]
    assert policystore.json("league", "matches", "soccer", "--since", "2100-01-01")["matches"] == []


def test_hostile_texts_reach_no_terminal(policystore: Command, store: PolicyStore) -> None:
    evil = "\x1b[2Jevil\r\n\u202e[red]"
    league = League(store, "soccer")
    league.unknown(evil, 2)
    league.record(
        [
            duel(digest_of("a"), digest_of("b"), 1, 0, env=evil, refs={"red": evil}),
        ]
    )
    for words in (["ls"], ["ratings", "soccer"], ["payoffs", "soccer"], ["matches", "soccer"]):
        ran = policystore.run("league", *words)
        assert ran.code == 0
        assert "".join(ran.out.split("\n")).isprintable(), words
        assert "".join(ran.err.split("\n")).isprintable(), words
        document = policystore.run("league", *words, "--json").out
        assert "".join(document.split("\n")).isprintable()
        json.loads(document)


def test_a_match_of_teams_and_of_many_players_in_words() -> None:
    players = {role: digest_of(role) for role in ("a", "b", "c", "d")}
    teams = {"a": "north", "b": "north", "c": "south", "d": "south"}
    match = Match(players, 6, (Outcome((0, 0, 1, 1), 3), Outcome((1, 1, 0, 0), 1)), teams=teams)
    assert result_words(match) == "north 3, south 1, 2 unknown"
    free = Match(players, 3, (Outcome((0, 1, None, None), 2), Outcome((0, 0, 0, 1), 1)))
    assert result_words(free) == "a 2, b 0, c 0, d 0, 1 draw"
    assert match_id(match) != match_id(free)


@pytest.mark.usefixtures("league")
def test_a_damaged_league_is_named_and_the_others_are_shown(
    policystore: Command, store: PolicyStore
) -> None:
    League(store, "chess").record([duel("soccer/main@1", "duo/p0", 1, 0)])
    backend = store._backend
    key = next(key for key in backend.keys("leagues/chess/") if "@matches" in key)
    backend.replace(key, b"{")
    ran = policystore.run("league", "ls")
    assert ran.code == 1
    assert "soccer" in ran.out
    assert "league chess" in ran.error
    assert policystore.run("league", "ratings", "chess").code == 1
    assert policystore.json("report", "--out", "site", code=1)["leagues"] == 1


def test_delete_asks_and_deletes_the_matches_alone(
    policystore: Command, store: PolicyStore, league: League
) -> None:
    asked = policystore.run("league", "delete", "soccer")
    assert asked.code == 2
    assert "would delete the league soccer: 3 matches of 130 episodes" in asked.out
    assert "--yes" in asked.error
    assert policystore.run("league", "delete", "soccer", "--dry-run").code == 0
    assert league.totals().matches == 3

    document = policystore.json("league", "delete", "soccer", "--yes", "-m", "wrong rules")
    assert (document["deleted"], document["matches"], document["episodes"]) == (True, 3, 130)
    assert leagues(store) == []
    assert len(store.log("soccer/main")) == 3
    assert policystore.run("league", "delete", "soccer", "--yes").code == 3


@pytest.mark.usefixtures("league")
def test_report_writes_a_page_of_one_league(policystore: Command, tmp_path: Path) -> None:
    ran = policystore.run("league", "report", "soccer", tmp_path / "soccer.html")
    assert ran.code == 0
    assert "1 name, 3 versions, 0 comparisons, 1 league of 4 players" in ran.out
    page = (tmp_path / "soccer.html").read_text(encoding="utf-8")
    assert "<title>League soccer · policystore report</title>" in page
    document = policystore.json("league", "report", "soccer", tmp_path / "soccer.html")
    assert (document["names"], document["players"]) == (1, 4)
    every = policystore.json("report", "--out", tmp_path / "all")
    assert (every["names"], every["leagues"], every["players"]) == (2, 1, 4)
    part = policystore.json("report", "duo/p0", "--out", tmp_path / "part")
    assert (part["names"], part["leagues"]) == (1, 0)


def test_replay_makes_no_environment_that_only_a_record_names(
    policystore: Command, store: PolicyStore
) -> None:
    """gymnasium imports the module of such an id, and an import path would be called."""
    League(store, "soccer").record(
        [duel("soccer/main@1", "duo/p0", 1, 0, seeds=[3], env="os:system")]
    )
    (match,) = policystore.json("league", "matches", "soccer")["matches"]
    ran = policystore.run("league", "replay", "soccer", match["id"][:8])
    assert ran.code == 2
    assert "give --env: the match was played in 'os:system'" in ran.error


def recorded(store: PolicyStore, **more: Any) -> Match:
    """Record a match without the checks of record(), as another program may do."""
    match = Match(
        players={"blue": "heuristic:b", "red": "heuristic:r"}, episodes=2, seeds=(1, 2), **more
    )
    League(store, "soccer")._writer.record([normal_match(match)], "ann")
    return match


def test_a_config_that_is_no_canonical_json_is_shown_as_the_text(
    policystore: Command, store: PolicyStore
) -> None:
    recorded(store, env_config="{'size': 5}")
    recorded(store, env_config='{"size":5}')
    matches = policystore.json("league", "matches", "soccer")["matches"]
    assert [each["env_config"] for each in matches] == [{"size": 5}, "{'size': 5}"]


def test_two_matches_with_one_id_are_told_apart_or_refused(
    policystore: Command, store: PolicyStore
) -> None:
    league = League(store, "soccer")
    one = {"players": {"red": "heuristic:r", "blue": "heuristic:b"}, "episodes": 2, "seeds": [1, 2]}
    league.record([{**one, "env_config": '{"a":1}'}, {**one, "env_config": '{"a":2}'}])
    league.record([{**one, "seeds": [3, 4]}, {**one, "seeds": [3, 4]}])
    names = {match.seeds: match_id(match) for match in league.matches()}
    ran = policystore.run("league", "replay", "soccer", names[1, 2][:12])
    assert ran.code == 2
    assert "two matches of the league 'soccer' have the id" in ran.error
    ran = policystore.run("league", "replay", "soccer", names[3, 4][:12])
    assert "give --env: the match was played in 'an unknown environment'" in ran.error


def test_files_of_the_present_folder_come_after_installed_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for folder in ("installed", "here"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "both_games.py").write_text(f"PLACE = {folder!r}")
    (tmp_path / "here" / "my_games.py").write_text("PLACE = 'mine'")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "installed"), *filter(None, sys.path)])
    monkeypatch.chdir(tmp_path / "here")
    for name in ("both_games", "my_games"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert make_environment("both_games:PLACE", None) == "installed"
    assert make_environment("my_games:PLACE", None) == "mine"


@pytest.mark.usefixtures("league")
def test_trust_leaves_the_present_folder_behind_installed_packages(
    policystore: Command, league: League, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = next(match for match in league.matches() if match.seeds)
    paths: list[list[str]] = []

    def replay(league: League, match: Match, **options: Any) -> Replay:
        paths.append(list(sys.path))
        return Replay(match, {}, ())

    monkeypatch.setattr("policystore.league.tournament.replay.replay", replay)
    monkeypatch.setattr(sys, "path", list(filter(None, sys.path)))
    policystore.run("league", "replay", "soccer", match_id(chosen)[:8], "--trust", "mygame")
    assert paths[0].index("") == len(paths[0]) - 1
    shown = " ".join(policystore.run("league", "replay", "--help").out.split())
    assert "the environment that the match names" in shown.replace(" │ │ ", " ")


def test_an_environment_is_imported_by_its_path(policystore: Command) -> None:
    ran = policystore.run("league", "play", "new", "soccer/main", "random", "--env", "no.such:Game")
    assert ran.code == 2
    assert "--env 'no.such:Game'" in ran.error
    ran = policystore.run("league", "play", "new", "soccer/main", "random", "--env", "math:no_game")
    assert ran.code == 2
    assert "no_game" in ran.error


def test_play_hands_the_options_to_the_tournament(
    policystore: Command, league: League, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def play(self: League, refs: list[str], **options: Any) -> TournamentReport:
        asked.append((self.name, refs, options))
        options["progress"](3, 6)
        matches = tuple(league.matches(limit=1))
        labels = dict(zip(matches[0].players.values(), ("b", "r"), strict=True))
        return TournamentReport(matches, 60, 40, labels, "Soccer-v1", (("blue",), ("red",)))

    monkeypatch.setattr(League, "play", play)
    words = (
        "league", "play", "soccer", "soccer/main@1", "random", "--env", "fractions:Fraction",
        "--env-config", "size=3", "--episodes", 6, "--seed", 7, "--workers", 2,
    )  # fmt: skip
    document = policystore.json(*words, "--pairing", "anchors", "--against", "duo/p0")
    assert (document["played"], document["known"], document["env"]) == (60, 40, "Soccer-v1")
    assert {each["wins"] for each in document["results"]} == {40, 60}
    name, refs, options = asked[0]
    assert (name, refs) == ("soccer", ["soccer/main@1", "random"])
    assert options["env"] == (Fraction, {"size": 3})
    assert (options["episodes"], options["seed"]) == (6, 7)
    assert (options["parallel"], options["workers"]) == ("processes", 2)
    assert (options["pairing"], options["against"]) == ("anchors", ["duo/p0"])

    ran = policystore.run("league", "play", "new", "soccer/main", "random", "--env", "Soccer-v1")
    assert ran.code == 0
    assert "100 episodes, 40 of them known" in ran.out
    assert asked[1][2]["env"] == "Soccer-v1"
    assert asked[1][2]["parallel"] is None
    wrong = policystore.run("league", "play", "new", "a", "b", "--env", "x", "--pairing", "all")
    assert wrong.code == 2


def test_replay_finds_the_match_by_the_start_of_its_id_and_says_what_differs(
    policystore: Command, league: League, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = next(match for match in league.matches() if match.seeds)
    asked: list[Any] = []

    def replay(league: League, match: Match, **options: Any) -> Replay:
        asked.append((match, options))
        if options["env"] == "Rain-v1":
            raise MatchError("episode 3 differs", seeds=(3,))
        returns = {"red": (1.0, 0.0) * 10, "blue": (0.0, 1.0) * 10}
        return Replay(match, returns, (4, 5) * 10)

    monkeypatch.setattr("policystore.league.tournament.replay.replay", replay)
    start = match_id(chosen)[:8]
    ran = policystore.run("league", "replay", "soccer", start)
    assert ran.code == 0
    assert ran.out == "the same returns in 20 episodes: blue 5, red 14, 1 draw\n"
    assert asked[0] == (chosen, {"env": None, "trust": ()})
    document = policystore.json("league", "replay", "soccer", start, "--env", "Soccer-v1")
    assert document["match"]["id"] == match_id(chosen)
    assert document["episodes"][1]["return.blue"] == 1.0
    differs = policystore.run("league", "replay", "soccer", start, "--env", "Rain-v1")
    assert differs.code == 1
    assert "episode 3 differs" in differs.error
    assert policystore.run("league", "replay", "soccer", start, "--env-config", "a=1").code == 2
