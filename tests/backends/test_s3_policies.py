"""Buckets with the policy that docs/security.md shows: records are created once."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

from policystore import PolicyStore, Snapshot
from tests.support.s3_server import Answer, Proxy, Request, error
from tests.support.s3_stores import open_store

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
Make = Callable[..., Snapshot]


def records() -> list[str]:
    """Return the patterns of the keys that the policy lets nobody overwrite."""
    (block,) = re.findall(r"```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    first = json.loads(block)["Statement"][0]
    return [arn.removeprefix("arn:aws:s3:::team/policies/") for arn in first["Resource"]]


def test_every_record_is_written_with_if_none_match(
    store: PolicyStore, proxy: Proxy, s3_bucket: str, make_snapshot: Make
) -> None:
    patterns = records()
    created: set[str] = set()

    def deny(request: Request) -> Answer | None:
        key = unquote(request.path).removeprefix(f"/{s3_bucket}/p/")
        matching = [pattern for pattern in patterns if fnmatch.fnmatch(key, pattern)]
        if request.method == "DELETE":
            return error(403, "AccessDenied")
        if request.method != "PUT" or not matching:
            return None
        if "if-none-match" not in request.headers:
            return error(403, "AccessDenied")
        created.update(matching)
        return None

    proxy.before = deny
    for seed in range(3):
        store.push(make_snapshot(seed, large=seed == 2), "a/B")
        store.tag(f"a/B@{seed + 1}", "best")
    store.untag("a/B", "best")
    store.push(make_snapshot(3))
    assert open_store(proxy, s3_bucket).verify().ok
    assert created == set(patterns)
