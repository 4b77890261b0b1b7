"""Old API stack: the two ways to play a policy, through RLlib's connectors and past them."""
