"""Test a whole store over a backend, against the raw storage."""

from __future__ import annotations

from policystore.testing.store_annotations import AnnotationTests
from policystore.testing.store_collecting import CollectingTests
from policystore.testing.store_concurrency import ConcurrencyTests
from policystore.testing.store_damage import DamageTests
from policystore.testing.store_deletions import DeletionTests
from policystore.testing.store_names import NameTests
from policystore.testing.store_pushes import PushTests
from policystore.testing.store_refusals import RefusalTests

__all__ = ["StoreContract"]


class StoreContract(
    PushTests,
    NameTests,
    AnnotationTests,
    DeletionTests,
    CollectingTests,
    ConcurrencyTests,
    RefusalTests,
    DamageTests,
):
    """Tests that a store over any backend has to pass.

    Subclass this class, name the subclass ``Test…`` and define the methods of
    :class:`~policystore.testing.storage.StorageContract`. The tests use a backend through
    :class:`~policystore.store.PolicyStore`: what a push writes and in which form, refs, tags,
    annotations, deletions, several threads, refusals, damage, ``verify`` and the collector. They
    need a backend that passes :class:`~policystore.testing.backend_contract.BackendContract`, and
    that can be pickled.
    """
