"""Encode and parse the records of a store: ``docs/format.md`` section 7.

These modules work on bytes; they do not touch storage.
"""

from policystore.format.records.annotations import Annotation
from policystore.format.records.copied import Copied
from policystore.format.records.hints import Hint, TagHint
from policystore.format.records.kept import Kept
from policystore.format.records.marker import (
    check_marker,
    check_pointer,
    marker_bytes,
    pointer_bytes,
)
from policystore.format.records.marks import (
    MAX_MARK,
    Action,
    Mark,
    Span,
    find_span,
    newest_standing,
    with_spans,
)
from policystore.format.records.tags import Protection, TagMove
from policystore.format.records.version import Origin, Version

__all__ = [
    "MAX_MARK",
    "Action",
    "Annotation",
    "Copied",
    "Hint",
    "Kept",
    "Mark",
    "Origin",
    "Protection",
    "Span",
    "TagHint",
    "TagMove",
    "Version",
    "check_marker",
    "check_pointer",
    "find_span",
    "marker_bytes",
    "newest_standing",
    "pointer_bytes",
    "with_spans",
]
