"""Connectors of old-stack policies: recorded in a spec and state, and made again.

On the old stack everything between environment and policy is a pipeline of connectors that hangs
on the policy itself, ``policy.agent_connectors`` and ``policy.action_connectors``
(connectors/util.py:102). ``RolloutWorker.filters`` holds the very filter objects of these pipelines
(connectors/util.py:153), so after ``train()`` those of the local worker are the merged ones.

Statistics of filters are kept as arrays and written into RLlib's objects by the code here:
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
from policystore.rllib.common.running_stats import running_stat
from policystore.rllib.common.trust import Trust, resolve
from policystore.rllib.old_stack.config import lasting_path
from policystore.rllib.old_stack.exploration import check_plain_state
from policystore.rllib.worker_code.compat import squares_name

__all__ = ["MakeConnector", "attach", "connectors_to_spec", "default_connectors", "make_connectors"]

MakeConnector: TypeAlias = Callable[[ConnectorContext], Connector]
"""A connector class, or any function that makes a connector from RLlib's context."""

PIPELINES = ("agent", "action")

_FILTERS = (
    MeanStdObservationFilterAgentConnector,
    ConcurrentMeanStdObservationFilterAgentConnector,
)
# RLlib's own that are made from the context alone. What StateBuffer and ViewRequirement hold
# belongs to an episode, not to the policy.
_PLAIN = (
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
    policy: Policy, omit: frozenset[str], what: str
) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """What a spec and a state say of a policy's connectors.

    Args:
        omit: class names of connectors to leave away; ``MeanStdFilter`` means any filter.
        what: how messages name the policy.

    Returns:
        Connectors by pipeline, in order (``{}`` of a policy that has none); their state, by
        pipeline and class name; what was left out, place -> why.

    Raises:
        InvalidInputError: a connector that cannot be carried exactly.
    """
    if policy.agent_connectors is None or policy.action_connectors is None:
        return {}, {}, _without_filter(policy, omit, what)
    found: dict[str, Any] = {}
    states: dict[str, Any] = {}
    omitted: dict[str, str] = {}
    pipelines = (policy.agent_connectors.connectors, policy.action_connectors.connectors)
    for pipeline, connectors in zip(PIPELINES, pipelines, strict=True):
        found[pipeline] = []
        seen: Counter[str] = Counter()
        for connector in connectors:
            name = type(connector).__name__
            if name in omit or (_is_filter(connector) and "MeanStdFilter" in omit):
                omitted[f"connectors.{pipeline}.{name}"] = "left out on request"
                continue
            seen[name] += 1
            key = name if seen[name] == 1 else f"{name}#{seen[name]}"
            entry, state = _record_one(connector, what)
            found[pipeline].append({"name": key, **entry})
            if state is not None:
                states.setdefault(pipeline, {})[key] = state
    return found, states, omitted


def _without_filter(policy: Policy, omit: frozenset[str], what: str) -> dict[str, str]:
    asked = policy.config.get("observation_filter", "NoFilter")
    if asked == "NoFilter":
        return {}
    if "MeanStdFilter" not in omit:
        raise InvalidInputError(
            f"{what}: its config asks for the observation filter {asked!r}, but the policy has no "
            "connectors, so its statistics are not known here. Take the snapshot from the "
            "Algorithm (algorithm.get_policy(…)), or with omit=['MeanStdFilter']."
        )
    return {"connectors.agent.MeanStdFilter": "left out on request"}


def _is_filter(connector: Connector) -> bool:
    return isinstance(connector, SyncedFilterAgentConnector)


def _record_one(connector: Connector, what: str) -> tuple[dict[str, Any], Any]:
    cls = type(connector)
    path = lasting_path(cls)
    if path is None:
        raise InvalidInputError(
            f"{what}: the connector {cls.__name__} is of a class that no other process can import "
            "(one made by a function such as register_lambda_agent_connector, or inside one). "
            f"Define it at the top level of a module, or pass omit=[{cls.__name__!r}]."
        )
    entry: dict[str, Any] = {"class": Tagged("import", path)}
    if cls in _FILTERS:
        return entry, _filter_state(connector)
    if cls is ClipRewardAgentConnector:
        return {**entry, "args": {"sign": connector.sign, "limit": connector.limit}}, None
    if cls in _PLAIN:
        return entry, None
    return entry, _custom_state(connector, what)


def _custom_state(connector: Connector, what: str) -> Any:
    cls = type(connector)
    refuse = f"{what}: the connector {cls.__name__} cannot be carried exactly: "
    way_on = f" Or pass omit=[{cls.__name__!r}]: it is then not in the snapshot."
    for method in ("to_state", "from_state"):
        owner = next(base for base in cls.__mro__ if method in vars(base))
        if owner.__module__.startswith("ray.rllib."):
            raise InvalidInputError(
                f"{refuse}it inherits {method}() of RLlib's {owner.__name__}, which knows nothing "
                f"of it. Define to_state() and from_state()." + way_on
            )
    _, state = connector.to_state()
    try:
        check_plain_state(state, "to_state()")
    except InvalidInputError as error:
        raise InvalidInputError(f"{refuse}{error}{way_on}") from None
    return state


def _filter_state(connector: Any) -> dict[str, Any]:
    found = connector.filter
    return {
        "demean": bool(found.demean),
        "destd": bool(found.destd),
        "clip": None if found.clip is None else float(found.clip),
        "running_stats": [
            {
                "count": int(stat.num_pushes),
                "mean": np.array(stat.mean_array),
                "sum_sq_diff": np.array(getattr(stat, squares_name(stat))),
            }
            for stat in dm_tree.flatten(found.running_stats)
        ],
    }


def make_connectors(
    recorded: Mapping[str, Any], states: Any, trust: Trust
) -> dict[str, list[MakeConnector]]:
    """What :func:`record` wrote, as makers of connectors.

    Raises:
        FormatError: not what :func:`record` writes.
        UntrustedError, NotFoundError: a class that may not or cannot be imported.
    """
    if set(recorded) != set(PIPELINES) or not isinstance(states, dict):
        raise FormatError(f"spec.connectors: expected the pipelines {PIPELINES}")
    try:
        return {
            pipeline: [
                _maker(entry, states.get(pipeline, {}), f"spec.connectors.{pipeline}", trust)
                for entry in recorded[pipeline]
            ]
            for pipeline in PIPELINES
        }
    except (TypeError, KeyError, AttributeError) as error:
        raise FormatError(f"spec.connectors: malformed: {error!r}") from None


def _maker(entry: Any, states: Any, where: str, trust: Trust) -> MakeConnector:
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
    if cls in _PLAIN:
        return lambda ctx: cls(ctx)
    if cls.__module__.startswith("ray.rllib."):
        raise FormatError(f"{where}: snapshots of policies do not hold the connector {path}")
    try:
        check_plain_state(state, f"state.connectors: {name}")
    except InvalidInputError as error:
        raise FormatError(str(error)) from None
    return lambda ctx: cls.from_state(ctx, state)


def _connector_class(path: str, where: str, trust: Trust) -> Any:
    cls = resolve(path, trust)
    if not isinstance(cls, type) or not issubclass(cls, Connector):
        raise FormatError(f"{where}: {path} is not a connector of RLlib's old API stack")
    return cls


def _filter_maker(cls: Any, state: Any, where: str) -> MakeConnector:
    try:
        stats = [
            running_stat(entry["count"], entry["mean"], entry["sum_sq_diff"])
            for entry in state["running_stats"]
        ]
        demean, destd = bool(state["demean"]), bool(state["destd"])
        clip = None if state["clip"] is None else float(state["clip"])
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise FormatError(f"{where}: malformed statistics of a filter: {error!r}") from None

    def make(ctx: ConnectorContext) -> Connector:
        connector: Connector = cls(ctx)
        found = connector.filter
        # The concurrent class ignores its arguments (connectors/agent/mean_std_filter.py:178).
        found.demean, found.destd, found.clip = demean, destd, clip
        given = [stat.shape for stat in stats]
        needed = [stat.shape for stat in dm_tree.flatten(found.running_stats)]
        if given != needed:
            raise FormatError(
                f"{where}: statistics for shapes {given}; the policy's observations have {needed}"
            )
        found.running_stats = dm_tree.unflatten_as(found.running_stats, stats)
        found.reset_buffer()
        return connector

    return make


def default_connectors(
    *, preprocess: bool, normalize_actions: bool, clip_actions: bool
) -> dict[str, list[MakeConnector]]:
    """What RLlib gives a policy without filter or clipped rewards (connectors/util.py:48-99)."""
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
    """Give a policy its two pipelines, replacing what it has."""
    made = {pipeline: [make(ctx) for make in makers[pipeline]] for pipeline in PIPELINES}
    policy.agent_connectors = AgentConnectorPipeline(ctx, made["agent"])
    policy.action_connectors = ActionConnectorPipeline(ctx, made["action"])
