"""Look up what a store has under its names: versions that stand, marks, tags, and digests."""
