"""Prepare the docstrings of the code for the reference on the site of the docs.

mkdocs.yml names this extension of griffe, which reads the docstrings.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(
    r":(?:attr|class|data|exc|func|meth|mod):`(?:~(?:\w+\.)*)?([^`<]+?)(?:\s*<[^`]*>)?`"
)
_SHARED = re.compile(r"^    (\w+(?:, \w+)+):((?:.*\n?)(?: {5,}.*\n?)*)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Changes the notation of this project's docstrings into the notation that griffe reads.

    - A role, such as ``:class:`PolicyStore```, becomes the name as code.
    - A description that several arguments share (``first, second: text``) stands with the first of
      them, and the others refer to the first.
    """

    def on_object(self, *, obj: griffe.Object, **_more: Any) -> None:
        """Change the docstring of one module, class, function or attribute."""
        if obj.docstring:
            text = _ROLE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = _SHARED.sub(_separate, text)


def _separate(match: re.Match[str]) -> str:
    first, *others = match[1].split(", ")
    shared = " and ".join(f"`{name}`" for name in others)
    text = match[2].rstrip("\n")
    lines = [
        f"    {first}: with {shared}:{text}",
        *(f"    {name}: see `{first}`." for name in others),
    ]
    return "\n".join(lines) + "\n"
