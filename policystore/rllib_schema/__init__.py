"""Describe what live and saved RLlib policies share: config keys, class paths, arrays, configs.

This package imports neither Ray nor torch nor gymnasium.
"""
