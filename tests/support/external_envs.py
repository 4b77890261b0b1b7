"""Helpers for the tests of external environments: code of docs/external.md, a client of RLlink.

This file is a module of its own, because Ray's workers import it by name.
"""

from __future__ import annotations

import pickle
import re
import socket
import threading
from contextlib import suppress
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from ray.rllib.env.external.rllink import RLlink, get_rllink_message, send_rllink_message
from ray.rllib.env.external_multi_agent_env import ExternalMultiAgentEnv
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

import tests.support.new_stack_algorithms as parts
from tests.support import ROOT

PAGE = ROOT / "docs" / "external.md"
OBSERVATIONS = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
ACTIONS = gym.spaces.Discrete(5)
STEPS = 5

# The page's code ----------------------------------------------------------------------------------


def blocks() -> list[tuple[int, str]]:
    """Return line number and code of each Python block of docs/external.md."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.finditer(r"^```python rllib\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, match.start(1)), match[1]) for match in found]


def run_block(mark: str, names: dict[str, Any]) -> None:
    """Run the only block of docs/external.md that contains ``mark``."""
    ((line, code),) = [each for each in blocks() if mark in each[1]]
    exec(compile("\n" * line + code, str(PAGE), "exec"), names)


def page() -> dict[str, Any]:
    """Return the classes and functions of docs/external.md.

    Their module has no file, so Ray sends them by value."""
    names: dict[str, Any] = {"__name__": "page_on_external_environments"}
    for mark in ("class Plant", "def server_of", "def ask_for_weights", "def hand_over"):
        run_block(mark, names)
    return names


# Environments of the old stack --------------------------------------------------------------------


class _Over(Exception):
    """Raised in the thread of an environment to end this thread."""


class Ending:
    """A mixin to end the thread of an external environment, which else may wait for 300 s."""

    over = False

    def run(self) -> None:
        with suppress(_Over):
            super().run()  # type: ignore[misc]

    def get_action(self, *arguments: Any) -> Any:
        if self.over:
            raise _Over
        return super().get_action(*arguments)  # type: ignore[misc]

    def end(self) -> None:
        """Answer each action for which the thread waits, and wait until the thread has ended."""
        self.over = True
        for episode in list(self._episodes.values()):  # type: ignore[attr-defined]
            episode.action_queue.put(0)
        self.join(10)  # type: ignore[attr-defined]
        assert not self.is_alive()  # type: ignore[attr-defined]


class PairBase(ExternalMultiAgentEnv):
    """An environment of agents ``a`` and ``b`` that asks like Plant of docs/external.md."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(ACTIONS, OBSERVATIONS)
        self.asked: list[Any] = []

    def run(self) -> None:
        rng = np.random.default_rng(4)
        while True:
            episode = self.start_episode()
            for _ in range(STEPS):
                seen = {a: rng.uniform(-1, 1, 4).astype(np.float32) for a in ("a", "b")}
                self.asked.append((seen, self.get_action(episode, seen)))
                self.log_returns(episode, {"a": 1.0, "b": 1.0})
            self.end_episode(episode, seen)


def asked(worker: Any) -> Any:
    """Return the observations and actions of a worker's environment; None if there is none."""
    env = getattr(worker, "env", None)
    return None if env is None else list(env.asked)


def end_of(worker: Any) -> None:
    """End the thread of a local worker's environment, if there is one."""
    env = getattr(worker, "env", None)
    if env is not None and env.is_alive():
        env.end()


# A client of the new stack ------------------------------------------------------------------------


def two_ports() -> int:
    """Return a port number such that the next port is free."""
    with socket.socket() as first:
        first.bind(("127.0.0.1", 0))
        return int(first.getsockname()[1]) - 1


class Client(threading.Thread):
    """A client of RLlink that plays episodes of random observations, like RLlib's example.

    Attributes:
        held: for each answer with weights, their sequence number and fingerprint.
        sent: for each batch, the fingerprint of the weights at its beginning.
        played: for each episode, the fingerprint of its weights.
        let: a semaphore: how many batches the client may still play.
        each_episode: whether the client asks for weights before each episode.
    """

    def __init__(self, port: int, ask: Any) -> None:
        super().__init__(daemon=True)
        self.port, self._ask_for_weights = port, ask
        self.each_episode = False
        self.held: list[tuple[int, str]] = []
        self.sent: list[str] = []
        self.played: list[str] = []
        self.types: dict[str, Any] = {}
        self.let = threading.Semaphore(0)
        self.ready = threading.Event()
        self.failed: BaseException | None = None
        self._over = False
        self._rng = np.random.default_rng(1)

    def run(self) -> None:
        try:
            self._play()
        except ConnectionError as error:
            self.failed = error  # the runner has ended
        finally:
            if hasattr(self, "sock"):
                self.sock.close()

    def end(self) -> None:
        """End the client; call this after the Algorithm was stopped."""
        self._over = True
        self.let.release()
        self.join(10)
        assert not self.is_alive()

    def now(self) -> str:
        """Return the fingerprint of the weights that the client holds."""
        state = self.module.state_dict()
        return parts.print_of({name: value.numpy() for name, value in state.items()})

    def _connect(self) -> None:
        def connected() -> Any:
            try:
                return socket.create_connection(("127.0.0.1", self.port))
            except ConnectionRefusedError:
                return None

        self.sock = parts.until(connected, "a runner that listens", 30)

    def _call(self, kind: RLlink, **body: Any) -> Any:
        send_rllink_message(self.sock, {"type": kind.name, **body})
        return get_rllink_message(self.sock)

    def _play(self) -> None:
        self._connect()
        assert self._call(RLlink.PING)[0] == RLlink.PONG
        kind, body = self._call(RLlink.GET_CONFIG)
        assert kind == RLlink.SET_CONFIG
        assert isinstance(body["config"], bytes)
        config = pickle.loads(body["config"])
        self.module = config.get_rl_module_spec(inference_only=True).build()
        kind, body = self._call(RLlink.GET_STATE)
        assert kind == RLlink.SET_STATE
        self._take(body)
        self.ready.set()
        while self.let.acquire() and not self._over:
            before = self.now()
            episodes = [
                self._episode() for _ in range(config.get_rollout_fragment_length() // STEPS)
            ]
            self.sent.append(before)
            kind, body = self._call(
                RLlink.EPISODES_AND_GET_STATE,
                episodes=[episode.get_state() for episode in episodes],
                timesteps=STEPS * len(episodes),
            )
            assert kind == RLlink.SET_STATE
            self._take(body)

    def _take(self, body: Any) -> None:
        state = body["state"]
        self.types = {name: type(value) for name, value in state["rl_module"].items()}
        self.module.set_state(state["rl_module"])
        self.held.append((state["weights_seq_no"], self.now()))

    def _episode(self) -> SingleAgentEpisode:
        if self.each_episode:
            self._ask_for_weights(self.sock, self.module)
        self.played.append(self.now())
        episode = SingleAgentEpisode(observations=[self._seen()])
        for step in range(STEPS):
            seen = torch.from_numpy(episode.observations[-1][None])
            with torch.no_grad():
                logits = self.module.forward_exploration({"obs": seen})["action_dist_inputs"][0]
            chances = torch.softmax(logits, -1).double().numpy()
            action = int(self._rng.choice(len(chances), p=chances / chances.sum()))
            episode.add_env_step(
                action=action,
                reward=1.0,
                observation=self._seen(),
                terminated=step == STEPS - 1,
                extra_model_outputs={
                    "action_dist_inputs": logits.numpy(),
                    "action_logp": float(np.log(chances[action])),
                },
            )
        return episode

    def _seen(self) -> Any:
        return self._rng.uniform(-1, 1, 4).astype(np.float32)
