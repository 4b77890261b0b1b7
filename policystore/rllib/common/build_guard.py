"""Limit the memory that rebuilding a policy from a store may take, and undo side effects."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import ray
import torch
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.nn.parameter import is_lazy

from policystore._util.log import logger
from policystore.errors import InvalidInputError, MismatchError, PolicyStoreError
from policystore.format.spec import Spec
from policystore.snapshot import Snapshot
from policystore.snapshot_advice import instead_of_snapshot
from policystore.torch.random_numbers import own_random_numbers

__all__ = ["building", "check_snapshot", "guarded", "lost_config"]

# Allowed in addition to the multiples of the bytes and tensors of a snapshot's weights.
_SPARE_BYTES = 64 << 20
_SPARE_TENSORS = 1000


def check_snapshot(snap: object) -> None:
    """Refuse what is not a snapshot, such as a ref, and a snapshot of weights without a class.

    Raises:
        InvalidInputError: ``snap`` is one of these; the message says which, and what to write.
    """
    if not isinstance(snap, Snapshot):
        raise instead_of_snapshot(snap)
    omitted = snap.spec.omitted
    if snap.spec.stack == "none" and ("class" in omitted or "spec" in omitted):
        reason = omitted.get("class", omitted.get("spec"))
        raise InvalidInputError(f"{snap!r} holds weights that cannot be rebuilt: {reason}")


def lost_config(spec: Spec) -> list[str]:
    """Return the places in a policy's config that its snapshot could not hold, sorted."""
    return sorted(key for key in spec.omitted if key.startswith("config."))


class _Limit:
    """Counts what a build registers, up to what the weights of its snapshot allow."""

    def __init__(self, snap: Snapshot) -> None:
        self._snap = snap
        self._most_bytes = 4 * snap.nbytes + _SPARE_BYTES
        self._most_tensors = 8 * len(snap.weights) + _SPARE_TENSORS
        self._bytes = self._tensors = 0

    def count(self, tensor: torch.Tensor) -> None:
        """Count a tensor.

        Raises:
            MismatchError: it is too much.
        """
        self._bytes += tensor.numel() * tensor.element_size()
        self._tensors += 1
        if self._bytes > self._most_bytes or self._tensors > self._most_tensors:
            snap = self._snap
            raise MismatchError(
                f"{snap!r}: its config makes a network of more than {self._bytes:,} bytes in "
                f"{self._tensors} tensors, and its weights have {snap.nbytes:,} bytes in "
                f"{len(snap.weights)}: they do not belong together, and nothing was built"
            )


_OWN = threading.local()  # limits: those of the builds that this thread is in


def _limits() -> tuple[_Limit, ...]:
    limits: tuple[_Limit, ...] = getattr(_OWN, "limits", ())
    return limits


def _count(module: torch.nn.Module, name: str, tensor: torch.Tensor | None) -> None:
    limits = _limits()
    if limits and tensor is not None and not is_lazy(tensor):
        for limit in limits:
            limit.count(tensor)


# Torch calls these hooks in all threads. They stay for ever, because a thread that makes a module
# while another one adds or removes a hook fails.
register_module_parameter_registration_hook(_count)
register_module_buffer_registration_hook(_count)


@contextlib.contextmanager
def building(snap: Snapshot) -> Iterator[None]:
    """Build the network of a snapshot inside this context, within bounds.

    A few bytes of config can ask for terabytes. So the context counts the parameters and buffers
    that a network registers, before torch touches their memory. The limit is four times the bytes
    of the snapshot's weights, because there may be target networks, and constructors that cast to
    smaller dtypes afterwards. Torch's random numbers continue afterwards as if nothing had been
    built, unless a constructor seeds torch. Several threads may build at the same time; threads
    that do not build notice nothing.

    A warning is logged if the snapshot could not hold some parts of the config: if the class reads
    these parts, the policy acts in another way than the original.

    Args:
        snap: its weights give the bounds.

    Raises:
        MismatchError: the config makes a network that is far larger than the weights.
        InvalidInputError: the constructor started Ray, which no policy needs.
    """
    lost = lost_config(snap.spec)
    if lost:
        logger.warning(
            "%r is rebuilt without %s, which had no form in a snapshot: if its class reads "
            "these parts, the policy acts in another way than the original",
            snap,
            ", ".join(lost),
        )
    was_running = ray.is_initialized()
    outer = _limits()
    _OWN.limits = (*outer, _Limit(snap))
    try:
        with own_random_numbers():
            yield
    finally:
        _OWN.limits = outer
    if ray.is_initialized() and not was_running:
        raise InvalidInputError(f"the constructor of {snap.spec.cls} started Ray; it must not")


@contextlib.contextmanager
def guarded(action: str) -> Iterator[None]:
    """Turn errors of RLlib, torch or a trusted class inside this context into InvalidInputError.

    Args:
        action: how the message names what failed, such as ``"rebuilding Snapshot(…)"``.

    Raises:
        InvalidInputError: for every error that is not one of policystore's; its ``__cause__`` is
            the original error.
    """
    try:
        yield
    except PolicyStoreError:
        raise
    except Exception as error:
        raise InvalidInputError(
            f"{action} failed: {type(error).__name__}: {str(error)[:500]}. Its spec or state is "
            "malformed, or a class that it names has changed since it was made."
        ) from error
