"""Hold what one run of a command needs: its store, and where its results and messages go."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from policystore._util.messages import printable
from policystore.backends.base import Backend
from policystore.backends.factory import open_backend
from policystore.backends.options import StorageOptions
from policystore.cli.common.exit_codes import Code, code_of, one_line
from policystore.cli.common.settings import Place, find_place
from policystore.cli.common.values import parse_options
from policystore.cli.terminal.output import as_json, mapped_output, tell
from policystore.cli.terminal.progress import Bar
from policystore.cli.terminal.tables import Column, draw_fields, draw_table, wrapped
from policystore.errors import PolicyStoreError

if TYPE_CHECKING:
    from policystore import PolicyStore

__all__ = ["Session"]

_T = TypeVar("_T")


@dataclass
class Session:
    """Hold the store, the options and the faults of one run of a command.

    Attributes:
        store_url: the value of ``--store``; None if it was not given.
        options: the values of ``--option``.
        json: whether the result is one JSON document instead of text.
        debug: whether an error shows its traceback.
        faults: what was found damaged while everything else was shown, as pairs of a place and a
            problem.
    """

    store_url: str | None = None
    options: Sequence[str] = ()
    json: bool = False
    debug: bool = False
    faults: list[tuple[str, str]] = field(default_factory=list)
    _others: dict[str, str] = field(default_factory=dict)

    # The store

    @cached_property
    def place(self) -> Place:
        """The store that was named.

        Raises:
            InvalidInputError: nothing names a store.
        """
        return find_place(self.store_url, parse_options(self.options, "--option"))

    @cached_property
    def store(self) -> PolicyStore:
        """The store. To open the store makes no request."""
        from policystore import PolicyStore  # late: some commands only read records

        return PolicyStore(self.place.url, storage_options=self.place.options)

    def other_store(self, url: str, options: Sequence[str] | None, option: str) -> PolicyStore:
        """Return another store than that of ``--store``.

        Args:
            url: the folder or URL.
            options: the values of ``option``.
            option: the name of the option that gives options for the filesystem of this store,
                such as ``--target-option``; errors name this option.
        """
        from policystore import PolicyStore

        self.take_options_from(option, url)
        return PolicyStore(url, storage_options=parse_options(options or (), option))

    def take_options_from(self, option: str, url: str) -> None:
        """Remember which option gives the options for the filesystem of a URL, for messages."""
        self._others[url] = option

    @cached_property
    def backend(self) -> Backend:
        """The storage of the store, to read the other records beside a damaged one."""
        return open_backend(self.place.url, StorageOptions(self.place.options))

    # Results

    def show(self, document: Mapping[str, Any], draw: Callable[[], None]) -> None:
        """Show a result: with ``--json`` as one JSON document, otherwise drawn for people.

        Args:
            document: the result in values that JSON has.
            draw: draws the result with the calls below.
        """
        if not self.json:
            draw()
            return
        with mapped_output():
            sys.stdout.write(as_json(document, indent=2) + "\n")

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
        """Draw a table on the standard output."""
        with mapped_output():
            draw_table(sys.stdout, columns, rows)

    def fields(self, fields: Sequence[tuple[str, str]], *, indent: int = 0) -> None:
        """Draw names with values on the standard output."""
        with mapped_output():
            draw_fields(sys.stdout, fields, indent=indent)

    def say(self, text: str = "") -> None:
        """Write lines for people on the standard output; a terminal wraps them at words."""
        with mapped_output():
            for line in text.split("\n"):
                sys.stdout.write(wrapped(printable(line), sys.stdout) + "\n")

    def say_report(self, report: object) -> None:
        """Write a report of the library on the standard output, in words of the commands."""
        from policystore.cli.common.messages import in_options  # late: few commands need it

        self.say(in_options(str(report)))

    # Messages

    def translated(self, text: str) -> str:
        """Return a message of the library as the lines that a terminal shows."""
        from policystore.cli.common.messages import for_terminal  # late: most runs need no message

        named = [url for url in self._others if url in text]
        return for_terminal(text, self._others[max(named, key=len)] if named else "--option")

    def warn(self, text: str) -> None:
        """Write a warning of the library on the standard error."""
        sys.stderr.write(f"warning: {self.translated(text)}\n")

    def note(self, text: str) -> None:
        """Write a line on the standard error."""
        tell(one_line(text))

    def fault(self, place: str, problem: str) -> None:
        """Name a fault on the standard error; the command goes on, and its exit code is 1.

        Args:
            place: the key or the thing that is damaged; empty if ``problem`` names it.
            problem: what is wrong.
        """
        problem = self.translated(problem)
        self.faults.append((place, problem))
        shown = problem if place in problem else f"{place}: {problem}"
        self.note(f"damaged: {shown}")

    def attempt(self, place: str, call: Callable[[], _T]) -> _T | None:
        """Return what a call returns; if it meets damage, name the damage and return None.

        Raises:
            PolicyStoreError: any other error of the call.
        """
        try:
            return call()
        except PolicyStoreError as error:
            if code_of(error) is not Code.FAULTS:
                raise
            self.fault(place, str(error))
            return None

    def fault_documents(self) -> list[dict[str, str]]:
        """Return the faults as they stand in JSON documents."""
        return [{"place": place, "problem": text} for place, text in self.faults]

    @contextmanager
    def working(self, label: str, *, unit: str = "bytes") -> Iterator[Bar]:
        """Show a bar on a terminal while something takes longer than a second.

        Args:
            label: what is done, such as ``"Pulling soccer/main"``.
            unit: what the numbers count: ``"bytes"`` or a word in the plural.
        """
        bar = Bar(one_line(label), unit, sys.stderr)
        with bar:
            yield bar
