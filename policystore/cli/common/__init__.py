"""Share code between all commands: the store, tables and JSON, errors, progress, completion."""
