"""Do what a store does over one backend: objects, numbered records, refs, pushes, tags, verify."""
