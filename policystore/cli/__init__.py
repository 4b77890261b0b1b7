"""Run the command ``policystore``, which looks at a store and changes it, from a terminal."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

__all__ = ["main"]

_NEEDED = ("typer", "rich")
_WRONG_USE = 2
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code.

    Args:
        arguments: the words after ``policystore``; None for those of this process.

    Returns:
        The exit code; ``docs/commands.md`` lists the codes.
    """
    absent = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        sys.stderr.write(
            f"error: the command policystore needs {' and '.join(absent)}: "
            "pip install 'policystore[cli]'\n"
        )
        return _WRONG_USE
    try:
        from policystore.cli.app import run  # late: needs typer

        return run(sys.argv[1:] if arguments is None else list(arguments))
    except KeyboardInterrupt:  # before a command began, or after its end
        return _INTERRUPTED
