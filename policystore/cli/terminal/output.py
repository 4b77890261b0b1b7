"""Write results and messages to streams that may be closed, full, or unable to hold a character."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from policystore.errors import PolicyStoreError, StorageError

__all__ = ["as_json", "discard_output", "mapped_output", "tell", "usable_streams"]


@contextmanager
def usable_streams() -> Iterator[None]:
    """Let a command write to streams that its caller has closed, and in every encoding.

    What goes to a closed stream is lost. A character that the encoding of an output lacks is
    written as an escape.
    """
    with ExitStack() as stack:
        for name in ("stdin", "stdout", "stderr"):
            if getattr(sys, name) is None:  # as after ``policystore ls >&-``
                mode = "r" if name == "stdin" else "w"
                nothing = open(os.devnull, mode, encoding="utf-8")  # noqa: PTH123, SIM115 (a device)
                setattr(sys, name, stack.enter_context(nothing))
                stack.callback(setattr, sys, name, None)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        yield


@contextmanager
def mapped_output() -> Iterator[None]:
    """Turn an error of the standard output into a StorageError; a closed pipe stays as it is.

    Raises:
        BrokenPipeError: the reader has closed the pipe.
        StorageError: the standard output cannot be written, such as a file on a full disk.
    """
    try:
        yield
    except (BrokenPipeError, PolicyStoreError):
        raise
    except OSError as error:
        discard_output()
        raise StorageError(f"the output cannot be written: {error}") from error


def discard_output() -> None:
    """Discard what is written to the standard output from now on."""
    # Python flushes the standard output once more at its end, and would print an error then.
    with open(os.devnull, "w", encoding="utf-8") as nothing:  # noqa: PTH123 (a device)
        os.dup2(nothing.fileno(), sys.stdout.fileno())


def tell(line: str) -> None:
    """Write a line on the standard error; the command goes on if nobody reads the line."""
    with suppress(OSError):
        sys.stderr.write(line + "\n")


def as_json(document: Mapping[str, Any], *, indent: int | None = None) -> str:
    """Return a document as JSON that the standard output can hold, and that a terminal can show.

    A text from a foreign store may hold half of a pair of surrogates, which is no UTF-8, or a
    character that a terminal obeys. Such characters become escapes of JSON, so that a program reads
    the same text.

    Args:
        document: values that JSON has.
        indent: how far inner values are indented; None for a single line.
    """
    encoding = (sys.stdout.encoding or "utf-8").lower()
    text = json.dumps(
        document, ensure_ascii=not encoding.startswith("utf"), indent=indent, allow_nan=False
    )
    lines = text.split("\n")
    return "\n".join(line if line.isprintable() else _escaped(line) for line in lines)


def _escaped(line: str) -> str:
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in line)
