"""What a store does over one backend: read and write objects, number records, resolve refs, verify."""
