"""Readers for the files of a checkpoint; each turns bytes into plain values and runs nothing."""
