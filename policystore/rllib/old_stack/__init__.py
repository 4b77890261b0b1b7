"""Snapshot, rebuild and play policies of RLlib's old API stack (``ray.rllib.policy``)."""
