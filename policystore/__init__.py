"""policystore keeps policies, not Algorithms: a content-addressed store of RL policies.

Importing this package loads neither torch nor ray; :mod:`policystore.torch` and
:mod:`policystore.rllib` do. A public name loads its module when it is first used, so that a program
waits only for what it needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from policystore.cache import NodeCache
    from policystore.diff import Diff, FieldDiff, TensorDiff
    from policystore.digest import Digest
    from policystore.errors import (
        AmbiguousError,
        FormatError,
        IntegrityError,
        InvalidInputError,
        MatchError,
        MismatchError,
        MissingPackageError,
        NotFoundError,
        PolicyStoreError,
        ProtectedError,
        ReadOnlyError,
        StorageError,
        SyncError,
        UntrustedError,
    )
    from policystore.format.records import Annotation, Mark, Protection, TagMove, Version
    from policystore.format.spec import Spec
    from policystore.league.tournament.evaluation import Evaluation, evaluate
    from policystore.report.summary import ReportSummary
    from policystore.repository.collect.report import GarbageReport
    from policystore.repository.deletion.prune_report import PruneReport
    from policystore.repository.mirror.report import CopyReport
    from policystore.repository.upkeep.stats_report import StoreStats
    from policystore.repository.verify.report import Fault, VerifyReport
    from policystore.snapshot import Snapshot
    from policystore.store import PolicyStore
    from policystore.version_list import VersionList

__version__ = "0.1.0"

__all__ = [
    "AmbiguousError",
    "Annotation",
    "CopyReport",
    "Diff",
    "Digest",
    "Evaluation",
    "Fault",
    "FieldDiff",
    "FormatError",
    "GarbageReport",
    "IntegrityError",
    "InvalidInputError",
    "Mark",
    "MatchError",
    "MismatchError",
    "MissingPackageError",
    "NodeCache",
    "NotFoundError",
    "PolicyStore",
    "PolicyStoreError",
    "ProtectedError",
    "Protection",
    "PruneReport",
    "ReadOnlyError",
    "ReportSummary",
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
    "VersionList",
    "evaluate",
]

# Each public name, and the module below policystore that has it.
_MODULES = {
    "AmbiguousError": "errors",
    "Annotation": "format.records",
    "CopyReport": "repository.mirror.report",
    "Diff": "diff",
    "Digest": "digest",
    "Evaluation": "league.tournament.evaluation",
    "Fault": "repository.verify.report",
    "FieldDiff": "diff",
    "FormatError": "errors",
    "GarbageReport": "repository.collect.report",
    "IntegrityError": "errors",
    "InvalidInputError": "errors",
    "Mark": "format.records",
    "MatchError": "errors",
    "MismatchError": "errors",
    "MissingPackageError": "errors",
    "NodeCache": "cache",
    "NotFoundError": "errors",
    "PolicyStore": "store",
    "PolicyStoreError": "errors",
    "ProtectedError": "errors",
    "Protection": "format.records",
    "PruneReport": "repository.deletion.prune_report",
    "ReadOnlyError": "errors",
    "ReportSummary": "report.summary",
    "Snapshot": "snapshot",
    "Spec": "format.spec",
    "StorageError": "errors",
    "StoreStats": "repository.upkeep.stats_report",
    "SyncError": "errors",
    "TagMove": "format.records",
    "TensorDiff": "diff",
    "UntrustedError": "errors",
    "VerifyReport": "repository.verify.report",
    "Version": "format.records",
    "VersionList": "version_list",
    "evaluate": "league.tournament.evaluation",
}


def __getattr__(name: str) -> Any:
    """Load the module of a public name, and keep the name for the next use (PEP 562)."""
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module 'policystore' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"policystore.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
