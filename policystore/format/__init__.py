"""Encode and parse the bytes of format 1 (``docs/format.md``): JSON, tensors, policies, records.

Keys, names and refs are here, too.

No module of this package reads or writes files.
"""
