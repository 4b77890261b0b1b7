"""New API stack: the two ways to play a module, through RLlib's pipelines and past them."""
