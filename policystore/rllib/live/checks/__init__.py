"""Check a change of a running Algorithm before anything is sent."""
