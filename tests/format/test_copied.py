"""Cursors of mirrors as bytes."""

from __future__ import annotations

import json

import pytest

from policystore import FormatError
from policystore.digest import digest_of
from policystore.format.canonical_json import canonical_json
from policystore.format.records import Copied

CURSOR = Copied(7, digest_of(b"record"), 2, 9)


def test_a_cursor_comes_back_from_its_bytes() -> None:
    data = CURSOR.to_bytes()
    assert json.loads(data) == {
        "format": 1, "kind": "copied", "marks": 2, "number": 7,
        "record": str(digest_of(b"record")), "target": 9,
    }  # fmt: skip
    assert Copied.from_bytes(data, "it") == CURSOR
    assert Copied.from_bytes(Copied(1, CURSOR.record, 0, 0).to_bytes(), "it").target == 0


@pytest.mark.parametrize(
    "changed",
    [
        {"number": 0}, {"number": "7"}, {"number": True}, {"marks": -1}, {"marks": None},
        {"target": 1.0}, {"target": 10**10}, {"record": "blake3:00"}, {"record": None},
        {"kind": "hint"}, {"format": 2}, {"more": 1},
    ],
    ids=str,
)  # fmt: skip
def test_another_document_is_no_cursor(changed: dict[str, object]) -> None:
    document = {**json.loads(CURSOR.to_bytes()), **changed}
    with pytest.raises(FormatError, match="it"):
        Copied.from_bytes(canonical_json(document), "it")
