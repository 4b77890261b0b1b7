"""Converts the env interface of a new-stack checkpoint into what specs and states record.

The env interface is the environment's side of a policy: spaces, connectors and the handling of
actions. RLlib writes each connector pipeline as a whole. RLlib's default connectors are recognized
by their class names and are not recorded. All other connectors are the user's and are recorded, as
for a live Algorithm (:mod:`policystore.rllib.new_stack.env_interface`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from policystore.checkpoints.convert.config_values import CheckpointConfigWalker
from policystore.checkpoints.convert.filter_stats import StatsReader
from policystore.checkpoints.convert.spaces import described_space
from policystore.checkpoints.files.folder import Folder
from policystore.checkpoints.files.placeholders import (
    BAD_DATA_ERRORS,
    Global,
    UnbuiltObject,
    class_path,
    kind_of,
)
from policystore.errors import FormatError
from policystore.format.canonical_json import JsonObject, canonical_json
from policystore.format.values import Tagged
from policystore.rllib_schema.class_paths import todays_path
from policystore.rllib_schema.env_interface import PIPELINES, EnvInterface
from policystore.rllib_schema.plain_config import NOTHING

__all__ = ["env_interface_of_config", "read_env_interface"]

_ARGS_FILE = "class_and_ctor_args.pkl"
_SPACE_ARGS = ("input_observation_space", "input_action_space")
# From algorithm_config.py:1060-1230 of Ray 2.60, and the connectors that Ray 2.40 had instead.
_DEFAULT_CONNECTORS = frozenset(
    (
        "AddObservationsFromEpisodesToBatch", "AddTimeDimToBatchAndZeroPad",
        "AddStatesFromEpisodesToBatch", "AgentToModuleMapping", "BatchIndividualItems",
        "NumpyToTensor", "GetActions", "TensorToNumpy", "UnBatchToIndividualItems",
        "RemoveSingleTsTimeRankFromBatch", "ModuleToAgentUnmapping", "NormalizeAndClipActions",
        "ListifyDataForVectorEnv",
    )
)  # fmt: skip
_MAX_CONNECTORS = 200  # of one pipeline
_MAX_LOOKBACK = 1 << 20
_FILTER_FLAGS = ("de_mean_to_zero", "de_std_to_one", "clip_by_value")
_PER_AGENT = (
    "filters belong to agents, and the checkpoint does not say which agents act through this module"
)


class _Connector(NamedTuple):
    """One connector of a pipeline: its class and constructor arguments."""

    cls: object
    args: tuple[object, ...]
    kwargs: dict[object, object]


class _Spaces(NamedTuple):
    """The spaces that a pipeline was made for, as the file describes them."""

    observation: object
    action: object


def env_interface_of_config(
    config: Mapping[str, Any],
    observation_space: JsonObject | None,
    action_space: JsonObject | None,
    *,
    multi_agent: bool,
) -> EnvInterface:
    """Return the env interface of a checkpoint without connectors, as Ray before 2.40 wrote it.

    RLlib's default connectors are assumed. If the config has functions that make other connectors,
    these connectors are noted as omitted.

    Args:
        config: the attributes of the AlgorithmConfig.
        observation_space, action_space: the policy's spaces.
        multi_agent: whether the checkpoint has several policies.
    """
    interface = EnvInterface(
        normalize_actions=_flag(config, "normalize_actions", True),
        clip_actions=_flag(config, "clip_actions", False),
    )
    for pipeline in PIPELINES:
        makers = (config.get(f"_{pipeline}_connector"), config.get(f"{pipeline}_connector"))
        if any(maker is not None for maker in makers):
            interface.omitted[f"connectors.{pipeline}"] = (
                "made by a function of the config, which no file holds; a player needs connectors="
            )
    if not interface.omitted:
        original = (observation_space or {}).get("original_space")
        if original is None:
            interface.observation_space = observation_space
            interface.action_space = action_space
        else:
            interface.omitted["env_spaces"] = (
                "observations went through a preprocessor of the old stack; a player needs "
                "env_spaces= and connectors="
            )
    interface.connectors = {
        **{pipeline: [] for pipeline in PIPELINES},
        "defaults": dict.fromkeys(PIPELINES, True),
        "multi_agent": multi_agent,
        "agents": [] if multi_agent else None,
        "lookback": _lookback(config),
    }
    return interface


def read_env_interface(runner: Folder, config: Mapping[str, Any]) -> EnvInterface:
    """Read the env interface from an ``env_runner`` folder, as Ray 2.40 and later write it.

    Args:
        runner: the folder.
        config: the attributes of the AlgorithmConfig.

    Raises:
        FormatError: a file is damaged.
    """
    interface = EnvInterface(
        normalize_actions=_flag(config, "normalize_actions", True),
        clip_actions=_flag(config, "clip_actions", False),
    )
    multi_agent = _is_multi_agent(runner)
    spaces = _Spaces(None, None)
    user_connectors: dict[str, list[dict[str, Any]]] = {}
    defaults: dict[str, bool] = {}
    for pipeline in PIPELINES:
        folder = runner.subfolder(f"{pipeline}_connector")
        pipeline_spaces, connectors = _read_pipeline(folder)
        if pipeline == "env_to_module":
            spaces = pipeline_spaces
        defaults[pipeline] = _flag(config, f"add_default_connectors_to_{pipeline}_pipeline", True)
        entries = [
            _convert_connector(connector, folder, interface, multi_agent)
            for connector in connectors
            if not _is_default(connector)
        ]
        user_connectors[pipeline] = [entry for entry in entries if entry is not None]
    agents: list[Any] | None = None
    if multi_agent:
        agents, spaces = _agents_and_spaces(spaces)
    interface.observation_space = described_space(
        spaces.observation, f"{runner}: observation_space"
    )
    interface.action_space = described_space(spaces.action, f"{runner}: action_space")
    if interface.observation_space is None or interface.action_space is None:
        interface.omitted["env_spaces"] = (
            "the agents' spaces differ, or the checkpoint does not hold them"
        )
    interface.connectors = {
        **user_connectors,
        "defaults": defaults,
        "multi_agent": multi_agent,
        "agents": agents,
        "lookback": _lookback(config),
    }
    return interface


def _flag(config: Mapping[str, Any], key: str, default: bool) -> bool:
    value = config.get(key)
    return value if isinstance(value, bool) else default


def _lookback(config: Mapping[str, Any]) -> int:
    value = config.get("episode_lookback_horizon")
    return value if type(value) is int and 0 <= value < _MAX_LOOKBACK else 1


def _is_multi_agent(runner: Folder) -> bool:
    if not runner.has(_ARGS_FILE):
        return False
    content = runner.read_data(_ARGS_FILE).value
    cls = content.get("class") if isinstance(content, Mapping) else None
    return isinstance(cls, Global) and "MultiAgent" in cls.name


def _read_pipeline(folder: Folder) -> tuple[_Spaces, list[_Connector]]:
    """Read the spaces and connectors of a pipeline; without a file there are none."""
    if not folder.has(_ARGS_FILE):
        return _Spaces(None, None), []
    content: Any = folder.read_data(_ARGS_FILE).value
    try:
        args, kwargs = content["ctor_args_and_kwargs"]
        padded = [*args, None, None]
        spaces = _Spaces(
            *(
                kwargs[name] if name in kwargs else padded[index]
                for index, name in enumerate(_SPACE_ARGS)
            )
        )
        listed = kwargs["connectors"]
        if len(listed) > _MAX_CONNECTORS:
            raise ValueError(f"{len(listed):,} connectors")
        connectors = [_Connector(step[0], tuple(step[1]), dict(step[2])) for step in listed]
    except BAD_DATA_ERRORS as error:
        raise FormatError(
            f"{folder.location(_ARGS_FILE)}: not a connector pipeline: {error!r:.200}"
        ) from None
    return spaces, connectors


def _is_default(connector: _Connector) -> bool:
    cls = connector.cls
    return (
        isinstance(cls, Global)
        and cls.module.startswith("ray.rllib.connectors.")
        and cls.name in _DEFAULT_CONNECTORS
    )


def _convert_connector(
    connector: _Connector, folder: Folder, interface: EnvInterface, multi_agent: bool
) -> dict[str, Any] | None:
    """Return a spec's entry for one of the user's connectors; put the state into ``interface``.

    Args:
        connector: class and arguments.
        folder: the folder of the connector's pipeline, which holds the connector's state.
        interface: the state, or the reason for omitting the connector, is added to it.
        multi_agent: whether the state of a connector is kept for each agent.

    Returns:
        The entry; None if the connector cannot be recorded. The connector is then noted as omitted.
    """
    path = class_path(connector.cls)
    name = kind_of(connector.cls) if path is None else path.rpartition(":")[2]
    place = f"connectors.{name}"
    if path is None:
        interface.omitted[place] = "of a class that no other process can import by name"
        return None
    if "connectors" in connector.kwargs:
        interface.omitted[place] = "a pipeline inside of the pipeline"
        return None
    entry: dict[str, Any] = {"class": Tagged("import", todays_path(path))}
    not_plain: dict[str, str] = {}
    walker = CheckpointConfigWalker(str(folder), not_plain)
    kwargs = {key: value for key, value in connector.kwargs.items() if key not in _SPACE_ARGS}
    plain_args = walker.value(list(connector.args), "args") if connector.args else None
    plain_kwargs = walker.mapping(kwargs, "kwargs")
    if not_plain:
        interface.omitted[place] = next(iter(not_plain.values()))
        return None
    if plain_args:
        entry["args"] = plain_args
    if plain_kwargs:
        entry["kwargs"] = plain_kwargs
    if any(connector.kwargs.get(key) is not None for key in _SPACE_ARGS):
        entry["spaces"] = True
    own_folder = folder.subfolder(name)
    state_file = own_folder.state_file("state")
    state = own_folder.read_data(state_file).value if state_file else {}
    if not isinstance(state, Mapping):
        raise FormatError(f"{folder.location(name)}: expected a state, found {kind_of(state)}")
    if state and multi_agent:
        interface.omitted[place] = _PER_AGENT
        return None
    if state and not name.endswith("MeanStdFilter"):
        plain = CheckpointConfigWalker(str(folder), interface.omitted).value(state, place)
        if plain is NOTHING:
            return None
        interface.state[name] = plain
    elif state:
        interface.state[name] = _convert_filters(state, folder.location(f"{name}/{state_file}"))
    return entry


def _convert_filters(state: Mapping[Any, Any], label: str) -> dict[Any, Any]:
    """Convert the state of a MeanStdFilter connector, by agent.

    The form is that of :func:`policystore.rllib.new_stack.connector_state.take_state`.
    """
    try:
        reader = StatsReader(label)
        return {agent: _convert_filter(entry, reader) for agent, entry in state.items()}
    except FormatError:
        raise
    except BAD_DATA_ERRORS as error:
        raise FormatError(f"{label}: damaged statistics of a filter: {error!r:.200}") from None


def _convert_filter(state: Mapping[str, Any], reader: StatsReader) -> dict[str, Any]:
    flags = {flag: state[flag] for flag in _FILTER_FLAGS}
    clip = flags["clip_by_value"]
    flags["clip_by_value"] = None if clip is None else float(clip)
    running_stats = []
    for entry in state["running_stats"]:
        stats = reader.read(entry)
        running_stats.append(
            {"num_pushes": stats.count, "mean": stats.mean, "sum_sq_diff": stats.sum_sq_diff}
        )
    return {**flags, "running_stats": running_stats}


def _agents_and_spaces(spaces: _Spaces) -> tuple[list[Any], _Spaces]:
    """Return the agents of Dict spaces, and the spaces that all agents share.

    Returns:
        The agent ids, ordered by type and text, and the shared spaces. No spaces if the agents'
        spaces differ. No ids and no spaces if an id is neither a text nor an integer.
    """
    observation, action = (_dict_members(space) for space in spaces)
    if not all(isinstance(agent, (str, int)) for agent in observation):
        return [], _Spaces(None, None)
    agents = sorted(observation, key=lambda agent: (type(agent).__name__, str(agent)))
    by_agent = [_Spaces(observation.get(agent), action.get(agent)) for agent in agents]
    # By id(): a space that all agents share may be large, and is converted only once.
    written: dict[int, JsonObject | None] = {}
    for space in (space for pair in by_agent for space in pair):
        if id(space) not in written:
            written[id(space)] = described_space(space, "space of an agent")
    as_text = {key: canonical_json(value) for key, value in written.items()}
    distinct = {tuple(as_text[id(space)] for space in pair) for pair in by_agent}
    return agents, by_agent[0] if len(distinct) == 1 else _Spaces(None, None)


def _dict_members(space: object) -> Mapping[Any, Any]:
    """Return the spaces inside a Dict space; ``{}`` for any other value."""
    members = space.attributes().get("spaces") if isinstance(space, UnbuiltObject) else None
    if isinstance(members, UnbuiltObject):
        members = members.entries
    return members if isinstance(members, Mapping) else {}
