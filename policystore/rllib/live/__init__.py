"""Load, add and remove policies on every worker of a running Algorithm, and check the workers."""
