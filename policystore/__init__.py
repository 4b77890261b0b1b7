"""policystore keeps policies, not Algorithms: a content-addressed store of RL policies.

Importing this package loads neither torch nor ray; :mod:`policystore.torch` and
:mod:`policystore.rllib` do.
"""

from __future__ import annotations

from policystore.cache import NodeCache
from policystore.diff import Diff, FieldDiff, TensorDiff
from policystore.digest import Digest
from policystore.errors import (
    AmbiguousError,
    FormatError,
    IntegrityError,
    InvalidInputError,
    MismatchError,
    NotFoundError,
    PolicyStoreError,
    ReadOnlyError,
    StorageError,
    SyncError,
    UntrustedError,
)
from policystore.format.records import Mark, TagMove, Version
from policystore.format.spec import Spec
from policystore.repository.collect.report import GarbageReport
from policystore.repository.deletion.prune_report import PruneReport
from policystore.repository.mirror.report import CopyReport
from policystore.repository.upkeep.stats_report import StoreStats
from policystore.repository.verify.report import Fault, VerifyReport
from policystore.snapshot import Snapshot
from policystore.store import PolicyStore

__version__ = "0.1.0"

__all__ = [
    "AmbiguousError",
    "CopyReport",
    "Diff",
    "Digest",
    "Fault",
    "FieldDiff",
    "FormatError",
    "GarbageReport",
    "IntegrityError",
    "InvalidInputError",
    "Mark",
    "MismatchError",
    "NodeCache",
    "NotFoundError",
    "PolicyStore",
    "PolicyStoreError",
    "PruneReport",
    "ReadOnlyError",
    "Snapshot",
    "Spec",
    "StorageError",
    "StoreStats",
    "SyncError",
    "TagMove",
    "TensorDiff",
    "UntrustedError",
    "VerifyReport",
    "Version",
]
