"""Callbacks for the config of an Algorithm: warm start, publish, restore."""
