"""Define the commands of ``policystore league``."""

from policystore.cli.commands.league import change, look, playing, replaying

__all__ = ["change", "look", "playing", "replaying"]
