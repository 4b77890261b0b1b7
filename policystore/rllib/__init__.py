"""RLlib policies of both API stacks: snapshot, rebuild, play, load into running Algorithms.

Importing this package imports ray and torch; nothing in it starts Ray.
"""

from __future__ import annotations

try:
    import ray.rllib  # noqa: F401
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"policystore.rllib needs Ray RLlib and torch: pip install 'policystore[rllib]' ({error})"
    ) from error

from policystore.checkpoints import Listing, list_checkpoint, read_checkpoint
from policystore.rllib.joining import add_to, remove_from
from policystore.rllib.module_rebuild import rebuild_module
from policystore.rllib.policy_stack import rebuild_policy
from policystore.rllib.publishing import publish
from policystore.rllib.resuming import keep_added
from policystore.rllib.running import check_sync, load_into
from policystore.rllib.sources import rebuild_player, snapshot, snapshots
from policystore.rllib.sync_report import Row, SyncReport
from policystore.rllib.warm_start import warm_start

__all__ = [
    "Listing",
    "Row",
    "SyncReport",
    "add_to",
    "check_sync",
    "keep_added",
    "list_checkpoint",
    "load_into",
    "publish",
    "read_checkpoint",
    "rebuild_module",
    "rebuild_player",
    "rebuild_policy",
    "remove_from",
    "snapshot",
    "snapshots",
    "warm_start",
]
