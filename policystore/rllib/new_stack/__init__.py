"""RLModules of RLlib's new API stack: snapshot, rebuild, play."""
