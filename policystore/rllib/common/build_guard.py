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


@contextlib.contextmanager
def building(snap: Snapshot) -> Iterator[None]:
    """Build the network of a snapshot inside this context, within bounds.

    A few bytes of config can ask for terabytes. So the context counts the parameters and buffers
    that a network registers, before torch touches their memory. The limit is four times the bytes
    of the snapshot's weights, because there may be target networks, and constructors that cast to
    smaller dtypes afterwards. Torch's random numbers continue afterwards as if nothing had been
    built.

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
    max_bytes = 4 * snap.nbytes + _SPARE_BYTES
    max_tensors = 8 * len(snap.weights) + _SPARE_TENSORS
    thread = threading.get_ident()
    registered_bytes = registered_tensors = 0

    def count(module: torch.nn.Module, name: str, tensor: torch.Tensor | None) -> None:
        nonlocal registered_bytes, registered_tensors
        # Torch's hooks are global; other threads of the process are not limited.
        if tensor is None or threading.get_ident() != thread or is_lazy(tensor):
            return
        registered_bytes += tensor.numel() * tensor.element_size()
        registered_tensors += 1
        if registered_bytes > max_bytes or registered_tensors > max_tensors:
            raise MismatchError(
                f"{snap!r}: its config makes a network of more than {registered_bytes:,} bytes in "
                f"{registered_tensors} tensors, and its weights have {snap.nbytes:,} bytes in "
                f"{len(snap.weights)}: they do not belong together, and nothing was built"
            )

    hooks = [
        register_module_parameter_registration_hook(count),
        register_module_buffer_registration_hook(count),
    ]
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for hook in hooks:
            hook.remove()
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
