"""Converts what the files of a checkpoint say into weights, state and specs."""
