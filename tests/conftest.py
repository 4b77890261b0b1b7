from __future__ import annotations

import gc
import os
import sys
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from policystore import Snapshot
from policystore.testing import make_snapshot as snapshot_of_seed

settings.register_profile(
    "quick", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("long", max_examples=2000, deadline=None, parent=settings.default)
settings.load_profile(os.environ.get("POLICYSTORE_HYPOTHESIS", "quick"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Alternate the files that start Ray with those that do not.

    ``--dist loadfile`` sends each file to one process, in this order. The files of Ray keep the
    processors busy, and many of the others wait for a server or a disk. Files of RLlib that start
    no Ray are short and come last: they keep both processes busy until the end.
    """
    with_ray = {item.path for item in items if "ray_session" in getattr(item, "fixturenames", ())}
    rllib = Path(__file__).parent / "rllib"
    files = list(dict.fromkeys(item.path for item in items))
    ray = [path for path in files if path in with_ray]
    others = [path for path in files if path not in with_ray and rllib not in path.parents]
    places = {path: index / len(ray) for index, path in enumerate(ray)}
    places |= {path: (index + 0.5) / len(others) for index, path in enumerate(others)}
    items.sort(key=lambda item: places.get(item.path, 2.0))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Leave what there is after the imports out of garbage collections, and collect nothing before.

    Each full collection of a test would take most of a second: Ray, torch and thousands of tests.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept in the cache of whoever runs the tests, nor found there; each has its own."""
    caches = tmp_path_factory.getbasetemp() / "caches"
    caches.mkdir(exist_ok=True)
    monkeypatch.setenv("POLICYSTORE_CACHE", str(caches / uuid.uuid4().hex))


_shared_ray = False


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One small Ray for all tests of a process that need one."""
    global _shared_ray
    from tests.support.ray_session import small_ray

    with small_ray():
        _shared_ray = True
        yield
        _shared_ray = False


@pytest.fixture(autouse=True)
def _ray_stays() -> Iterator[None]:
    """Let a test that starts or ends the Ray of its process fail itself, and not the next hundred."""
    yield
    ray: Any = sys.modules.get("ray")
    if not hasattr(ray, "is_initialized"):
        return  # nothing has imported Ray yet, or the test hides it
    running = ray.is_initialized()
    if running and not _shared_ray:
        ray.shutdown()
    assert running == _shared_ray, "the test starts or ends a Ray of its own: take ray_session"


@pytest.fixture
def make_snapshot() -> Callable[..., Snapshot]:
    """Small snapshots that differ by their seed; ``large`` ones fall under the split rule."""
    return snapshot_of_seed


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """One S3 server on loopback for all tests of a session: the one that was started for them
    (scripts/tools/ceph.py), or moto's."""
    from tests.support import s3_server

    if given := os.environ.get("POLICYSTORE_TEST_S3"):
        yield given
        return
    with s3_server.moto_server() as endpoint:
        yield endpoint


@pytest.fixture
def s3_bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket of the test's own; credentials in the environment, as a user would have them."""
    from tests.support.s3_server import KEY, SECRET, client

    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = f"t{uuid.uuid4().hex}"
    client(s3_endpoint).create_bucket(Bucket=bucket)
    return bucket
