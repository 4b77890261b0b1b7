"""The contracts over a folder of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors

from policystore import PolicyStore
from policystore.backends.base import Backend
from policystore.backends.local import LocalBackend
from policystore.testing import BackendContract, StoreContract, make_snapshot


class Folder:
    @pytest.fixture(autouse=True)
    def _empty(self, tmp_path: Path) -> None:
        self.root = tmp_path / "policies"

    def make_backend(self) -> Backend:
        return LocalBackend(self.root)

    def open_store(self, *, read_only: bool = False) -> PolicyStore:
        return PolicyStore(self.root, read_only=read_only)

    def raw_keys(self) -> set[str]:
        return {
            path.relative_to(self.root).as_posix()
            for path in self.root.rglob("*")
            if path.is_file()
        }

    def raw_read(self, key: str) -> bytes:
        return (self.root / key).read_bytes()

    def raw_write(self, key: str, data: bytes) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(data)

    def raw_delete(self, key: str) -> None:
        (self.root / key).unlink()


class TestLocalBackend(Folder, BackendContract):
    pass


class TestLocalStore(Folder, StoreContract):
    def test_safetensors_reads_the_objects(self) -> None:
        """Read an object with the safetensors library, which the contract tests do not need."""
        snap = make_snapshot()
        self.open_store().push(snap)
        (key,) = self.object_keys()
        tensors = dict(safetensors.deserialize(self.raw_read(key)))
        for name, array in snap.weights.items():
            assert tensors[name]["shape"] == list(array.shape)
            assert bytes(tensors[name]["data"]) == array.tobytes()
