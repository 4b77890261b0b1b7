"""What the servers of serve_http.py and serve_ray.py, and their load scripts, have in common."""

from __future__ import annotations

import math
import reprlib
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module import DefaultPPOTorchRLModule
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from policystore import InvalidInputError, PolicyStore, Snapshot
from policystore.rllib import rebuild_player, snapshot
from policystore.rllib.common.player import Player

OBSERVATIONS = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
ACTIONS = gym.spaces.Discrete(1000)  # so many that two policies agree by chance rarely
NAME, TAG = "demo/main", "champion"


def decode(space: gym.Space[Any], value: Any, label: str = "observation") -> Any:
    """Turn JSON into an observation of a space; the player checks the values of integers.

    Args:
        space: the space of the observation.
        value: what JSON holds.
        label: how messages name the value.

    Raises:
        InvalidInputError: the value has another structure or shape than the space, or holds what is
            no number, such as null or NaN.
    """
    shown = reprlib.repr(value)
    if isinstance(space, gym.spaces.Dict):
        if not isinstance(value, dict) or set(value) != set(space.spaces):
            keys = sorted(space.spaces)
            raise InvalidInputError(
                f"{label}: expected an object with the keys {keys}, found {shown}"
            )
        return {
            key: decode(inner, value[key], f"{label}[{key!r}]")
            for key, inner in space.spaces.items()
        }
    if isinstance(space, gym.spaces.Tuple):
        count = len(space.spaces)
        if not isinstance(value, list) or len(value) != count:
            raise InvalidInputError(f"{label}: expected a list of {count} parts, found {shown}")
        return tuple(
            decode(inner, part, f"{label}[{index}]")
            for index, (inner, part) in enumerate(zip(space.spaces, value, strict=True))
        )
    if isinstance(space, gym.spaces.Text) or space.dtype is None:
        return value
    dtype = np.dtype(space.dtype)
    expected = f"{label}: expected numbers of the type {dtype} and the shape {space.shape}"
    try:
        array = np.asarray(value, dtype)
    except (ValueError, TypeError, OverflowError) as error:  # such as 256 for a byte
        reason = str(error)
    else:
        kinds = "biuf" if dtype.kind == "f" else "biu"
        is_right = np.asarray(value).dtype.kind in kinds and not np.isnan(array).any()
        if is_right and array.shape == space.shape:
            return array
        reason = f"found the shape {array.shape}"
    wrong = [part for part in _leaves(value) if not _is_number(part, dtype)]
    raise InvalidInputError(
        f"{expected}, " + (f"found {reprlib.repr(wrong[0])}" if wrong else reason)
    )


def _leaves(value: Any) -> Iterator[Any]:
    """Yield what stands in nested lists."""
    if isinstance(value, list):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _is_number(value: Any, dtype: np.dtype[Any]) -> bool:
    """Return whether a value of JSON is a number of a dtype. JSON itself has no NaN."""
    if isinstance(value, float):
        return dtype.kind == "f" and not math.isnan(value)
    return isinstance(value, int)


def encode(action: Any) -> Any:
    """Turn an action into what JSON has."""
    if isinstance(action, dict):
        return {key: encode(each) for key, each in action.items()}
    if isinstance(action, tuple):
        return [encode(each) for each in action]
    return action.tolist() if isinstance(action, (np.ndarray, np.generic)) else action


class Sessions:
    """The sessions of a player by the ids that clients give; unused ones expire.

    Args:
        player: makes the sessions.
        ttl: after how many seconds without use a session is forgotten.
        most: how many sessions there may be at once.
    """

    def __init__(self, player: Player, ttl: float = 600.0, most: int = 100_000) -> None:
        self._player, self._ttl, self._most = player, ttl, most
        self._sessions: OrderedDict[str, tuple[Any, float]] = OrderedDict()  # oldest use first

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, name: str | None) -> Any:
        """Return the session of an id, or a new one. Without an id: for one observation alone.

        Raises:
            InvalidInputError: there are too many sessions.
        """
        self.expire()
        if name is None:
            return self._player.session()
        found = self._sessions.pop(name, None)
        if found is None and len(self._sessions) >= self._most:
            raise InvalidInputError(f"there are {self._most} sessions already: end some of them")
        session = self._player.session() if found is None else found[0]
        self._sessions[name] = (session, time.monotonic())
        return session

    def end(self, name: str) -> bool:
        """Forget a session; return whether it existed."""
        found = self._sessions.pop(name, None)
        if found is not None:
            found[0].close()
        return found is not None

    def expire(self) -> None:
        """Forget the sessions that nobody has used for long."""
        while self._sessions:
            session, used = next(iter(self._sessions.values()))
            if time.monotonic() - used < self._ttl:
                return
            self._sessions.popitem(last=False)
            session.close()


# For the load scripts


def make_store(url: str, *, recurrent: bool = False, hidden: int = 64) -> PolicyStore:
    """Make a store with two versions of random weights, and the tag on the first one."""
    store = PolicyStore(url)
    model = DefaultModelConfig(
        fcnet_hiddens=[hidden, hidden], use_lstm=recurrent, lstm_cell_size=hidden, max_seq_len=8
    )
    for _ in range(2):
        spec = RLModuleSpec(
            module_class=DefaultPPOTorchRLModule,
            observation_space=OBSERVATIONS,
            action_space=ACTIONS,
            model_config=model,
        )
        snap = snapshot(spec.build())
        # A snapshot of an Algorithm records the environment; one of a module alone does not.
        recorded = snap.spec.replace(
            env_observation_space=OBSERVATIONS,
            env_action_space=ACTIONS,
            normalize_actions=True,
            clip_actions=False,
            omitted={part: why for part, why in snap.spec.omitted.items() if "env" not in part},
        )
        store.push(Snapshot(weights=snap.weights, spec=recorded, state=snap.state), NAME)
    store.tag(f"{NAME}@1", TAG)
    return store


class Expected:
    """What each version of the demo's store answers to a list of observations.

    Args:
        store: a store of :func:`make_store`.
        count: how many observations.
    """

    def __init__(self, store: PolicyStore, count: int = 64) -> None:
        rng = np.random.default_rng(0)
        self.observations = rng.uniform(-1.0, 1.0, (count, 4)).astype(np.float32)
        self.actions: dict[str, list[int]] = {}
        for version in store.log(NAME):
            player = rebuild_player(store.pull(version))
            self.actions[str(version.digest)] = [
                int(player.session().act(obs)) for obs in self.observations
            ]
        first, second = self.actions.values()
        self.telling = sum(map(int.__ne__, first, second))

    def is_right(self, index: int, action: Any, digest: str) -> bool:
        """Return whether the policy with a digest gives this action for an observation."""
        return self.actions[digest][index] == action


class Tally:
    """Collects the answers of a server, and tells which are wrong."""

    def __init__(self, expected: Expected) -> None:
        self.expected = expected
        self.rows: list[tuple[float, float, str]] = []  # time, latency, digest
        self.failures: list[str] = []
        self.wrong = 0
        self._batches: dict[Any, str] = {}

    def failed(self, reason: str) -> None:
        """Note a request that got no action."""
        self.failures.append(reason)

    def answered(self, index: int, latency: float, answer: dict[str, Any]) -> None:
        """Note the answer to the observation of an index, and check it."""
        digest = answer["policy"]
        self.rows.append((time.perf_counter(), latency, digest))
        right = self.expected.is_right(index, answer["action"], digest)
        same = self._batches.setdefault(answer["batch"], digest) == digest
        self.wrong += not (right and same)

    def report(self, began: float, tagged: float) -> str:
        """Return a table: requests a second and latencies, before and after the tag moved."""
        seen = list(dict.fromkeys(digest for _, _, digest in self.rows))
        changed = next((at for at, _, digest in self.rows if digest != self.rows[0][2]), None)
        lines = [f"{'':<34}{'requests/s':>11}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}"]
        lines.append(_line("before the tag moved", self._between(began, tagged), tagged - began))
        if changed is not None:
            during = self._between(tagged, changed)
            lines.append(_line("until the first new action", during, changed - tagged))
            end = self.rows[-1][0]
            lines.append(_line("after the change", self._between(changed, end), end - changed))
        lines.append(
            f"{len(self.rows)} answers of {len(seen)} policies in {len(self._batches)} batches; "
            f"{len(self.failures)} failed requests, {self.wrong} wrong or mixed answers"
        )
        return "\n".join(lines)

    def _between(self, begin: float, end: float) -> list[float]:
        return [latency for at, latency, _ in self.rows if begin <= at <= end]

    def is_good(self) -> bool:
        """Return whether every request was answered rightly, and both policies have answered."""
        policies = {digest for _, _, digest in self.rows}
        return not self.failures and not self.wrong and len(policies) == 2


def _line(label: str, latencies: Sequence[float], seconds: float) -> str:
    if not latencies:
        return f"{label:<34}{'no answers':>11}"
    p50, p99 = np.percentile(latencies, [50, 99]) * 1e3
    rate = len(latencies) / max(seconds, 1e-9)
    return f"{label:<34}{rate:>11.0f}{p50:>9.2f}{p99:>9.2f}{max(latencies) * 1e3:>9.2f}"
