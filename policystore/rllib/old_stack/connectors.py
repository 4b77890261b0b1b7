"""Record the connectors of old-stack policies in a spec and state, and make them again.

On the old stack everything between environment and policy is done by two pipelines of connectors
that are attributes of the policy, ``policy.agent_connectors`` and ``policy.action_connectors``
(connectors/util.py:102). ``RolloutWorker.filters`` holds the same filter objects as these pipelines
(connectors/util.py:153), so after ``train()`` the local worker's policies have the merged filters.

Statistics of filters are recorded as arrays, and the code here writes them into RLlib's objects:
``RunningStat.from_state`` would unpickle what a store holds (utils/serialization.py:83).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import tree as dm_tree
from ray.rllib.connectors.action.clip import ClipActionsConnector
from ray.rllib.connectors.action.immutable import ImmutableActionsConnector
from ray.rllib.connectors.action.lambdas import ConvertToNumpyConnector
from ray.rllib.connectors.action.normalize import NormalizeActionsConnector
from ray.rllib.connectors.action.pipeline import ActionConnectorPipeline
from ray.rllib.connectors.agent.clip_reward import ClipRewardAgentConnector
from ray.rllib.connectors.agent.env_sampling import EnvSamplingAgentConnector
from ray.rllib.connectors.agent.mean_std_filter import (
    ConcurrentMeanStdObservationFilterAgentConnector,
    MeanStdObservationFilterAgentConnector,
)
from ray.rllib.connectors.agent.obs_preproc import ObsPreprocessorConnector
from ray.rllib.connectors.agent.pipeline import AgentConnectorPipeline
from ray.rllib.connectors.agent.state_buffer import StateBufferConnector
from ray.rllib.connectors.agent.synced_filter import SyncedFilterAgentConnector
from ray.rllib.connectors.agent.view_requirement import ViewRequirementAgentConnector
from ray.rllib.connectors.connector import Connector, ConnectorContext
from ray.rllib.policy.policy import Policy

from policystore.errors import FormatError, InvalidInputError
from policystore.format.values import Tagged
from policystore.rllib.common.plain_state import check_plain_state
from policystore.rllib.common.running_stats import running_stat
from policystore.rllib.common.trust import Trust, resolve
from policystore.rllib.old_stack.config import importable_path
from policystore.rllib.worker_code.compat import squares_name

__all__ = [
    "PIPELINES",
    "MakeConnector",
    "attach",
    "connectors_to_spec",
    "default_connectors",
    "make_connectors",
]

MakeConnector: TypeAlias = Callable[[ConnectorContext], Connector]
"""A connector class, or any function that makes a connector from RLlib's context."""

PIPELINES = ("agent", "action")
"""The two pipelines of a policy, as a spec names them."""

_FILTERS = (
    MeanStdObservationFilterAgentConnector,
    ConcurrentMeanStdObservationFilterAgentConnector,
)
# RLlib's own connectors that are made from the context alone. What StateBuffer and ViewRequirement
# hold belongs to an episode, not to the policy.
_STATELESS = (
    ObsPreprocessorConnector,
    StateBufferConnector,
    ViewRequirementAgentConnector,
    EnvSamplingAgentConnector,
    ConvertToNumpyConnector,
    NormalizeActionsConnector,
    ClipActionsConnector,
    ImmutableActionsConnector,
)


def connectors_to_spec(
    policy: Policy, omit: frozenset[str], label: str
) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """Return what a spec and a state record of a policy's connectors.

    Args:
        policy: of the old stack.
        omit: class names of connectors to leave out; ``MeanStdFilter`` means any filter.
        label: how messages name the policy.

    Returns:
        Connectors by pipeline, in order (``{}`` of a policy that has none); their state, by
        pipeline and class name; what was left out, place -> reason.

    Raises:
        InvalidInputError: a connector that cannot be carried exactly.
    """
    if policy.agent_connectors is None or policy.action_connectors is None:
        return {}, {}, _omitted_filter(policy, omit, label)
    recorded: dict[str, Any] = {}
    states: dict[str, Any] = {}
    omitted: dict[str, str] = {}
    pipelines = (policy.agent_connectors.connectors, policy.action_connectors.connectors)
    for pipeline, connectors in zip(PIPELINES, pipelines, strict=True):
        recorded[pipeline] = []
        count: Counter[str] = Counter()
        for connector in connectors:
            name = type(connector).__name__
            if name in omit or (_is_filter(connector) and "MeanStdFilter" in omit):
                omitted[f"connectors.{pipeline}.{name}"] = "left out on request"
                continue
            count[name] += 1
            key = name if count[name] == 1 else f"{name}#{count[name]}"
            entry, state = _connector_to_spec(connector, label)
            recorded[pipeline].append({"name": key, **entry})
            if state is not None:
                states.setdefault(pipeline, {})[key] = state
    return recorded, states, omitted


def _omitted_filter(policy: Policy, omit: frozenset[str], label: str) -> dict[str, str]:
    """Return what is left out of a policy without connectors whose config asks for a filter.

    Raises:
        InvalidInputError: the caller did not say that the filter may be left out.
    """
    wanted = policy.config.get("observation_filter", "NoFilter")
    if wanted == "NoFilter":
        return {}
    if "MeanStdFilter" not in omit:
        raise InvalidInputError(
            f"{label}: its config asks for the observation filter {wanted!r}, but the policy has "
            "no connectors, so the filter's statistics are not known here. Take the snapshot from "
            "the Algorithm (algorithm.get_policy(…)), or with omit=['MeanStdFilter']."
        )
    return {"connectors.agent.MeanStdFilter": "left out on request"}


def _is_filter(connector: Connector) -> bool:
    return isinstance(connector, SyncedFilterAgentConnector)


def _connector_to_spec(connector: Connector, label: str) -> tuple[dict[str, Any], Any]:
    """Return the entry of one connector in the spec, and its state or None."""
    cls = type(connector)
    path = importable_path(cls)
    if path is None:
        raise InvalidInputError(
            f"{label}: the connector {cls.__name__} is of a class that no other process can import "
            "(one made by a function such as register_lambda_agent_connector, or inside one). "
            f"Define it at the top level of a module, or pass omit=[{cls.__name__!r}]."
        )
    entry: dict[str, Any] = {"class": Tagged("import", path)}
    if cls in _FILTERS:
        return entry, _filter_state(connector)
    if cls is ClipRewardAgentConnector:
        return {**entry, "args": {"sign": connector.sign, "limit": connector.limit}}, None
    if cls in _STATELESS:
        return entry, None
    return entry, _custom_state(connector, label)


def _custom_state(connector: Connector, label: str) -> object:
    """Return the state of a connector that is not RLlib's, from its own ``to_state()``.

    Raises:
        InvalidInputError: its class inherits the methods for state, or its state is not plain.
    """
    cls = type(connector)
    refusal = f"{label}: the connector {cls.__name__} cannot be carried exactly: "
    remedy = f" Or pass omit=[{cls.__name__!r}]: it is then not in the snapshot."
    for method in ("to_state", "from_state"):
        owner = next(base for base in cls.__mro__ if method in vars(base))
        if owner.__module__.startswith("ray.rllib."):
            raise InvalidInputError(
                f"{refusal}it inherits {method}() from RLlib's {owner.__name__}, which knows "
                f"nothing of its state. Define to_state() and from_state().{remedy}"
            )
    _, state = connector.to_state()
    try:
        check_plain_state(state, "to_state()")
    except InvalidInputError as error:
        raise InvalidInputError(f"{refusal}{error}{remedy}") from None
    return state


def _filter_state(connector: Any) -> dict[str, Any]:
    """Return flags and statistics of a filter (``MeanStdFilter``, utils/filter.py) as arrays."""
    observation_filter = connector.filter
    clip = observation_filter.clip
    return {
        "demean": bool(observation_filter.demean),
        "destd": bool(observation_filter.destd),
        "clip": None if clip is None else float(clip),
        "running_stats": [
            {
                "count": int(stat.num_pushes),
                "mean": np.array(stat.mean_array),
                "sum_sq_diff": np.array(getattr(stat, squares_name(stat))),
            }
            for stat in dm_tree.flatten(observation_filter.running_stats)
        ],
    }


def make_connectors(
    recorded: Mapping[str, Any], states: object, trust: Trust
) -> dict[str, list[MakeConnector]]:
    """Return functions that make the connectors that :func:`connectors_to_spec` recorded.

    Args:
        recorded: ``spec.connectors``.
        states: ``state["connectors"]``.
        trust: see :func:`policystore.rllib.common.trust.resolve`.

    Returns:
        Functions by pipeline, in order.

    Raises:
        FormatError: something that :func:`connectors_to_spec` does not write.
        UntrustedError, NotFoundError: a class that may not or cannot be imported.
    """
    if set(recorded) != set(PIPELINES) or not isinstance(states, dict):
        raise FormatError(f"spec.connectors: expected the pipelines {PIPELINES}")
    try:
        return {
            pipeline: [
                _connector_maker(
                    entry, states.get(pipeline, {}), f"spec.connectors.{pipeline}", trust
                )
                for entry in recorded[pipeline]
            ]
            for pipeline in PIPELINES
        }
    except (TypeError, KeyError, AttributeError) as error:
        raise FormatError(f"spec.connectors: malformed: {error!r}") from None


def _connector_maker(entry: Any, states: Any, where: str, trust: Trust) -> MakeConnector:
    """Return a function that makes one connector.

    Args:
        entry: of the spec, not checked yet.
        states: of the pipeline's connectors, by name, not checked yet.
        where: the place of the pipeline, for messages.
        trust: see :func:`policystore.rllib.common.trust.resolve`.
    """
    name, path = entry["name"], entry["class"].value
    state = states.get(name)
    cls = _connector_class(path, where, trust)
    if cls in _FILTERS:
        return _filter_maker(cls, state, f"{where}.{name}")
    if cls is ClipRewardAgentConnector:
        sign, limit = bool(entry["args"]["sign"]), entry["args"]["limit"]
        if limit is not None and type(limit) not in (int, float):
            raise FormatError(f"{where}.{name}: limit is a number, not {limit!r}")
        return lambda ctx: cls(ctx, sign=sign, limit=limit)
    if cls in _STATELESS:
        return lambda ctx: cls(ctx)
    if cls.__module__.startswith("ray.rllib."):
        raise FormatError(f"{where}: snapshots of policies do not hold the connector {path}")
    try:
        check_plain_state(state, f"state.connectors: {name}")
    except InvalidInputError as error:
        raise FormatError(str(error)) from None
    return lambda ctx: cls.from_state(ctx, state)


def _connector_class(path: str, where: str, trust: Trust) -> Any:
    """Import a connector class; raise FormatError for any other class."""
    cls = resolve(path, trust)
    if not isinstance(cls, type) or not issubclass(cls, Connector):
        raise FormatError(f"{where}: {path} is not a connector of RLlib's old API stack")
    return cls


def _filter_maker(cls: Any, state: Any, where: str) -> MakeConnector:
    """Return a function that makes a filter with the statistics of a snapshot.

    Args:
        cls: one of RLlib's classes of filters.
        state: as :func:`_filter_state` returned it, not checked yet.
        where: the place of the filter, for messages.

    Raises:
        FormatError: malformed statistics. The returned function raises it too, if the policy's
            observations have other shapes than the statistics.
    """
    try:
        stats = [
            running_stat(entry["count"], entry["mean"], entry["sum_sq_diff"])
            for entry in state["running_stats"]
        ]
        demean, destd = bool(state["demean"]), bool(state["destd"])
        clip = None if state["clip"] is None else float(state["clip"])
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise FormatError(f"{where}: malformed statistics of a filter: {error!r}") from None

    def make_filter(ctx: ConnectorContext) -> Connector:
        connector: Connector = cls(ctx)
        observation_filter = connector.filter
        # The concurrent class ignores its arguments (connectors/agent/mean_std_filter.py:178).
        observation_filter.demean = demean
        observation_filter.destd = destd
        observation_filter.clip = clip
        shapes = [stat.shape for stat in stats]
        needed = [stat.shape for stat in dm_tree.flatten(observation_filter.running_stats)]
        if shapes != needed:
            raise FormatError(
                f"{where}: statistics for shapes {shapes}; the policy's observations have {needed}"
            )
        observation_filter.running_stats = dm_tree.unflatten_as(
            observation_filter.running_stats, stats
        )
        observation_filter.reset_buffer()
        return connector

    return make_filter


def default_connectors(
    *, preprocess: bool, normalize_actions: bool, clip_actions: bool
) -> dict[str, list[MakeConnector]]:
    """Return the connectors of a policy without filter or clipped rewards, by pipeline.

    RLlib makes the same connectors for such a policy (connectors/util.py:48-99).

    Args:
        preprocess: whether RLlib puts a preprocessor before the policy.
        normalize_actions: whether actions in [-1, 1] are scaled to the action space.
        clip_actions: whether actions are clipped to the action space.
    """
    agent: list[MakeConnector] = [ObsPreprocessorConnector] if preprocess else []
    action: list[MakeConnector] = [ConvertToNumpyConnector]
    if normalize_actions:
        action.append(NormalizeActionsConnector)
    if clip_actions:
        action.append(ClipActionsConnector)
    return {
        "agent": [*agent, StateBufferConnector, ViewRequirementAgentConnector],
        "action": [*action, ImmutableActionsConnector],
    }


def attach(
    policy: Policy, makers: Mapping[str, Iterable[MakeConnector]], ctx: ConnectorContext
) -> None:
    """Give a policy two new pipelines in place of those that it has.

    Args:
        policy: the policy, which is changed.
        makers: functions by pipeline, in order.
        ctx: RLlib's context, which each function gets.
    """
    made = {pipeline: [make(ctx) for make in makers[pipeline]] for pipeline in PIPELINES}
    policy.agent_connectors = AgentConnectorPipeline(ctx, made["agent"])
    policy.action_connectors = ActionConnectorPipeline(ctx, made["action"])
