"""Look after a store: verify it."""

from __future__ import annotations

from policystore.repository.marker import require_store
from policystore.repository.verify import verify_store
from policystore.repository.verify_report import VerifyReport
from policystore.store.base import StoreBase

__all__ = ["UpkeepCalls"]


class UpkeepCalls(StoreBase):
    """The calls that look after a store as a whole."""

    def verify(self) -> VerifyReport:
        """Read everything in the store and report every fault; change nothing.

        Raises:
            NotFoundError: the store does not exist.
            FormatError: the folder is not a store, or is a store of a newer format.
        """
        require_store(self._backend)
        return verify_store(self._backend)
