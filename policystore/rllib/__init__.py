"""RLlib policies of both API stacks: snapshot, rebuild, play.

Importing this package imports ray and torch; nothing in it starts Ray.
"""

from __future__ import annotations

from policystore.rllib.module_rebuild import rebuild_module
from policystore.rllib.policy_stack import rebuild_policy
from policystore.rllib.sources import rebuild_player, snapshot, snapshots

__all__ = ["rebuild_module", "rebuild_player", "rebuild_policy", "snapshot", "snapshots"]
