"""Converts the env interface of a new-stack checkpoint into what specs and states record.

The env interface is the environment's side of a policy: spaces, connectors and the handling of
actions. RLlib writes each connector pipeline as a whole. RLlib's default connectors are recognized
by their class names and are not recorded. All other connectors are the user's and are recorded, as
for a live Algorithm (:mod:`policystore.rllib.new_stack.env_interface`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from policystore.checkpoints.convert.config_values import CheckpointConfigWalker
from policystore.checkpoints.convert.filter_stats import StatsReader
from policystore.checkpoints.convert.pipelines import (
    ARGS_FILE,
    SPACE_ARGS,
    Connector,
    Pipeline,
    PipelineSpaces,
    read_connector_state,
    read_pipeline,
)
from policystore.checkpoints.convert.spaces import space_if_known
from policystore.checkpoints.files.folder import Folder
from policystore.checkpoints.files.placeholders import (
    BAD_DATA_ERRORS,
    UnbuiltObject,
    class_lineage,
    class_path,
)
from policystore.errors import FormatError, InvalidInputError, NotFoundError
from policystore.format.canonical_json import JsonObject, canonical_json
from policystore.format.values import Tagged
from policystore.rllib_schema.class_paths import todays_path
from policystore.rllib_schema.env_interface import PIPELINES, EnvInterface
from policystore.rllib_schema.plain_config import NOTHING

__all__ = ["env_interface_of_config", "read_env_interface"]

_FILTER = "MeanStdFilter"
_MAX_LOOKBACK = 1 << 20
_FILTER_FLAGS = ("de_mean_to_zero", "de_std_to_one", "clip_by_value")
_PER_AGENT = (
    "filters belong to agents, and the checkpoint does not say which agents act through this "
    "module; read_checkpoint(…, agent_ids={policy_id: [agent, …]}) takes the agents' filters"
)


class _Agents(NamedTuple):
    """The agents of a policy: their ids, and whether the caller chose them."""

    ids: list[Any]
    chosen: bool


def env_interface_of_config(
    config: Mapping[str, Any],
    observation_space: JsonObject | None,
    action_space: JsonObject | None,
    *,
    multi_agent: bool,
) -> EnvInterface:
    """Return the env interface of a checkpoint without connectors, as Ray before 2.33 wrote it.

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
        if _makes_connectors(config, pipeline):
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


def read_env_interface(
    runner: Folder, config: Mapping[str, Any], agent_ids: Iterable[object] | None = None
) -> EnvInterface:
    """Read the env interface from an ``env_runner`` folder, as Ray 2.33 and later write it.

    Args:
        runner: the folder.
        config: the attributes of the AlgorithmConfig.
        agent_ids: for several agents, those that act through the policy: the spaces and the filter
            statistics of these agents are read.

    Returns:
        The env interface, as far as it can be read. ``omitted`` names each file that cannot be
        read, with the reason: no weights depend on these files.

    Raises:
        InvalidInputError: ``agent_ids`` for a single agent, or agents of different spaces.
        NotFoundError: no such agents.
        StorageError: a file cannot be read.
    """
    interface = EnvInterface(
        normalize_actions=_flag(config, "normalize_actions", True),
        clip_actions=_flag(config, "clip_actions", False),
    )
    pipelines = {}
    for pipeline in PIPELINES:
        folder = runner.subfolder(f"{pipeline}_connector")
        try:
            pipelines[pipeline] = read_pipeline(folder)
        except (FormatError, NotFoundError) as error:
            interface.omitted[f"connectors.{pipeline}"] = f"{error}; a player needs connectors="
            pipelines[pipeline] = Pipeline(folder, PipelineSpaces(None, None), [], is_ordered=True)
    spaces = pipelines["env_to_module"].spaces
    agents: _Agents | None = None
    if _is_multi_agent(runner, pipelines["env_to_module"]):
        agents, spaces = _agents_and_spaces(spaces, agent_ids, str(runner))
    elif agent_ids is not None:
        raise InvalidInputError(
            f"{runner}: agent_ids= is for checkpoints of several agents; this one has a single "
            "agent: leave agent_ids out"
        )
    user_connectors = {
        name: _convert_pipeline(
            name, pipeline, interface, agents, makes_connectors=_makes_connectors(config, name)
        )
        for name, pipeline in pipelines.items()
    }
    interface.observation_space, interface.action_space = (
        space_if_known(space, f"{runner}: {name}", interface.omitted, f"env_{name}")
        for space, name in zip(spaces, ("observation_space", "action_space"), strict=True)
    )
    if interface.observation_space is None or interface.action_space is None:
        interface.omitted["env_spaces"] = (
            "the agents' spaces differ, or the checkpoint does not hold them"
        )
    interface.connectors = {
        **user_connectors,
        "defaults": {
            name: _flag(config, f"add_default_connectors_to_{name}_pipeline", True)
            for name in PIPELINES
        },
        "multi_agent": agents is not None,
        "agents": None if agents is None else agents.ids,
        "lookback": _lookback(config),
    }
    return interface


def _convert_pipeline(
    name: str,
    pipeline: Pipeline,
    interface: EnvInterface,
    agents: _Agents | None,
    *,
    makes_connectors: bool,
) -> list[dict[str, Any]]:
    """Return a spec's entries for the user's connectors of a pipeline; note what is omitted."""
    own = [connector for connector in pipeline.connectors if not connector.is_default]
    if len(own) > 1 and not pipeline.is_ordered:
        for connector in own:
            interface.omitted[f"connectors.{connector.name}"] = (
                f"{pipeline.folder} has {len(own)} connectors of the user's, and no file tells "
                "their order (Ray 2.33 to 2.38); a player needs connectors="
            )
        return []
    if makes_connectors and not own and not pipeline.is_ordered:
        interface.omitted[f"connectors.{name}"] = (
            f"the config makes connectors, and {pipeline.folder} holds none of them; a player "
            "needs connectors="
        )

    def convert(connector: Connector) -> dict[str, Any] | None:
        try:
            return _convert_connector(connector, pipeline.folder, interface, agents)
        except FormatError as error:
            interface.omitted[f"connectors.{connector.name}"] = (
                f"{error}; a player needs connectors="
            )
            return None

    entries = [convert(connector) for connector in own]
    return [entry for entry in entries if entry is not None]


def _makes_connectors(config: Mapping[str, Any], pipeline: str) -> bool:
    """Return whether a config has a function that makes connectors of a pipeline."""
    makers = (config.get(f"_{pipeline}_connector"), config.get(f"{pipeline}_connector"))
    return any(maker is not None for maker in makers)


def _flag(config: Mapping[str, Any], key: str, default: bool) -> bool:
    value = config.get(key)
    return value if isinstance(value, bool) else default


def _lookback(config: Mapping[str, Any]) -> int:
    value = config.get("episode_lookback_horizon")
    return value if type(value) is int and 0 <= value < _MAX_LOOKBACK else 1


def _is_multi_agent(runner: Folder, env_to_module: Pipeline) -> bool:
    """Return whether an env runner has several agents, by its class or its connectors."""
    try:
        content = runner.read_data(ARGS_FILE).value if runner.has(ARGS_FILE) else None
    except (FormatError, NotFoundError):
        content = None
    cls = content.get("class") if isinstance(content, Mapping) else None
    names = {connector.name for connector in env_to_module.connectors}
    return "AgentToModuleMapping" in names or any(
        "MultiAgent" in path for path in class_lineage(cls)
    )


def _convert_connector(
    connector: Connector, folder: Folder, interface: EnvInterface, agents: _Agents | None
) -> dict[str, Any] | None:
    """Return a spec's entry for one of the user's connectors; put the state into ``interface``.

    Args:
        connector: class and arguments.
        folder: the folder of the connector's pipeline, which holds the connector's state.
        interface: the state, or the reason for omitting the connector, is added to it.
        agents: for several agents, whose connectors keep a state for each agent; else None.

    Returns:
        The entry; None if the connector cannot be recorded. The connector is then noted as omitted.
    """
    path, name = class_path(connector.cls), connector.name
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
    kwargs = {key: value for key, value in connector.kwargs.items() if key not in SPACE_ARGS}
    plain_args = walker.value(list(connector.args), "args") if connector.args else None
    plain_kwargs = walker.mapping(kwargs, "kwargs")
    if not_plain:
        interface.omitted[place] = next(iter(not_plain.values()))
        return None
    if plain_args:
        entry["args"] = plain_args
    if plain_kwargs:
        entry["kwargs"] = plain_kwargs
    # RLlib's filter gets its spaces later, and fails if it gets them as arguments.
    if name != _FILTER and any(connector.kwargs.get(key) is not None for key in SPACE_ARGS):
        entry["spaces"] = True
    try:
        state = read_connector_state(folder.subfolder(name), always=name.endswith(_FILTER))
        if state and not name.endswith(_FILTER):
            if agents is not None:
                interface.omitted[place] = (
                    f"{folder.location(name)}: its state may be several agents', and no file says "
                    "whose; a player needs connectors="
                )
                return None
            plain = CheckpointConfigWalker(str(folder), interface.omitted).value(state, place)
            if plain is NOTHING:
                return None
            interface.state[name] = plain
        elif state:
            if agents is not None:
                if not agents.chosen:
                    interface.omitted[place] = _PER_AGENT
                    return None
                state = {agent: state[agent] for agent in agents.ids if agent in state}
            interface.state[name] = _convert_filters(state, folder.location(name))
    except (FormatError, NotFoundError) as error:
        interface.omitted[place] = f"{error}; a player needs connectors="
        return None
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


def _agents_and_spaces(
    spaces: PipelineSpaces, agent_ids: Iterable[object] | None, label: str
) -> tuple[_Agents, PipelineSpaces]:
    """Return the agents of Dict spaces, and the spaces that all these agents share.

    Args:
        spaces: the spaces of the pipeline: a Dict space has one space for each agent.
        agent_ids: the agents that the caller chose; None: all of them.
        label: names the checkpoint in error messages.

    Returns:
        The agents, ordered by type and text, and the shared spaces. No spaces if the agents'
        spaces differ. No ids and no spaces if an id is neither a text nor an integer.

    Raises:
        NotFoundError: the caller chose an agent that the checkpoint does not have.
        InvalidInputError: the caller chose agents of different spaces.
    """
    observation, action = (_dict_members(space) for space in spaces)
    if not all(isinstance(agent, (str, int)) for agent in observation):
        return _Agents([], chosen=False), PipelineSpaces(None, None)
    known = sorted(observation, key=lambda agent: (type(agent).__name__, str(agent)))
    agents = known
    if agent_ids is not None:
        wanted = list(agent_ids)
        unknown = [agent for agent in wanted if agent not in known]
        if unknown:
            raise NotFoundError(
                f"{label}: no agent {', '.join(map(repr, unknown[:5]))}; its agents are "
                + (", ".join(map(repr, known[:20])) or "none")
            )
        agents = [agent for agent in known if agent in wanted]
    by_agent = [PipelineSpaces(observation.get(agent), action.get(agent)) for agent in agents]
    # By id(): a space that all agents share may be large, and is converted only once.
    written: dict[int, JsonObject | None] = {}
    for space in (space for pair in by_agent for space in pair):
        if id(space) not in written:
            written[id(space)] = space_if_known(space, "space of an agent", {}, "")
    as_text = {key: canonical_json(value) for key, value in written.items()}
    distinct = {tuple(as_text[id(space)] for space in pair) for pair in by_agent}
    if len(distinct) > 1 and agent_ids is not None:
        raise InvalidInputError(
            f"{label}: the agents {', '.join(map(repr, agents[:5]))} have different spaces, and "
            "one policy cannot act for them; give agent_ids with agents of the same spaces"
        )
    shared = by_agent[0] if len(distinct) == 1 else PipelineSpaces(None, None)
    return _Agents(agents, chosen=agent_ids is not None), shared


def _dict_members(space: object) -> Mapping[Any, Any]:
    """Return the spaces inside a Dict space; ``{}`` for any other value."""
    members = space.attributes().get("spaces") if isinstance(space, UnbuiltObject) else None
    if isinstance(members, UnbuiltObject):
        members = members.entries
    return members if isinstance(members, Mapping) else {}
