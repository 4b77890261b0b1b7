"""Turn a recorded config into one that an old-stack policy can be built from.

A spec may come from anybody, and names classes by import path only. RLlib's own classes are
imported without the caller's trust only in the places where RLlib itself would name them, and only
if they are of the kind that belongs there.
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
from policystore.rllib.old_stack.config import check_exploration
from policystore.rllib_schema.config_keys import REGISTRY_KEYS, is_dropped
from policystore.spaces import space_from_json

__all__ = ["full_config"]

# Keys under which RLlib's own classes need no trust, and what these classes must be. Under another
# key (such as that of an initializer), much of RLlib's code would run what the arguments say.
_KINDS: dict[str, tuple[type, ...]] = {
    "custom_model": (ModelV2,),
    "custom_action_dist": (ActionDistribution,),
    "exploration_config": (Exploration, Schedule),
    "replay_buffer_config": (ReplayBuffer,),
}
# Values that every rebuilt policy gets: one process, no GPU, no worker. policy/policy.py:1206
# (devices), utils/policy.py:73 (the id), policy/policy.py:1249 (exploration).
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
    """Return a config to build a policy from.

    It consists of the defaults of the installed Ray, what was recorded, and the values that every
    rebuilt policy gets (one process, no GPU, no worker); later ones replace earlier ones.

    Args:
        recorded: ``spec.config``.
        algorithm: name of the algorithm whose defaults fill in what was not recorded. For None, or
            an algorithm that the installed Ray does not have: the defaults that all algorithms
            share.
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
        restored = _restored(value, f"spec.config.{key}", trust)
        if key == "model" and isinstance(restored, dict):
            # A checkpoint of an older Ray lacks the keys that were added since.
            restored = {**config["model"], **restored}
        config[key] = restored
    check_exploration(
        config.get("exploration_config"), "spec.config.exploration_config", FormatError
    )
    _check_lengths(config.get("model"))
    if normalize_actions is not None:
        config["normalize_actions"] = normalize_actions
    if clip_actions is not None:
        config["clip_actions"] = clip_actions
    config.update(_FORCED)
    config["rollout_fragment_length"] = _fragment_length(config["train_batch_size"])
    return config


def _check_lengths(model: object) -> None:
    """Check the sequence length: RLlib counts down by this length, without end if it is below 1."""
    length = model.get("max_seq_len") if isinstance(model, dict) else None
    if type(length) is not int or not 1 <= length <= 1 << 20:
        raise FormatError(
            f"spec.config.model.max_seq_len is a number of steps from 1 on, not {length!r}"
        )


def _fragment_length(train_batch_size: object) -> int:
    """Return a fragment length that the loss of IMPALA and APPO can cut a dummy batch into.

    Their constructors reshape a batch of ``min(4 * length, train_batch_size)`` rows to
    ``[-1, length]`` (policy/policy.py:1339, algorithms/impala/impala_torch_policy.py:161). Acting
    does not depend on it.
    """
    usual = 50
    if not isinstance(train_batch_size, int) or train_batch_size >= 4 * usual:
        return usual
    return max(train_batch_size, 1)


def _defaults(algorithm: str | None) -> dict[str, Any]:
    """Return the config that the installed Ray gives an algorithm by default."""
    if algorithm in ALGORITHMS:
        default = ALGORITHMS[algorithm]()[0].get_default_config()
    else:
        default = AlgorithmConfig()
    return dict(default.to_dict())


def _restored(value: object, where: str, trust: Trust) -> Any:
    """Return a recorded value as RLlib reads it, with classes, spaces and arrays of its own.

    Args:
        value: as :func:`policystore.rllib.old_stack.config.recorded_config` returned it.
        where: its place in the spec, which decides which classes of RLlib's need no trust.
        trust: see :func:`policystore.rllib.common.trust.resolve`.
    """
    if isinstance(value, Tagged):
        if value.tag == "import":
            return _imported(str(value.value), where, trust)
        return space_from_json(value.value, label=where)
    if isinstance(value, list):
        return [_restored(item, f"{where}[]", trust) for item in value]
    if isinstance(value, tuple):
        return tuple(_restored(item, f"{where}[]", trust) for item in value)
    if isinstance(value, np.ndarray):
        return np.array(value)
    if not isinstance(value, dict):
        return value
    restored = {}
    for key, item in value.items():
        place = f"{where}.{key}"
        if key in REGISTRY_KEYS and item and not isinstance(item, Tagged):
            raise FormatError(f"{place}: expected a class by import path, found {item!r}")
        restored[key] = _restored(item, place, trust)
        if key == "custom_action_dist" and item:
            # The catalog takes action distributions by registered name only
            # (models/catalog.py:176).
            name = f"policystore:{item.value}"
            ModelCatalog.register_custom_action_dist(name, restored[key])
            restored[key] = name
    return restored


def _imported(path: str, where: str, trust: Trust) -> Any:
    """Import a class or function that a config names.

    Args:
        path: ``module:QualName``.
        where: its place in the spec. Under the keys of :data:`_KINDS` a class of RLlib's needs no
            trust, and must be of the kind that is listed there.
        trust: see :func:`policystore.rllib.common.trust.resolve`.

    Raises:
        UntrustedError, NotFoundError: a class or function that may not or cannot be imported.
        FormatError: a class of another kind than its place takes.
    """
    parts = where.split(".")
    kinds = _KINDS.get(parts[-1]) or (_KINDS.get(parts[2]) if parts[-1] == "type" else None)
    if kinds is None:
        is_named = any(not isinstance(item, str) and path_of(item) == path for item in trust)
        if path.startswith("ray.rllib.") and not is_named:
            raise UntrustedError(
                f"{where}: {path} is part of RLlib, but RLlib itself would not name it here, and "
                "calling it may run what its arguments say. If you trust it, pass it in trust=[…]."
            )
        return resolve(path, trust)
    target = resolve(path, trust)
    if not isinstance(target, type) or not issubclass(target, kinds):
        raise FormatError(
            f"{where}: expected a {' or '.join(kind.__name__ for kind in kinds)}, found {path}"
        )
    return target
