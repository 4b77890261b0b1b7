"""The front: which adapter takes which source, ids, and the whole way through a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import ray
import torch
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.examples.envs.classes.multi_agent import MultiAgentCartPole
from ray.rllib.policy.policy import Policy

from policystore import InvalidInputError, NotFoundError, PolicyStore, Snapshot
from policystore import torch as policystore_torch
from policystore.rllib import (
    add_policy,
    load_into,
    rebuild_module,
    rebuild_player,
    rebuild_policy,
    snapshot,
    snapshot_all,
)
from policystore.rllib.common.trust import algorithm_name

OBS = [np.linspace(-0.05, 0.05, 4, dtype=np.float32) * scale for scale in range(-8, 8)]


def config(*, new: bool, policies: int) -> PPOConfig:
    made = (
        PPOConfig()
        .api_stack(enable_rl_module_and_learner=new, enable_env_runner_and_connector_v2=new)
        .env_runners(num_env_runners=0, rollout_fragment_length=64)
        .training(train_batch_size=64, minibatch_size=32, num_epochs=1)
    )
    if new:
        made.rl_module(model_config={"fcnet_hiddens": [8]})
    else:
        made.training(model={"fcnet_hiddens": [8]})
    if policies == 1:
        return made.environment("CartPole-v1")
    return made.environment(MultiAgentCartPole, env_config={"num_agents": policies}).multi_agent(
        policies={f"p{n}" for n in range(policies)},
        policy_mapping_fn=lambda agent, *_, **__: f"p{agent}",
    )


@pytest.fixture(scope="module")
def algorithms(ray_session: None) -> Iterator[dict[str, Any]]:
    configs = {
        "old": config(new=False, policies=2),
        "new": config(new=True, policies=2),
        "new-single": config(new=True, policies=1),
    }
    # Ray 2.40 has no build_algo yet.
    made = {key: getattr(found, "build_algo", found.build)() for key, found in configs.items()}
    for algorithm in made.values():
        algorithm.train()
    yield made
    for algorithm in made.values():
        algorithm.stop()


STACKS = pytest.mark.parametrize("stack", ["old", "new"])


class MyPPO(PPO):
    pass


def test_a_users_subclass_is_known_by_rllibs_name(algorithms: dict[str, Any]) -> None:
    for algorithm in (algorithms["old"], algorithms["new"]):
        named = type("Mine", (MyPPO,), {})
        assert algorithm_name(named.__new__(named)) == algorithm_name(algorithm) == "PPO"


@STACKS
def test_the_main_job(algorithms: dict[str, Any], stack: str, tmp_path: Path) -> None:
    algorithm, store = algorithms[stack], PolicyStore(tmp_path)
    made = snapshot_all(algorithm)
    assert list(made) == ["p0", "p1"]
    assert made["p0"].weights_digest != made["p1"].weights_digest
    for name, snap in made.items():
        assert snapshot(algorithm, name) == snap
        assert snap.spec.stack == stack
        assert snap.spec.algorithm == "PPO"
        version = store.push(snap, f"cartpole/{name}", metrics={"return": 20.0})
        pulled = store.pull(version.ref)
        assert pulled == snap
        player = rebuild_player(pulled)
        assert player.act(OBS[0]) in (0, 1)
        player.reset()
        actions = [int(action) for action in player.act_batch(OBS)]
        if stack == "old":
            policy = rebuild_policy(pulled)
            assert isinstance(policy, Policy)
            expected = [
                algorithm.compute_single_action(obs, policy_id=name, explore=False) for obs in OBS
            ]
        else:
            module = rebuild_module(pulled)
            assert isinstance(module, RLModule)
            with torch.no_grad():
                batch = {"obs": torch.from_numpy(np.stack(OBS))}
                learner = algorithm.learner_group._learner.module[name]
                expected = (
                    learner.forward_inference(batch)["action_dist_inputs"].argmax(-1).tolist()
                )
        assert actions == expected
    assert store.verify().ok


@STACKS
def test_training_on_changes_nothing_in_a_snapshot(algorithms: dict[str, Any], stack: str) -> None:
    snap = snapshot(algorithms[stack], "p0")
    before = snap.digest
    algorithms[stack].train()
    assert Snapshot(weights=snap.weights, spec=snap.spec, state=snap.state).digest == before
    assert snapshot(algorithms[stack], "p0").weights_digest != snap.weights_digest


@STACKS
def test_an_unknown_id_lists_the_known_ones(algorithms: dict[str, Any], stack: str) -> None:
    with pytest.raises(NotFoundError, match=r"'p9'.*'p0', 'p1'"):
        snapshot(algorithms[stack], "p9")
    with pytest.raises(InvalidInputError, match=r"2 modules|2 policies.*'p0', 'p1'"):
        snapshot(algorithms[stack])


def test_the_id_may_be_left_out_where_there_is_one(algorithms: dict[str, Any]) -> None:
    single = algorithms["new-single"]
    assert snapshot(single) == snapshot(single, "default_policy")
    assert snapshot_all(single) == {"default_policy": snapshot(single)}


def test_bare_policies_and_modules(algorithms: dict[str, Any]) -> None:
    policy = algorithms["old"].get_policy("p0")
    assert snapshot(policy).weights_digest == snapshot(algorithms["old"], "p0").weights_digest
    multi = algorithms["new"].learner_group._learner.module
    one = snapshot(multi, "p1")
    assert one.weights_digest == snapshot(algorithms["new"], "p1").weights_digest
    assert snapshot(multi["p1"]) == one
    # A module does not know the environment: a player is told, or says what it lacks.
    with pytest.raises(InvalidInputError, match="env_spaces"):
        rebuild_player(one)
    env = gym.make("CartPole-v1")
    player = rebuild_player(one, env_spaces=(env.observation_space, env.action_space))
    whole = rebuild_player(snapshot(algorithms["new"], "p1"))
    assert [int(a) for a in player.act_batch(OBS)] == [int(a) for a in whole.act_batch(OBS)]


def test_arrays_that_ray_owns(ray_session: None) -> None:
    """What ray.get hands out is read-only and lies in the object store's shared memory."""
    reference = ray.put({"w": np.arange(1 << 18, dtype=np.float32)})
    shared = ray.get(reference)
    assert not shared["w"].flags.writeable
    snap = Snapshot(weights=shared)
    del shared, reference
    assert snap.weights["w"].sum() == np.arange(1 << 18, dtype=np.float32).sum()
    again = ray.get(ray.put(snap))
    assert again == snap


def test_paths_of_checkpoints_are_told_the_way() -> None:
    with pytest.raises(InvalidInputError, match=r"read_checkpoint\(path\)"):
        snapshot("/some/checkpoint")  # type: ignore[arg-type]


def test_live_objects_in_the_place_of_a_snapshot_are_told_the_line(
    algorithms: dict[str, Any],
) -> None:
    snap = snapshot(algorithms["old"], "p0")
    multi = algorithms["new"].learner_group._learner.module
    lines = {
        "policystore.rllib.snapshot(algo, 'main')": algorithms["new"],
        "policystore.rllib.snapshot(policy)": algorithms["old"].get_policy("p0"),
        "policystore.rllib.snapshot(module)": multi["p0"],
        "policystore.rllib.snapshot(module, 'main')": multi,
        "policystore.rllib.snapshot(player.policy)": rebuild_player(snap),
        "policystore.rllib.snapshot(player.module)": rebuild_player(
            snapshot(algorithms["new"], "p0")
        ),
        "give one, snaps['p0']": {"p0": snap},
        "snap.replace(weights=weights)": algorithms["old"].get_policy("p0").get_weights(),
        "ray.get(object_ref)": ray.put(snap),
        "store.pull('a/b@7')": "a/b@7",
    }
    calls: list[Callable[[Any], Any]] = [
        rebuild_player,
        rebuild_policy,
        rebuild_module,
        lambda found: load_into(algorithms["new"], {"p0": found}),
        lambda found: add_policy(algorithms["old"], "p7", found),
    ]
    for line, found in lines.items():
        for call in calls:
            with pytest.raises(InvalidInputError) as raised:
                call(found)
            assert "expected a Snapshot, found" in str(raised.value)
            assert line in str(raised.value)


def test_without_filters_agent_ids_choose_the_agents_of_the_spaces(
    algorithms: dict[str, Any],
) -> None:
    every = snapshot(algorithms["new"], "p0")
    one = snapshot(algorithms["new"], "p0", agent_ids=[1])
    assert every.spec.connectors["agents"] == [0, 1]
    assert one.spec.connectors["agents"] == [1]
    assert one.same_policy(every)
    assert one.spec.env_observation_space == every.spec.env_observation_space
    with pytest.raises(
        NotFoundError, match=r"no agents \[7\]; the Algorithm's agents are \[0, 1\]"
    ):
        snapshot(algorithms["new"], "p0", agent_ids=[7])
    with pytest.raises(InvalidInputError, match=r"empty: name at least one agent, of \[0, 1\]"):
        snapshot(algorithms["new"], "p0", agent_ids=[])


def test_agent_ids_where_nothing_belongs_to_agents_are_refused_with_the_reason(
    algorithms: dict[str, Any],
) -> None:
    module = algorithms["new"].learner_group._learner.module["p0"]
    for match, call in {
        "this Algorithm has a single agent": lambda: snapshot(
            algorithms["new-single"], agent_ids=[0]
        ),
        "on the old one, filters belong to policies": lambda: snapshot(
            algorithms["old"], "p0", agent_ids=[0]
        ),
        "filters belong to policies: leave": lambda: snapshot_all(
            algorithms["old"], agent_ids={"p0": [0]}
        ),
        "a policy or module alone has no filters": lambda: snapshot(module, agent_ids=[0]),
    }.items():
        with pytest.raises(InvalidInputError, match=f"{match}.*leave it out|{match}"):
            call()


WRONG: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a load without ids": lambda a: load_into(a["new"], snapshot(a["new"], "p0")),  # type: ignore[arg-type]
    "a torch module": lambda a: snapshot(torch.nn.Linear(2, 2)),  # type: ignore[arg-type]
    "a path": lambda a: snapshot("checkpoint"),  # type: ignore[arg-type]
    "an id of a bare policy": lambda a: snapshot(a["old"].get_policy("p0"), "p0"),
    "agents on the old stack": lambda a: snapshot(a["old"], "p0", agent_ids=[0]),
    "all of a policy": lambda a: snapshot_all(a["old"].get_policy("p0")),
    "agents of all on the old stack": lambda a: snapshot_all(a["old"], agent_ids={"p0": [0]}),
    "omit as a text": lambda a: snapshot(a["old"], "p0", omit="MeanStdFilter"),
    "omit as a text, new": lambda a: snapshot(a["new"], "p0", omit="MeanStdFilter"),
    "a player of no snapshot": lambda a: rebuild_player("x"),  # type: ignore[arg-type]
    "a policy of a ref": lambda a: rebuild_policy("a/b"),  # type: ignore[arg-type]
    "a module of a ref": lambda a: rebuild_module("a/b"),  # type: ignore[arg-type]
    "trust that is a class": lambda a: rebuild_module(snapshot(a["new"], "p0"), trust=MyPPO),
    "no trust": lambda a: rebuild_policy(snapshot(a["old"], "p0"), trust=None),  # type: ignore[arg-type]
    "an agent that is no list": lambda a: snapshot(a["new"], "p0", agent_ids=0),  # type: ignore[arg-type]
    "agents of all as a list": lambda a: snapshot_all(a["new"], agent_ids=[0]),  # type: ignore[arg-type]
    "a row that is none": lambda a: rebuild_player(snapshot(a["new"], "p0")).reset("x"),  # type: ignore[arg-type]
    "plain torch of a module": lambda a: policystore_torch.snapshot(a["new"].get_module("p0")),
    "a player of weights": lambda a: rebuild_player(Snapshot(weights={"w": np.ones(1)})),
    "a player of plain torch": lambda a: rebuild_player(
        policystore_torch.snapshot(torch.nn.Linear(2, 2))
    ),
    "a policy of the new stack": lambda a: rebuild_policy(snapshot(a["new"], "p0")),
    "a module of the old stack": lambda a: rebuild_module(snapshot(a["old"], "p0")),
    "an agent on the old stack": lambda a: rebuild_player(snapshot(a["old"], "p0"), agent=0),
    "a module id on the old stack": lambda a: rebuild_player(
        snapshot(a["old"], "p0"), module_id="p0"
    ),
}


def test_a_snapshot_of_one_module_is_not_loaded_for_all(algorithms: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match="is of one module: give it under that module's id"):
        load_into(algorithms["new"], {"__all_modules__": snapshot(algorithms["new"], "p0")})


@pytest.mark.parametrize("case", WRONG)
def test_wrong_sources_and_arguments(algorithms: dict[str, Any], case: str) -> None:
    with pytest.raises(InvalidInputError):
        WRONG[case](algorithms)
