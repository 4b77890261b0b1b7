"""Hold the code that runs inside learners and env runners, where Ray sends it by value."""
