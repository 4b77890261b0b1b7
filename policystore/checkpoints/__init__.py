"""Reads checkpoints of Ray RLlib as snapshots, without Ray, torch or unpickling."""

from __future__ import annotations

from policystore.checkpoints.experiment import ImportProgress, ImportReport, import_experiment
from policystore.checkpoints.info import CheckpointInfo, inspect_checkpoint
from policystore.checkpoints.reader import list_checkpoints, read_checkpoint
from policystore.checkpoints.tune import TrialCheckpoint

__all__ = [
    "CheckpointInfo",
    "ImportProgress",
    "ImportReport",
    "TrialCheckpoint",
    "import_experiment",
    "inspect_checkpoint",
    "list_checkpoints",
    "read_checkpoint",
]
