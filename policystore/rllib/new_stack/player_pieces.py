"""The connector pieces that a new-stack player puts among RLlib's default ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import gymnasium as gym
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.connectors.env_to_module.mean_std_filter import MeanStdFilter
from ray.rllib.utils.typing import AgentID

from policystore.errors import InvalidInputError, NotFoundError
from policystore.rllib.common.player_args import connector_lists
from policystore.rllib.common.trust import Trust
from policystore.rllib.new_stack.connector_state import put_state
from policystore.rllib.new_stack.connectors import pieces_from_plain, walk
from policystore.rllib_schema.env_interface import PIPELINES
from policystore.snapshot import Snapshot

__all__ = ["Pieces", "own_pieces", "recorded_pieces"]

Pieces: TypeAlias = "ConnectorV2 | Iterable[ConnectorV2] | Mapping[str, Iterable[ConnectorV2]]"
"""The caller's connector pieces: for env-to-module, or by pipeline."""


def recorded_pieces(
    snap: Snapshot,
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    agent: AgentID | None,
    trust: Trust,
) -> dict[str, list[ConnectorV2]]:
    """Build the recorded connector pieces, with the state of the agent that is played.

    Raises:
        InvalidInputError: state of a connector that is not recorded.
        NotFoundError: no filter statistics of this agent.
    """
    pieces = {
        name: pieces_from_plain(
            snap.spec.connectors.get(name, []),
            observation_space,
            action_space,
            overrides={MeanStdFilter: {"update_stats": False}},
            trust=trust,
        )
        for name in PIPELINES
    }
    by_name = dict(walk(piece for name in PIPELINES for piece in pieces[name]))
    for name, state in snap.state.items():
        if name not in by_name:
            raise InvalidInputError(
                f"{snap!r} has state of a connector {name!r}, but its connectors are "
                f"{sorted(by_name)}"
            )
        if agent is not None and isinstance(by_name[name], MeanStdFilter):
            if agent not in state:
                raise NotFoundError(
                    f"{snap!r}: {name} has statistics of {list(state)!r}, none of agent {agent!r}"
                )
            state = {agent: state[agent]}
        put_state(by_name[name], name, state)
    return pieces


def own_pieces(given: Pieces) -> dict[str, list[ConnectorV2]]:
    """Return the caller's connector pieces, by pipeline.

    Raises:
        InvalidInputError: another form, or something that is not a connector piece.
    """
    description = f"a list of ConnectorV2 pieces, or a dict of such lists with keys {PIPELINES}"
    if isinstance(given, ConnectorV2):
        given = [given]
    if not isinstance(given, Mapping):
        given = {PIPELINES[0]: given}
    pieces = {**{name: [] for name in PIPELINES}, **connector_lists(given, PIPELINES, description)}
    wrong = [piece for name in PIPELINES for piece in pieces[name]
             if not isinstance(piece, ConnectorV2)]  # fmt: skip
    if wrong:
        raise InvalidInputError(f"connectors: expected {description}, found {wrong!r}")
    return pieces
