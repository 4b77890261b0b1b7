"""Test a backend of your own with the tests that policystore's own backends pass.

Subclass :class:`BackendContract`, which tests the calls of the backend alone, and
:class:`StoreContract`, which tests a whole store over the backend. Give both subclasses access to
the raw storage. ``docs/backends.md`` shows an example. This package needs pytest.
"""

from __future__ import annotations

from policystore.errors import MissingPackageError

try:
    import pytest
except ImportError as error:
    raise MissingPackageError.of(__name__, "pytest", install="pytest", error=error) from error

# Before the imports: pytest shows the values of a failed assert only in modules that it knows.
pytest.register_assert_rewrite(
    "policystore.testing.backend_contract",
    "policystore.testing.store_annotations",
    "policystore.testing.store_concurrency",
    "policystore.testing.store_damage",
    "policystore.testing.store_deletions",
    "policystore.testing.store_names",
    "policystore.testing.store_pushes",
    "policystore.testing.store_refusals",
)

from policystore.testing.backend_contract import BackendContract  # noqa: E402
from policystore.testing.snapshots import make_snapshot  # noqa: E402
from policystore.testing.store_contract import StoreContract  # noqa: E402

__all__ = ["BackendContract", "StoreContract", "make_snapshot"]
