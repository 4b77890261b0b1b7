"""Converts the ``policy_state`` of an old-stack policy into a snapshot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeAlias

from policystore.checkpoints.convert.config_values import plain_mapping
from policystore.checkpoints.convert.filter_stats import (
    FilterStats,
    StatsReader,
    is_filter,
    read_filter_object,
)
from policystore.checkpoints.convert.spaces import space_if_known
from policystore.checkpoints.convert.weights import flatten_weights
from policystore.checkpoints.files.placeholders import (
    BAD_DATA_ERRORS,
    UnbuiltObject,
    class_lineage,
    class_path,
    kind_of,
    text_or_kind,
)
from policystore.errors import FormatError
from policystore.format.arrays import Array
from policystore.format.spec import Spec
from policystore.format.values import Tagged
from policystore.rllib_schema.class_paths import ALGORITHMS, CONNECTORS, POLICIES
from policystore.rllib_schema.config_keys import is_dropped
from policystore.snapshot import Snapshot

__all__ = ["config_is_hybrid", "hybrid_connectors", "is_hybrid", "old_snapshot",
           "policy_config", "policy_weights"]  # fmt: skip

_FILTERS = (
    "MeanStdObservationFilterAgentConnector",
    "ConcurrentMeanStdObservationFilterAgentConnector",
)
# Parts of a policy_state that are neither weights nor needed to rebuild the policy, with the reason
# for leaving them out.
_OMITTED = {
    "_optimizer_variables": "the optimizer's state is for training on, not for acting",
    "_exploration_state": "how far exploration had come; a rebuilt policy begins anew",
    "current_kl_coeff": "a coefficient of the loss",
}
_HYBRID_FLAGS = (
    "_enable_rl_module_api",
    "_enable_new_api_stack",
    "enable_rl_module_and_learner",
)
_MAX_CONNECTORS = 200  # of one pipeline
_MAX_SHOWN = 200  # characters of a connector's name
_TF_SUFFIXES = ("TFPolicy", "TF1Policy", "TF2Policy")

_Omitted: TypeAlias = dict[str, str]  # place -> reason


def policy_config(state: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Return the config in a ``policy_state``; ``{}`` where there is none."""
    spec = state.get("policy_spec")
    config = spec.get("config") if isinstance(spec, Mapping) else None
    if isinstance(config, UnbuiltObject):  # a whole AlgorithmConfig
        config = config.attributes()
    return config if isinstance(config, Mapping) else {}


def is_hybrid(state: object) -> bool:
    """Return whether a ``policy_state`` of Ray 2.3 to 2.37 holds an RLModule of the new stack."""
    if not isinstance(state, Mapping):
        return False
    spec = state.get("policy_spec")
    policy_class = spec.get("policy_class") if isinstance(spec, Mapping) else None
    if "WithRLModule" in text_or_kind(policy_class):
        return True
    return config_is_hybrid(policy_config(state))


def config_is_hybrid(config: Mapping[Any, Any]) -> bool:
    """Return whether a config of Ray 2.3 to 2.37 makes policies that hold an RLModule."""
    return any(config.get(flag) is True for flag in _HYBRID_FLAGS)


def policy_weights(state: object, label: str, *, stored: int | None = None) -> dict[str, Array]:
    """Return the weights in a ``policy_state``.

    Args:
        state: the content of the file.
        label: names the file in error messages.
        stored: bytes of the file.

    Raises:
        FormatError: not the state of a policy, or damaged weights.
    """
    if not isinstance(state, Mapping) or "weights" not in state:
        raise FormatError(f"{label}: expected the state of a policy, found {kind_of(state)}")
    return flatten_weights(state["weights"], label, stored=stored, any_form=True)


def old_snapshot(
    state: Mapping[Any, Any],
    weights: Mapping[str, Array],
    algorithm: str | None,
    label: str,
    *,
    filter_object: object = None,
    omitted: Mapping[str, str] | None = None,
) -> Snapshot:
    """Return the snapshot of an old-stack policy.

    Args:
        state: the content of ``policy_state``.
        weights: its weights.
        algorithm: RLlib's name of the algorithm; None where it is not known.
        label: names the file in error messages.
        filter_object: the policy's filter, where Ray up to 2.2 wrote it beside the policies.
        omitted: parts that are known to be missing already, place -> reason.

    Returns:
        The snapshot. Damage to any part but the weights is noted as omitted.
    """
    notes = {key: reason for key, reason in _OMITTED.items() if not _is_empty(state.get(key))}
    notes |= omitted or {}
    policy_spec = state.get("policy_spec")
    if not isinstance(policy_spec, Mapping):
        notes["spec"] = "the checkpoint does not say what the policy is made of"
        return Snapshot(weights=weights, spec=Spec(algorithm=algorithm, omitted=notes))
    cls = _policy_path(policy_spec.get("policy_class"))
    if cls is None:
        notes["class"] = _why_no_path(policy_spec.get("policy_class"))
    config = policy_config(state)
    if not config:
        notes.setdefault("config", f"expected a dict, found {kind_of(policy_spec.get('config'))}")
    kept = {key: value for key, value in config.items() if not is_dropped(str(key))}
    plain_config = plain_mapping(kept, label, notes, "config")
    if "exploration_config" in plain_config:
        plain_config["exploration_config"] = _exploration_config(
            plain_config["exploration_config"], notes
        )
    observations, actions = (
        space_if_known(policy_spec.get(name), f"{label}: {name}", notes, name)
        for name in ("observation_space", "action_space")
    )
    connectors, states = _connectors_of(state, config, filter_object, notes, label)
    env_observations = (observations or {}).get("original_space", observations)
    action_connectors = {entry["name"] for entry in connectors.get("action", ())}
    spec = Spec(
        stack="none" if cls is None else "old",
        algorithm=algorithm or ALGORITHMS.get(cls or ""),
        cls=cls,
        observation_space=observations,
        action_space=actions,
        env_observation_space=env_observations,
        env_action_space=actions if env_observations is not None else None,
        config=plain_config,
        normalize_actions=_handles("Normalize", action_connectors, bool(connectors), config),
        clip_actions=_handles("Clip", action_connectors, bool(connectors), config),
        connectors=connectors,
        omitted=notes,
    )
    return Snapshot(weights=weights, spec=spec, state={"connectors": states} if states else {})


def _connectors_of(
    state: Mapping[Any, Any],
    config: Mapping[Any, Any],
    filter_object: object,
    omitted: _Omitted,
    label: str,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the connectors and their states; note what is damaged.

    A checkpoint of Ray up to 2.2 has no connectors. If its policy has a filter, the connectors are
    those that later versions of RLlib make for such a policy (``connectors/util.py:48-99``).
    """
    configs = state.get("connector_configs")
    try:
        if _is_empty(configs) and is_filter(filter_object):
            stats = read_filter_object(filter_object, f"{label}: filter")
            return _connectors_with_filter(config, stats)
        filter_name = config.get("observation_filter")
        if _is_empty(configs) and filter_name not in (None, "NoFilter"):
            omitted["connectors.filter"] = (
                f"the config names the filter {text_or_kind(filter_name)}, and {label} has no "
                "statistics of it; a player needs connectors="
            )
        return _convert_connectors(configs, omitted, label)
    except FormatError as error:
        omitted["connectors"] = f"{error}; a player needs connectors="
        return {}, {}


def _connectors_with_filter(
    config: Mapping[Any, Any], stats: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return RLlib's default connectors with one filter, in the form of a spec and its state."""
    agent = ["StateBufferConnector", "ViewRequirementAgentConnector"]
    agent.insert(0, _FILTERS[0])
    if config.get("_disable_preprocessor_api") is not True:
        agent.insert(0, "ObsPreprocessorConnector")
    action = ["ConvertToNumpyConnector", "ImmutableActionsConnector"]
    if config.get("clip_actions") is True:
        action.insert(1, "ClipActionsConnector")
    if config.get("normalize_actions") is True:
        action.insert(1, "NormalizeActionsConnector")
    connectors = {
        pipeline: [{"name": name, "class": Tagged("import", CONNECTORS[name])} for name in names]
        for pipeline, names in (("agent", agent), ("action", action))
    }
    converted = [_convert_stats(part) for part in stats["running_stats"]]
    return connectors, {"agent": {_FILTERS[0]: {**stats, "running_stats": converted}}}


def _is_empty(value: object) -> bool:
    """Return whether a value is None or an empty container."""
    return value is None or (isinstance(value, (Mapping, list, tuple)) and not value)


def _handles(
    kind: str, action_connectors: set[str], has_connectors: bool, config: Mapping[Any, Any]
) -> bool:
    """Return whether a policy normalizes or clips actions, by its connectors or its config."""
    if has_connectors:
        return f"{kind}ActionsConnector" in action_connectors
    return config.get(f"{kind.lower()}_actions") is True


def _policy_path(policy_class: object) -> str | None:
    """Return today's import path of a policy's class.

    Args:
        policy_class: a placeholder, or the text that RLlib writes: the name alone for a class of
            RLlib, ``module.Name`` or ``module:Name`` for any other class.

    Returns:
        The path; None for a class that Ray 2.60 does not have, or a TensorFlow policy of RLlib.
    """
    path = class_path(policy_class)
    if path is not None:
        module, _, name = path.partition(":")
        return POLICIES.get(name) if module.startswith("ray.rllib.") else path
    if not isinstance(policy_class, str):
        return None
    if ":" in policy_class or "." in policy_class:
        module, _, name = policy_class.replace(":", ".").rpartition(".")
        return POLICIES.get(name) if module.startswith("ray.rllib.") else f"{module}:{name}"
    return POLICIES.get(policy_class)


def _why_no_path(policy_class: object) -> str:
    name = next(class_lineage(policy_class), None) or text_or_kind(policy_class)
    name = name.replace(":", ".")
    if name.rpartition(".")[2].endswith(_TF_SUFFIXES) or any(mark in name for mark in _TF_SUFFIXES):
        return f"{name} is a TensorFlow policy: its weights are here, and torch cannot rebuild it"
    return f"{name} is a class that Ray 2.60 no longer has, or one without an import path"


def _exploration_config(config: object, omitted: _Omitted) -> dict[Any, Any]:
    """Return the plain exploration config; ``{}`` if it names its class by a path in a text.

    RLlib would import such a path when it builds the policy, so the config is noted as omitted.
    """
    if not isinstance(config, Mapping):
        return {}
    exploration_type = config.get("type")
    if isinstance(exploration_type, str) and ("." in exploration_type or ":" in exploration_type):
        omitted["config.exploration_config"] = f"its type is the text {exploration_type[:80]!r}"
        return {}
    return dict(config)


def _convert_connectors(
    configs: object, omitted: _Omitted, label: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the connectors by pipeline, and their states by pipeline and connector.

    The form is that of :func:`policystore.rllib.old_stack.connectors.connectors_to_spec`.
    """
    if not isinstance(configs, Mapping) or not configs:
        return {}, {}
    connectors: dict[str, Any] = {}
    states: dict[str, Any] = {}
    for pipeline in ("agent", "action"):
        connectors[pipeline] = []
        times_seen: Counter[str] = Counter()
        listed = _listed_connectors(configs.get(pipeline), f"{label}: connectors.{pipeline}")
        for name, state in listed:
            times_seen[name] += 1
            key = name if times_seen[name] == 1 else f"{name}#{times_seen[name]}"
            place = f"connectors.{pipeline}.{name[:_MAX_SHOWN]}"
            if name not in CONNECTORS:
                omitted[place] = (
                    "a connector that the checkpoint knows by a registered name only; a player "
                    "needs it in connectors="
                )
                continue
            entry: dict[str, Any] = {"name": key, "class": Tagged("import", CONNECTORS[name])}
            if name == "ClipRewardAgentConnector":
                entry["args"] = _clip_reward_args(state, place)
            connectors[pipeline].append(entry)
            if name in _FILTERS:
                states.setdefault(pipeline, {})[key] = _convert_filter(state, f"{label}: {place}")
    return connectors, states


def hybrid_connectors(configs: object, label: str) -> tuple[dict[str, Any] | None, list[str]]:
    """Return what a module of the new stack can keep of a hybrid's old-stack connectors.

    Args:
        configs: the ``connector_configs`` of the hybrid's state.
        label: names the file in error messages.

    Returns:
        The statistics of the filter, None if there is none; and the names of the user's connectors,
        which no module can keep.

    Raises:
        FormatError: damaged connectors or statistics.
    """
    if not isinstance(configs, Mapping) or not configs:
        return None, []
    stats = None
    own = []
    for pipeline in ("agent", "action"):
        place = f"{label}: connectors.{pipeline}"
        for name, state in _listed_connectors(configs.get(pipeline), place):
            if name in _FILTERS:
                stats = _convert_filter(state, f"{place}.{name}")
            elif name not in CONNECTORS:
                own.append(name[:_MAX_SHOWN])
    return stats, own


def _listed_connectors(pipeline: object, label: str) -> list[tuple[str, object]]:
    """Return names and states of the connectors of a pipeline.

    RLlib writes ``("AgentConnectorPipeline", [(name, state), …])``. In msgpack files, lists stand
    in place of tuples.
    """
    if not isinstance(pipeline, (list, tuple)) or len(pipeline) != 2:
        raise FormatError(f"{label}: expected a pipeline of connectors, found {kind_of(pipeline)}")
    steps = pipeline[1]
    if not isinstance(steps, (list, tuple)) or not all(
        isinstance(step, (list, tuple)) and len(step) == 2 and isinstance(step[0], str)
        for step in steps
    ):
        raise FormatError(f"{label}: expected connectors with their names, found {kind_of(steps)}")
    if len(steps) > _MAX_CONNECTORS:
        raise FormatError(f"{label}: {len(steps):,} connectors; no policy has so many")
    return [(step[0], step[1]) for step in steps]


def _clip_reward_args(state: object, place: str) -> dict[str, Any]:
    if not isinstance(state, Mapping):
        raise FormatError(f"{place}: expected its arguments, found {kind_of(state)}")
    limit = state.get("limit")
    if limit is not None and not isinstance(limit, (int, float)):
        raise FormatError(f"{place}: its limit is {kind_of(limit)}, not a number")
    return {"sign": state.get("sign") is True, "limit": limit}


def _convert_filter(state: Any, label: str) -> dict[str, Any]:
    """Convert the state of a MeanStdFilter (``connectors/agent/mean_std_filter.py:71``)."""
    try:
        reader = StatsReader(label)
        clip = state["clip"]
        running_stats = [_convert_stats(reader.read(entry)) for entry in state["running_stats"]]
        return {
            "demean": bool(state["demean"]),
            "destd": bool(state["destd"]),
            "clip": None if clip is None else float(clip),
            "running_stats": running_stats,
        }
    except FormatError:
        raise
    except BAD_DATA_ERRORS as error:
        raise FormatError(f"{label}: damaged statistics of a filter: {error!r:.200}") from None


def _convert_stats(stats: FilterStats) -> dict[str, Any]:
    return {"count": stats.count, "mean": stats.mean, "sum_sq_diff": stats.sum_sq_diff}
