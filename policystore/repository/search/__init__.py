"""Find versions across names by an expression; no code of a caller or of a store is evaluated."""
