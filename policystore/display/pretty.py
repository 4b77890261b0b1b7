"""Show a value as one screen of text in a terminal of IPython, and in a notebook without HTML."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Printer", "print_text"]


class Printer(Protocol):
    """Describe the part of IPython's pretty printer that is used here."""

    def text(self, text: str) -> None:
        """Print a text."""


def print_text(value: object, printer: Printer, cycle: bool) -> None:
    """Print ``str(value)`` where IPython would print ``repr(value)``.

    A class whose ``repr`` is too short for a notebook has this function as its method
    ``_repr_pretty_(printer, cycle)``, for which IPython asks
    (https://ipython.readthedocs.io/en/stable/api/generated/IPython.lib.pretty.html). The class that
    defines ``__repr__`` has to define this method, too, because IPython uses the first of the two
    methods that it finds among the base classes.

    Args:
        value: the value.
        printer: IPython's printer.
        cycle: whether the value contains itself; never true for these values.
    """
    printer.text(str(value))
