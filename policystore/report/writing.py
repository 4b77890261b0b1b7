"""Choose the file for the page of a report, and write the page whole or not at all."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from policystore._util import files
from policystore.errors import InvalidInputError
from policystore.report.page import SIGNATURE

__all__ = ["place_of_page", "write_page"]


def place_of_page(out: str | PathLike[str]) -> Path:
    """Return the file for the page, after a check that only an earlier report is replaced.

    Args:
        out: a folder, or a file that ends with ``.html``.

    Raises:
        InvalidInputError: not a path, or there is a file or folder that no report has made.
        ReadOnlyError, StorageError: the place cannot be read.
    """
    path = files.as_path(out, "out, the folder of the report")
    with files.mapped_errors(f"looking at {path}"):
        if path.suffix in (".html", ".htm") and not path.is_dir():
            _check_file(path)
            return path
        if path.is_dir():
            page = path / "index.html"
            if not page.exists() and any(path.iterdir()):
                raise InvalidInputError(
                    f"out is {path}, a folder with other files and without a report. Give a new "
                    "folder, or a file: out='report.html'"
                )
            _check_file(page)
            return page
        if path.exists():
            raise InvalidInputError(
                f"out is {path}, a file that does not end with .html. Give a folder, or a file "
                "that ends with .html"
            )
    return path / "index.html"


def _check_file(page: Path) -> None:
    """Check that a page that exists was made by a report."""
    if page.exists() and not files.read_start(page, len(SIGNATURE)).startswith(SIGNATURE.encode()):
        raise InvalidInputError(
            f"{page} exists, and no report has made this file. Give another place, or remove the "
            "file"
        )


def write_page(page: Path, data: bytes) -> None:
    """Write the page to a temporary file in its folder, and rename that file.

    Raises:
        ReadOnlyError: this user may not write there.
        StorageError: the page cannot be written.
    """
    with files.mapped_errors(f"writing the report to {page}", writing=True):
        page.parent.mkdir(parents=True, exist_ok=True)
        files.replace_file(page, [data])
