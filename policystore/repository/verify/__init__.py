"""Verify a store, and repair it from another store."""
