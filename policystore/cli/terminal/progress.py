"""Show a progress bar on the standard error, if a command takes longer than a second."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from policystore.cli.terminal.tables import console

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

__all__ = ["Bar"]

_WAIT = 1.0  # seconds before a bar appears


class Bar:
    """Draw a bar, only on a terminal, which appears after a second and disappears at its end.

    The bar is itself the callback ``progress(done, total)`` of the library's calls; any thread may
    call it. Before the first call, the bar moves without numbers.

    Args:
        label: what is done.
        unit: ``"bytes"``, or what is counted, in the plural.
        file: where the bar is drawn.
    """

    def __init__(self, label: str, unit: str, file: TextIO) -> None:
        self._label, self._unit, self._file = label, unit, file
        self._lock = threading.Lock()
        self._numbers: tuple[int, int | None] = (0, None)
        self._bar: Progress | None = None
        self._ended = False
        self._timer = threading.Timer(_WAIT, self._appear) if file.isatty() else None

    def __enter__(self) -> Bar:
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            self._ended = True
            if self._bar is not None:
                self._bar.stop()
                self._bar = None

    def __call__(self, done: int, total: int | None) -> None:
        """Show how much is done of how much."""
        with self._lock:
            self._numbers = done, total
            if self._bar is not None:
                self._bar.update(self._bar.task_ids[0], completed=done, total=total)

    def _appear(self) -> None:
        from rich.progress import Progress

        with self._lock:
            if self._ended:
                return
            done, total = self._numbers
            out = console(self._file)
            self._bar = Progress(*self._columns(out.width), console=out, transient=True)
            self._bar.add_task(self._label, completed=done, total=total)
            self._bar.start()

    def _columns(self, width: int) -> list[ProgressColumn]:
        from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, TextColumn

        counter = DownloadColumn() if self._unit == "bytes" else MofNCompleteColumn()
        columns: list[ProgressColumn] = [
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=max(5, min(40, width // 4))),
            counter,
        ]
        if self._unit != "bytes":
            columns.append(TextColumn(self._unit, markup=False))
        return columns
