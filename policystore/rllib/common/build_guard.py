"""Around every rebuild: what a stranger's policy may cost, and what it leaves as it was."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import ray
import torch
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from policystore._util.log import logger
from policystore.errors import InvalidInputError, MismatchError, PolicyStoreError
from policystore.format.spec import Spec
from policystore.snapshot import Snapshot

__all__ = ["building", "check_snapshot", "guarded", "lost_config"]

_ROOM_BYTES = 64 << 20
_ROOM_COUNT = 1000


def check_snapshot(snap: object) -> None:
    """Refuse what is no snapshot, such as the ref of one, and one of no known class."""
    if not isinstance(snap, Snapshot):
        raise InvalidInputError(
            f"expected a Snapshot, found {type(snap).__qualname__}"
            + (f": pull it first, store.pull({snap!r})" if isinstance(snap, str) else "")
        )
    why = snap.spec.omitted
    if snap.spec.stack == "none" and ("class" in why or "spec" in why):
        raise InvalidInputError(
            f"{snap!r} holds weights that cannot be rebuilt: {why.get('class', why.get('spec'))}"
        )


def lost_config(spec: Spec) -> list[str]:
    """What of its config a snapshot could not hold, by place."""
    return sorted(key for key in spec.omitted if key.startswith("config."))


@contextlib.contextmanager
def building(snap: Snapshot) -> Iterator[None]:
    """Around the construction of a snapshot's network.

    A few bytes of config can ask for terabytes. What a network registers is counted against what
    the snapshot has weights for (four times their bytes: target networks, and constructors that
    cast to smaller dtypes afterwards), before torch touches the memory. Torch's random numbers go
    on as if nothing had been built.

    What the snapshot could not hold of the config is logged: if the class reads it, the policy acts
    in another way than the original.

    Raises:
        MismatchError: the config makes a far larger network than the weights are of.
        InvalidInputError: Ray was started, which no policy needs.
    """
    lost = lost_config(snap.spec)
    if lost:
        logger.warning(
            "%r is rebuilt without %s, which had no form in a snapshot: if its class reads that, "
            "it acts in another way than the original",
            snap,
            ", ".join(lost),
        )
    running = ray.is_initialized()
    most_bytes = 4 * snap.nbytes + _ROOM_BYTES
    most_count = 8 * len(snap.weights) + _ROOM_COUNT
    here = threading.get_ident()
    used = [0, 0]

    def count(module: torch.nn.Module, name: str, tensor: Any) -> None:
        # The hooks are the process's; other threads build what they like.
        if tensor is None or threading.get_ident() != here or torch.nn.parameter.is_lazy(tensor):
            return
        used[0] += tensor.numel() * tensor.element_size()
        used[1] += 1
        if used[0] > most_bytes or used[1] > most_count:
            raise MismatchError(
                f"{snap!r}: its config makes a network of more than {used[0]:,} bytes in {used[1]} "
                f"tensors, and its weights have {snap.nbytes:,} bytes in {len(snap.weights)}: they "
                "do not belong together, and nothing was built"
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
    if ray.is_initialized() and not running:
        raise InvalidInputError(f"the constructor of {snap.spec.cls} started Ray; it must not")


@contextlib.contextmanager
def guarded(what: str) -> Iterator[None]:
    """Errors of RLlib, torch or a trusted class over what a spec says, as ours; the cause is kept.

    Raises:
        InvalidInputError: for anything that is not of policystore already.
    """
    try:
        yield
    except PolicyStoreError:
        raise
    except Exception as error:
        raise InvalidInputError(
            f"{what} failed: {type(error).__name__}: {str(error)[:500]}. Its spec or state is "
            "malformed, or a class that it names has changed since it was made."
        ) from error
