"""Collect garbage: find what the records need, and move other objects to the trash."""
