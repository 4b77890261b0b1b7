"""Checkpoints of Ray RLlib as a source of snapshots, read as data: no Ray, no torch, no pickle."""

from __future__ import annotations

from policystore.checkpoints.reading import (
    Listing,
    list_checkpoint,
    list_experiment,
    read_checkpoint,
)
from policystore.checkpoints.trials import Trained

__all__ = ["Listing", "Trained", "list_checkpoint", "list_experiment", "read_checkpoint"]
