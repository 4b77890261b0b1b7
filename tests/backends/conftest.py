from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from policystore import PolicyStore
from policystore.backends import fsspec as remote
from tests.support.s3_server import Proxy


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(remote, "_LONGEST_PAUSE", 0.01)


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[Proxy]:
    proxy = Proxy(s3_endpoint)
    yield proxy
    proxy.close()


@pytest.fixture
def store(proxy: Proxy, s3_bucket: str) -> PolicyStore:
    """Return a store without a cache in a bucket behind the proxy."""
    return PolicyStore(
        f"s3://{s3_bucket}/p", storage_options={"endpoint_url": proxy.endpoint}, cache=False
    )


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may enter.

    It is outside of pytest's folder, which each start of pytest closes for other users.
    """
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
