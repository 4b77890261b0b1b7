"""Export a policy: build the graph, trace it, check it against the player, write the file."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import gymnasium as gym
import numpy as np
import torch

import policystore
from policystore._util import files
from policystore.errors import FormatError, InvalidInputError
from policystore.format.canonical_json import JsonObject
from policystore.play.metadata import Contents, Metadata
from policystore.play.spaces import flatten, read_space
from policystore.rllib.api import rebuild_player
from policystore.rllib.common.build_guard import check_snapshot
from policystore.rllib.common.ids import pick_id
from policystore.rllib.common.player import Player
from policystore.rllib.common.player_args import EnvSpaces
from policystore.rllib.common.trust import Trust
from policystore.rllib.exporting import new_stack, old_stack
from policystore.rllib.exporting.checking import check_network, check_player
from policystore.rllib.exporting.formats import FileFormat, Runner, format_of
from policystore.rllib.exporting.graph import Graph, NetworkGraph, PlayerGraph
from policystore.rllib.exporting.networks import Network
from policystore.rllib.exporting.refusal import not_exportable
from policystore.rllib.exporting.samples import random_observation
from policystore.rllib.exporting.tracing import guard_part, quiet, trace
from policystore.rllib.new_stack.player import ModulePlayer
from policystore.rllib.new_stack.rebuild import rebuild_module
from policystore.rllib.old_stack.player import PolicyPlayer
from policystore.rllib.old_stack.rebuild import rebuild_policy
from policystore.snapshot import Snapshot
from policystore.spaces import space_to_json

__all__ = ["export"]

_one_at_a_time: threading.RLock  # torch's exporters keep what they trace for the whole process


def _reset_after_fork() -> None:
    # The thread that held the lock does not exist in a forked process.
    global _one_at_a_time
    _one_at_a_time = threading.RLock()


_reset_after_fork()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)


def export(
    snap: Snapshot,
    file: str | os.PathLike[str],
    *,
    contents: Contents = "player",
    trust: Trust = (),
    env_spaces: EnvSpaces | None = None,
    agent: Any = None,
    module_id: str | None = None,
    normalize_actions: bool | None = None,
    clip_actions: bool | None = None,
    force: bool = False,
) -> Metadata:
    """Write a policy as one graph that runs without RLlib.

    The file is checked before it appears: onnxruntime (or torch, for ``.pt2``) runs the graph on
    random observations and on the extremes of the observation space, in batches of 1, 7 and 64, and
    several steps if the policy has a recurrent state. The actions have to be those of
    ``rebuild_player(snap)``: equal for integers, and within 1e-5 for floats, relative to the
    largest of three numbers: the largest number of the output, the distance between the bounds of
    the action, and 1. The file appears whole or not at all.

    In a graph, the first axis of every tensor is the batch. A player's inputs are ``obs``, or
    ``obs/KEY`` for the parts of Dict and Tuple spaces, and its outputs ``action`` or
    ``action/KEY``. The recurrent state is in inputs ``state_in/NAME`` and outputs
    ``state_out/NAME``, and begins with zeros. The call starts no Ray cluster. Several threads may
    call; their exports run one after the other.

    Args:
        snap: a snapshot of either API stack.
        file: the file to write. It ends with ``.onnx``, or with ``.pt2`` for a program of
            ``torch.export``.
        contents: ``"player"`` for a graph from the environment's observation to the environment's
            action. ``"network"`` for the network alone: its input is the observation after
            preprocessors, connectors and filters, and its outputs are ``action_dist_inputs``, and
            ``value`` if the snapshot holds a value function.
        trust, env_spaces, agent, module_id, normalize_actions, clip_actions: as for
            :func:`~policystore.rllib.api.rebuild_player`. For ``contents="network"``, only
            ``trust`` and ``module_id`` have a meaning.
        force: whether an existing file is replaced.

    Returns:
        The metadata in the file: names, shapes and meanings of the tensors, the digest, and the
        environment's spaces.

    Raises:
        InvalidInputError: a part of the policy that a graph cannot hold, which the message names;
            an argument that is malformed or missing; or a file that exists.
        MissingPackageError: a package that an ``.onnx`` file needs is not installed.
        MismatchError: the graph does not act as the player.
        NotFoundError, UntrustedError, FormatError: as ``rebuild_player``.
        ReadOnlyError, StorageError: the file cannot be written.
    """
    check_snapshot(snap)
    if contents not in get_args(Contents):
        raise InvalidInputError(f'contents is "player" or "network", not {contents!r}')
    path = files.as_path(file, "the file to export to")
    file_format = format_of(path)
    _check_place(path, force)
    if snap.spec.stack not in ("old", "new"):
        raise InvalidInputError(
            f"{snap!r} is no policy of RLlib (its stack is {snap.spec.stack!r}), so it has no "
            "player. Export a plain torch module by torch.onnx.export or torch.export."
        )
    arguments = {
        "env_spaces": env_spaces,
        "agent": agent,
        "normalize_actions": normalize_actions,
        "clip_actions": clip_actions,
    }
    with _one_at_a_time, quiet():
        plan = (
            _plan_player(snap, trust, {**arguments, "module_id": module_id})
            if contents == "player"
            else _plan_network(snap, trust, module_id, arguments)
        )
        data, metadata = _made(snap, plan, contents, file_format)
    _check_place(path, force)
    with files.mapped_errors(f"exporting to {path}", writing=True):
        files.replace_file(path, [data])
    return metadata


def _check_place(path: Path, force: bool) -> None:
    with files.mapped_errors(f"looking at {path}"):
        if path.is_dir():
            raise InvalidInputError(f"{path} is a folder: give the path of a file in the folder")
        if path.exists() and not force:
            raise InvalidInputError(
                f"{path} exists: give force=True to replace the file, or give another file"
            )


@dataclass(frozen=True)
class _Plan:
    """What is exported, and how it is checked.

    Attributes:
        graph: is traced.
        check: compares a runner of the file with the policy.
        observation_space, action_space: the environment's, as JSON.
    """

    graph: Graph
    check: Callable[[Runner], None]
    observation_space: JsonObject
    action_space: JsonObject


def _made(
    snap: Snapshot, plan: _Plan, contents: Contents, file_format: FileFormat
) -> tuple[bytes, Metadata]:
    """Return the bytes of a file that was checked, and its metadata."""
    graph = plan.graph
    metadata = Metadata(
        policystore=policystore.__version__,
        contents=contents,
        digest=snap.digest,
        algorithm=snap.spec.algorithm,
        stack=cast("Any", snap.spec.stack),
        observation_space=plan.observation_space,
        action_space=plan.action_space,
        inputs=graph.inputs,
        outputs=graph.outputs,
        state=graph.state,
    )
    data = file_format.encode(graph, trace(graph), metadata.to_json())
    plan.check(file_format.runner(data, graph))
    return data, metadata


def _plan_player(snap: Snapshot, trust: Trust, arguments: dict[str, Any]) -> _Plan:
    """Make the graph of a player, and another player to check it."""

    def make() -> Player:
        return rebuild_player(snap, trust=trust, **arguments)

    player = make()
    observation_space, action_space = (
        _space_json(space, label)
        for space, label in (
            (player.observation_space, "the observation space"),
            (player.action_space, "the action space"),
        )
    )
    modules = snap.spec.modules
    module_id = None if modules is None else pick_id(modules, arguments["module_id"], f"{snap!r}")
    parts = _parts(make(), module_id)
    random = np.random.default_rng(0)
    with guard_part("the player of the policy cannot act: an error in"):
        action = player.act(random_observation(player.observation_space, random))
    player.reset()
    dtypes = [np.asarray(part).dtype.name for part in flatten(read_space(action_space), action)]
    exported = PlayerGraph(*parts, observation_space, action_space, dtypes)
    with guard_part("torch cannot compute"), torch.no_grad():
        exported(*exported.example(2))

    def untraced() -> PlayerGraph:
        return PlayerGraph(*_parts(make(), module_id), observation_space, action_space, dtypes)

    return _Plan(
        exported,
        lambda run: check_player(run, exported, untraced, player),
        observation_space,
        action_space,
    )


def _parts(
    player: Player, module_id: str | None
) -> tuple[Network, torch.nn.Module, list[torch.nn.Module]]:
    """Return the network of a player, and the stages before and after it."""
    if isinstance(player, ModulePlayer):
        module = new_stack.module_of(player.module, module_id)
        network = new_stack.ModuleNetwork(module, with_value=False)
        network.take_head()
        return network, new_stack.preparation(player), new_stack.finish(player)
    if not isinstance(player, PolicyPlayer):
        raise InvalidInputError(f"cannot export {player!r}")
    policy_network = old_stack.PolicyNetwork(player.policy, with_value=False)
    old_stack.check_acts_by_distribution(player.policy)
    return policy_network, old_stack.preparation(player), old_stack.finish(player)


def _plan_network(
    snap: Snapshot, trust: Trust, module_id: str | None, unused: dict[str, Any]
) -> _Plan:
    """Make the graph of a network, and another one to check it."""
    for name, value in unused.items():
        if value is not None:
            raise InvalidInputError(
                f'{name}={value!r} has no meaning for contents="network": leave it out'
            )
    modules = snap.spec.modules
    if modules is not None:
        module_id = pick_id(modules, module_id, f"{snap!r}", argument="module_id=")
    elif module_id is not None:
        raise InvalidInputError(
            f"module_id={module_id!r}: {snap!r} holds a single policy; leave module_id out"
        )

    def make() -> tuple[Network, gym.Space[Any], gym.Space[Any]]:
        if snap.spec.stack == "old":
            policy = rebuild_policy(snap, trust=trust)
            network = old_stack.PolicyNetwork(policy, with_value=True)
            return network, policy.observation_space, policy.action_space
        module = new_stack.module_of(rebuild_module(snap, trust=trust), module_id)
        made = new_stack.ModuleNetwork(module, with_value=True)
        return made, module.observation_space, module.action_space

    def graph() -> NetworkGraph:
        network, space, _ = make()
        with guard_part("RLlib's network cannot compute: an error in"):
            return NetworkGraph(network, _space_json(space, "the observation space"))

    _, seen, decided = make()
    exported, reference = graph(), graph()
    env_spaces = snap.spec.env_observation_space, snap.spec.env_action_space
    return _Plan(
        exported,
        lambda run: check_network(run, exported, reference, seen),
        env_spaces[0] or _space_json(seen, "the observation space"),
        env_spaces[1] or _space_json(decided, "the action space"),
    )


def _space_json(space: gym.Space[Any] | None, label: str) -> JsonObject:
    """Return a space as JSON, if its values can be tensors.

    Raises:
        InvalidInputError: a space without tensors, such as Text or Graph, or no space.
    """
    if space is None:
        raise not_exportable(label, "is not known")
    try:
        written = space_to_json(space)
        read_space(written, label=label)
    except (FormatError, InvalidInputError) as error:
        raise not_exportable(f"{label} {space}", f"has no tensors ({error})") from None
    return written
