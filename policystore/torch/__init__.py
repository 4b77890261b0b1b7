"""Plain ``torch.nn.Module``: snapshot and load, without RLlib.

Nothing here knows RLlib; a team without Ray keeps its networks with it just as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

try:
    import torch
except ImportError as error:
    raise ImportError(f"policystore.torch needs torch: pip install torch ({error})") from error

from policystore.errors import InvalidInputError
from policystore.format.spec import Spec
from policystore.snapshot import Snapshot
from policystore.torch.tensors import load_arrays, state_arrays, unwrapped

__all__ = ["load_into", "snapshot"]


def snapshot(
    module: torch.nn.Module,
    *,
    config: Mapping[Any, Any] | None = None,
    state: Mapping[Any, Any] | None = None,
) -> Snapshot:
    """Keep a module's parameters and persistent buffers, as they are now.

    Args:
        module: on any device, also compiled or inside (Distributed)DataParallel; names come
            without the wrappers' prefixes.
        config: plain values that you want beside the weights to build the module again.
        state: plain values and arrays that inference needs beside the weights.

    Returns:
        A snapshot that shares no memory with the module; its spec has ``stack="torch"`` and the
        module's class.

    Raises:
        InvalidInputError: a tensor that cannot be stored (complex, sparse, quantized, meta), named.
    """
    _check_module(module)
    cls = type(unwrapped(module))
    if any(base.__module__ == "ray.rllib.core.rl_module.rl_module" for base in cls.__mro__):
        raise InvalidInputError(
            f"a {cls.__qualname__} is an RLModule, and its weights alone could not be rebuilt: use "
            "snapshot of policystore.rllib"
        )
    spec = Spec(stack="torch", cls=f"{cls.__module__}:{cls.__qualname__}", config=config)
    return Snapshot(weights=state_arrays(module), spec=spec, state=state)


def load_into(module: torch.nn.Module, snap: Snapshot) -> None:
    """Put a snapshot's weights into a module, exactly or not at all.

    Names, shapes and dtypes are compared before anything is written. Parameters keep their
    identity, device and ``requires_grad``, so optimizers stay attached.

    Raises:
        MismatchError: lists every missing, unexpected and wrongly shaped tensor.
    """
    _check_module(module)
    if not isinstance(snap, Snapshot):
        raise InvalidInputError(f"expected a Snapshot, found {type(snap).__qualname__}")
    load_arrays(module, snap.weights, f"{snap!r} into {type(module).__name__}")


def _check_module(module: object) -> None:
    if not isinstance(module, torch.nn.Module):
        raise InvalidInputError(f"expected a torch.nn.Module, found {type(module).__qualname__}")
