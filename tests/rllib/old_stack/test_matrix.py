"""Every cell of the matrix: snapshot here, rebuild in a fresh process without Ray, same outputs."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.rllib.algorithms import algorithm as rllib_algorithm
from ray.rllib.connectors.util import create_connectors_for_policy

from policystore.rllib.old_stack.snapshot import snapshot_policy
from policystore.spaces import space_from_json
from tests.support import ROOT
from tests.support.cells import chosen, sampled
from tests.support.checkpoint_compare import check_checkpoint
from tests.support.old_stack_configs import TRAINING_WARNINGS
from tests.support.old_stack_matrix import BARE, TRAINED, made
from tests.support.old_stack_replay import seed, through_rllib
from tests.support.played import as_played

pytestmark = TRAINING_WARNINGS
CELLS = [*TRAINED, *BARE]
ALWAYS = [
    "ppo-concurrent-meanstd", "impala", "dqn", "sac", "pair:main",
    "model:lstm-prev", "model:attention", "model:batch-norm",
    "obs:nested", "act:dict", "act:forces", "no-preprocessor",
    "custom-exploration", "heuristic:torch-inside",
]  # fmt: skip
"""Each kind of cell: algorithms, filters, models, spaces, explorations, heuristics."""
STEPS = 16
_COMPUTES_FILTERED = hasattr(rllib_algorithm, "MeanStdObservationFilterAgentConnector")
"""Whether ``Algorithm.compute_single_action`` applies the filter: since Ray 2.57."""


def _recorded(name: str, folder: Path) -> dict[str, Any] | Exception:
    try:
        return _record(name, folder)
    except Exception as error:
        return error


def _record(name: str, folder: Path) -> dict[str, Any]:
    with made(name, folder) as cell:
        policy = cell.policy
        snap = snapshot_policy(policy, algorithm=cell.algorithm, policy_id=cell.policy_id)
        # RLlib writes the concurrent filter under the name of the other one.
        if cell.algorithm is not None and "concurrent" not in name:
            check_checkpoint(cell.algorithm, snap, cell.policy_id)
        space = (
            cell.env_spaces[0]
            if cell.env_spaces
            else space_from_json(snap.spec.env_observation_space)
        )
        space.seed(5)
        observations = [space.sample() for _ in range(STEPS)]
        rewards = [float(step % 3) for step in range(STEPS)]
        if policy.agent_connectors is None:
            create_connectors_for_policy(policy, cell.config)
        expected = {
            "inference": through_rllib(policy, observations, rewards),
            "algorithm": _by_algorithm(cell, observations),
        }
        file = folder / name.replace(":", "_")
        snap.save(file.with_suffix(".safetensors"))
        file.with_suffix(".cell").write_bytes(
            pickle.dumps(
                {
                    "observations": observations,
                    "rewards": rewards,
                    "env_spaces": cell.env_spaces,
                    "trust": cell.trust,
                }
            )
        )
        config = snap.spec.replace(omitted=None).to_json()["config"]
        return {**expected, "weights_digest": str(snap.weights_digest), "config": config}


def _by_algorithm(cell: Any, observations: list[Any]) -> list[Any] | None:
    """Return the actions of ``Algorithm.compute_single_action``; None where they are no measure.

    Before Ray 2.57 this call of RLlib applies only the preprocessor (algorithms/algorithm.py:2129
    of Ray 2.40), so actions come from unfiltered observations. Rollout workers run all connectors
    (evaluation/env_runner_v2.py:622), as ``local_policy_inference`` does (utils/policy.py:214).
    """
    if cell.algorithm is None:
        return None
    if cell.config.observation_filter != "NoFilter" and not _COMPUTES_FILTERED:
        return None
    actions = []
    for step, obs in enumerate(observations):
        seed(step)
        actions.append(
            cell.algorithm.compute_single_action(
                obs,
                explore=False,
                policy_id=cell.policy_id,
                unsquash_action=cell.config.normalize_actions,
                clip_action=cell.config.clip_actions,
            )
        )
    return actions


@pytest.fixture(scope="module")
def played(
    request: pytest.FixtureRequest, ray_session: None, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Any]:
    """Cell -> what was expected, and what the other process got; or what went wrong."""
    folder = tmp_path_factory.mktemp("cells")
    cells = chosen(request, "name")
    found: dict[str, Any] = {name: (_recorded(name, folder), None) for name in cells}
    subprocess.run(
        [sys.executable, "-m", "tests.support.old_stack_replay", str(folder)],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    for name in cells:
        file = folder / f"{name.replace(':', '_')}.played"
        if file.exists():
            found[name] = (found[name][0], pickle.loads(file.read_bytes()))
    return found


def same(first: Any, second: Any) -> bool:
    """Equal structure, types, shapes, dtypes and bits."""
    if isinstance(first, Mapping):
        return set(first) == set(second) and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (tuple, list)):
        return len(first) == len(second) and all(map(same, first, second))
    if first is None:
        return second is None
    first, second = np.asarray(first), np.asarray(second)
    return (first.dtype, first.shape, first.tobytes()) == (
        second.dtype,
        second.shape,
        second.tobytes(),
    )


@pytest.mark.parametrize("name", sampled(CELLS, *ALWAYS))
def test_a_fresh_process_gives_the_same_outputs(played: Mapping[str, Any], name: str) -> None:
    expected, got = played[name]
    if isinstance(expected, Exception):
        raise expected
    assert not isinstance(got, str), f"in the fresh process: {got}"
    assert not got["ray_started"]
    assert got["device"] <= {"cpu"}
    assert got["weights_digest"] == expected["weights_digest"]
    assert got["config"] == expected["config"]
    assert got["in_space"]
    if name == "heuristic:random":
        return
    actions = [action for action, _ in expected["inference"]]
    assert same(got["inference"], expected["inference"])  # logits, bit for bit
    assert same(got["actions"], as_played(actions))
    if expected["algorithm"] is not None:
        assert same(got["actions"], as_played(expected["algorithm"]))
