"""Policies of RLlib's old API stack: snapshot, rebuild, play."""
