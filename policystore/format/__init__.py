"""The bytes of format 1 (``docs/format.md``): JSON, tensors, policies, records, keys and refs.

No module of this package reads or writes files.
"""
