"""Delete, prune and restore versions: each call appends marks to the names that it changes."""
