"""Checkpoints of Ray RLlib as a source of snapshots, read as data: no Ray, no torch, no pickle."""

from __future__ import annotations

from policystore.checkpoints.reader import (
    CheckpointInfo,
    inspect_checkpoint,
    list_checkpoints,
    read_checkpoint,
)
from policystore.checkpoints.tune import TrialCheckpoint

__all__ = [
    "CheckpointInfo",
    "TrialCheckpoint",
    "inspect_checkpoint",
    "list_checkpoints",
    "read_checkpoint",
]
