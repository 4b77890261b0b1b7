"""Check an exported file before it appears: it has to act as the player, or as the network."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tree as dm_tree
from gymnasium import spaces
from ray.rllib.utils.spaces.space_utils import get_base_struct_from_space

from policystore.errors import MismatchError
from policystore.play.spaces import flatten, unflatten
from policystore.rllib.common.player import Player
from policystore.rllib.exporting.formats import Runner
from policystore.rllib.exporting.graph import Graph, NetworkGraph, PlayerGraph
from policystore.rllib.exporting.networks import DIST_INPUTS
from policystore.rllib.exporting.samples import extreme_observations, random_observation
from policystore.rllib.exporting.tracing import guard_part

__all__ = ["TOLERANCE", "check_network", "check_player", "compare_actions"]

TOLERANCE = 1e-5
"""How far numbers may differ, relative to the largest of three numbers: the largest number of the
same output, the distance between the bounds of the action, and 1. Runtimes add in different orders.
"""

_STEPS = 4  # of the episodes of a policy with state
_BATCHES = (1, 7, 64, 1)

_Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class _Case:
    """Batches of one number of rows: the steps of their episodes."""

    rows: int
    steps: list[list[Any]]


def _cases(space: gym.Space[Any], has_state: bool) -> list[_Case]:
    """Return random observations and extremes, in batches of 1, 7 and 64."""
    random = np.random.default_rng(0)
    extremes = extreme_observations(space)
    count = _STEPS if has_state else 1
    cases = [
        _Case(
            rows, [[random_observation(space, random) for _ in range(rows)] for _ in range(count)]
        )
        for rows in _BATCHES
    ]
    return [
        *cases,
        _Case(len(extremes), [extremes[turn:] + extremes[:turn] for turn in range(count)]),
    ]


def _stacked(rows: Sequence[Any], graph: Graph) -> list[_Array]:
    """Return the input tensors for observations."""
    parts = zip(*(flatten(graph.obs_space, row) for row in rows), strict=True)
    return [
        np.stack([np.asarray(value) for value in part]).astype(one.dtype)
        for part, one in zip(parts, graph.inputs, strict=True)
    ]


def _first_state(graph: Graph, rows: int) -> list[_Array]:
    return [np.zeros((rows, *part.shape), part.dtype) for part in graph.state]


def check_player(
    run: Runner, graph: PlayerGraph, make_reference: Callable[[], PlayerGraph], player: Player
) -> None:
    """Compare the actions of a file with those of a player.

    Args:
        run: runs the file.
        graph: what was exported.
        make_reference: makes a graph of another player of the same policy. It says how near two
            actions are, where the file and the player differ.
        player: acts by RLlib's own code.

    Raises:
        MismatchError: another action, or a number that differs by more than ``TOLERANCE``. Where
            two discrete actions have the same score up to ``TOLERANCE``, either is right.
    """
    for case in _cases(player.observation_space, bool(graph.state)):
        wanted = _played(player, graph, case)
        state = _first_state(graph, case.rows)
        for step, rows in enumerate(case.steps):
            inputs = [*_stacked(rows, graph), *state]
            found = run(inputs)
            count = len(graph.outputs)
            where = f"{case.rows} observations, step {step + 1}"
            score = functools.partial(_scores, make_reference, inputs)
            compare_actions(graph, player.action_space, found[:count], wanted[step], score, where)
            state = found[count:]


def _played(player: Player, graph: PlayerGraph, case: _Case) -> list[list[_Array]]:
    """Return the player's actions by step and part, the rows as first axis.

    Each row is an episode of its own, because some of RLlib's distributions of several parts take
    one row at a time only (core/distribution/torch/torch_distribution.py:650).
    """
    episodes = []
    for row in range(case.rows):
        player.reset()
        with guard_part("the player of the policy cannot act: an error in"):
            actions = [player.act(step[row]) for step in case.steps]
        episodes.append([flatten(graph.action_space, action) for action in actions])
    player.reset()
    return [
        [np.stack([np.asarray(each) for each in part]) for part in zip(*rows, strict=True)]
        for rows in zip(*episodes, strict=True)
    ]


def _scores(make_reference: Callable[[], PlayerGraph], inputs: Sequence[_Array]) -> _Array | None:
    """Return the distribution's inputs; None for a network that has none."""
    reference = make_reference()
    tensors = [torch.from_numpy(each) for each in inputs]
    count = len(reference.inputs)
    with torch.no_grad():
        obs = reference.prepare(unflatten(reference.obs_space, tensors[:count]))
        outputs, _ = reference.network(obs, tensors[count:])
    found = outputs.get(DIST_INPUTS)
    return None if found is None else found.numpy()


def compare_actions(
    graph: PlayerGraph,
    action_space: gym.Space[Any],
    found: Sequence[_Array],
    wanted: Sequence[_Array],
    scores: Callable[[], _Array | None],
    where: str,
) -> None:
    """Compare actions, part by part.

    Args:
        graph: names the parts.
        action_space: the environment's.
        found, wanted: the actions of the file and of the player, with the rows as first axis.
        scores: returns the distribution's inputs for these rows.
        where: which observations these are, for messages.

    Raises:
        MismatchError: as for :func:`check_player`.
    """
    for one, has, needs in zip(graph.outputs, found, wanted, strict=True):
        if has.dtype != needs.dtype or has.shape != needs.shape:
            raise _mismatch(
                where,
                one.name,
                f"the file gives {has.dtype} of shape {has.shape[1:]}, the player {needs.dtype} of "
                f"shape {needs.shape[1:]}",
            )
        if needs.dtype.kind == "f":
            _compare_floats(has, needs, one.name, where, _span(action_space, one.path))
            continue
        differs = has != needs
        if not differs.any():
            continue
        found_scores = scores()
        gaps = _margins(action_space, one.path, found_scores, has, needs)
        if gaps is None or (gaps[differs] > TOLERANCE).any():
            row = int(np.argwhere(differs)[0][0])
            raise _mismatch(
                where,
                one.name,
                f"{int(differs.sum())} of {differs.size} differ; in row {row} the action of the "
                f"file is {has[row].tolist()}, and that of the player is {needs[row].tolist()}",
            )


def _span(space: gym.Space[Any], path: Sequence[Any]) -> float:
    """Return the distance between the bounds of a part of an action; 0 if it has none."""
    for key in path:
        space = space[key]  # type: ignore[index]
    if not isinstance(space, gym.spaces.Box):
        return 0.0
    span = float(np.max(space.high.astype(np.float64) - space.low.astype(np.float64), initial=0.0))
    return span if np.isfinite(span) else 0.0


def _compare_floats(has: _Array, needs: _Array, name: str, where: str, span: float = 0.0) -> None:
    finite = np.abs(needs[np.isfinite(needs)])
    scale = max(1.0, span, float(finite.max(initial=0.0)))
    equal = (has == needs) | (np.isnan(has) & np.isnan(needs))
    with np.errstate(invalid="ignore"):
        distance = np.where(equal, 0.0, np.abs(has.astype(np.float64) - needs.astype(np.float64)))
    far = ~(distance <= TOLERANCE * scale)
    if far.any():
        index = tuple(int(each) for each in np.argwhere(far)[0])
        raise _mismatch(
            where,
            name,
            f"{int(far.sum())} of {far.size} numbers differ by more than {TOLERANCE * scale:.3g}; "
            f"in row {index[0]} the file gives {has[index]!r} where {needs[index]!r} is right",
        )


def _mismatch(where: str, name: str, how: str) -> MismatchError:
    return MismatchError(
        f"the exported graph does not compute what the policy computes ({where}); nothing was "
        "written",
        wrong={name: how},
    )


def check_network(
    run: Runner, graph: NetworkGraph, reference: NetworkGraph, space: gym.Space[Any]
) -> None:
    """Compare the outputs of a file with those of a network.

    Args:
        run: runs the file.
        graph: what was exported.
        reference: another graph of the same policy, which torch runs as it is.
        space: the observation space of the network.

    Raises:
        MismatchError: an integer differs, or a number by more than ``TOLERANCE``.
    """
    for case in _cases(space, bool(graph.state)):
        state = _first_state(graph, case.rows)
        for step, rows in enumerate(case.steps):
            inputs = [*_stacked(rows, graph), *state]
            with torch.no_grad():
                tensors = reference(*(torch.from_numpy(each) for each in inputs))
            found = run(inputs)
            where = f"{case.rows} observations, step {step + 1}"
            for name, has, tensor in zip(graph.output_names, found, tensors, strict=True):
                needs = tensor.numpy()
                if has.dtype != needs.dtype or has.shape != needs.shape:
                    raise _mismatch(
                        where, name, f"{has.dtype} {has.shape}, not {needs.dtype} {needs.shape}"
                    )
                if needs.dtype.kind == "f":
                    _compare_floats(has, needs, name, where)
                elif (has != needs).any():
                    raise _mismatch(where, name, "an integer differs")
            state = found[len(graph.outputs) :]


def _margins(
    space: gym.Space[Any],
    path: Sequence[Any],
    scores: _Array | None,
    one: _Array,
    other: _Array,
) -> _Array | None:
    """Return how far the scores of two actions are apart, relative to the largest score of a row.

    RLlib's distributions of several parts take their inputs in the order in which dm_tree walks the
    action space: as many as a Discrete or MultiDiscrete has values, and two for each number of a
    Box.

    Args:
        space: the whole action space.
        path: leads to the part that ``one`` and ``other`` are actions of.
        scores: the distribution's inputs, shape [rows, inputs]; None if there are none.
        one, other: actions of a Discrete or MultiDiscrete, counted from 0, rows first.

    Returns:
        An array of the shape of ``one``; None if the inputs are not those of such an action.
    """
    leaves = dm_tree.flatten_with_path(get_base_struct_from_space(space))
    sizes = [_size(leaf) for _, leaf in leaves]
    if scores is None or scores.ndim != 2 or sum(sizes) != scores.shape[1]:
        return None
    index = [tuple(each) for each, _ in leaves].index(tuple(path))
    leaf, start = leaves[index][1], sum(sizes[:index])
    if isinstance(leaf, spaces.Discrete):
        counts = [int(leaf.n)]
    elif isinstance(leaf, spaces.MultiDiscrete):
        counts = [int(count) for count in leaf.nvec.reshape(-1)]
    else:
        return None
    starts = start + np.cumsum([0, *counts[:-1]])
    rows = np.arange(len(one))[:, None]
    columns = [each.reshape(len(one), len(counts)) + starts for each in (one, other)]
    largest = np.maximum(1.0, np.abs(scores).max(axis=1, initial=0.0))[:, None]
    gaps = np.abs(scores[rows, columns[0]] - scores[rows, columns[1]]) / largest
    return np.asarray(gaps.reshape(one.shape))


def _size(space: gym.Space[Any]) -> int:
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(np.sum(space.nvec))
    return 2 * int(np.prod(space.shape or (), dtype=np.int64))
