"""Which weights a module of an env runner holds, hashed only after somebody has written to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from policystore.errors import MismatchError
from policystore.rllib.live.checks.compatibility import digest_plan
from policystore.rllib.worker_code.state_lock import lock_of
from policystore.rllib.worker_code.tensors import PolicyAccess, acting_names, digest_of

if TYPE_CHECKING:
    import torch

__all__ = ["WeightWatch", "locked_digest"]


class _Known(NamedTuple):
    """The digest of a module's weights, and what shows that they are still the same.

    Attributes:
        holder: the module or policy.
        stamp: place in memory and count of writes of each tensor; None if there is none to see.
        digest: digest of the weights that acting needs, as text.
    """

    holder: Any
    stamp: tuple[Any, ...] | None
    digest: str


class WeightWatch:
    """Digests of the weights that the modules of one env runner act with.

    torch counts the writes to each tensor (``Tensor._version``): ``load_state_dict``, a module's
    ``set_state`` and policystore's own writes raise the count, also if the bytes stay the same.
    Writes through ``.data`` or through a numpy array do not; :meth:`digest` with ``anew=True`` sees
    these, too.
    """

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._places: dict[str, tuple[Any, list[tuple[dict[str, Any], str]]]] = {}

    def digest(self, access: PolicyAccess, policy_id: str, *, anew: bool = False) -> str:
        """Return the digest of the weights that acting needs, as ``blake3:…``.

        Args:
            access: access to the env runner.
            policy_id: id of a policy or module.
            anew: whether to hash in any case, and not only after a write that torch counted.
        """
        if anew:
            self._places.pop(policy_id, None)
        holder, stamp = access.holder(policy_id), self._stamp(access, policy_id)
        known = self._known.get(policy_id)
        if (
            not anew
            and known is not None
            and stamp is not None
            and known.holder is holder
            and known.stamp == stamp
        ):
            return known.digest
        digest = _acting_digest(access, policy_id)
        self._known[policy_id] = _Known(holder, stamp, digest)
        return digest

    def take(self, access: PolicyAccess, policy_id: str, digest: str) -> None:
        """Note the digest of weights that were just written, without hashing them again."""
        holder = access.holder(policy_id)
        self._known[policy_id] = _Known(holder, self._stamp(access, policy_id), digest)

    def _stamp(self, access: PolicyAccess, policy_id: str) -> tuple[Any, ...] | None:
        """Return place in memory and count of writes of each tensor; None without a torch module.

        Where a module keeps its tensors is looked up once, because ``state_dict`` takes as long as
        the hash of a small policy. A tensor that takes the place of another is seen.
        """
        holder = access.holder(policy_id)
        held, places = self._places.get(policy_id, (None, []))
        if held is not holder:
            network = access.network(policy_id)
            if network is None:
                return None
            places = _places_of(network)
            self._places[policy_id] = holder, places
        tensors = [table.get(name) for table, name in places]
        return tuple((each.data_ptr(), each._version) for each in tensors if each is not None)


def _places_of(network: torch.nn.Module) -> list[tuple[dict[str, Any], str]]:
    """Return the tables of a module and its parts in which its tensors stand, with their names."""
    tables = [t for part in network.modules() for t in (part._parameters, part._buffers)]
    return [(table, name) for table in tables for name in table]


def _acting_digest(access: PolicyAccess, policy_id: str) -> str:
    access.forget(policy_id)
    entries = access.entries(policy_id)
    names = list(entries)
    if not access.is_old and access.network(policy_id) is not None:
        names = acting_names(access.holder(policy_id), names)
    shapes = ((name, entries[name].dtype, entries[name].shape) for name in sorted(names))
    digest, wrong = digest_of(entries, digest_plan(tuple(shapes)))
    if not isinstance(digest, str):
        raise MismatchError(f"the weights of {policy_id!r} have no digest: {wrong}")
    return digest


def locked_digest(access: PolicyAccess, policy_id: str) -> str:
    """Return the digest that ``load_local`` noted in its lock on a module; "" without a lock."""
    lock = lock_of(access, policy_id)
    return "" if lock is None else lock.own
