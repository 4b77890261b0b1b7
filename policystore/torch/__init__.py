"""Take snapshots of a plain ``torch.nn.Module`` and load them, without RLlib.

This package needs torch but not Ray. It is for networks that are trained without RLlib.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policystore.errors import InvalidInputError, MissingPackageError

try:
    import torch
except ImportError as error:
    raise MissingPackageError.of(__name__, "torch", install="torch", error=error) from error

from policystore.format.spec import Spec
from policystore.snapshot import Snapshot
from policystore.snapshot_advice import instead_of_snapshot
from policystore.torch.tensors import load_arrays, state_arrays, unwrapped

__all__ = ["load_into", "snapshot"]


def snapshot(
    module: torch.nn.Module,
    *,
    config: Mapping[Any, Any] | None = None,
    state: Mapping[Any, Any] | None = None,
) -> Snapshot:
    """Take a snapshot of the parameters and persistent buffers of a module, as they are now.

    Args:
        module: a module on any device. It may be compiled or inside (Distributed)DataParallel; the
            names of its weights are stored without the prefixes of these wrappers.
        config: plain values from which you can build the module again.
        state: plain values and arrays that inference needs beside the weights.

    Returns:
        A snapshot that shares no memory with the module. Its spec has ``stack="torch"`` and the
        import path of the module's class.

    Raises:
        InvalidInputError: not a module; an RLModule; or a tensor that cannot be stored (complex,
            sparse, quantized, meta). The message names the tensor.
    """
    _check_module(module)
    cls = type(unwrapped(module))
    if any(base.__module__ == "ray.rllib.core.rl_module.rl_module" for base in cls.__mro__):
        raise InvalidInputError(
            f"{cls.__qualname__} is an RLModule, which cannot be rebuilt from its weights alone: "
            "use policystore.rllib.snapshot"
        )
    spec = Spec(stack="torch", cls=f"{cls.__module__}:{cls.__qualname__}", config=config)
    return Snapshot(weights=state_arrays(module), spec=spec, state=state)


def load_into(module: torch.nn.Module, snap: Snapshot) -> None:
    """Load the weights of a snapshot into a module, exactly or not at all.

    Names, shapes and dtypes are compared before anything is written. Parameters keep their
    identity, device and ``requires_grad``, so optimizers stay attached.

    Raises:
        InvalidInputError: not a module, or not a snapshot.
        MismatchError: the weights do not fit. The error lists each missing tensor, each unexpected
            tensor, and each tensor with a wrong shape or dtype. The module has its old weights.
    """
    _check_module(module)
    if not isinstance(snap, Snapshot):
        raise instead_of_snapshot(snap)
    load_arrays(module, snap.weights, f"{snap!r} into {type(module).__name__}")


def _check_module(module: object) -> None:
    if isinstance(module, Snapshot):
        raise InvalidInputError(
            "expected a torch.nn.Module, found a Snapshot: the module comes first, "
            "load_into(module, snap)"
        )
    if not isinstance(module, torch.nn.Module):
        raise InvalidInputError(f"expected a torch.nn.Module, found {type(module).__qualname__}")
