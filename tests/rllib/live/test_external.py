"""External environments: what docs/external.md says, with the page's own code."""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import msgpack
import numpy as np
import pytest
import requests
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.ppo.ppo_catalog import PPOCatalog
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.external import rllink
from ray.rllib.env.external_env import ExternalEnv
from ray.rllib.env.policy_client import PolicyClient

import tests.support.external_envs as external
import tests.support.new_stack_algorithms as parts
import tests.support.old_stack_algorithms as old
from policystore import InvalidInputError, PolicyStore, Snapshot
from policystore.rllib import (
    add_policy,
    check_sync,
    load_into,
    rebuild_player,
    rebuild_policy,
    snapshot,
    warm_start,
)
from tests.support.rl_modules import DefaultPPOTorchRLModule

pytestmark = pytest.mark.usefixtures("ray_session")

ONE = "default_policy"
REF = "plant/main"
RUNNERS = pytest.mark.parametrize("runners", [0, pytest.param(1, marks=pytest.mark.long)])


@pytest.fixture(autouse=True)
def msgpack_as_it_was() -> Iterator[None]:
    """RLlink patches msgpack for its process (``utils/checkpoints.py:1067``), and Ray's own
    serializer uses that: what it sent to actors afterwards would arrive there as something else.
    """
    before = dict(vars(msgpack))
    yield
    vars(msgpack).update(before)
    rllink.msgpack = None  # the next one patches it again


@pytest.fixture
def store(tmp_path: Path) -> PolicyStore:
    return PolicyStore(tmp_path / "policies")


@pytest.fixture
def names(store: PolicyStore) -> dict[str, Any]:
    """The page's classes and functions, and the store that its blocks pull from."""
    return {**external.page(), "store": store}


@pytest.fixture(scope="module")
def trained(ray_session: None) -> Snapshot:
    """A policy of the old stack that was made elsewhere: by an ordinary environment."""
    config = old.configured(multi=False, env_config={"action_space": external.ACTIONS})
    with old.built(config) as algo:
        return snapshot(algo)


def pushed(store: PolicyStore, snap: Snapshot, level: float) -> Snapshot:
    """The same with other weights, as the newest version."""
    store.push(parts.other(snap, level), REF)
    return store.pull(REF)


# Old stack: ExternalEnv ---------------------------------------------------------------------------


def small_old(config: Any, runners: int) -> Any:
    """So small, and with weights that do not move: actions tell whose they are."""
    config.env_runners(
        num_env_runners=runners,
        num_cpus_per_env_runner=0.1,
        rollout_fragment_length=10,
        explore=False,
    )
    config.training(
        train_batch_size=20,
        minibatch_size=10,
        num_epochs=1,
        lr=0.0,
        model={"fcnet_hiddens": [8]},
    )
    return config.debugging(log_level="ERROR", seed=1)


@contextmanager
def ending(algo: Any) -> Iterator[Any]:
    """Stops an Algorithm and the threads of its local environment."""
    try:
        yield algo
    finally:
        algo.stop()
        external.end_of(algo.env_runner)


def questions(algo: Any) -> list[Any]:
    """What the environments of all workers that sample have asked so far, worker by worker."""
    found = old.ask(algo, external.asked)
    (asked,) = [each for each in found.values() if each]
    return asked


def answered_by(snap: Snapshot, asked: list[Any]) -> int:
    """How many of these questions this policy would have answered like that."""
    player = rebuild_player(snap)
    return sum(player.act(seen) == action for seen, action in asked)


@RUNNERS
def test_an_external_env_gets_the_actions_of_the_loaded_snapshot(
    runners: int, names: dict[str, Any], store: PolicyStore, trained: Snapshot
) -> None:
    names["Plant"] = type("Plant", (external.Ending, names["Plant"]), {})
    first = pushed(store, trained, 3.0)
    external.run_block("environment(Plant)", names)
    small_old(names["config"], runners)
    external.run_block("check_sync(algo)", names)  # builds, loads, checks
    with ending(names["algo"]) as algo:
        algo.train()
        asked = questions(algo)
        assert len(asked) >= 20
        assert answered_by(first, asked) == len(asked)

        second = pushed(store, trained, -4.0)
        report = load_into(algo, {ONE: second})
        assert report.ok
        assert len(list(report)) == 1 + runners
        for _ in range(2):
            algo.train()
            new = questions(algo)[len(asked) :]
            assert len(new) >= 10
            assert answered_by(second, new) == len(new)
            assert answered_by(first, new) < len(new) / 2
            assert check_sync(algo).ok
            asked += new


def test_a_multi_agent_external_env_gets_one_of_its_policies(
    names: dict[str, Any], store: PolicyStore, trained: Snapshot
) -> None:
    served = names["Served"]

    class Pair(external.Ending, external.PairBase):
        def to_base_env(self, *args: Any, **kwargs: Any) -> Any:
            return served(super().to_base_env(*args, **kwargs))

    config = small_old(old.configured(), 0).environment(Pair)
    config.env_runners(batch_mode="complete_episodes")
    snap = pushed(store, trained, 3.0)
    with ending(config.build_algo()) as algo:
        algo.train()
        before = len(questions(algo))
        mine = snapshot(algo, "main")
        assert load_into(algo, {"foe": snap}).ok
        algo.train()
        asked = questions(algo)[before:]
        of = {who: [(seen[who], action[who]) for seen, action in asked] for who in ("a", "b")}
        assert len(asked) >= 20
        assert answered_by(snap, of["b"]) == len(asked)
        assert answered_by(mine, of["a"]) == len(asked)
        assert check_sync(algo).ok


@RUNNERS
def test_rllib_refuses_its_own_adapter(runners: int, names: dict[str, Any]) -> None:
    class Bare(names["Plant"]):  # type: ignore[misc, name-defined]
        to_base_env = ExternalEnv.to_base_env

        def run(self) -> None:
            """Nobody would answer: it would fail after 300 s, in another test."""

    names["Plant"] = Bare
    external.run_block("environment(Plant)", names)
    error, message = (
        (ValueError, "do not support ExternalEnv"),
        # The driver asks the remote worker for spaces, which has died of the same error.
        (IndexError, "list index out of range"),
    )[runners]
    with pytest.raises(error, match=message):
        small_old(names["config"], runners).build_algo()


# Old stack: PolicyClient --------------------------------------------------------------------------


def test_nothing_in_rllib_serves_a_policy_client() -> None:
    with pytest.raises(ModuleNotFoundError, match="policy_server_input"):
        importlib.import_module("ray.rllib.env.policy_server_input")
    nobody = f"http://127.0.0.1:{external.two_ports() + 1}"
    with pytest.raises(requests.ConnectionError):
        PolicyClient(nobody, inference_mode="local")
    client = PolicyClient(nobody, inference_mode="remote")
    with pytest.raises(requests.ConnectionError):
        client.start_episode()


@contextmanager
def serving(server: Any) -> Iterator[str]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def play(client: PolicyClient) -> list[Any]:
    """What a client was told in two episodes."""
    rng = np.random.default_rng(6)
    asked = []
    for _ in range(2):
        episode = client.start_episode()
        for _ in range(10):
            seen = rng.uniform(-1, 1, 4).astype(np.float32)
            asked.append((seen, client.get_action(episode, seen)))
            client.log_returns(episode, 1.0)
        client.end_episode(episode, seen)
    return asked


def test_one_policy_in_a_policy_client_by_a_server_of_ones_own(
    names: dict[str, Any],
    store: PolicyStore,
    trained: Snapshot,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Still(names["Plant"]):  # type: ignore[misc, name-defined]
        def run(self) -> None:
            self.over = threading.Event()
            self.over.wait()

    external.run_block("environment(Plant)", names)
    config = small_old(names["config"], 0)
    snap = pushed(store, trained, 3.0)
    with serving(names["server_of"](snap, config, Still)) as url:
        asked = play(PolicyClient(url, inference_mode="remote"))
        assert answered_by(snap, asked) == len(asked) == 20

        client = PolicyClient(url, inference_mode="local")
        try:
            asked = play(client)
            assert answered_by(snap, asked) == len(asked) == 20
        finally:
            # It ends when its environment's thread has; RLlib's message about that is malformed.
            monkeypatch.setattr(logging.getLogger("ray.rllib.env.policy_client"), "disabled", True)
            client.env.over.set()
            client.env.join(10)
            with client.env._results_avail_condition:
                client.env._results_avail_condition.notify_all()
            client.inference_thread.join(60)
        assert not client.inference_thread.is_alive()
    # An ordinary environment is wrapped by RLlib, and then refused by it.
    plain = names["server_of"](snap, config, parts.Solo)
    with (
        serving(plain) as url,
        pytest.raises(ValueError, match="do not support ExternalEnv"),
    ):
        PolicyClient(url, inference_mode="local")


def test_a_player_needs_no_server(
    names: dict[str, Any], store: PolicyStore, trained: Snapshot
) -> None:
    policy = rebuild_policy(pushed(store, trained, 3.0))
    rng = np.random.default_rng(6)
    for seen in rng.uniform(-1, 1, (10, 4)).astype(np.float32):
        names["observation"] = seen
        external.run_block("action = player.act(observation)", names)
        assert names["action"] == policy.compute_single_action(seen, explore=False)[0]


# New stack: RLlink --------------------------------------------------------------------------------


@contextmanager
def linked(names: dict[str, Any], callbacks: Any = None) -> Iterator[tuple[Any, external.Client]]:
    """An Algorithm served over RLlink, and a client that has its first weights."""
    names["port"] = external.two_ports()
    names |= {
        "PPOConfig": lambda: small_new(callbacks),
        "gym": gym,
        "np": np,
        "load_into": load_into,
    }
    external.run_block("create_local_env_runner=False", names)
    algo = names["algo"]
    played = external.Client(names["port"] + 1, names["ask_for_weights"])
    try:
        played.start()
        assert played.ready.wait(30), played.failed
        yield algo, played
    finally:
        algo.stop()
        played.end()


def small_new(callbacks: Any) -> Any:
    """PPOConfig(), with little to do."""
    config = PPOConfig()
    if callbacks is not None:
        config.callbacks(callbacks)
    return (
        config.training(train_batch_size_per_learner=20, minibatch_size=20, num_epochs=1)
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[8]))
        .learners(num_learners=0)
        .reporting(min_sample_timesteps_per_iteration=0, min_time_s_per_iteration=0)
        .debugging(log_level="ERROR", seed=1)
    )


def print_of(snap: Snapshot) -> str:
    """The fingerprint of what acting needs."""
    return parts.print_of({name: snap.weights[name] for name in parts.acting(snap)})


def train(algo: Any, client: Any) -> None:
    """One iteration with one batch of the client's, and its answer."""
    answers = len(client.held)
    client.let.release()
    algo.train()
    parts.until(lambda: len(client.held) > answers, "weights for the client", 30)
    # train() leaves calls behind that would answer the next batch before it was learned from.
    algo.env_runner_group.foreach_env_runner(lambda runner: None)


@pytest.mark.long
def test_what_reaches_a_client_of_rllink(names: dict[str, Any], store: PolicyStore) -> None:
    with linked(names) as (algo, client):
        train(algo, client)
        train(algo, client)
        assert client.held[-1] == (2, print_of(snapshot(algo)))
        snap = pushed(store, snapshot(algo), 5.0)
        assert client.types.keys() == parts.acting(snap)
        assert set(client.types.values()) == {np.ndarray}

        # The runner holds the loaded weights, and the client its old ones.
        report = load_into(algo, {ONE: snap})
        assert report.ok
        assert {(row.worker, row.digest) for row in report} == {
            ("learner local", snap.acting_digest),
            ("train 1", snap.acting_digest),
        }
        assert client.now() != print_of(snap)
        train(algo, client)
        assert client.sent[-1] == client.held[-2][1] != print_of(snap)
        assert client.held[-1] == (3, print_of(snapshot(algo)))
        assert check_sync(algo).ok
        # What was learned from the snapshot on, whole levels away from what there was.
        assert abs(parts.level_of(snapshot(algo).weights) - 5.0) < 1.0


@pytest.mark.long
def test_warm_start_handing_over_and_asking(names: dict[str, Any], store: PolicyStore) -> None:
    module = RLModuleSpec(
        module_class=DefaultPPOTorchRLModule,
        catalog_class=PPOCatalog,
        observation_space=external.OBSERVATIONS,
        action_space=external.ACTIONS,
        model_config=DefaultModelConfig(fcnet_hiddens=[8]),
    ).build()
    snap = pushed(store, snapshot(module), 2.0)
    with linked(names, warm_start(store, {ONE: REF})) as (algo, client):
        assert client.held == [(0, print_of(snap))]
        train(algo, client)
        hand_over, group = names["hand_over"], algo.env_runner_group
        # Nobody waits: nothing happens.
        assert group.foreach_env_runner(lambda runner: hand_over(runner, 0.1)) == [False]

        # A batch is under way when the page's lines run: the client gets the snapshot all the same.
        snap = pushed(store, snapshot(algo), 5.0)
        client.let.release()
        external.run_block("foreach_env_runner(hand_over)", names)
        parts.until(lambda: client.now() == print_of(snap), "the snapshot at the client", 10)
        assert client.held[-1] == (1, print_of(snap))
        assert client.sent[-1] != print_of(snap)
        dropped = group.foreach_env_runner(lambda runner: runner._episode_chunks_to_return is None)
        assert dropped == [True]
        train(algo, client)
        assert client.sent[-1] == print_of(snap)
        assert client.held[-1] == (2, print_of(snapshot(algo)))
        assert check_sync(algo).ok

        # A client that asks for weights before each episode.
        snap = pushed(store, snapshot(algo), -5.0)
        assert load_into(algo, {ONE: snap}).ok
        assert client.now() != print_of(snap)
        client.each_episode = True
        train(algo, client)
        assert client.played[-4:] == [print_of(snap)] * 4
        assert check_sync(algo).ok

        # Any set_state answers a client that waits, though nothing was learned.
        answers = len(client.held)
        client.let.release()
        waits = [True]
        parts.until(
            lambda: group.foreach_env_runner(lambda runner: runner._blocked_on_state) == waits,
            "episodes",
            10,
        )
        group.foreach_env_runner(lambda runner: runner.set_state({}))
        parts.until(lambda: len(client.held) > answers, "an answer", 10)
        assert client.held[-1] == client.held[-2]

        with pytest.raises(InvalidInputError, match="single agent"):
            add_policy(algo, "other", snap)
