"""Keep the weights that RLlib sends out of one module of one env runner.

``load_local`` gives a module of one runner weights of its own. A lock on the module keeps RLlib's
next ``set_state`` from undoing this. Runs in actors, also sent by value (``messages/wire.py``). A
lock that an actor's own policystore made and code that was sent by value work together, so nothing
here asks for a lock's class.
"""

from __future__ import annotations

import copy
import weakref
from typing import TYPE_CHECKING, Any

from policystore.rllib.worker_code.compat import (
    replace_state_setter,
    restore_state_setter,
    state_setter_name,
)
from policystore.rllib.worker_code.tensors import PolicyAccess, digest_of, read_bits, write_bits

if TYPE_CHECKING:
    import numpy as np
    from ray.rllib.core.rl_module.rl_module import RLModule
    from ray.rllib.policy.policy import Policy

    from policystore.rllib.worker_code.messages.requests import DigestPlan
    from policystore.rllib.worker_code.messages.wire import AnyWorker
    from policystore.rllib.worker_code.tensors import TensorEntry

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
        own: digest of the weights that ``load_local`` loaded and acting needs, as text.
        label: what reports call these weights.
        kept: the bits of all weights before the lock, by name.
        latest: arguments of RLlib's last call; None if there was no call.
    """

    def __init__(self, access: PolicyAccess, pid: str) -> None:
        self.own = ""
        self.label = ""
        self.kept: dict[str, np.ndarray[Any, Any]] = {
            name: read_bits(entry) for name, entry in access.entries(pid).items()
        }
        self.latest: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._holder = access.holder(pid)
        self._place = weakref.ref(access.worker), pid

    def __call__(self, *args: Any, **kw: Any) -> None:
        """Keep weights that RLlib sends to the module, in place of setting them."""
        runner, pid = self._place[0](), self._place[1]
        if runner is None or _in_memory(runner, pid) is not self._holder:
            restore_state_setter(self._holder)
            getattr(self._holder, state_setter_name(self._holder))(*args, **kw)
            return
        # A copy: memory of Ray's object store stays taken, and a learner's tensors change.
        self.latest = copy.deepcopy((args, kw))

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy of the module, in memory or in a pickle, belongs to no runner: in place of the lock
        # it gets the method of its class.
        return getattr, (self._holder, state_setter_name(self._holder))


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
    replace_state_setter(access.holder(pid), lock)


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
    restore_state_setter(holder)
    if access.network(pid) is None:
        access.write_own(pid, lock.kept)
    else:
        for name, entry in access.entries(pid).items():
            if name in lock.kept:
                write_bits(entry, lock.kept[name])
    if lock.latest is not None:
        args, kw = lock.latest
        getattr(holder, state_setter_name(holder))(*args, **kw)
        access.forget(pid)
    return lock


def load_beneath(lock: StateLock, arrays: dict[str, tuple[str, Any]]) -> None:
    """Let a lock keep weights, as if the module had had these before the lock."""
    import numpy as np

    for name in lock.kept:
        if name in arrays:
            lock.kept[name] = np.array(arrays[name][1])
    lock.latest = None


def digest_beneath(access: PolicyAccess, pid: str, plan: DigestPlan) -> str | bytes | None:
    """Return the digest of the weights that :func:`take_off` would give a locked policy.

    None if the policy has no lock, or RLlib has sent weights of another form.
    """
    import numpy as np

    lock = lock_of(access, pid)
    if lock is None:
        return None
    sent: dict[str, Any] = {}
    if lock.latest is not None:
        (sent,) = [*lock.latest[0], *lock.latest[1].values()]
    beneath: dict[str, TensorEntry] = {}
    for name, entry in access.entries(pid).items():
        bits = lock.kept[name]
        if name in sent:
            array = np.asarray(sent[name])
            if (array.dtype.name, array.shape) != (entry.dtype, entry.shape):
                return None
            bits = array.view(bits.dtype)
        beneath[name] = entry._replace(tensor=None, bits=bits)
    return digest_of(beneath, plan)[0]
