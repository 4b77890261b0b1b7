"""Implement the operations of a store over one backend: objects, records, refs, tags, verify."""
