"""Call the learners and env runners of a running Algorithm, and collect their answers."""
