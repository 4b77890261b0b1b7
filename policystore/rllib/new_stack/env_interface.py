"""The env interface of a new-stack Algorithm: spaces, connectors and their state.

On the new stack, spaces, connectors and states belong to env runners and agents, not to modules.
After each ``train()``, the local env runner holds the merged statistics of all remote env runners
(``env/env_runner_group.py:sync_env_runner_states``). Without a local env runner, the Algorithm
holds them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, TypeAlias

import gymnasium as gym
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.connectors.connector_pipeline_v2 import ConnectorPipelineV2
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.typing import AgentID

from policystore._util.near import close_names, did_you_mean
from policystore.errors import InvalidInputError, NotFoundError
from policystore.rllib.common.runner_states import pieces_of_runner, require_merged
from policystore.rllib.new_stack.connector_state import (
    filter_agents,
    has_state,
    is_filter,
    take_state,
)
from policystore.rllib.new_stack.connectors import piece_to_plain, walk
from policystore.rllib.worker_code.compat import is_multi_agent, runner_pipeline
from policystore.rllib_schema.env_interface import PIPELINES, EnvInterface
from policystore.spaces import space_to_json

__all__ = ["default_pipelines", "read_env_interface", "stateful_connectors"]

_NamedPieces: TypeAlias = Sequence[tuple[str, ConnectorV2]]
_Spaces: TypeAlias = tuple[gym.Space[Any] | None, gym.Space[Any] | None]


def read_env_interface(
    algorithm: Algorithm,
    agent_ids: Iterable[AgentID] | None,
    omit: Iterable[str],
    from_runner: int | None = None,
) -> EnvInterface:
    """Read spaces, the user's connectors and their state from an Algorithm of the new stack.

    Args:
        algorithm: a running Algorithm.
        agent_ids: in a multi-agent Algorithm, the agents that the module acts for; the state of
            their filters is read.
        omit: names of connectors that are not to be kept.
        from_runner: number of the env runner whose connector states are read; None for the merged
            states.

    Raises:
        InvalidInputError: state that cannot be kept; ``agent_ids`` is missing, or the agents have
            different spaces; or RLlib does not merge states, and ``from_runner`` is missing.
        NotFoundError: no such agents, connectors or env runner; the message lists those there are.
        StorageError: the env runner does not answer.
    """
    if isinstance(omit, str):
        raise InvalidInputError(f"omit is a list of names: omit=[{omit!r}]")
    omit = list(omit)
    config = algorithm.config
    pipelines = _pipelines(algorithm)
    user = {name: _user_pieces(config, name, pipeline) for name, pipeline in pipelines.items()}
    pieces = walk(piece for name in PIPELINES for piece in user[name])
    first = pipelines["env_to_module"]
    spaces: _Spaces = (first.input_observation_space, first.input_action_space)
    omitted: dict[str, str] = {}
    chosen = _chosen_agents(config, spaces, pieces, agent_ids, omit)
    if is_multi_agent(config):
        spaces = _spaces_of(chosen, spaces, strict=agent_ids is not None)
    omitted_pieces = _omitted_pieces(pieces, omit)
    kept = [(name, piece) for name, piece in pieces if name not in omitted_pieces]
    for name in omitted_pieces:
        omitted[f"connectors.{name}"] = "left out on request, with its state"
    if from_runner is None:
        # An empty state may only be empty because the local env runner never sampled.
        require_merged(algorithm, [name for name, piece in kept if has_state(piece)])
        states: dict[int, Any] = {}
    else:
        states = _states_of_runner(algorithm, pipelines, from_runner)
    agents = chosen if is_multi_agent(config) else None
    state = {
        name: take_state(piece, name, agents, states.get(id(piece)))
        for name, piece in kept
        if states.get(id(piece)) or has_state(piece)
    }
    if spaces[0] is None or spaces[1] is None:
        omitted["env_spaces"] = (
            "the agents' spaces differ, and agent_ids= was not given"
            if is_multi_agent(config)
            else "the Algorithm does not know them"
        )
    return EnvInterface(
        observation_space=None if spaces[0] is None else space_to_json(spaces[0]),
        action_space=None if spaces[1] is None else space_to_json(spaces[1]),
        connectors={
            **{
                name: [
                    piece_to_plain(piece)
                    for piece in user[name]
                    if not any(piece is other for other in omitted_pieces.values())
                ]
                for name in PIPELINES
            },
            "defaults": {name: _adds_defaults(config, name) for name in PIPELINES},
            "multi_agent": is_multi_agent(config),
            "agents": list(chosen) if is_multi_agent(config) else None,
            "lookback": config.episode_lookback_horizon,
        },
        state=state,
        normalize_actions=bool(config.normalize_actions),
        clip_actions=bool(config.clip_actions),
        omitted=omitted,
    )


def stateful_connectors(algorithm: Algorithm) -> list[str]:
    """Return the names of the user's connectors of an Algorithm that keep state."""
    pipelines = _pipelines(algorithm)
    user = {name: _user_pieces(algorithm.config, name, pipelines[name]) for name in PIPELINES}
    pieces = walk(piece for name in PIPELINES for piece in user[name])
    return [name for name, piece in pieces if has_state(piece)]


def _states_of_runner(
    algorithm: Algorithm, pipelines: Mapping[str, ConnectorPipelineV2], from_runner: int
) -> dict[int, Any]:
    """Return the states of an env runner's connectors, by id of the driver's same connector."""
    states: dict[int, Any] = {}
    for pipeline, given in pieces_of_runner(algorithm, from_runner).items():
        own = [piece for _, piece in walk(pipelines[pipeline].connectors)]
        if [type(piece).__name__ for piece in own] != [name for name, _ in given]:
            raise InvalidInputError(
                f"env runner {from_runner} has other connectors than the driver: "
                f"{[name for name, _ in given]}"
            )
        states |= {id(piece): state for piece, (_, state) in zip(own, given, strict=True)}
    return states


def _omitted_pieces(pieces: _NamedPieces, omit: Sequence[str]) -> dict[str, ConnectorV2]:
    """Return the pieces that are not to be kept, by name.

    Raises:
        NotFoundError: no piece has such a name; the message lists the names.
    """
    known = dict(pieces)
    unknown = [name for name in omit if name not in known]
    if unknown:
        raise NotFoundError(
            f"omit names {unknown}, but the connectors are {sorted(known) or 'none'}"
            + did_you_mean(close_names(unknown[0], known))
        )
    return {name: known[name] for name in omit}


def _chosen_agents(
    config: AlgorithmConfig,
    spaces: _Spaces,
    pieces: _NamedPieces,
    agent_ids: Iterable[AgentID] | None,
    omit: Sequence[str],
) -> list[AgentID]:
    """Return the agents that the module acts for; [] in a single-agent Algorithm.

    Raises:
        InvalidInputError: ``agent_ids`` is no list or empty, is given to an Algorithm in which
            nothing belongs to single agents, or is missing though a kept connector has state for
            each agent.
        NotFoundError: unknown agents; the message lists the Algorithm's.
    """
    if agent_ids is not None and (
        isinstance(agent_ids, (str, bytes)) or not isinstance(agent_ids, Iterable)
    ):
        raise InvalidInputError(f"agent_ids is a list of agent ids: agent_ids=[{agent_ids!r}]")
    if not is_multi_agent(config):
        if agent_ids is not None:
            raise InvalidInputError(
                "agent_ids= is for multi-agent Algorithms; this Algorithm has a single agent: "
                "leave it out"
            )
        return []
    known = _known_agents(spaces, pieces)
    if agent_ids is None:
        stateful = [name for name, piece in pieces if has_state(piece) and name not in omit]
        if stateful:
            raise InvalidInputError(
                f"the connectors {stateful} keep state per agent, and an Algorithm does not say "
                "which agents act through a module: pass agent_ids=[…] with the ids of those whose "
                f"state belongs to it (the agents are {known!r}), or leave the state out with "
                f"omit={stateful!r}, which the spec then records"
            )
        return known
    # The same agents make the same snapshot in any order.
    ordered = sorted(agent_ids, key=lambda agent: (type(agent).__name__, repr(agent)))
    chosen = list({(type(agent), agent): agent for agent in ordered}.values())
    # 1, 1.0 and True are equal as keys, but not the same agent id once written down.
    exact = {(type(agent), agent) for agent in known}
    unknown = [agent for agent in chosen if (type(agent), agent) not in exact]
    if not chosen:
        raise InvalidInputError(
            f"agent_ids is empty: name at least one agent, of {known!r}, or leave agent_ids out"
        )
    if unknown and not known:
        raise InvalidInputError(
            f"agent_ids={chosen!r}: this Algorithm has neither filters nor spaces by agent, so no "
            "part of a snapshot belongs to single agents: leave agent_ids out"
        )
    if unknown:
        raise NotFoundError(f"no agents {unknown!r}; the Algorithm's agents are {known!r}")
    return chosen


def _known_agents(spaces: _Spaces, pieces: _NamedPieces) -> list[AgentID]:
    """Return the agents that have a space or filter statistics, in a fixed order."""
    agents: dict[AgentID, None] = {}
    if isinstance(spaces[0], gym.spaces.Dict):
        agents |= dict.fromkeys(spaces[0].spaces)
    for _, piece in pieces:
        if is_filter(piece):
            agents |= dict.fromkeys(filter_agents(piece))
    # By type and text: ids of several types cannot be compared, and sets have no order.
    return sorted(agents, key=lambda agent: (type(agent).__name__, str(agent)))


def _spaces_of(agent_ids: Sequence[AgentID], spaces: _Spaces, *, strict: bool) -> _Spaces:
    """Return the pair of spaces that all these agents have.

    Agents of different spaces give (None, None), or InvalidInputError if ``strict``.
    """
    pairs = [
        tuple(space[agent] if isinstance(space, gym.spaces.Dict) else None for space in spaces)
        for agent in agent_ids
    ]
    if not pairs:
        return None, None
    if any(pair != pairs[0] for pair in pairs):
        if strict:
            raise InvalidInputError(
                f"the agents {list(agent_ids)!r} have different spaces, so no single module acts "
                "for all of them in the same way; name fewer in agent_ids="
            )
        return None, None
    return pairs[0]  # type: ignore[return-value]


def _pipelines(algorithm: Algorithm) -> dict[str, ConnectorPipelineV2]:
    """Return an Algorithm's pipelines by name; build them if the driver has none."""
    for group in (algorithm.env_runner_group, algorithm.eval_env_runner_group):
        runner = group.local_env_runner if group else None
        # An env runner that serves an external environment has none: its client owns them.
        of_runner = {name: runner_pipeline(runner, name) for name in PIPELINES}
        if all(pipeline is not None for pipeline in of_runner.values()):
            return of_runner
    of_algorithm = {name: getattr(algorithm, f"{name}_connector", None) for name in PIPELINES}
    if all(pipeline is not None for pipeline in of_algorithm.values()):
        return of_algorithm
    return _build_pipelines(
        algorithm.config, algorithm.config.observation_space, algorithm.config.action_space
    )


def _build_pipelines(
    config: AlgorithmConfig,
    observation_space: gym.Space[Any] | None,
    action_space: gym.Space[Any] | None,
) -> dict[str, ConnectorPipelineV2]:
    """Build the pipelines of a config by name, for an environment of these spaces."""
    # Only the attributes that both builders read (algorithm_config.py:1077-1102, 1185-1210), so
    # that one call serves all versions: the parameter `spaces` came later than `env`.
    env: Any = SimpleNamespace(
        observation_space=observation_space,
        action_space=action_space,
        single_observation_space=observation_space,
        single_action_space=action_space,
    )
    return {name: getattr(config, f"build_{name}_connector")(env=env) for name in PIPELINES}


def default_pipelines(
    *,
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    module_id: str | None,
    pieces: Mapping[str, Sequence[ConnectorV2]],
    defaults: Mapping[str, bool],
    normalize_actions: bool,
    clip_actions: bool,
) -> dict[str, ConnectorPipelineV2]:
    """Build RLlib's own pipelines around given pieces, without Ray or an environment.

    Args:
        observation_space, action_space: the environment's; by agent (``Dict``) if ``module_id``
            is given.
        module_id: in a multi-agent set-up, the module that every agent acts through; else None.
        pieces: the user's connector pieces, by pipeline.
        defaults: whether RLlib's default pieces go around the user's, by pipeline.
        normalize_actions, clip_actions: see RLlib's ``NormalizeAndClipActions``.

    Returns:
        The pipelines by name.
    """
    # Any config with a default module class will do: only connectors are built from it.
    config = PPOConfig()
    config.env_runners(
        env_to_module_connector=lambda *_args, **_kwargs: list(pieces["env_to_module"]),
        module_to_env_connector=lambda *_args, **_kwargs: list(pieces["module_to_env"]),
        add_default_connectors_to_env_to_module_pipeline=defaults["env_to_module"],
        add_default_connectors_to_module_to_env_pipeline=defaults["module_to_env"],
    )
    config.environment(normalize_actions=normalize_actions, clip_actions=clip_actions)
    if module_id is not None:
        config.multi_agent(
            policies={module_id}, policy_mapping_fn=lambda *_args, **_kwargs: module_id
        )
    return _build_pipelines(config, observation_space, action_space)


def _adds_defaults(config: AlgorithmConfig, name: str) -> bool:
    return bool(getattr(config, f"add_default_connectors_to_{name}_pipeline"))


def _user_pieces(
    config: AlgorithmConfig, name: str, pipeline: ConnectorPipelineV2
) -> list[ConnectorV2]:
    """Return the pieces of a live pipeline that are not RLlib's default ones.

    Raises:
        InvalidInputError: the default pieces are not where RLlib puts them.
    """
    live = list(pipeline.connectors)
    if not _adds_defaults(config, name):
        return live
    # RLlib builds its default pieces around a mark, which shows the place of the user's pieces.
    reference = default_pipelines(
        observation_space=_first_agent(pipeline.input_observation_space, config),
        action_space=_first_agent(pipeline.input_action_space, config),
        module_id=DEFAULT_MODULE_ID + "_" if is_multi_agent(config) else None,
        pieces={other: [_Mark()] if other == name else [] for other in PIPELINES},
        defaults=dict.fromkeys(PIPELINES, True),
        normalize_actions=True,
        clip_actions=False,
    )[name].connectors
    at = next(index for index, piece in enumerate(reference) if isinstance(piece, _Mark))
    before, after = reference[:at], reference[at + 1 :]
    stop = len(live) - len(after)
    around = live[: len(before)] + live[max(stop, len(before)) :]
    if [type(piece) for piece in around] != [type(piece) for piece in before + after]:
        raise InvalidInputError(
            f"the {name} pipeline does not hold RLlib's default pieces where RLlib puts them. It "
            f"holds {[type(piece).__name__ for piece in live]}. Code has inserted or removed "
            "pieces afterwards, or the algorithm builds a pipeline of its own, as DreamerV3 does. "
            f"Pass connectors to the config ({name}_connector=…), or take a snapshot of the module "
            "alone: snapshot(algo.get_module(…))."
        )
    return live[len(before) : stop]


def _first_agent(space: gym.Space[Any], config: AlgorithmConfig) -> gym.Space[Any]:
    """Return a multi-agent space with its first agent alone, and any other space as it is.

    The reference pipelines have one module, which takes only agents of equal spaces.
    """
    if not is_multi_agent(config) or not isinstance(space, gym.spaces.Dict):
        return space
    agent = next(iter(space.spaces))
    return gym.spaces.Dict({agent: space[agent]})


class _Mark(ConnectorV2):  # type: ignore[misc]
    """A connector piece that does nothing."""

    def __call__(self, *, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return batch
