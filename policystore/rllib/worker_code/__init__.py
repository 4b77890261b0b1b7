"""Run inside the learners and env runners of a running Algorithm; sent there by value."""
