"""Helpers that know nothing of policies: logs, threads, progress, files and messages."""
