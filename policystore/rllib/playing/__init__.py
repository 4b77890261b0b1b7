"""What players of both API stacks play with: engines, sessions, locks, observations and actions."""
