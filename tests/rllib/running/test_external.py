"""External environments: clients of an env runner that is served over RLlink, and what is gone."""

from __future__ import annotations

import importlib.util
import pickle
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from old_running_parts import configured as old_configured
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.env.external.env_runner_server_for_external_inference import (
    EnvRunnerServerForExternalInference,
)
from ray.rllib.env.external.rllink import RLlink, get_rllink_message, send_rllink_message
from ray.rllib.env.external_env import ExternalEnv
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from running_parts import acting, other

from policystore import PolicyStore, Snapshot
from policystore.rllib import check_sync, load_into, rebuild_policy, snapshot, warm_start

OBSERVATIONS = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
ACTIONS = gym.spaces.Discrete(2)
STEPS = 20


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Client:
    """What plays outside: it asks for weights, and sends episodes of its own."""

    def __init__(self, port: int) -> None:
        end = time.monotonic() + 60
        while True:
            try:
                self._socket = socket.create_connection(("localhost", port), timeout=60)
                break
            except ConnectionRefusedError:
                assert time.monotonic() < end
                time.sleep(0.1)
        self._send(RLlink.PING)
        assert self._receive()[0] == RLlink.PONG
        self._send(RLlink.GET_CONFIG)
        config = pickle.loads(self._receive()[1]["config"])
        self.module = config.get_rl_module_spec().build()

    def _send(self, kind: RLlink, **body: Any) -> None:
        send_rllink_message(self._socket, {"type": kind.name, **body})

    def _receive(self) -> Any:
        return get_rllink_message(self._socket)

    def weights(self) -> dict[str, Any]:
        """Of a ``SET_STATE``, and what its own module then holds."""
        kind, body = self._receive()
        assert kind == RLlink.SET_STATE
        given: dict[str, Any] = body["state"]["rl_module"]
        self.module.set_state(given)
        return given

    def ask(self) -> dict[str, Any]:
        self._send(RLlink.GET_STATE)
        return self.weights()

    def send_episode(self) -> None:
        rng = np.random.default_rng(1)
        episode = SingleAgentEpisode(observations=[OBSERVATIONS.sample()])
        for step in range(STEPS):
            episode.add_env_step(
                action=0,
                reward=1.0,
                observation=rng.uniform(-1, 1, 4).astype(np.float32),
                terminated=step == STEPS - 1,
                truncated=False,
                extra_model_outputs={
                    "action_dist_inputs": np.zeros(2, np.float32),
                    "action_logp": np.log(0.5),
                },
            )
        self._send(RLlink.EPISODES_AND_GET_STATE, episodes=[episode.get_state()], timesteps=STEPS)

    def close(self) -> None:
        self._socket.close()


@contextmanager
def served(callbacks: Any = None) -> Iterator[tuple[Any, Client]]:
    base = free_port()
    config = (
        PPOConfig()
        .environment(
            observation_space=OBSERVATIONS, action_space=ACTIONS, env_config={"port": base}
        )
        .env_runners(
            env_runner_cls=EnvRunnerServerForExternalInference,
            num_env_runners=1,
            num_cpus_per_env_runner=0.1,
            create_local_env_runner=False,
        )
        .training(train_batch_size_per_learner=STEPS, minibatch_size=10, num_epochs=1)
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[8]))
        .reporting(min_sample_timesteps_per_iteration=0, min_time_s_per_iteration=0)
        .debugging(log_level="ERROR", seed=1)
    )
    if callbacks is not None:
        config.callbacks(callbacks)
    algo = config.build_algo()
    try:
        client = Client(base + 1)
        try:
            yield algo, client
        finally:
            client.close()
    finally:
        algo.stop()


def assert_gets(given: dict[str, Any], snap: Snapshot) -> None:
    assert given.keys() >= acting(snap)
    for name in given:
        np.testing.assert_array_equal(given[name], snap.weights[name])


def test_a_client_gets_what_was_warm_started_and_loaded(ray_session: None, tmp_path: Path) -> None:
    store = PolicyStore(tmp_path)
    with served() as (algo, client):
        client.ask()
        client.send_episode()
        algo.train()
        client.weights()
        made = snapshot(algo)
        for level in (4.0, 7.0):
            store.push(other(made, level), "external/main")
        loaded = store.pull("external/main@2")
        report = load_into(algo, {"default_policy": loaded})
        assert report.ok
        assert {row.worker for row in report} == {"learner local", "train 1"}
        assert_gets(client.ask(), loaded)
        client.send_episode()
        algo.train()
        learned = client.weights()
        assert check_sync(algo).ok
        assert_gets(learned, snapshot(algo))
        # Close to what was loaded: it is that which was trained.
        assert all(np.abs(learned[name] - loaded.weights[name]).max() < 0.1 for name in learned)
    begin = warm_start(store, {"default_policy": "external/main@1"})
    with served(begin) as (algo, client):
        assert_gets(client.ask(), store.pull("external/main@1"))


class Outside(ExternalEnv):
    """Asks for one action after the other."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(ACTIONS, OBSERVATIONS)

    def run(self) -> None:
        episode = self.start_episode()
        while True:
            self.get_action(episode, OBSERVATIONS.sample())


def test_the_old_stack_has_no_external_environments_any_more(ray_session: None) -> None:
    """What ``docs/external.md`` says of it, until a Ray has them again."""
    config = old_configured(multi=False).environment(
        Outside, observation_space=OBSERVATIONS, action_space=ACTIONS, disable_env_checking=True
    )
    with pytest.raises(ValueError, match="do not support ExternalEnv"):
        config.build_algo()
    assert importlib.util.find_spec("ray.rllib.env.policy_client")
    assert not importlib.util.find_spec("ray.rllib.env.policy_server_input")


def test_a_simulation_without_rllib_asks_a_player(ray_session: None, tmp_path: Path) -> None:
    """What to do there instead."""
    from policystore.rllib import rebuild_player

    algo = old_configured(multi=False).build_algo()
    try:
        snap = other(snapshot(algo), 1.0)
    finally:
        algo.stop()
    player, policy = rebuild_player(snap), rebuild_policy(snap)
    rng = np.random.default_rng(2)
    for _ in range(20):
        observation = rng.uniform(-1, 1, 4).astype(np.float32)
        assert (
            player.act(observation) == policy.compute_single_action(observation, explore=False)[0]
        )
