"""load_local and unlock_local in a running league: who really plays, on every env runner."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tests.support.league_slots as league
import tests.support.new_stack_algorithms as parts
import tests.support.restarts as restarts
from policystore import PolicyStore, Snapshot
from policystore.rllib import check_sync, load_into, snapshot
from tests.support.cells import sampled

# Algorithm, env runners, evaluation runners (0: a local one).
CELLS: dict[str, tuple[str, int, int]] = {
    "PPO": ("PPO", 2, 1),
    "PPO alone": ("PPO", 0, 0),
    "SAC": ("SAC", 2, 1),
    "APPO": ("APPO", 2, 1),
    "old PPO": ("old PPO", 2, 1),
    "old PPO alone": ("old PPO", 0, 1),
}
WIDE = ("SAC", "APPO", "old PPO alone")
pytestmark = [
    # RLlib's metrics average what has no entries yet (utils/metrics/window_stat.py).
    pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Degrees of freedom <= 0:RuntimeWarning"),
]


@pytest.fixture(scope="module", params=sampled(CELLS, "PPO alone", wide=WIDE))
def cell(request: Any) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pool")


@pytest.fixture(scope="module")
def algo(cell: str, pool: Path, ray_session: None) -> Iterator[Any]:
    kind, runners, evals = CELLS[cell]
    with parts.built(league.configured(kind, pool / cell, runners, evals)) as made:
        store = PolicyStore(pool / cell)
        for level in (1.0, 2.0, 3.0):
            store.push(parts.other(snapshot(made, "foe"), level), "league/main")
        made.train()
        yield made


@pytest.fixture
def snaps(algo: Any, cell: str, pool: Path) -> dict[str, Snapshot]:
    """The opponents, after all env runners have forgotten their episodes."""
    ask(algo, league.forget)
    store = PolicyStore(pool / cell)
    return {league.spread(n): store.pull(league.spread(n)) for n in range(3)}


def ask(algo: Any, function: Any = league.played) -> dict[str, Any]:
    """Run a function on every env runner, and return the results by name."""
    found = {}
    for name, group in (("train", algo.env_runner_group), ("eval", algo.eval_env_runner_group)):
        if group.local_env_runner is not None:
            found[f"{name} local"] = function(group.local_env_runner)
        for index in group._worker_manager.actors():
            found[f"{name} {index}"] = restarts.ask(algo, f"{name} {index}", function)
    return found


def assert_all_played_as_loaded(
    algo: Any, snaps: dict[str, Snapshot], names: tuple[str, ...]
) -> None:
    """Check that in every step of all episodes the opponent had the weights that were loaded."""
    for name in names:
        found = ask(algo)[name]
        for ref, held in found["games"]:
            assert held == league.expected(snaps[ref], found["names"]["foe"]), (name, ref)
        assert len({ref for ref, _ in found["games"]}) >= 2, name


def sampling(cell: str) -> tuple[str, ...]:
    """Return the names of the env runners that sample in train() and in evaluate()."""
    runners, evals = CELLS[cell][1:]
    train = [f"train {n}" for n in (1, 2)] if runners else ["train local"]
    return (*train, "eval 1" if evals else "eval local")


def until_played(algo: Any, names: tuple[str, ...]) -> None:
    def enough() -> bool:
        algo.train()
        algo.evaluate()
        found = ask(algo)
        return all(len({ref for ref, _ in found[name]["games"]}) >= 2 for name in names)

    parts.until(enough, "two opponents on each runner")


def test_every_episode_is_played_against_the_loaded_opponent(
    algo: Any, cell: str, snaps: dict[str, Snapshot]
) -> None:
    until_played(algo, sampling(cell))
    assert_all_played_as_loaded(algo, snaps, sampling(cell))


def test_check_sync_says_who_holds_what(algo: Any, cell: str, snaps: dict[str, Snapshot]) -> None:
    until_played(algo, sampling(cell))
    report = check_sync(algo)
    report.raise_if_bad()
    found = ask(algo)
    for row in report:
        if row.policy == "foe" and row.worker in sampling(cell):
            ref = found[row.worker]["ref"]
            assert row.status == "own", str(report)
            assert row.digest == snaps[ref].acting_digest
            assert ref in row.note
            assert snaps[ref].acting_digest.short in row.note
        else:
            assert row.status in ("ok", "behind"), str(report)


def test_the_trained_policy_goes_on_reaching_all_runners(
    algo: Any, cell: str, snaps: dict[str, Snapshot]
) -> None:
    for name in sampling(cell)[:-1]:
        before = ask(algo)[name]["prints"]["main"]
        parts.until(
            lambda name=name, before=before: (
                algo.train() and ask(algo)[name]["prints"]["main"] != before
            ),
            f"learned weights on {name}",
        )


def test_load_into_is_for_all_and_the_next_episode_loads_again(
    algo: Any, cell: str, snaps: dict[str, Snapshot]
) -> None:
    until_played(algo, sampling(cell))
    common = parts.other(snapshot(algo, "foe"), 9.0)

    report = load_into(algo, {"foe": common})

    assert {row.status for row in report} == {"ok"}, str(report)
    assert {row.status for row in check_sync(algo, ["foe"])} == {"ok"}
    for name, found in ask(algo).items():
        assert found["prints"]["foe"] == league.expected(common, found["names"]["foe"]), name
    ask(algo, league.forget)
    until_played(algo, sampling(cell))
    check_sync(algo).raise_if_bad()
    # An episode under way at the time of the load goes on with the loaded weights.
    for name, found in ask(algo).items():
        games = {
            ref: {held for each, held in found["games"] if each == ref} for ref in snaps
        }  # fmt: skip
        for ref, held in games.items():
            own = league.expected(snaps[ref], found["names"]["foe"])
            assert held <= {own, league.expected(common, found["names"]["foe"])}, (name, ref)


@pytest.mark.parametrize(
    "cell",
    sampled([cell for cell in CELLS if CELLS[cell][2]], wide=WIDE),
    indirect=True,
    scope="module",
)
def test_a_restarted_runner_locks_again(algo: Any, cell: str, snaps: dict[str, Snapshot]) -> None:
    names = tuple(name for name in ("train 1", "eval 1") if name in sampling(cell))
    load_into(algo, {"foe": parts.other(snapshot(algo, "foe"), -4.0)})
    before = {name: ask(algo)[name]["pid"] for name in names}
    restarts.kill(algo, *names)

    def back(name: str) -> bool:
        found = restarts.answers(algo, name)
        return bool(found and found["pid"] != before[name])

    parts.until(lambda: all(map(back, names)), "the runners are back")

    until_played(algo, names)

    assert_all_played_as_loaded(algo, snaps, names)
    check_sync(algo).raise_if_bad()
