"""Simulate many machines that use one store in a bucket; ``docs/scale.md`` reports the results."""
