"""Find the objects that the records of a store need."""
