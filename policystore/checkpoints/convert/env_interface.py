"""The environment's side of a new-stack checkpoint, as specs and states have it.

RLlib writes each connector pipeline whole. Its own default pieces are told by their names; the
rest are the user's, and they are recorded, as of a live Algorithm
(:mod:`policystore.rllib.new_stack.env_interface`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policystore.checkpoints.convert.config_values import CheckpointConfigWalker
from policystore.checkpoints.convert.filter_stats import StatisticsReader
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

_SPACES = ("input_observation_space", "input_action_space")
# algorithm_config.py:1060-1230 of Ray 2.60, and what 2.40 had in their place.
_DEFAULTS = frozenset(
    (
        "AddObservationsFromEpisodesToBatch", "AddTimeDimToBatchAndZeroPad",
        "AddStatesFromEpisodesToBatch", "AgentToModuleMapping", "BatchIndividualItems",
        "NumpyToTensor", "GetActions", "TensorToNumpy", "UnBatchToIndividualItems",
        "RemoveSingleTsTimeRankFromBatch", "ModuleToAgentUnmapping", "NormalizeAndClipActions",
        "ListifyDataForVectorEnv",
    )
)  # fmt: skip
_MOST = 200  # connectors of a pipeline
_FLAGS = ("de_mean_to_zero", "de_std_to_one", "clip_by_value")
_PER_AGENT = (
    "filters belong to agents, and the checkpoint does not say which agents act through this module"
)


def env_interface_of_config(
    config: Mapping[str, Any],
    observation_space: JsonObject | None,
    action_space: JsonObject | None,
    *,
    multi_agent: bool,
) -> EnvInterface:
    """Of versions that wrote no connectors: RLlib's default ones, unless the config has others."""
    side = EnvInterface(
        normalize_actions=_flag(config, "normalize_actions", True),
        clip_actions=_flag(config, "clip_actions", False),
    )
    for name in PIPELINES:
        given = (config.get(f"_{name}_connector"), config.get(f"{name}_connector"))
        if any(value is not None for value in given):
            side.omitted[f"connectors.{name}"] = (
                "made by a function of the config, which no file holds; a player needs connectors="
            )
    if not side.omitted:
        original = (observation_space or {}).get("original_space")
        if original is None:
            side.observation_space, side.action_space = observation_space, action_space
        else:
            side.omitted["env_spaces"] = (
                "observations went through a preprocessor of the old stack; a player needs "
                "env_spaces= and connectors="
            )
    side.connectors = {
        **{name: [] for name in PIPELINES},
        "defaults": dict.fromkeys(PIPELINES, True),
        "multi_agent": multi_agent,
        "agents": [] if multi_agent else None,
        "lookback": _lookback(config),
    }
    return side


def read_env_interface(runner: Folder, config: Mapping[str, Any]) -> EnvInterface:
    """Of an ``env_runner`` folder, as Ray 2.40 and later write it.

    Raises:
        FormatError: a damaged file.
    """
    side = EnvInterface(
        normalize_actions=_flag(config, "normalize_actions", True),
        clip_actions=_flag(config, "clip_actions", False),
    )
    multi_agent = _is_multi_agent(runner)
    spaces: tuple[Any, Any] = (None, None)
    user: dict[str, list[dict[str, Any]]] = {}
    defaults: dict[str, bool] = {}
    for name in PIPELINES:
        folder = runner.inside(f"{name}_connector")
        found, steps = _pipeline(folder)
        if name == "env_to_module":
            spaces = found
        mine = [step for step in steps if not _is_default(step)]
        defaults[name] = _flag(config, f"add_default_connectors_to_{name}_pipeline", True)
        user[name] = []
        for cls, args, kwargs in mine:
            _record(cls, args, kwargs, folder, user[name], side, multi_agent)
    agents: list[Any] | None = None
    if multi_agent:
        agents, spaces = _agents(spaces)
    for index, key in enumerate(("observation_space", "action_space")):
        setattr(side, key, described_space(spaces[index], f"{runner}: {key}"))
    if side.observation_space is None or side.action_space is None:
        side.omitted["env_spaces"] = (
            "the agents' spaces differ, or the checkpoint does not hold them"
        )
    side.connectors = {
        **user,
        "defaults": defaults,
        "multi_agent": multi_agent,
        "agents": agents,
        "lookback": _lookback(config),
    }
    return side


def _flag(config: Mapping[str, Any], key: str, usual: bool) -> bool:
    found = config.get(key)
    return found if isinstance(found, bool) else usual


def _lookback(config: Mapping[str, Any]) -> int:
    found = config.get("episode_lookback_horizon")
    return found if type(found) is int and 0 <= found < 1 << 20 else 1


def _is_multi_agent(runner: Folder) -> bool:
    if not runner.has("class_and_ctor_args.pkl"):
        return False
    found, _ = runner.data("class_and_ctor_args.pkl")
    cls = found.get("class") if isinstance(found, Mapping) else None
    return isinstance(cls, Global) and "MultiAgent" in cls.name


def _pipeline(folder: Folder) -> tuple[tuple[Any, Any], list[tuple[Any, Any, Any]]]:
    """Spaces of a pipeline, and its pieces: class, arguments, named arguments."""
    key = "class_and_ctor_args.pkl"
    if not folder.has(key):
        return (None, None), []
    found, _ = folder.data(key)
    try:
        args, kwargs = found["ctor_args_and_kwargs"]
        given = [*args, None, None]
        spaces = tuple(
            kwargs[name] if name in kwargs else given[index] for index, name in enumerate(_SPACES)
        )
        listed = kwargs["connectors"]
        if len(listed) > _MOST:
            raise ValueError(f"{len(listed):,} connectors")
        steps = [(step[0], tuple(step[1]), dict(step[2])) for step in listed]
    except BAD_DATA_ERRORS as error:
        raise FormatError(
            f"{folder.where(key)}: not a connector pipeline: {error!r:.200}"
        ) from None
    return (spaces[0], spaces[1]), steps


def _is_default(step: tuple[Any, Any, Any]) -> bool:
    cls = step[0]
    return (
        isinstance(cls, Global)
        and cls.module.startswith("ray.rllib.connectors.")
        and cls.name in _DEFAULTS
    )


def _record(
    cls: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    folder: Folder,
    into: list[dict[str, Any]],
    side: EnvInterface,
    multi_agent: bool,
) -> None:
    """One of the user's pieces, with its state; noted where it cannot be kept."""
    path = class_path(cls)
    name = kind_of(cls) if path is None else path.rpartition(":")[2]
    place = f"connectors.{name}"
    if path is None:
        side.omitted[place] = "of a class that no other process can import by name"
        return
    if "connectors" in kwargs:
        side.omitted[place] = "a pipeline inside of the pipeline"
        return
    missing: dict[str, str] = {}
    walker = CheckpointConfigWalker(str(folder), missing)
    kept = {key: value for key, value in kwargs.items() if key not in _SPACES}
    entry: dict[str, Any] = {"class": Tagged("import", todays_path(path))}
    plain_args = walker.value(list(args), "args") if args else None
    plain_kwargs = walker.mapping(kept, "kwargs")
    if missing:
        side.omitted[place] = next(iter(missing.values()))
        return
    if plain_args:
        entry["args"] = plain_args
    if plain_kwargs:
        entry["kwargs"] = plain_kwargs
    if any(kwargs.get(key) is not None for key in _SPACES):
        entry["spaces"] = True
    state_file = folder.inside(name).state_file("state")
    state = folder.inside(name).data(state_file)[0] if state_file else {}
    if not isinstance(state, Mapping):
        raise FormatError(f"{folder.where(name)}: expected a state, found {kind_of(state)}")
    if state and multi_agent:
        side.omitted[place] = _PER_AGENT
        return
    if state and not name.endswith("MeanStdFilter"):
        plain = CheckpointConfigWalker(str(folder), side.omitted).value(state, place)
        if plain is NOTHING:
            return
        side.state[name] = plain
    elif state:
        side.state[name] = _filters(state, folder.where(f"{name}/{state_file}"))
    into.append(entry)


def _filters(state: Any, what: str) -> dict[Any, Any]:
    """State of a MeanStdFilter, as :func:`..connector_state.take_state` has it."""
    try:
        read = StatisticsReader(what)
        return {agent: _filter(entry, read) for agent, entry in state.items()}
    except FormatError:
        raise
    except BAD_DATA_ERRORS as error:
        raise FormatError(f"{what}: damaged statistics of a filter: {error!r:.200}") from None


def _filter(state: Mapping[str, Any], read: StatisticsReader) -> dict[str, Any]:
    flags = {flag: state[flag] for flag in _FLAGS}
    clip = flags["clip_by_value"]
    flags["clip_by_value"] = None if clip is None else float(clip)
    stats = []
    for stat in state["running_stats"]:
        count, mean, squares = read(stat)
        stats.append({"num_pushes": count, "mean": mean, "sum_sq_diff": squares})
    return {**flags, "running_stats": stats}


def _agents(spaces: tuple[Any, Any]) -> tuple[list[Any], tuple[Any, Any]]:
    """The agents of Dict spaces, and the one pair of spaces that all of them have."""
    inner = [_members(space) for space in spaces]
    if not all(isinstance(agent, (str, int)) for agent in inner[0]):
        return [], (None, None)
    agents = sorted(inner[0], key=lambda agent: (type(agent).__name__, str(agent)))
    pairs = [tuple(members.get(agent) for members in inner) for agent in agents]
    written: dict[int, Any] = {}  # agents often share a space, and a hostile file a large one
    for space in (space for pair in pairs for space in pair):
        if id(space) not in written:
            written[id(space)] = described_space(space, "space of an agent")
    kinds = {key: canonical_json(value) for key, value in written.items()}
    said = {tuple(kinds[id(space)] for space in pair) for pair in pairs}
    if len(said) != 1:
        return agents, (None, None)
    return agents, (pairs[0][0], pairs[0][1])


def _members(space: Any) -> Mapping[Any, Any]:
    found = space.attributes().get("spaces") if isinstance(space, UnbuiltObject) else None
    if isinstance(found, UnbuiltObject):
        found = found.entries
    return found if isinstance(found, Mapping) else {}
