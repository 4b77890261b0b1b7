"""Checkpoints of Ray RLlib as a source of snapshots, read as data: no Ray, no torch, no pickle."""

from __future__ import annotations

from policystore.checkpoints.reading import Listing, list_checkpoint, read_checkpoint

__all__ = ["Listing", "list_checkpoint", "read_checkpoint"]
