"""What League.record takes, and what readers get back."""

from __future__ import annotations

import copy
import pickle
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policystore import InvalidInputError, NotFoundError, PolicyStore, ReadOnlyError, Snapshot, Spec
from policystore.league import League, Match, Outcome, Returns, leagues

RED, BLUE, GREEN = (f"blake3:{digit * 64}" for digit in "abc")


@pytest.fixture
def league(tmp_path: Path) -> League:
    return League(tmp_path / "store", "soccer", author="ann")


def duel(**more: Any) -> dict[str, Any]:
    return {"players": {"red": RED, "blue": BLUE}, "episodes": 4, **more}


def test_a_match_comes_back_as_it_was_recorded(league: League) -> None:
    match = Match(
        players={"blue": BLUE, "red": RED},
        episodes=3,
        outcomes=(Outcome((0, 1), 1), Outcome((1, 0), 2)),
        returns={"red": Returns(3, Fraction(1, 2), Fraction(9, 4))},
        env="CartPole-v1",
        env_digest=GREEN,
        seeds=(1, 2, 3),
        played={"red": (GREEN, RED)},
        refs={"red": "soccer/main@17"},
        iteration=0,
    )
    batch = league.record([match])
    (found,) = League(league.store.url, "soccer").matches()
    assert found.writer == batch.writer
    assert found.time.startswith("20")
    assert (batch.number, batch.matches, batch.batches) == (1, 1, 1)
    assert match == Match(**{**vars(found), "time": "", "writer": ""})


@pytest.mark.parametrize(
    "config", ["{", "[1,2]", "3", '{"b":1,"a":2}', '{"a":NaN}', '"x"', '{"~tuple":[1]}', "\ud800"]
)
def test_a_config_of_an_environment_is_canonical_json_of_a_dict(
    league: League, config: str
) -> None:
    match = Match(players={"blue": BLUE, "red": RED}, episodes=4, env_config=config)
    for given in (match, duel(env_config=config)):
        with pytest.raises(InvalidInputError, match="match 1: env_config"):
            league.record([duel(), given])
    assert list(league.matches()) == []
    for good in ('{"a":1}', '{"~dict":[[1,2]]}', '{"~missing":"x"}', ""):
        league.record([duel(env_config=good)])
    assert sorted(each.env_config for each in league.matches())[1:] == [
        '{"a":1}', '{"~dict":[[1,2]]}', '{"~missing":"x"}',
    ]  # fmt: skip


def test_totals_add_up_what_was_recorded(league: League) -> None:
    league.record([duel(wins={"red": 3, "blue": 1}, returns={"red": [0.1, 0.2, 0.3, 1]})])
    league.record([duel(wins={"red": 1}, draws=2, returns={"red": [0.1]})])
    totals = league.totals()
    (total,) = totals.matchups
    assert total.outcomes == (Outcome((0, 0), 2), Outcome((0, 1), 1), Outcome((1, 0), 4))
    assert (totals.matches, totals.episodes, totals.batches, totals.writers) == (2, 8, 2, 1)
    numbers = [Fraction(each) for each in (0.1, 0.2, 0.3, 1, 0.1)]
    assert total.returns == {"red": Returns(5, sum(numbers), sum(n * n for n in numbers))}
    assert [record["best"] for record in totals.to_records()] == [1, 4]
    assert league.totals() is totals


def test_ways_to_tell_outcomes(league: League) -> None:
    three = {"players": {"a": RED, "b": BLUE, "c": GREEN}, "episodes": 5}
    for given, expected in [
        (duel(wins={"red": 1}), [((1, 0), 1)]),
        (duel(wins={"red": 0}, draws=0), []),
        (duel(draws=np.int64(4)), [((0, 0), 4)]),
        (duel(outcomes=[{"ranks": {"red": 0}, "episodes": 2}]), [((1, 0), 2)]),
        (duel(outcomes=[Outcome((7, 3), 1), Outcome((1, 0), 1)]), [((1, 0), 2)]),
        ({**three, "wins": {"b": 2}}, [((None, 0, None), 2)]),
        ({**three, "draws": 1}, [((0, 0, 0), 1)]),
        ({**three, "teams": {"a": "x", "b": "x"}, "wins": {"x": 2, "c": 1}},
         [((0, 0, 1), 2), ((1, 1, 0), 1)]),
        ({**three, "teams": {"a": "x", "b": "x", "c": "y"}, "wins": {"b": 2}}, [((0, 0, 1), 2)]),
        ({**three, "returns": {"a": [1]}}, []),
    ]:  # fmt: skip
        league.record([given])
        (match,) = league.matches(limit=1)
        assert [(each.ranks, each.episodes) for each in match.outcomes] == expected, given


def test_refs_are_looked_up_and_kept_as_labels(league: League) -> None:
    snap = Snapshot(weights={"w": np.zeros(3, np.float32)}, spec=Spec())
    version = league.store.push(snap, "soccer/main")
    players = {"a": "soccer/main", "b": version, "c": version.digest, "d": "heuristic:random"}
    league.record([{"players": players, "episodes": 1}])
    (match,) = league.matches(player="soccer/main@1")
    digest = str(version.digest)
    assert match.players == {"a": digest, "b": digest, "c": digest, "d": "heuristic:random"}
    assert match.refs["a"] == "soccer/main@1"
    assert league.totals().refs == {digest: "soccer/main@1"}
    assert list(league.matches(player="heuristic:other")) == []
    with pytest.raises(NotFoundError, match=r"match 1: players\['red'\]"):
        league.record([duel(), {"players": {"red": "soccer/nobody"}, "episodes": 1}])
    with pytest.raises(NotFoundError, match="has no weights, give 'heuristic:greedy'"):
        league.record([{"players": {"red": "greedy"}, "episodes": 1}])
    assert league.totals().matches == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (duel(returns={"red": [1.0, float("nan")]}), r"match 0: returns\['red'\]: .*finite.*nan"),
        (duel(returns={"red": [float("inf")]}), r"returns\['red'\]: .*finite.*inf"),
        (duel(returns={"red": [1] * 5}), r"returns\['red'\]: .* 5 returns for 4 episodes"),
        (duel(returns={"red": []}), r"returns\['red'\]: .* 0 returns for 4 episodes"),
        (
            duel(returns={"red": {"sum": 9, "squares": 1}}),
            "cannot have a sum of squares that is so small",
        ),
        (duel(returns={"red": {"sum": 9}}), r"returns\['red'\]: .*'squares'"),
        (duel(returns={"red": [Fraction(1, 3)]}), "a sum of such numbers"),
        (duel(returns={"gold": [1]}), "returns: 'gold' is not a role"),
        (duel(wins={"gold": 1}), "wins: 'gold' is neither a role nor a team"),
        (duel(wins={"red": -1}), r"wins\['red'\]: expected a number of episodes, found -1"),
        (duel(wins={"red": 3, "blue": 2}), "wins, draws .* 5 episodes, .* match has 4"),
        (duel(wins={"red": 1}, outcomes=[]), "either outcomes, or wins"),
        (duel(outcomes=[{"ranks": {}, "episodes": 1}]), "no role has a rank"),
        (duel(teams={"red": "x", "blue": "x"}, draws=1), "two or more sides"),
        (duel(teams={"red": "x", "blue": "x"}, outcomes=[Outcome((0, 1), 1)]), "one team have"),
        (duel(seeds=[1, 2]), "seeds: expected one seed for each of the 4 episodes"),
        (duel(episodes=0), "episodes: expected a number from 1"),
        (duel(episodes=True), "episodes: expected an int"),
        (duel(winz={}), r"'winz' is no field.*Did you mean 'wins'"),
        ({"players": {"red": RED}}, "episodes: missing"),
        ({"players": {}, "episodes": 1}, "players: expected a dict of 1 to"),
        ({"players": {"red": "heuristic:ü"}, "episodes": 1}, r"players\['red'\]: .*heuristic"),
        ({"players": {"red": 7}, "episodes": 1}, r"players\['red'\]: a ref is a string"),
        (duel(env_digest="abc"), "env_digest: expected"),
        (duel(played={"red": (RED, "x")}), r"played\['red'\]: expected the digests"),
        (duel(iteration=1.5), "iteration: expected an int"),
        (7, "match 0: expected a dict or a Match, found 7"),
    ],
)
def test_a_wrong_match_is_refused_by_name_and_nothing_is_recorded(
    league: League, given: Any, said: str
) -> None:
    with pytest.raises(InvalidInputError, match=said):
        league.record([given])
    assert leagues(league.store) == []


def test_what_is_no_list_of_matches_is_refused(league: League) -> None:
    for given in (duel(), "abc", None, Match({"a": RED}, 1)):
        with pytest.raises(InvalidInputError, match=r"record\(\) takes a list of matches"):
            league.record(given)  # type: ignore[arg-type]


def test_unknown_episodes_stand_in_the_next_batch(league: League) -> None:
    league.unknown("swapped", 2)
    assert league.totals().unknown == {}
    assert league.record([]).batches == 1
    assert league.record([]).batches == 0
    league.unknown("swapped")
    league.unknown("lost")
    league.record([duel()])
    assert league.totals().unknown == {"lost": 1, "swapped": 3}
    for reason, count in (("", 1), ("x", 0), ("x", True)):
        with pytest.raises(InvalidInputError):
            league.unknown(reason, count)


def test_many_matches_take_several_batches(league: League) -> None:
    batch = league.record([duel(seeds=[2**62 + i] * 4) for i in range(9_000)])
    assert batch.matches == 9_000
    assert batch.batches == batch.number > 1
    assert league.totals().matches == 9_000
    seeds = range(200_000)
    with pytest.raises(InvalidInputError, match="the record would take"):
        league.record([duel(), duel(episodes=len(seeds), seeds=seeds)])
    assert league.totals().matches == 9_000


def test_each_copy_records_into_a_list_of_its_own(league: League) -> None:
    league.unknown("kept by this one")
    copies = [pickle.loads(pickle.dumps(league)), copy.copy(league), copy.deepcopy(league)]
    writers = {each.record([duel()]).writer for each in (league, *copies)}
    assert len(writers) == 4
    assert [each.totals() for each in copies] == [league.totals()] * 3
    assert league.totals().unknown == {"kept by this one": 1}


def test_matches_are_the_newest_first(league: League) -> None:
    other = pickle.loads(pickle.dumps(league))
    for index in range(20):
        (league, other)[index % 3 == 0].record([duel(iteration=index), duel(iteration=100 + index)])
    found = list(league.matches())
    assert [match.iteration for match in found][:4] == [119, 19, 118, 18]
    assert [match.time for match in found] == sorted((m.time for m in found), reverse=True)
    assert [match.iteration for match in league.matches(limit=3)] == [119, 19, 118]


def test_a_read_only_store_is_not_written(league: League) -> None:
    league.record([duel()])
    reader = League(PolicyStore(league.store.url, read_only=True), "soccer")
    assert reader.totals().matches == 1
    with pytest.raises(ReadOnlyError):
        reader.record([duel()])
    with pytest.raises(ReadOnlyError):
        reader.delete()


def test_deleting_begins_the_league_anew(league: League) -> None:
    with pytest.raises(NotFoundError, match="no matches of a league 'soccer'"):
        league.delete()
    reader = League(league.store, "soccer")
    other = League(league.store, "soccer/b")
    for count in (1, 2, 3):
        assert league.record([duel()] * count).number == 1
        other.record([duel()])
        assert reader.totals().matches == count
        assert league.delete("why not").epoch == count
        assert reader.totals().matches == 0
        assert list(reader.matches()) == []
        assert leagues(league.store) == ["soccer/b"]
    with pytest.raises(NotFoundError, match="Did you mean 'soccer/b'"):
        League(league.store, "soccer/a").delete()
