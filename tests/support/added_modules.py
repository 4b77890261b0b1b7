"""Test modules that are added to and removed from a running Algorithm, new API stack.

This file has Algorithms, functions that run on workers, and checks. It is a module of its own,
because Ray's workers import it by name.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import ray
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.connectors.env_to_module import MeanStdFilter

import tests.support.envs as envs
import tests.support.new_stack_algorithms as parts
from policystore import Snapshot
from policystore.rllib import check_sync, snapshot
from tests.support.rl_modules import DefaultPPOTorchRLModule

NEW = "newcomer"
SMALL = gym.spaces.Box(-2.0, 2.0, (3,), np.float32)
LSTM = {"fcnet_hiddens": [6], "use_lstm": True, "lstm_cell_size": 4, "max_seq_len": 5}
# Steps of an episode. Runners sample a number of steps that is not a multiple of STEPS, so they
# stop in the middle of episodes.
STEPS = 7


class Trio(envs.Duo):
    """``Duo`` with a third agent ``c``, which has other spaces."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.possible_agents = self.agents = ["a", "b", "c"]
        self.observation_spaces = {**self.observation_spaces, "c": SMALL}
        self.action_spaces = {**self.action_spaces, "c": gym.spaces.Discrete(3)}

    def _observe(self) -> dict[Any, Any]:
        small = self._rng.uniform(-2, 2, 3).astype(np.float32)
        return {**super()._observe(), "c": small}

    def step(self, actions: dict[Any, Any]) -> Any:
        observed, rewards, _, truncated, info = super().step(actions)
        return observed, rewards, {"__all__": self._steps >= STEPS}, truncated, info


class OfTheUser(DefaultPPOTorchRLModule):
    """A class outside of RLlib."""


class Watcher(parts.Recorder):
    """A ``Recorder`` that also records which module acted for which agent."""

    def on_episode_step(self, *, env_runner: Any, **kwargs: Any) -> None:
        super().on_episode_step(env_runner=env_runner, **kwargs)
        episode = kwargs["episode"]
        acted = env_runner.__dict__.setdefault("acted", set())
        acted |= {(agent, episode.module_for(agent)) for agent in episode.agent_ids}


def forget(worker: Any) -> None:
    parts.forget(worker)
    worker.__dict__.pop("acted", None)


# Algorithms and snapshots ------------------------------------------------------------------------


def by(a: str = "main", b: str = "foe", c: str = "tiny") -> Callable[..., str]:
    """Return a policy mapping function with the given module for each agent."""
    table = {"a": a, "b": b, "c": c}
    return lambda agent, *_, **__: table[agent]


def configured(
    kind: Any = PPOConfig, *, local: bool = True, filters: bool = False, **cell: Any
) -> Any:
    """Return a config that trains ``main``, but not ``foe`` and ``tiny`` (for agent ``c``)."""
    config = (
        parts.configured(kind, **cell)
        .environment(Trio)
        .callbacks(Watcher)
        .env_runners(**({} if local else {"create_local_env_runner": False}))
        .multi_agent(
            policies={"main", "foe", "tiny"},
            policy_mapping_fn=by(),
            policies_to_train=["main"],
        )
    )
    if filters:
        config.env_runners(env_to_module_connector=lambda *_, **__: MeanStdFilter(multi_agent=True))
    return config


def pretrained(
    algo: Any, level: float, *, agent: str = "c", model: Any = None, cls: Any = None
) -> Snapshot:
    """Return a snapshot of a module with another network, as if from another run.

    The module has the spaces of ``agent``, and all weights that a learner of this Algorithm class
    holds, including target networks.
    """
    spec = algo.config.get_default_rl_module_spec()
    given = model or {"fcnet_hiddens": [16, 4], "head_fcnet_hiddens": [5]}
    spec.model_config = {**algo.config._model_config_auto_includes, **given}
    environment = Trio()
    spec.observation_space = environment.observation_spaces[agent]
    spec.action_space = environment.action_spaces[agent]
    spec.inference_only = False
    spec.module_class = cls or spec.module_class
    module = spec.build()
    if hasattr(module, "make_target_networks"):
        module.make_target_networks()
    return parts.other(snapshot(module), level)


def without(snap: Snapshot, *names: str) -> Snapshot:
    weights = {n: each for n, each in snap.weights.items() if not n.startswith(names)}
    return Snapshot(weights=weights, spec=snap.spec)


# State of workers ---------------------------------------------------------------------------------


def state(worker: Any) -> dict[str, Any]:
    """Return all that a worker holds for each module."""
    config = worker.config
    to_train = config.policies_to_train
    if callable(to_train):
        to_train = [mid for mid in ("foe", "main", NEW, "tiny") if to_train(mid, None)]
    found: dict[str, Any] = {
        "weights": {
            mid: parts.print_of(each) for mid, each in parts.arrays_of(worker.module).items()
        },
        "seq": worker._weights_seq_no,
        "specs": sorted(worker.module.unwrapped().rl_module_specs),
        "to_train": None if to_train is None else sorted(to_train),
        "mapping": [config.policy_mapping_fn(agent, None) for agent in "abc"],
        "policies": sorted(config.policies),
        "config's modules": sorted(getattr(config.rl_module_spec, "rl_module_specs", None) or ()),
    }
    if hasattr(worker, "_module_optimizers"):
        found["optimizers"] = {
            name: moments(optimizer) for name, optimizer in worker._named_optimizers.items()
        }
        found["of modules"] = {mid: list(n) for mid, n in worker._module_optimizers.items() if n}
        found["tables"] = {
            name: sorted(table) if all(isinstance(key, str) for key in table) else len(table)
            for name, table in vars(worker).items()
            if isinstance(table, dict) and name != "_learner_state"
        }
        found["spec"] = sorted(worker._module_spec.rl_module_specs)
    elif any(hasattr(each, "_filters") for each in worker._env_to_module.connectors):
        found["filters"] = {
            agent: (count, mean.tobytes()) for agent, (count, mean) in parts.counts(worker).items()
        }
    return found


def moments(optimizer: Any) -> list[Any]:
    return [
        {key: (value.tolist() if hasattr(value, "tolist") else value) for key, value in s.items()}
        for s in optimizer.state_dict()["state"].values()
    ]


def everything(algo: Any) -> dict[str, Any]:
    """Return what all workers and the driver hold for each module."""
    found: dict[str, Any] = parts.ask(algo, state)
    for name, config in (("driver", algo.config), ("group", algo.learner_group.config)):
        to_train = config.policies_to_train
        found[name] = {
            "policies": sorted(config.policies),
            # The user's spec may be of a single module, until a module is added.
            "modules": sorted(getattr(config.rl_module_spec, "rl_module_specs", None) or ()),
            "to_train": to_train if callable(to_train) else sorted(to_train or ()),
            "mapping": config.policy_mapping_fn,
            "frozen": config._is_frozen,
        }
    buffer = getattr(algo, "local_replay_buffer", None)
    found["replay"] = {
        name: {mid: len(each) for mid, each in table.items() if hasattr(each, "__len__")}
        for name, table in (vars(buffer) if buffer is not None else {}).items()
        if name.startswith("_module_to_") and isinstance(table, dict)
    }
    return found


def differing(was: Any, now: Any, path: str = "") -> list[str]:
    """Return the differences of two results of :func:`everything`, one text for each."""
    if not (isinstance(was, dict) and isinstance(now, dict)):
        return [] if was == now else [f"{path}: {was!r} became {now!r}"]
    found = []
    for key in sorted(was.keys() | now.keys(), key=str):
        found += differing(was.get(key, "nothing"), now.get(key, "nothing"), f"{path}/{key}")
    return found


def less_what_moves(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``found`` without all that running updates and samples may still change."""
    kept = {name: dict(each) for name, each in found.items()}
    for each in kept.values():
        for key in ("seq", "filters"):
            each.pop(key, None)
        if "weights" in each:
            each["weights"] = {
                mid: None if mid in ("main", NEW) else seen for mid, seen in each["weights"].items()
            }
        if "optimizers" in each:
            each["optimizers"] = sorted(each["optimizers"])
    return kept


def frozen(algo: Any) -> dict[str, Any]:
    """Return what each worker holds of the untrained modules, without target networks."""
    return {
        name: {
            mid: parts.print_of({n: each for n, each in arrays.items() if not is_target(n)})
            for mid, arrays in found["arrays"].items()
            if mid in ("foe", "tiny")
        }
        for name, found in parts.ask(algo, parts.read).items()
    }


def traces(worker: Any, mid: str) -> list[str]:
    """Return the places in which a worker still has a module."""
    found = [f"module {each}" for each in worker.module.unwrapped().keys() if each == mid]  # noqa: SIM118
    found += [f"spec {e}" for e in worker.module.unwrapped().rl_module_specs if e == mid]
    to_train = worker.config.policies_to_train
    if to_train is not None and not callable(to_train) and mid in to_train:
        found.append("policies_to_train")
    if not hasattr(worker, "_module_optimizers"):
        return found
    tables = {**vars(worker), "overrides": worker.config.algorithm_config_overrides_per_module}
    tables |= {"policies": worker.config.policies}
    tables |= {"cached": getattr(worker.config, "_per_module_overrides", {})}
    tables |= {"spec": worker._module_spec.rl_module_specs}
    for name, table in tables.items():
        if isinstance(table, dict):
            found += [f"{name}: {key}" for key in table if str(key).startswith(mid)]
    used = {id(p) for each in worker._named_optimizers.values() for p in parameters(each)}
    held = {id(p) for p in worker._params.values()}
    if used != held:
        found.append("parameters without an optimizer, or the reverse")
    return found


def parameters(optimizer: Any) -> list[Any]:
    return [each for group in optimizer.param_groups for each in group["params"]]


def is_target(name: str) -> bool:
    """Return whether a weight belongs to a target network of APPO, SAC or DQN."""
    return name.startswith("_old_") or "target" in name


def inference_only(worker: Any) -> dict[str, bool]:
    multi = worker.module.unwrapped()
    return {mid: bool(multi[mid].unwrapped().inference_only) for mid in multi.keys()}  # noqa: SIM118


def trainer_of(learner: Any, mid: str) -> dict[str, Any]:
    """Return whether the optimizers of a module have exactly its parameters, and their steps."""
    optimizers = [learner._named_optimizers[name] for name in learner._module_optimizers[mid]]
    taken = [each for optimizer in optimizers for each in parameters(optimizer)]
    alpha = getattr(learner, "curr_log_alpha", {}).get(mid)
    wanted = [] if alpha is None else [alpha]
    for name, parameter in learner.module[mid].unwrapped().named_parameters():
        if not is_target(name):
            wanted.append(parameter)
    states = [each for optimizer in optimizers for each in optimizer.state.values()]
    return {
        "all its own": {id(each) for each in wanted} == {id(each) for each in taken},
        "steps": max((int(each["step"]) for each in states), default=0),
        "alpha": None if alpha is None else alpha.item(),
    }


# Faults ------------------------------------------------------------------------------------------


def plant(worker: Any, where: str, method: str, *, after: bool = False) -> None:
    """Make a method of a worker or of its module fail, at its start or (``after``) at its end."""
    part = part_of(worker, where)
    real = getattr(part, method)

    def fails(*args: Any, **kwargs: Any) -> None:
        if after:
            real(*args, **kwargs)
        raise RuntimeError("planted")

    # setattr is not used: torch modules and RLlib's wrappers would store the function elsewhere.
    part.__dict__[method] = fails


def heal(worker: Any, where: str, method: str) -> None:
    part_of(worker, where).__dict__.pop(method)


def part_of(worker: Any, where: str) -> Any:
    return worker if where == "worker" else worker.module


def smuggle(worker: Any, mid: str) -> None:
    """Add a module to this worker only."""
    worker.module.add_module(mid, copy.deepcopy(worker.module["foe"].unwrapped()))


def on(algo: Any, name: str, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Run a function on one worker and return its result."""
    worker = parts.workers(algo)[name]
    if isinstance(worker, ray.actor.ActorHandle):
        return ray.get(worker.apply.remote(function, *arguments, **named), timeout=60)
    return function(worker, *arguments, **named)


@contextmanager
def planted(
    algo: Any, name: str, where: str, method: str, *, after: bool = False
) -> Iterator[None]:
    on(algo, name, plant, where, method, after=after)
    try:
        yield
    finally:
        on(algo, name, heal, where, method)


# The oracle --------------------------------------------------------------------------------------


def assert_joined(algo: Any, mid: str, snap: Snapshot) -> None:
    """Check that each worker has the module with exactly these weights.

    Learners hold all weights; other workers hold the weights that acting needs."""
    parts.assert_held(algo, {mid: snap})
    only = parts.ask(algo, inference_only)
    # RLlib's LSTM modules are never inference-only.
    recurrent = (snap.spec.config.get("model_config") or {}).get("use_lstm")
    for name, found in parts.ask(algo, parts.read).items():
        held = set(found["arrays"][mid])
        if name.startswith("learner") or recurrent:
            assert held == set(snap.weights), name
            assert not only[name][mid]
        else:
            assert held == parts.acting(snap), name
            assert only[name][mid]


def assert_gone(algo: Any, mid: str) -> None:
    found = {name: each for name, each in parts.ask(algo, traces, mid).items() if each}
    assert not found
    for config in (algo.config, algo.learner_group.config):
        assert mid not in config.policies
        assert mid not in config.rl_module_spec.rl_module_specs
        assert mid not in config.algorithm_config_overrides_per_module
        assert mid not in getattr(config, "_per_module_overrides", {})
        if isinstance(config.policies_to_train, list):
            assert mid not in config.policies_to_train
    assert not [t for t, table in everything(algo)["replay"].items() if mid in table]


def acting_now(algo: Any, group: str = "train") -> set[tuple[str, str]]:
    """Return pairs of agent and module that acted since ``forget``, in all samples of a group."""
    found = parts.ask(algo, lambda worker: set(worker.__dict__.get("acted", ())))
    return set().union(*(each for name, each in found.items() if name.startswith(group)))


def goes_on(algo: Any, mids: Collection[str] = ("main",), updates: int = 4) -> None:
    """Call train() four times, then until ``updates`` updates have changed all these modules."""
    seq = parts.learner_seq(algo)
    before = {mid: at_rest(algo, mid) for mid in mids}
    for _ in range(4):
        algo.train()

    def moved() -> bool:
        algo.train()
        return parts.learner_seq(algo) >= seq + updates and all(
            any((array != was[name]).any() for name, array in at_rest(algo, mid).items())
            for mid, was in before.items()
        )

    parts.until(moved, f"{updates} more updates that change {list(mids)}")


def at_rest(algo: Any, mid: str) -> dict[str, Any]:
    """Return the weights of a module on the first learner.

    Other workers get these weights only when updates have ended."""
    found = parts.ask(algo, parts.read)
    return dict(next(each["arrays"][mid] for n, each in found.items() if n.startswith("learner")))


def refused(algo: Any, call: Any, error: type[Exception], words: str) -> None:
    before, report = everything(algo), check_sync(algo)
    with pytest.raises(error, match=words):
        call()
    assert not differing(before, everything(algo))
    assert check_sync(algo).rows == report.rows
