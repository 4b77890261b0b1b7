"""The bytes of format 1 (docs/format.md): canonical JSON, tensors, specs, records, keys and refs. No I/O."""
