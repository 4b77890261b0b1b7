from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest

from policystore import PolicyStore

Make = Callable[[], PolicyStore]


@pytest.fixture
def make_store() -> Make:
    """Make empty stores in memory, each with a URL of its own."""
    return lambda: PolicyStore(f"memory://{uuid.uuid4().hex}")
