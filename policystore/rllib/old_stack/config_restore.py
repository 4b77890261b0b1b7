"""A recorded config as one that an old-stack policy can be built from.

A spec may come from anybody. Classes stand in it by import path only, and RLlib's own are taken
without the caller's word only where, and of the kind that, RLlib itself would name them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.registry import ALGORITHMS
from ray.rllib.models.action_dist import ActionDistribution
from ray.rllib.models.catalog import ModelCatalog
from ray.rllib.models.modelv2 import ModelV2
from ray.rllib.utils.exploration import Exploration
from ray.rllib.utils.replay_buffers import ReplayBuffer
from ray.rllib.utils.schedules import Schedule

from policystore.errors import FormatError, UntrustedError
from policystore.format.values import Tagged
from policystore.rllib.common.trust import Trust, path_of, resolve
from policystore.rllib.old_stack.config import BY_NAME, check_exploration
from policystore.rllib_schema.config_keys import is_dropped
from policystore.spaces import space_from_json

__all__ = ["full_config"]

# Where RLlib's own classes may be named without the caller's word, and what they must be: called
# from elsewhere (an initializer, say), much of RLlib would run what its arguments tell it to.
_KINDS: dict[str, tuple[type, ...]] = {
    "custom_model": (ModelV2,),
    "custom_action_dist": (ActionDistribution,),
    "exploration_config": (Exploration, Schedule),
    "replay_buffer_config": (ReplayBuffer,),
}
# What rebuilding decides: one process, no GPU, no worker. policy/policy.py:1206 (devices),
# utils/policy.py:73 (the id), policy/policy.py:1249 (exploration).
_FORCED: dict[str, Any] = {
    "framework": "torch",
    "num_gpus": 0,
    "_fake_gpus": False,
    "num_gpus_per_env_runner": 0,
    "num_env_runners": 0,
    "worker_index": 0,
    "in_evaluation": False,
    "__policy_id": "default_policy",
    "enable_rl_module_and_learner": False,
    "enable_env_runner_and_connector_v2": False,
}


def full_config(
    recorded: Mapping[str, Any],
    *,
    algorithm: str | None,
    normalize_actions: bool | None,
    clip_actions: bool | None,
    trust: Trust,
) -> dict[str, Any]:
    """A config to build a policy from: this Ray's defaults, what was recorded, and what is forced.

    Args:
        recorded: ``spec.config``.
        algorithm: its defaults fill in what was not recorded; of an algorithm that this Ray does
            not have, those that all algorithms share.
        normalize_actions, clip_actions: of the spec.
        trust: see :func:`policystore.rllib.common.trust.resolve`.

    Raises:
        FormatError: a key or value that no snapshot holds, such as a class named by text.
        UntrustedError, NotFoundError: a class that may not or cannot be imported.
    """
    config: dict[str, Any] = _defaults(algorithm)
    for key, value in recorded.items():
        if not isinstance(key, str) or is_dropped(key):
            raise FormatError(f"spec.config[{key!r}]: snapshots of policies do not hold this key")
        config[key] = _restored(value, f"spec.config.{key}", trust)
    check_exploration(
        config.get("exploration_config"), "spec.config.exploration_config", FormatError
    )
    _check_lengths(config.get("model"))
    if normalize_actions is not None:
        config["normalize_actions"] = normalize_actions
    if clip_actions is not None:
        config["clip_actions"] = clip_actions
    config.update(_FORCED)
    config["rollout_fragment_length"] = _fragment(config["train_batch_size"])
    return config


def _check_lengths(model: Any) -> None:
    """RLlib counts sequences down by this length, for ever if it is not positive."""
    length = model.get("max_seq_len") if isinstance(model, dict) else None
    if type(length) is not int or not 1 <= length <= 1 << 20:
        raise FormatError(
            f"spec.config.model.max_seq_len is a number of steps from 1 on, not {length!r}"
        )


def _fragment(train_batch_size: Any) -> int:
    """A length that the loss of IMPALA and APPO can cut a dummy batch into.

    Their constructors reshape a batch of ``min(4 * length, train_batch_size)`` rows to
    ``[-1, length]`` (policy/policy.py:1339, algorithms/impala/impala_torch_policy.py:161). Acting
    does not depend on it.
    """
    usual = 50
    if not isinstance(train_batch_size, int) or train_batch_size >= 4 * usual:
        return usual
    return max(train_batch_size, 1)


def _defaults(algorithm: str | None) -> dict[str, Any]:
    if algorithm in ALGORITHMS:
        default = ALGORITHMS[algorithm]()[0].get_default_config()
    else:
        default = AlgorithmConfig()
    return dict(default.to_dict())


def _restored(value: Any, where: str, trust: Trust) -> Any:
    if isinstance(value, Tagged):
        if value.tag == "import":
            return _imported(value.value, where, trust)
        return space_from_json(value.value, label=where)
    if isinstance(value, list):
        return [_restored(item, f"{where}[]", trust) for item in value]
    if isinstance(value, tuple):
        return tuple(_restored(item, f"{where}[]", trust) for item in value)
    if isinstance(value, np.ndarray):
        return np.array(value)
    if not isinstance(value, dict):
        return value
    found = {}
    for key, item in value.items():
        place = f"{where}.{key}"
        if key in BY_NAME and item and not isinstance(item, Tagged):
            raise FormatError(f"{place}: expected a class by import path, found {item!r}")
        found[key] = _restored(item, place, trust)
        if key == "custom_action_dist" and item:
            # The catalog takes these by registered name only (models/catalog.py:176).
            name = f"policystore:{item.value}"
            ModelCatalog.register_custom_action_dist(name, found[key])
            found[key] = name
    return found


def _imported(path: str, where: str, trust: Trust) -> Any:
    parts = where.split(".")
    kinds = _KINDS.get(parts[-1]) or (_KINDS.get(parts[2]) if parts[-1] == "type" else None)
    if kinds is None:
        named = [item for item in trust if not isinstance(item, str) and path_of(item) == path]
        if path.startswith("ray.rllib.") and not named:
            raise UntrustedError(
                f"{where}: {path} is of RLlib, but not what RLlib itself would name here, and "
                "calling it may run what its arguments say. If you trust it, pass it in trust=[…]."
            )
        return resolve(path, trust)
    found = resolve(path, trust)
    if not isinstance(found, type) or not issubclass(found, kinds):
        raise FormatError(
            f"{where}: expected a {' or '.join(kind.__name__ for kind in kinds)}, found {path}"
        )
    return found
