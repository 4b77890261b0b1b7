"""Share between both API stacks: trust, bounds of a build, running statistics, ids, state."""
