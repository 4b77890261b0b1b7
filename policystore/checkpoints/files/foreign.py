"""Recognizes what often stands in place of a file: pointers of Git LFS, web pages, archives.

Repositories and dataset hubs keep large files apart from the checkout. A clone without them holds a
pointer of some hundred bytes in place of each file, under the file's own name.
"""

from __future__ import annotations

__all__ = ["describe_foreign"]

_SHOWN = 512  # bytes that are looked at

_TEXT_STARTS = (
    (
        b"version https://git-lfs.github.com/spec/",
        "a Git LFS pointer, not the file itself. Run `git lfs pull` in the repository, or download "
        "the file itself",
    ),
    (
        b"/annex/objects/",
        "a git-annex pointer, not the file itself. Run `git annex get` in the repository",
    ),
    (b"<!doctype html", "a web page (HTML), not the file itself. Download the file itself"),
    (b"<html", "a web page (HTML), not the file itself. Download the file itself"),
    (
        b"<?xml",
        "an XML document, not the file itself; servers answer errors in this form. Download the "
        "file again",
    ),
)
_BINARY_STARTS = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "Zstandard"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"\x04\x22\x4d\x18", "LZ4"),
)


def describe_foreign(data: bytes) -> str | None:
    """Describe what stands in place of a file's own data, and say what the user can do.

    Args:
        data: the content of the file.

    Returns:
        A description that continues the sentence "FILE is …"; None for data that may be the file's
        own.
    """
    if not data:
        return "empty: the copy of the checkpoint is not complete. Copy the checkpoint again"
    if data[:1] == b"\0" and not data.strip(b"\0"):
        return "only zero bytes: the disk or the copy lost its content. Copy the checkpoint again"
    start = data[:_SHOWN].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for prefix, description in _TEXT_STARTS:
        if start.startswith(prefix):
            return description
    for prefix, kind in _BINARY_STARTS:
        if data.startswith(prefix):
            return f"compressed by {kind}. Decompress the file first"
    return None
