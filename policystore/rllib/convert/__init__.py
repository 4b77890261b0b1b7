"""Convert snapshots from one of RLlib's API stacks to the other.

A converted policy computes the same action distribution and the same value for the same
observations, and its player takes the same deterministic actions. ``docs/convert.md`` lists what
converts, and what does not.
"""
