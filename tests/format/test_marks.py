"""Marks: which versions are deleted, as ranges, and their bytes."""

from __future__ import annotations

import dataclasses
import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policystore.digest import Digest
from policystore.errors import FormatError, InvalidInputError
from policystore.format.keys import MAX_RECORD
from policystore.format.records import (
    MAX_MARK,
    Hint,
    Kept,
    Mark,
    Origin,
    Span,
    TagHint,
    check_pointer,
    find_span,
    newest_standing,
    pointer_bytes,
    with_spans,
)

DIGEST = Digest("ab" * 32)
TIME = datetime.datetime(2026, 11, 21, 1, 25, 37, 123, tzinfo=datetime.timezone.utc)
MARK = Mark(
    name="a",
    number=2,
    action="delete",
    changed=((1, 2), (5, 5)),
    deleted=(Span(1, 2, 2), Span(4, 4, 1), Span(5, 5, 2)),
    previous=DIGEST,
    time=TIME,
    author="ann",
    message="bad",
    nonce="0" * 32,
)

changes = st.lists(
    st.tuples(st.sampled_from(["delete", "restore"]), st.sets(st.integers(1, 30), max_size=12)),
    max_size=12,
)


def ranges(numbers: set[int]) -> list[tuple[int, int]]:
    """Return the ranges of consecutive numbers."""
    return [
        (span.first, span.last) for span in with_spans((), [(n, n) for n in sorted(numbers)], 1)
    ]


@given(changes)
def test_changes_add_up_to_what_a_dict_says(steps: list[tuple[str, set[int]]]) -> None:
    deleted: tuple[Span, ...] = ()
    model: dict[int, int] = {}
    for mark, (action, numbers) in enumerate(steps, 1):
        deleted = with_spans(deleted, ranges(numbers), mark if action == "delete" else None)
        for number in numbers:
            if action == "restore":
                model.pop(number, None)
            else:
                model.setdefault(number, mark)
        spans = {n: span.mark for span in deleted for n in range(span.first, span.last + 1)}
        assert spans == model
        for number in range(1, 32):
            span = find_span(deleted, number)
            assert (None if span is None else span.mark) == model.get(number)
        for newest in (1, 7, 30):
            standing = [number for number in range(1, newest + 1) if number not in model]
            assert newest_standing(deleted, newest) == max(standing, default=0)
        record = dataclasses.replace(MARK, number=mark + 1, deleted=deleted)
        assert Mark.from_bytes(record.to_bytes(), "mark") == record


def test_only_a_mark_with_force_has_the_field() -> None:
    forced = dataclasses.replace(MARK, force=True)
    assert b"force" not in MARK.to_bytes()
    assert Mark.from_bytes(forced.to_bytes(), "mark") == forced
    for value in (b"false", b"1", b"null"):
        with pytest.raises(FormatError, match="malformed mark"):
            Mark.from_bytes(forced.to_bytes().replace(b'"force":true', b'"force":' + value), "it")


def test_a_prune_of_many_versions_is_one_small_record() -> None:
    deleted = with_spans((), [(1, 99_980)], 1)
    assert deleted == (Span(1, 99_980, 1),)
    assert len(dataclasses.replace(MARK, deleted=deleted).to_bytes()) < 1000


def test_a_mark_may_be_longer_than_other_records_and_has_a_limit() -> None:
    deleted = tuple(Span(2 * n, 2 * n, 1) for n in range(1, 5000))
    record = dataclasses.replace(MARK, deleted=deleted)
    assert MAX_RECORD < len(record.to_bytes()) < MAX_MARK
    assert Mark.from_bytes(record.to_bytes(), "mark").deleted == deleted
    with pytest.raises(InvalidInputError, match=str(MAX_MARK)):
        dataclasses.replace(
            MARK, deleted=tuple(Span(2 * n, 2 * n, 1) for n in range(1, 80_000))
        ).to_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"action": "erase"},
        {"changed": ((2, 1),)},
        {"changed": ((1, 2), (2, 3))},
        {"changed": ((0, 2),)},
        {"deleted": (Span(3, 4, 1), Span(1, 2, 1))},
        {"deleted": (Span(1, 2, 3),)},  # by a later mark
        {"deleted": (Span(1, 2, 1), Span(3, 4, 1))},  # one range in two
        {"number": 1},  # with a previous mark
        {"previous": None},
    ],
)
def test_a_malformed_mark_is_refused(change: dict[str, object]) -> None:
    assert Mark.from_bytes(MARK.to_bytes(), "mark") == MARK
    data = dataclasses.replace(MARK, **change).to_bytes()  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="malformed mark"):
        Mark.from_bytes(data, "mark")


def test_the_other_records_come_back() -> None:
    for hint in (Hint(3, DIGEST), Hint(3, DIGEST, 2, 1), Hint(3, DIGEST, 2, 0)):
        assert Hint.from_bytes(hint.to_bytes(), "hint") == hint
    assert b"marks" not in Hint(3, DIGEST).to_bytes()
    for move in (TagHint(3, 7, DIGEST), TagHint(4, None, None)):
        assert TagHint.from_bytes(move.to_bytes(), "hint") == move
    for objects in ({DIGEST: 7}, None):
        kept = Kept(DIGEST, objects, TIME, "ann", "0" * 32)
        assert Kept.from_bytes(kept.to_bytes(), "kept") == kept
    check_pointer(pointer_bytes(), "pointer")
    origin = Origin("a", 7, DIGEST)
    assert Origin.from_json(origin.to_json()) == origin


@pytest.mark.parametrize(
    ("data", "parse"),
    [
        (Hint(3, DIGEST, 2, 1).to_bytes().replace(b'"marks":2,', b""), Hint.from_bytes),
        (Hint(3, DIGEST, 2, 1).to_bytes().replace(b'"stands":1', b'"stands":-1'), Hint.from_bytes),
        (
            TagHint(3, 7, DIGEST).to_bytes().replace(b'"target":7', b'"target":null'),
            TagHint.from_bytes,
        ),
        (
            Kept(DIGEST, {DIGEST: 7}, TIME, "a", "0" * 32).to_bytes().replace(b":7", b":-7"),
            Kept.from_bytes,
        ),
        (pointer_bytes().replace(b"pointer", b"store"), check_pointer),
    ],
)
def test_malformed_hints_kept_records_and_pointers_are_refused(data: bytes, parse: object) -> None:
    with pytest.raises(FormatError):
        parse(data, "record")  # type: ignore[operator]
