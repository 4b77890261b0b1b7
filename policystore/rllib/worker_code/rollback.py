"""Keep the function that undoes a change of a worker, and call it or drop it.

All changes use this one implementation: any function that changes a worker first gives
:func:`keep_for_rollback` a function that takes the change back. Imports only modules of
``worker_code/`` (``messages/wire.py`` says why).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from policystore.rllib.worker_code.messages.wire import RefusedError
from policystore.rllib.worker_code.tensors import PolicyAccess, access_to

if TYPE_CHECKING:
    from policystore.rllib.worker_code.messages.wire import AnyWorker

__all__ = [
    "FENCED",
    "MARK",
    "MISSED",
    "RESTARTED",
    "UNDO",
    "commit",
    "keep_for_rollback",
    "rollback",
    "rolled_back_on_error",
]

# Attributes of ours on a worker: the token of the transaction under way and the functions that undo
# its steps; how many transactions the worker has taken part in, or has replayed after a restart
# (replay.py); what went wrong in the replay; whether there was one; the number that the last load
# into an asynchronous Algorithm gave to the weights, and the ids of the loaded policies.
UNDO = "_policystore_undo"
MARK = "_policystore_mark"
MISSED = "_policystore_missed"
RESTARTED = "_policystore_restarted"
FENCED = "_policystore_fenced"


def keep_for_rollback(worker: AnyWorker, token: str, undo: Callable[[PolicyAccess], None]) -> None:
    """Keep the function that takes back what a step of a transaction is about to change."""
    kept = getattr(worker, UNDO, None)
    earlier = kept[1] if kept is not None and kept[0] == token else ()
    setattr(worker, UNDO, (token, (*earlier, undo)))


def rollback(worker: AnyWorker | PolicyAccess, token: str) -> bool:
    """Give a worker back what it held before a transaction: undo the steps, the last one first.

    Returns:
        Whether there was anything to undo: False if the transaction did not change the worker.

    Raises:
        Exception: what the first failing step raised; the other steps were undone.
    """
    worker = access_to(worker).worker
    kept = getattr(worker, UNDO, None)
    if kept is None or kept[0] != token:
        return False
    delattr(worker, UNDO)
    failed = None
    for undo in reversed(kept[1]):
        try:
            # A new PolicyAccess each time, because a step may change which policies there are.
            undo(PolicyAccess(worker))
        except Exception as error:  # noqa: PERF203 (the other steps are undone all the same)
            failed = failed or error
    if failed is not None:
        raise failed
    return True


def commit(worker: AnyWorker | PolicyAccess, token: str) -> None:
    """Drop what :func:`rollback` would need, and count the transaction.

    The transaction is not counted while a replay on the worker has failed.
    """
    worker = access_to(worker).worker
    kept = getattr(worker, UNDO, None)
    if kept is not None and kept[0] == token:
        delattr(worker, UNDO)
        if not hasattr(worker, MISSED):
            setattr(worker, MARK, getattr(worker, MARK, 0) + 1)


@contextlib.contextmanager
def rolled_back_on_error(worker: AnyWorker | PolicyAccess, token: str) -> Iterator[None]:
    """Give a worker back what it held before, if the block raises; then raise the same error."""
    try:
        yield
    except Exception as error:
        try:
            rollback(worker, token)
        except Exception as other:
            raise RefusedError(
                f"{type(error).__name__}: {error}; and taking it back failed: "
                f"{type(other).__name__}: {other}"
            ) from error
        raise
