"""Functions for policies of both of RLlib's API stacks: snapshot, rebuild, play, load, publish.

Importing this package imports ray and torch. Importing it starts no Ray cluster.
"""

from __future__ import annotations

from policystore.errors import MissingPackageError

try:
    import ray.rllib  # noqa: F401
    import torch  # noqa: F401
except ImportError as error:
    missing = MissingPackageError.of(__name__, "ray", "torch", extra="rllib", error=error)
    raise MissingPackageError(
        f"{missing}. Without them, policystore.checkpoints reads checkpoints of RLlib, and "
        "policystore.play plays exported files"
    ) from error

from policystore.checkpoints import CheckpointInfo, inspect_checkpoint, read_checkpoint
from policystore.rllib.api import rebuild_player, snapshot, snapshot_all
from policystore.rllib.callbacks.publish import publish
from policystore.rllib.callbacks.published import published
from policystore.rllib.callbacks.restore import restore_added_policies
from policystore.rllib.callbacks.warm_start import warm_start
from policystore.rllib.convert.to_new import to_new_stack
from policystore.rllib.convert.to_old import to_old_stack
from policystore.rllib.exporting.api import export
from policystore.rllib.live.check import check_sync
from policystore.rllib.live.local import load_local, unlock_local
from policystore.rllib.live.policies import add_policy, load_into, remove_policy
from policystore.rllib.live.report import SyncReport, WorkerStatus
from policystore.rllib.live.steering import set_mapping, set_policies
from policystore.rllib.new_stack.rebuild import rebuild_module
from policystore.rllib.old_stack.rebuild import rebuild_policy
from policystore.rllib.transfer.adapt import adapt
from policystore.rllib.transfer.recipe import adapted
from policystore.rllib.transfer.report import Adapted, AdaptedPart, AdaptReport

__all__ = [
    "AdaptReport",
    "Adapted",
    "AdaptedPart",
    "CheckpointInfo",
    "SyncReport",
    "WorkerStatus",
    "adapt",
    "adapted",
    "add_policy",
    "check_sync",
    "export",
    "inspect_checkpoint",
    "load_into",
    "load_local",
    "publish",
    "published",
    "read_checkpoint",
    "rebuild_module",
    "rebuild_player",
    "rebuild_policy",
    "remove_policy",
    "restore_added_policies",
    "set_mapping",
    "set_policies",
    "snapshot",
    "snapshot_all",
    "to_new_stack",
    "to_old_stack",
    "unlock_local",
    "warm_start",
]
