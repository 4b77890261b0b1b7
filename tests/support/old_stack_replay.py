"""Play cells of the matrix, as a program in a process of its own in which Ray is not started.

``python old_stack_replay.py FOLDER`` reads every ``FOLDER/*.cell``, and writes the results to
``FOLDER/*.played``: the actions of a rebuilt policy for the same observations, and its weights.
"""

from __future__ import annotations

import pickle
import random
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.rllib.policy.policy import Policy
from ray.rllib.utils.numpy import convert_to_numpy
from ray.rllib.utils.policy import local_policy_inference

from policystore import Snapshot
from policystore.rllib.old_stack.player import PolicyPlayer
from policystore.rllib.old_stack.snapshot import snapshot_policy


def seed(step: int) -> None:
    """Seed all random generators: noisy networks draw from torch's, also without exploration."""
    torch.manual_seed(step)
    np.random.seed(step)
    random.seed(step)


def through_rllib(policy: Policy, observations: list[Any], rewards: list[float]) -> list[Any]:
    """Return (action, action_dist_inputs) for each step of an episode, by RLlib's own functions."""
    found: list[Any] = []
    if getattr(policy, "dist_class", None) is None:
        # local_policy_inference empties the buffers of heuristics at their second step.
        actions = [convert_to_numpy(policy.compute_actions([obs])[0]) for obs in observations]
        return [(action[0], None) for action in actions]
    for step, (obs, reward) in enumerate(zip(observations, rewards, strict=True)):
        seed(step)
        ((action, _, fetches),) = local_policy_inference(
            policy, 99, 0, obs, reward, terminated=False, truncated=False, info={}, explore=False
        )
        found.append((action, fetches.get("action_dist_inputs")))
    return found


def play(folder: Path, name: str) -> dict[str, Any]:
    cell = pickle.loads((folder / f"{name}.cell").read_bytes())
    snap = Snapshot.load(folder / f"{name}.safetensors")
    player = PolicyPlayer(snap, trust=cell["trust"], env_spaces=cell["env_spaces"])
    actions = []
    for step, (obs, reward) in enumerate(zip(cell["observations"], cell["rewards"], strict=True)):
        seed(step)
        actions.append(player.act(obs, reward=reward))
    again = snapshot_policy(player.policy)
    return {
        "actions": actions,
        "inference": through_rllib(player.policy, cell["observations"], cell["rewards"]),
        "weights_digest": str(again.weights_digest),
        "config": again.spec.replace(omitted=None).to_json()["config"],
        "in_space": all(action in player.action_space for action in actions),
        "ray_started": ray.is_initialized(),
        "device": {str(tensor.device) for tensor in _tensors(player.policy)},
    }


def _tensors(policy: Policy) -> list[Any]:
    model = getattr(policy, "model", None)
    return list(model.parameters()) if isinstance(model, torch.nn.Module) else []


def main(folder: Path) -> None:
    for path in sorted(folder.glob("*.cell")):
        name = path.stem
        try:
            result: Any = play(folder, name)
        except Exception:
            result = traceback.format_exc()
        (folder / f"{name}.played").write_bytes(pickle.dumps(result))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # the process with the expected results has one thread, too
    main(Path(sys.argv[1]))
