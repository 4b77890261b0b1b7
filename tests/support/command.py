"""Run the command line in this process, and look at what it prints."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from policystore.cli import main

__all__ = ["Command", "Ran"]


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The standard output as JSON: one document, and nothing else."""
        return json.loads(self.out, parse_constant=refuse)

    @property
    def error(self) -> str:
        """The only line on the standard error."""
        (line,) = self.err.splitlines()
        return line


def refuse(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


class Command:
    """The command ``policystore`` on one store; ``run`` and ``json`` take its words."""

    def __init__(self, capsys: pytest.CaptureFixture[str], url: str | None) -> None:
        self._capsys, self.url = capsys, url

    def run(self, *words: object) -> Ran:
        self._capsys.readouterr()
        store = [] if self.url is None else ["--store", self.url]
        code = main([*store, *map(str, words)])
        return Ran(code, *self._capsys.readouterr())

    def json(self, *words: object, code: int = 0) -> Any:
        """Run a command with ``--json``, and return its document."""
        ran = self.run(*words, "--json")
        assert ran.code == code, ran.err
        return ran.document
