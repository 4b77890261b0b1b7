"""Which snapshots ``publish`` makes: agents, parts left out, modules that share parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.rllib.connectors.env_to_module import MeanStdFilter

import tests.support.tune_runs as parts
from policystore import InvalidInputError, NotFoundError, PolicyStore
from policystore.rllib import publish, rebuild_module, snapshot
from tests.support.shared_encoder import sharing

NAMES = {"main": "duo/main", "foe": "duo/foe"}
AGENTS = {"main": ["a"], "foe": ["b"]}


@pytest.fixture
def store(tmp_path: Path) -> PolicyStore:
    return PolicyStore(tmp_path / "store")


def filtered(stack: str = "new") -> Any:
    """Two agents behind filters of their observations."""
    config = parts.PARTS[stack].configured()
    if stack == "old":
        return config.env_runners(observation_filter="MeanStdFilter")
    return config.env_runners(
        env_to_module_connector=lambda env=None, spaces=None, device=None: MeanStdFilter(
            multi_agent=True
        )
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"agent_ids": "a"}, r"for several policies agent_ids is a dict by policy.*'main'"),
        ({"agent_ids": ["a"]}, "for several policies agent_ids is a dict by policy"),
        ({"agent_ids": {"main": "a"}}, r"agent_ids is a list of agent ids: agent_ids=\['a'\]"),
        (
            {"agent_ids": {"nobody": ["a"]}},
            r"\['nobody'\], but the call is about \['foe', 'main'\]",
        ),
        ({"agent_ids": 3}, "agent_ids"),
        ({"omit": "MeanStdFilter"}, "omit is a list of names"),
        ({"omit": [3]}, "omit is a list of names"),
        ({"omit": None}, "omit is a list of names"),
    ],
)
def test_wrong_arguments(store: PolicyStore, options: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        publish(store, NAMES, **options)


def test_the_filters_of_agents(ray_session: None, store: PolicyStore) -> None:
    agents = {
        pid: iter(each) for pid, each in AGENTS.items()
    }  # copies of the config need them, too
    config = filtered().callbacks(publish(store, NAMES, agent_ids=agents))
    with parts.PARTS["new"].built(config) as algo:
        algo.train()
        held = {pid: snapshot(algo, pid, agent_ids=AGENTS[pid]) for pid in NAMES}
    for pid, name in NAMES.items():
        assert store.log(name)[0].digest == held[pid].digest
        ((agent, _),) = held[pid].state["MeanStdFilter"].items()
        assert [agent] == AGENTS[pid]


@pytest.mark.long
def test_one_policy_takes_a_list_of_agents(ray_session: None, store: PolicyStore) -> None:
    config = filtered().callbacks(publish(store, {"main": "duo/main"}, agent_ids=["a", "b"]))
    with parts.PARTS["new"].built(config) as algo:
        algo.train()
    (found,) = store.pull("duo/main").state.values()
    assert found.keys() == {"a", "b"}


@pytest.mark.long
@pytest.mark.parametrize("stack", ["new", "old"])
def test_parts_left_out(ray_session: None, store: PolicyStore, stack: str) -> None:
    names = (name for name in ["MeanStdFilter"])
    config = filtered(stack).callbacks(publish(store, NAMES, omit=names))
    with parts.PARTS[stack].built(config) as algo:
        algo.train()
    for name in NAMES.values():
        snap = store.pull(name)
        assert any("MeanStdFilter" in each or "Filter" in each for each in snap.spec.omitted)
        assert "MeanStdFilter" not in str(snap.state)


@pytest.mark.long
@pytest.mark.parametrize(
    ("stack", "options", "error", "message"),
    [
        ("new", {}, InvalidInputError, r"policy 'main'.*omit=.*for several policies.*\{'main': \["),
        ("new", {"agent_ids": {"main": ["z"], "foe": ["b"]}}, NotFoundError, r"no agents \['z'\]"),
        ("new", {"agent_ids": AGENTS, "omit": ["Other"]}, NotFoundError, r"omit names \['Other'\]"),
        ("old", {"agent_ids": AGENTS}, InvalidInputError, "agent_ids= is for multi-agent"),
    ],
)
def test_refused_when_the_algorithm_is_built(
    ray_session: None, store: PolicyStore, stack: str, options: Any, error: Any, message: str
) -> None:
    config = filtered(stack).callbacks(publish(store, NAMES, **options))
    with pytest.raises(error, match="publish of 'main' to 'duo/main'.*" + message):
        config.build_algo()


@pytest.mark.long
def test_modules_that_share_parts(ray_session: None, store: PolicyStore) -> None:
    config = sharing(runners=0).callbacks(
        publish(store, {"__all_modules__": "duo/all"}, agent_ids=["a", "b"])
    )
    with parts.PARTS["new"].built(config) as algo:
        algo.train()
        algo.train()
        held = snapshot(algo, "__all_modules__", agent_ids=["a", "b"])
        assert held == snapshot(algo)
    versions = store.log("duo/all")
    assert [version.source["policy"] for version in versions] == ["__all_modules__"] * 2
    assert versions[0].digest == held.digest
    assert versions[0].parents == (versions[1].digest,)
    rebuild_module(store.pull("duo/all"))
    config = sharing(runners=0).callbacks(publish(store, {"p0": "duo/p0"}))
    with pytest.raises(InvalidInputError, match="'p0' alone would not work.*'__all_modules__'"):
        config.build_algo()


@pytest.mark.long
@pytest.mark.parametrize("stack", ["new", "old"])
def test_modules_that_share_nothing(ray_session: None, store: PolicyStore, stack: str) -> None:
    config = parts.PARTS[stack].configured()
    config.callbacks(publish(store, {"__all_modules__": "duo/all"}))
    with pytest.raises(NotFoundError, match="no .* '__all_modules__'; it has 'foe', 'main'"):
        config.build_algo()
