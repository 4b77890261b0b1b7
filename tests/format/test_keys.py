from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policystore import Digest, InvalidInputError, layout

WORDS = st.from_regex(r"[A-Za-z0-9_-]([A-Za-z0-9._-]{0,8}[A-Za-z0-9_-])?", fullmatch=True).filter(
    lambda word: layout._RESERVED.match(word) is None
)
NAMES = st.lists(WORDS, min_size=1, max_size=4).map("/".join)
TAGS = WORDS.filter(lambda word: not word.lstrip("-").isdigit() and word != "latest")


@given(NAMES, TAGS, st.integers(1, layout.MAX_NUMBER), st.binary(min_size=32, max_size=32))
def test_refs_say_what_they_were_built_from(name: str, tag: str, number: int, raw: bytes) -> None:
    assert layout.parse_ref(name) == layout.parse_ref(f"{name}@latest") == layout.Ref(name)
    assert layout.parse_ref(f"{name}@{number}") == layout.Ref(name, number=number)
    assert layout.parse_ref(f"{name}@{tag}") == layout.Ref(name, tag=tag)
    assert layout.parse_ref(f"blake3:{raw.hex()}") == layout.Ref(digest=raw.hex())
    assert layout.parse_ref(f"blake3:{raw.hex()[:8]}") == layout.Ref(digest=raw.hex()[:8])


@given(st.text(max_size=20) | st.text("ab/.@:-_AB1 \n", max_size=12))
def test_any_text_is_a_ref_or_a_typed_error(text: str) -> None:
    try:
        ref = layout.parse_ref(text)
    except InvalidInputError:
        return
    shown = ref.name + (f"@{ref.number}" if ref.number else f"@{ref.tag}" if ref.tag else "")
    assert text in (shown, f"{shown}@latest", f"blake3:{ref.digest}")


@given(NAMES, NAMES, TAGS, st.integers(1, layout.MAX_NUMBER))
def test_keys_are_distinct_on_every_disk_and_lead_back(
    name: str, other: str, tag: str, number: int
) -> None:
    key = layout.version_key(name, number)
    assert key == key.lower()  # also where the filesystem folds case
    assert layout.number_of(key) == number
    assert layout.name_of_prefix(key[: key.index("/@") + 2]) == name
    tag_key = layout.tag_key(name, tag, number)
    assert layout.tag_of_prefix(tag_key.rpartition("/")[0] + "/", name) == tag
    assert (layout.version_key(other, number) == key) == (name == other)
    assert len(tag_key) <= 1024


def test_the_keys_are_fixed() -> None:
    digest = Digest("ab" + "c" * 62)
    assert layout.object_key(digest) == f"objects/ab/ab{'c' * 62}.safetensors"
    assert layout.digest_of_key(layout.object_key(digest)) == digest
    assert layout.version_key("Soccer/main", 7) == "names/!soccer/main/@versions/0000000007.json"
    assert layout.tag_key("a", "Best", 1) == "names/a/@tags/!best/0000000001.json"
    assert layout.hint_key("a/b") == "names/a/b/@hint"
    longest = "/".join(["A" * 80] * 4 + ["A" * 76])
    assert len(longest) == 400
    assert len(layout.tag_key(longest, "T" * 60, 1)) <= 1024


BAD_NAMES = [
    "", "/", "a/", "/a", "a//b", ".", "..", "a/../b", "../a", "a/./b", ".a", "a.", "a b", " a", "a\n",
    "a\x00", "ä", "a:b", "a\\b", "a@b@c", "~", "a!b", "con", "NUL", "a/com1", "Aux.txt", "a" * 101,
    "/".join(["a" * 99] * 5), "*", "a?", "１",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_bad_names_are_refused(name: str) -> None:
    for call in (layout.check_name, layout.parse_ref):
        with pytest.raises(InvalidInputError):
            call(name)


@pytest.mark.parametrize(
    "tag", ["", "7", "007", "-1", "latest", "a/b", "a b", ".a", "nul", "a" * 61, "a@b", None, 7]
)
def test_bad_tags_are_refused(tag: object) -> None:
    with pytest.raises(InvalidInputError):
        layout.check_tag(tag)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "ref",
    ["a@", "a@0", "a@007", "a@12345678901", "a@-1", "@1", "a@b@c", "blake3:", "blake3:ab12",
     "blake3:" + "a" * 65, "blake3:ABCDEF12", "blake3:xyzxyzxy", "BLAKE3:abcdef12", 7, None, b"a",
     "a@１"],
    ids=ascii,
)  # fmt: skip
def test_bad_refs_are_refused(ref: object) -> None:
    with pytest.raises(InvalidInputError, match="soccer/main|hexadecimal"):
        layout.parse_ref(ref)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "key",
    ["objects/ab/abc.safetensors", f"objects/ac/ab{'c' * 62}.safetensors", "objects/x",
     f"objects/ab/ab{'c' * 62}.safetensors.tmp", f"objects/ab/ab{'C' * 62}.safetensors"],
)  # fmt: skip
def test_foreign_object_keys_have_no_digest(key: str) -> None:
    assert layout.digest_of_key(key) is None


def test_foreign_record_keys_have_no_number_or_name() -> None:
    for key in ("x/1.json", "x/0000000000.json", "x/0000000001.jsn", "x/00000000001.json"):
        assert layout.number_of(key) is None
    for prefix in ("names/a b/@", "names/A/@", "names/!!a/@", "names//@"):
        assert layout.name_of_prefix(prefix) is None
