"""The contracts over a bucket of an S3 server."""

from __future__ import annotations

import pytest

from policystore import PolicyStore
from policystore.backends.base import Backend
from policystore.backends.factory import open_backend
from policystore.backends.options import StorageOptions
from policystore.testing import BackendContract, StoreContract, make_snapshot
from tests.support import s3_server


class Bucket:
    @pytest.fixture(autouse=True)
    def _empty(self, s3_endpoint: str, s3_bucket: str) -> None:
        self.client = s3_server.client(s3_endpoint)
        self.bucket, self.prefix = s3_bucket, "league/nested"
        self.url = f"s3://{self.bucket}/{self.prefix}"
        self.options = {"endpoint_url": s3_endpoint}
        # Other keys of the bucket must not matter.
        for key in ("other.txt", "league/other.txt", "league/nested-too/policystore.json"):
            self.client.put_object(Bucket=self.bucket, Key=key, Body=b"x")

    def make_backend(self) -> Backend:
        return open_backend(self.url, StorageOptions(self.options))

    def open_store(self, *, read_only: bool = False) -> PolicyStore:
        return PolicyStore(self.url, storage_options=self.options, cache=False, read_only=read_only)

    def raw_keys(self) -> set[str]:
        root = self.prefix + "/"
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=root
        )
        return {e["Key"].removeprefix(root) for page in pages for e in page.get("Contents", ())}

    def raw_read(self, key: str) -> bytes:
        answer = self.client.get_object(Bucket=self.bucket, Key=f"{self.prefix}/{key}")
        return bytes(answer["Body"].read())

    def raw_write(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=f"{self.prefix}/{key}", Body=data)

    def raw_delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=f"{self.prefix}/{key}")


class TestS3Backend(Bucket, BackendContract):
    pass


class TestS3Store(Bucket, StoreContract):
    def test_a_push_that_was_cut_off_leaves_a_hint_one_ahead(self, store: PolicyStore) -> None:
        for seed in range(3):
            store.push(make_snapshot(seed), "a")
        self.raw_delete("names/a/@versions/0000000003.json")
        assert self.open_store().resolve("a") == make_snapshot(1).digest
        assert self.open_store().pull("a") == make_snapshot(1)
        assert store.verify().ok
        self.raw_delete("names/a/@versions/0000000002.json")
        assert "the hint names this version" in str(store.verify())
        assert self.open_store().push(make_snapshot(7), "a").number == 2
        assert self.open_store().pull("a") == make_snapshot(7)
        assert store.verify().ok

    @pytest.mark.long
    def test_every_kind_of_fault_is_found(self, store: PolicyStore) -> None:
        super().test_every_kind_of_fault_is_found(store)
