"""RLlib policies of both API stacks: snapshot, rebuild, play."""
