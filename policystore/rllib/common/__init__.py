"""Hold what both API stacks need: trust, limits of a build, running statistics, ids, state."""
