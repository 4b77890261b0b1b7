"""Where the bytes of a store stand. The only room that touches storage."""
