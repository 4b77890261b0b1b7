"""Open a store with a cache, and look into the cache."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from policystore import PolicyStore


def cached(origin: PolicyStore, cache: Any) -> tuple[PolicyStore, list[str]]:
    """Return a store with a cache, and a list to which each fetch from the storage adds its key."""
    store = PolicyStore(origin.url, cache=cache)
    fetched: list[str] = []
    backend: Any = store._backend
    plain = backend.get

    def get(key: str, **kwargs: Any) -> Any:
        if key.startswith("objects/"):
            fetched.append(key)
        return plain(key, **kwargs)

    backend.get = get
    return store, fetched


def object_files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "objects").rglob("*") if path.is_file())


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def files_of(folder: Path, version: Any) -> Path:
    return folder / "objects" / version.digest.hex[:2] / f"{version.digest.hex}.safetensors"
