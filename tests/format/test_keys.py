from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policystore import Digest, InvalidInputError
from policystore.format import keys, refs

WORDS = st.from_regex(r"[A-Za-z0-9_-]([A-Za-z0-9._-]{0,8}[A-Za-z0-9_-])?", fullmatch=True).filter(
    lambda word: refs._RESERVED.match(word) is None
)
NAMES = st.lists(WORDS, min_size=1, max_size=4).map("/".join)
TAGS = WORDS.filter(lambda word: not word.lstrip("-").isdigit() and word != "latest")


@given(NAMES, TAGS, st.integers(1, refs.MAX_NUMBER), st.binary(min_size=32, max_size=32))
def test_parsed_refs_have_the_parts_of_the_ref(
    name: str, tag: str, number: int, raw: bytes
) -> None:
    assert refs.parse_ref(name) == refs.parse_ref(f"{name}@latest") == refs.Ref(name)
    assert refs.parse_ref(f"{name}@{number}") == refs.Ref(name, number=number)
    assert refs.parse_ref(f"{name}@{tag}") == refs.Ref(name, tag=tag)
    assert refs.parse_ref(f"blake3:{raw.hex()}") == refs.Ref(digest=raw.hex())
    assert refs.parse_ref(f"blake3:{raw.hex()[:8]}") == refs.Ref(digest=raw.hex()[:8])


@given(st.text(max_size=20) | st.text("ab/.@:-_AB1 \n", max_size=12))
def test_any_text_is_a_ref_or_a_typed_error(text: str) -> None:
    try:
        ref = refs.parse_ref(text)
    except InvalidInputError:
        return
    shown = ref.name + (f"@{ref.number}" if ref.number else f"@{ref.tag}" if ref.tag else "")
    assert text in (shown, f"{shown}@latest", f"blake3:{ref.digest}")


@given(NAMES, NAMES, TAGS, st.integers(1, refs.MAX_NUMBER))
def test_keys_differ_on_every_disk_and_parse_back_to_names(
    name: str, other: str, tag: str, number: int
) -> None:
    key = keys.version_key(name, number)
    assert key == key.lower()  # also where the filesystem folds case
    assert keys.number_of(key) == number
    assert keys.name_of_prefix(key[: key.index("/@") + 2]) == name
    tag_key = keys.tag_key(name, tag, number)
    assert keys.tag_of_prefix(tag_key.rpartition("/")[0] + "/", name) == tag
    assert (keys.version_key(other, number) == key) == (name == other)
    assert len(tag_key) <= 1024


def test_the_keys_are_fixed() -> None:
    digest = Digest("ab" + "c" * 62)
    assert keys.object_key(digest) == f"objects/ab/ab{'c' * 62}.safetensors"
    assert keys.digest_of_key(keys.object_key(digest)) == digest
    assert keys.version_key("Soccer/main", 7) == "names/!soccer/main/@versions/0000000007.json"
    assert keys.tag_key("a", "Best", 1) == "names/a/@tags/!best/0000000001.json"
    assert keys.hint_key("a/b") == "names/a/b/@hint"
    longest = "/".join(["A" * 80] * 4 + ["A" * 76])
    assert len(longest) == 400
    assert len(keys.tag_key(longest, "T" * 60, 1)) <= 1024


BAD_NAMES = [
    "", "/", "a/", "/a", "a//b", ".", "..", "a/../b", "../a", "a/./b", ".a", "a.", "a b", " a", "a\n",
    "a\x00", "ä", "a:b", "a\\b", "a@b@c", "~", "a!b", "con", "NUL", "a/com1", "Aux.txt", "a" * 101,
    "/".join(["a" * 99] * 5), "*", "a?", "１",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_bad_names_are_refused(name: str) -> None:
    for call in (refs.check_name, refs.parse_ref):
        with pytest.raises(InvalidInputError):
            call(name)


@pytest.mark.parametrize(
    "tag", ["", "7", "007", "-1", "latest", "a/b", "a b", ".a", "nul", "a" * 61, "a@b", None, 7]
)
def test_bad_tags_are_refused(tag: object) -> None:
    with pytest.raises(InvalidInputError):
        refs.check_tag(tag)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "ref",
    ["a@", "a@0", "a@007", "a@12345678901", "a@-1", "@1", "a@b@c", "blake3:", "blake3:ab12",
     "blake3:" + "a" * 65, "blake3:ABCDEF12", "blake3:xyzxyzxy", "BLAKE3:abcdef12", 7, None, b"a",
     "a@１"],
    ids=ascii,
)  # fmt: skip
def test_bad_refs_are_refused(ref: object) -> None:
    with pytest.raises(InvalidInputError, match="soccer/main|hexadecimal"):
        refs.parse_ref(ref)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "key",
    ["objects/ab/abc.safetensors", f"objects/ac/ab{'c' * 62}.safetensors", "objects/x",
     f"objects/ab/ab{'c' * 62}.safetensors.tmp", f"objects/ab/ab{'C' * 62}.safetensors"],
)  # fmt: skip
def test_foreign_object_keys_have_no_digest(key: str) -> None:
    assert keys.digest_of_key(key) is None


def test_foreign_record_keys_have_no_number_or_name() -> None:
    for key in ("x/1.json", "x/0000000000.json", "x/0000000001.jsn", "x/00000000001.json"):
        assert keys.number_of(key) is None
    for prefix in ("names/a b/@", "names/A/@", "names/!!a/@", "names//@"):
        assert keys.name_of_prefix(prefix) is None
