"""What looks after a store as a whole: verify, repair, count."""
