"""Change a running Algorithm and prove it: load, add and remove policies on every worker."""
