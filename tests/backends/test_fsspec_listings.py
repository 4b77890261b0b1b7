"""Listings that are shuffled, doubled, empty, or hold more than was asked for."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any

import fsspec
import pytest

from policystore import PolicyStore, StorageError
from policystore.backends.fsspec import FsspecBackend
from policystore.backends.memory import MemoryBackend
from policystore.backends.options import StorageOptions
from tests.support.fsspec_clouds import Attic
from tests.support.s3_server import Answer, Proxy, Request, client

PARTS = ["a", "b", "@x", "@hint", "a@"]
ASKED = [("names/", "/@"), ("names/", "/"), ("names/a/", "/"), ("names/a/", "/@"), ("absent/", "/@"),
         ("names/a/@x/", "/")]  # fmt: skip


class Untidy(Attic):
    """A filesystem whose listings are shuffled, and hold entries twice and the folder itself."""

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        entries = list(super().ls(path, detail=True, **kwargs)) * 2
        entries.append({"name": self._strip_protocol(path), "size": 0, "type": "directory"})
        entries.append({"name": "/elsewhere", "size": 0, "type": "directory"})
        random.Random(path).shuffle(entries)
        return entries


@pytest.fixture
def backend() -> Iterator[FsspecBackend]:
    fsspec.register_implementation("attic", Untidy, clobber=True)
    yield FsspecBackend("attic://shelf", StorageOptions())
    Attic.store.clear()
    Attic.pseudo_dirs[:] = [""]


def random_keys(chance: random.Random) -> set[str]:
    keys: set[str] = set()
    for _ in range(chance.randint(0, 12)):
        key = "/".join(["names", *chance.choices(PARTS, k=chance.randint(1, 4))])
        if not any(key.startswith(f"{other}/") or other.startswith(f"{key}/") for other in keys):
            keys.add(key)
    return keys


@pytest.mark.parametrize("seed", range(60))
def test_untidy_listings_of_a_filesystem(seed: int, backend: FsspecBackend) -> None:
    chance = random.Random(seed)
    keys, reference = random_keys(chance), MemoryBackend(f"listings-{seed}")
    fs = Attic()
    for key in keys:
        fs.pipe_file(f"/shelf/{key}", b"x")
        reference.put(key, [b"x"])
    for folder in random_keys(chance):
        if not any(f"{folder}/@versions/".startswith(f"{key}/") for key in keys):
            fs.makedirs(f"/shelf/{folder}/@versions", exist_ok=True)  # without a key
    for prefix in ("", "names/", "names/a", "names/a/", "absent/", "names/a/@hint"):
        assert sorted(backend.keys(prefix)) == sorted(reference.keys(prefix)), prefix
    for prefix, delimiter in ASKED:
        found = sorted(backend.prefixes(prefix, delimiter))
        assert found == sorted(reference.prefixes(prefix, delimiter)), (prefix, delimiter)


def entries(body: bytes) -> list[bytes]:
    found = re.compile(rb"<(Contents|CommonPrefixes)>.*?</\1>", re.DOTALL).finditer(body)
    return [match.group() for match in found]


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_untidy_pages_of_a_bucket(
    seed: int, store: PolicyStore, proxy: Proxy, s3_bucket: str, s3_endpoint: str
) -> None:
    """Answer in pages of three entries that come in any order, twice, and again as whole pages."""
    raw, chance = client(s3_endpoint), random.Random(seed)
    keys = {f"names/{a}/{b}" for a in "abcdef" for b in ("@hint", "@versions/1", "x/@hint")}
    for key in keys:
        raw.put_object(Bucket=s3_bucket, Key=f"p/{key}", Body=b"x")
    pages: dict[str, list[list[bytes]]] = {}

    def paged(request: Request, answer: Answer) -> Answer:
        if "list-type=2" not in request.path:
            return answer
        token = re.search("continuation-token=([0-9]+)", request.path)
        number = int(token.group(1)) if token else 0
        listing = re.sub("&?continuation-token=[0-9]+", "", request.path)
        if number == 0:
            all_of_it = entries(answer.body) * 2
            chance.shuffle(all_of_it)
            some = [all_of_it[start : start + 3] for start in range(0, len(all_of_it), 3)]
            pages[listing] = [page for page in some for _ in range(2)] + [[]]
        page = pages[listing][number]
        more = number + 1 < len(pages[listing])
        following = f"<NextContinuationToken>{number + 1}</NextContinuationToken>" if more else ""
        text = (
            f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{following}".encode()
            + b"<EncodingType>url</EncodingType>"
            + b"".join(page)
            + b"</ListBucketResult>"
        )
        return Answer(200, {"Content-Type": "application/xml"}, text)

    def first(request: Request) -> Answer | None:
        if "continuation-token" in request.path:
            return paged(request, Answer(200))
        return None

    proxy.before, proxy.after = first, paged
    reference = MemoryBackend(f"pages-{seed}")
    for key in keys:
        reference.put(key, [b"x"])
    for prefix in ("", "names/a/", "absent/"):
        assert sorted(store._backend.keys(prefix)) == sorted(reference.keys(prefix))
    for prefix, delimiter in ASKED:
        found = sorted(store._backend.prefixes(prefix, delimiter))
        assert found == sorted(reference.prefixes(prefix, delimiter))


def test_pages_that_go_in_a_circle(store: PolicyStore, proxy: Proxy) -> None:
    def circle(request: Request) -> Answer:
        token = "one" if "token=two" in request.path else "two"
        text = (
            "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>"
            f"{token}</NextContinuationToken></ListBucketResult>"
        )
        return Answer(200, {"Content-Type": "application/xml"}, text.encode())

    proxy.before = circle
    with pytest.raises(StorageError, match="does not list as S3 does"):
        list(store._backend.keys(""))
