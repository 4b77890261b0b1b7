"""Policies of the old API stack, out of their ``policy_state``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from policystore.checkpoints.convert.config_values import CheckpointConfigWalker
from policystore.checkpoints.convert.filter_stats import StatisticsReader
from policystore.checkpoints.convert.spaces import described_space
from policystore.checkpoints.convert.weights import checked_weights
from policystore.checkpoints.files.placeholders import (
    BAD_DATA_ERRORS,
    UnbuiltObject,
    class_path,
    kind_of,
    said,
)
from policystore.errors import FormatError
from policystore.format.spec import Spec
from policystore.format.values import Tagged
from policystore.rllib_schema.class_paths import CONNECTORS, POLICIES
from policystore.rllib_schema.config_keys import is_dropped
from policystore.snapshot import Snapshot

__all__ = ["config_of", "is_hybrid", "old_snapshot"]

_FILTERS = (
    "MeanStdObservationFilterAgentConnector",
    "ConcurrentMeanStdObservationFilterAgentConnector",
)
# What of a policy_state is neither weights nor what rebuilds: left out, and listed.
_LEFT_OUT = {
    "_optimizer_variables": "the optimizer's state is for training on, not for acting",
    "_exploration_state": "how far exploration had come; a rebuilt policy begins anew",
    "current_kl_coeff": "a coefficient of the loss",
}
_CONNECTORS = 200
_LONGEST = 200  # characters of a connector's name in messages
_TF = ("TFPolicy", "TF1Policy", "TF2Policy")


def config_of(state: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """The config in a ``policy_state``; ``{}`` where there is none."""
    spec = state.get("policy_spec")
    found = spec.get("config") if isinstance(spec, Mapping) else None
    if isinstance(found, UnbuiltObject):  # a whole AlgorithmConfig
        found = found.attributes()
    return found if isinstance(found, Mapping) else {}


def is_hybrid(state: Mapping[Any, Any]) -> bool:
    """Whether a policy of Ray 2.3 to 2.10 holds an RLModule of the new stack."""
    spec = state.get("policy_spec")
    named = spec.get("policy_class") if isinstance(spec, Mapping) else None
    if "WithRLModule" in said(named):
        return True
    config = config_of(state)
    flags = ("_enable_rl_module_api", "_enable_new_api_stack", "enable_rl_module_and_learner")
    return any(config.get(flag) is True for flag in flags)


def old_snapshot(
    state: Any, algorithm: str | None, what: str, *, stored: int | None = None
) -> Snapshot:
    """A snapshot of an old-stack policy.

    Args:
        state: what ``policy_state`` holds.
        algorithm: RLlib's name of the algorithm, where it is known.
        what: how messages name it.
        stored: bytes of its file.

    Raises:
        FormatError: not the state of a policy, or one that is damaged.
    """
    if not isinstance(state, Mapping) or "weights" not in state:
        raise FormatError(f"{what}: expected the state of a policy, found {kind_of(state)}")
    omitted = {key: why for key, why in _LEFT_OUT.items() if _says(state.get(key))}
    weights = checked_weights(_named(state["weights"]), what, stored=stored)
    described = state.get("policy_spec")
    if not isinstance(described, Mapping):
        omitted["spec"] = "the checkpoint does not say what the policy is made of"
        return Snapshot(weights=weights, spec=Spec(algorithm=algorithm, omitted=omitted))
    cls = _policy_class(described.get("policy_class"))
    if cls is None:
        omitted["class"] = _why_no_class(said(described.get("policy_class")))
        return Snapshot(weights=weights, spec=Spec(algorithm=algorithm, omitted=omitted))
    config = config_of(state)
    if not config:
        omitted["config"] = f"expected a dict, found {kind_of(described.get('config'))}"
    kept = {key: value for key, value in config.items() if not is_dropped(str(key))}
    plain = CheckpointConfigWalker(what, omitted).mapping(kept, "config")
    plain["exploration_config"] = _known_exploration(plain.get("exploration_config"), omitted)
    connectors, states = _connectors(state.get("connector_configs"), omitted, what)
    observations = described_space(described.get("observation_space"), f"{what}: observations")
    actions = described_space(described.get("action_space"), f"{what}: actions")
    env_observations = (observations or {}).get("original_space")
    if env_observations is None and connectors:
        env_observations = observations
    acting = {entry["name"] for entry in connectors.get("action", ())}
    spec = Spec(
        stack="old",
        algorithm=algorithm,
        cls=cls,
        observation_space=observations,
        action_space=actions,
        env_observation_space=env_observations,
        env_action_space=actions if env_observations is not None else None,
        config=plain,
        normalize_actions=_handled("Normalize", acting, bool(connectors), config),
        clip_actions=_handled("Clip", acting, bool(connectors), config),
        connectors=connectors,
        omitted=omitted,
    )
    return Snapshot(weights=weights, spec=spec, state={"connectors": states} if states else {})


def _says(value: Any) -> bool:
    """Whether there is something in a field."""
    return not (value is None or (isinstance(value, (Mapping, list, tuple)) and not value))


def _handled(kind: str, names: set[str], connected: bool, config: Mapping[Any, Any]) -> bool:
    if connected:
        return f"{kind}ActionsConnector" in names
    return config.get(f"{kind.lower()}_actions") is True


def _named(weights: Any) -> Any:
    """TensorFlow's eager policies have a list of weights, by the order of their variables."""
    if isinstance(weights, (list, tuple)):
        return {f"{index:04}": value for index, value in enumerate(weights)}
    return weights


def _policy_class(named: Any) -> str | None:
    """An import path; None for what Ray 2.60 does not have, or what is not of torch."""
    path = class_path(named)
    if path is not None:
        module, _, name = path.partition(":")
        return POLICIES.get(name) if module.startswith("ray.rllib.") else path
    if not isinstance(named, str):
        return None
    if ":" in named or "." in named:  # RLlib writes 'module.Name' or 'module:Name' of others
        module, _, name = named.replace(":", ".").rpartition(".")
        return POLICIES.get(name) if module.startswith("ray.rllib.") else f"{module}:{name}"
    return POLICIES.get(named)


def _why_no_class(name: str) -> str:
    if name.rpartition(".")[2].endswith(_TF) or any(mark in name for mark in _TF):
        return f"{name} is a TensorFlow policy: its weights are here, and torch cannot rebuild it"
    return f"{name} is a class that Ray 2.60 no longer has, or one without an import path"


def _known_exploration(config: Any, omitted: dict[str, str]) -> Any:
    if not isinstance(config, Mapping):
        return {}
    kind = config.get("type")
    if isinstance(kind, str) and ("." in kind or ":" in kind):
        omitted["config.exploration_config"] = f"its type is the text {kind[:80]!r}"
        return {}
    return dict(config)


def _connectors(
    configs: Any, omitted: dict[str, str], what: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Connectors by pipeline and their states, as :func:`..policy_connectors.record` has them."""
    if not isinstance(configs, Mapping) or not configs:
        return {}, {}
    found: dict[str, Any] = {}
    states: dict[str, Any] = {}
    for pipeline in ("agent", "action"):
        found[pipeline] = []
        seen: Counter[str] = Counter()
        for name, state in _steps(configs.get(pipeline), f"{what}: connectors.{pipeline}"):
            seen[name] += 1
            key = name if seen[name] == 1 else f"{name}#{seen[name]}"
            place = f"connectors.{pipeline}.{name[:_LONGEST]}"
            if name not in CONNECTORS:
                omitted[place] = (
                    "a connector that the checkpoint knows by a registered name only; a player "
                    "needs it in connectors="
                )
                continue
            entry: dict[str, Any] = {"name": key, "class": Tagged("import", CONNECTORS[name])}
            if name == "ClipRewardAgentConnector":
                entry["args"] = _clip(state, place)
            found[pipeline].append(entry)
            if name in _FILTERS:
                states.setdefault(pipeline, {})[key] = _filter(state, f"{what}: {place}")
    return found, states


def _steps(pipeline: Any, what: str) -> list[tuple[str, Any]]:
    """``("AgentConnectorPipeline", [(name, state), …])``, lists in msgpack."""
    if not isinstance(pipeline, (list, tuple)) or len(pipeline) != 2:
        raise FormatError(f"{what}: expected a pipeline of connectors, found {kind_of(pipeline)}")
    steps = pipeline[1]
    if not isinstance(steps, (list, tuple)) or not all(
        isinstance(step, (list, tuple)) and len(step) == 2 and isinstance(step[0], str)
        for step in steps
    ):
        raise FormatError(f"{what}: expected connectors with their names, found {kind_of(steps)}")
    if len(steps) > _CONNECTORS:
        raise FormatError(f"{what}: {len(steps):,} connectors; no policy has so many")
    return [(step[0], step[1]) for step in steps]


def _clip(state: Any, what: str) -> dict[str, Any]:
    if not isinstance(state, Mapping):
        raise FormatError(f"{what}: expected its arguments, found {kind_of(state)}")
    limit = state.get("limit")
    if limit is not None and not isinstance(limit, (int, float)):
        raise FormatError(f"{what}: its limit is {kind_of(limit)}, not a number")
    return {"sign": state.get("sign") is True, "limit": limit}


def _filter(state: Any, what: str) -> dict[str, Any]:
    """Statistics of a MeanStdFilter (``connectors/agent/mean_std_filter.py:71``)."""
    try:
        read = StatisticsReader(what)
        return {
            "demean": bool(state["demean"]),
            "destd": bool(state["destd"]),
            "clip": None if state["clip"] is None else float(state["clip"]),
            "running_stats": [_statistics(read, stat) for stat in state["running_stats"]],
        }
    except FormatError:
        raise
    except BAD_DATA_ERRORS as error:
        raise FormatError(f"{what}: damaged statistics of a filter: {error!r:.200}") from None


def _statistics(read: StatisticsReader, stat: Any) -> dict[str, Any]:
    count, mean, squares = read(stat)
    return {"count": count, "mean": mean, "sum_sq_diff": squares}
