"""Lock a module of one env runner, so that the weights that RLlib sends do not reach the module.

``load_local`` gives a module of one env runner weights of its own. A lock on the module keeps
RLlib's next ``set_state`` from undoing this. The code runs in actors, also sent by value
(``messages/wire.py``). A lock may have been made by the policystore that an actor has installed,
and is then used by code that was sent by value. The two have different classes of the same name, so
this module never compares classes of locks.
"""

from __future__ import annotations

import contextlib
import copy
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from policystore.rllib.worker_code.compat import (
    holds_originals,
    replace_method,
    restore_method,
    state_setter_name,
)
from policystore.rllib.worker_code.tensors import PolicyAccess, digest_of, read_bits, write_bits

if TYPE_CHECKING:
    import numpy as np
    from ray.rllib.core.rl_module.rl_module import RLModule
    from ray.rllib.policy.policy import Policy

    from policystore.rllib.worker_code.messages.requests import DigestPlan
    from policystore.rllib.worker_code.messages.wire import AnyWorker

__all__ = ["StateLock", "digest_beneath", "install", "load_beneath", "lock_of", "take_off"]


class StateLock:
    """Takes the place of ``set_state`` of a module, or of ``set_weights`` of an old-stack policy.

    The lock keeps what RLlib sends, so that the module can be given back (:func:`take_off`). The
    lock ends by itself where the runner no longer has the module under its id: RLlib stashes
    policies of the old stack, and gives the object the state of another policy
    (``policy/policy_map.py:107``).

    Args:
        access: access to the runner.
        pid: id of the module. The module has the weights of before the first ``load_local``.

    Attributes:
        holder: the module or policy.
        own: digest of the weights that ``load_local`` loaded and acting needs, as text.
        label: what reports call these weights.
        kept: the bits of all weights before the lock, by name.
        latest: arguments of RLlib's last call; None if there was no call.
    """

    def __init__(self, access: PolicyAccess, pid: str) -> None:
        self.own = ""
        self.label = ""
        self.kept = _bits_of(access, pid)
        self.latest: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self.holder = access.holder(pid)
        self._runner = weakref.ref(access.worker)
        self._pid = pid

    def __call__(self, *args: Any, **kw: Any) -> None:
        """Keep weights that RLlib sends to the module, in place of setting them."""
        runner = self._runner()
        if runner is None or _in_memory(runner, self._pid) is not self.holder:
            _end(self.holder)
            getattr(self.holder, state_setter_name(self.holder))(*args, **kw)
            return
        # A copy: memory of Ray's object store stays taken, and a learner's tensors change.
        self.latest = copy.deepcopy((args, kw))

    def read(self) -> Any:
        """Return the weights that the policy would have without the lock, as RLlib reads them."""
        with _taken_off(PolicyAccess(self._runner()), self._pid):
            return copy.deepcopy(self.holder.get_weights())

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy of the module, in memory or in a pickle, belongs to no runner: in place of the lock
        # it gets the method of its class.
        return getattr, (self.holder, state_setter_name(self.holder))


class _Reader:
    """Takes the place of ``get_weights`` of a locked policy that RLlib reads for other workers."""

    def __init__(self, lock: StateLock) -> None:
        self._lock = lock

    def __call__(self) -> Any:
        return self._lock.read()

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._lock.holder, "get_weights")


def _bits_of(access: PolicyAccess, pid: str) -> dict[str, np.ndarray[Any, Any]]:
    return {name: read_bits(entry) for name, entry in access.entries(pid).items()}


def _set_bits(access: PolicyAccess, pid: str, bits: dict[str, np.ndarray[Any, Any]]) -> None:
    if access.network(pid) is None:
        access.write_own(pid, bits)
        return
    for name, entry in access.entries(pid).items():
        if name in bits:
            write_bits(entry, bits[name])


def _in_memory(worker: AnyWorker, pid: str) -> Policy | RLModule | None:
    """Return the module or policy that a worker has under an id; None if it has none in memory."""
    access = PolicyAccess(worker)
    if access.is_old:
        # The table itself would move other policies out of memory.
        cached: Policy | None = worker.policy_map.cache.get(pid)
        return cached
    return access.holder(pid) if pid in access.ids else None


def lock_of(access: PolicyAccess, pid: str) -> StateLock | None:
    """Return the lock on a module or policy of a worker; None if there is none."""
    holder = access.holder(pid)
    setter = vars(holder).get(state_setter_name(holder))
    return setter if hasattr(setter, "label") and hasattr(setter, "latest") else None


def install(access: PolicyAccess, pid: str, lock: StateLock) -> None:
    """Put a lock on a module or policy of a worker."""
    holder = access.holder(pid)
    replace_method(holder, state_setter_name(holder), lock)
    if holds_originals(access.worker):
        # The weights of this runner alone go neither to other workers nor into checkpoints.
        replace_method(holder, "get_weights", _Reader(lock))


def _end(holder: Policy | RLModule) -> None:
    """Let a module or policy have all methods of its class again."""
    name = state_setter_name(holder)
    restore_method(holder, name)
    if name == "set_weights":
        restore_method(holder, "get_weights")


def take_off(access: PolicyAccess, pid: str) -> StateLock | None:
    """Take the lock off a module, and give the module the weights that RLlib meant it to have.

    These are the weights of before the lock, or those that RLlib has sent since.

    Returns:
        The lock, for :func:`install`; None if there was none.
    """
    lock = lock_of(access, pid)
    if lock is None:
        return None
    holder = access.holder(pid)
    _end(holder)
    _set_bits(access, pid, lock.kept)
    if lock.latest is not None:
        args, kw = lock.latest
        getattr(holder, state_setter_name(holder))(*args, **kw)
        access.forget(pid)
    return lock


@contextlib.contextmanager
def _taken_off(access: PolicyAccess, pid: str) -> Iterator[None]:
    """Take the lock off a module inside this context; afterwards all is as before."""
    own = _bits_of(access, pid)
    lock = take_off(access, pid)
    try:
        yield
    finally:
        _set_bits(access, pid, own)
        if lock is not None:
            install(access, pid, lock)


def load_beneath(lock: StateLock, arrays: dict[str, tuple[str, Any]]) -> None:
    """Let a lock keep weights, as if the module had had these before the lock."""
    import numpy as np

    for name in lock.kept:
        if name in arrays:
            lock.kept[name] = np.array(arrays[name][1])
    lock.latest = None


def digest_beneath(access: PolicyAccess, pid: str, plan: DigestPlan) -> str | bytes | None:
    """Return the digest of the weights that a policy would have without its lock.

    None where RLlib does not read the policy for other workers, or the policy has no lock.
    """
    if lock_of(access, pid) is None or not holds_originals(access.worker):
        return None
    with _taken_off(access, pid):
        return digest_of(access.entries(pid), plan)[0]
