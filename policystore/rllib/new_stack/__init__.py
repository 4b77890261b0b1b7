"""Snapshot, rebuild and play RLModules of RLlib's new API stack (``ray.rllib.core``)."""
