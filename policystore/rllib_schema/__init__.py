"""Describe what live and saved RLlib policies share: config keys, class paths, arrays, configs.

Imports no Ray, torch or gymnasium.
"""
