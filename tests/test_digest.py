from __future__ import annotations

import pickle

import blake3
import numpy as np
import pytest

from policystore import Digest, InvalidInputError
from policystore.digest import digest_of


def test_it_is_blake3_of_the_bytes() -> None:
    # From the BLAKE3 paper's reference vectors: the hash of no bytes.
    empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert str(digest_of()) == str(digest_of(b"")) == f"blake3:{empty}"
    data = np.random.default_rng(0).bytes(1 << 20)
    assert digest_of(data).hex == blake3.blake3(data).hexdigest()
    assert digest_of(data[:7], memoryview(data)[7:]) == digest_of(data)


def test_it_parses_what_it_prints_and_sorts_and_pickles() -> None:
    digest = digest_of(b"x")
    assert Digest.parse(str(digest)) == digest == pickle.loads(pickle.dumps(digest))
    assert sorted([Digest("f" * 64), Digest("0" * 64)])[0].hex == "0" * 64
    assert digest.short == str(digest)[: len("blake3:") + 12]


@pytest.mark.parametrize(
    "text", ["", "blake3:", "blake3:" + "A" * 64, "sha256:" + "a" * 64, "a" * 64, 7, None]
)
def test_other_forms_are_refused(text: object) -> None:
    with pytest.raises(InvalidInputError, match="digest"):
        Digest.parse(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("hexadecimal", ["a" * 63, "a" * 65, "g" * 64, "a" * 63 + "\n", b"a" * 64])
def test_other_digits_are_refused(hexadecimal: object) -> None:
    with pytest.raises(InvalidInputError, match="64"):
        Digest(hexadecimal)  # type: ignore[arg-type]
