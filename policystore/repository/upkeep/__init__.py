"""Count what is in a store."""
