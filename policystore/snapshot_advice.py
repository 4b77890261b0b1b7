"""Advise what to write if a caller gives a value of another kind instead of a Snapshot."""

from __future__ import annotations

import os
from collections.abc import Mapping

from policystore._util.messages import brief
from policystore.digest import Digest
from policystore.errors import InvalidInputError
from policystore.format.records import Version
from policystore.format.refs import parse_ref
from policystore.format.spec import Spec

__all__ = ["instead_of_snapshot"]

_SNAPSHOT = "policystore.snapshot.Snapshot"
_MODULE = "torch.nn.modules.module.Module"
_FETCH = "fetch the object first, ray.get(object_ref)"
# Import path of a class -> what to write for an object of this class or of a subclass. Classes are
# compared by their paths, because this module imports neither Ray nor torch. A module of RLlib is a
# torch module, too, so the order matters.
_ADVICE = {
    "policystore.store.PolicyStore": "pull one of its policies, store.pull('soccer/main')",
    "policystore.rllib.new_stack.player.ModulePlayer": (
        "give the snapshot that the player was made of; policystore.rllib.snapshot(player.module) "
        "takes another one"
    ),
    "policystore.rllib.old_stack.player.PolicyPlayer": (
        "give the snapshot that the player was made of; policystore.rllib.snapshot(player.policy) "
        "takes another one"
    ),
    "policystore.checkpoints.info.CheckpointInfo": (
        "read the policies of the checkpoint, read_checkpoint(info.path)['main']"
    ),
    "policystore.checkpoints.tune.TrialCheckpoint": (
        "read the policies of the checkpoint, read_checkpoint(checkpoint.path)['main']"
    ),
    "ray.rllib.algorithms.algorithm.Algorithm": (
        "take a snapshot of one of its policies, policystore.rllib.snapshot(algo, 'main')"
    ),
    "ray.rllib.core.rl_module.multi_rl_module.MultiRLModule": (
        "take a snapshot of one of its modules, policystore.rllib.snapshot(module, 'main')"
    ),
    "ray.rllib.core.rl_module.rl_module.RLModule": (
        "take a snapshot of it, policystore.rllib.snapshot(module)"
    ),
    "ray.rllib.policy.policy.Policy": ("take a snapshot of it, policystore.rllib.snapshot(policy)"),
    _MODULE: "take a snapshot of it, policystore.torch.snapshot(module)",
    "ray.ObjectRef": _FETCH,
    "ray._raylet.ObjectRef": _FETCH,  # its path in Ray 2.40
}


def instead_of_snapshot(value: object) -> InvalidInputError:
    """Return the error for a value that a caller gave instead of a Snapshot.

    Args:
        value: any value that is not a Snapshot.

    Returns:
        The error to raise. Its message says what was found, and what to write instead.
    """
    kind, advice = _kind_and_advice(value)
    return InvalidInputError(f"expected a Snapshot, found {kind}{advice and ': '}{advice}")


def _kind_and_advice(value: object) -> tuple[str, str]:
    """Return how messages name a value, and what to write instead; empty if nothing is known."""
    if isinstance(value, str):
        return f"the text {brief(value)}", _advice_for_text(value)
    if isinstance(value, os.PathLike):
        path = os.fspath(value)
        return f"the path {brief(path)}", _advice_for_path(repr(path), str(path))
    if isinstance(value, Version):
        return f"the Version {value.ref}", "pull it first, store.pull(version)"
    if isinstance(value, Digest):
        return f"the Digest {value.short}", "pull it first, store.pull(digest)"
    if isinstance(value, Spec):
        return repr(value), "give it weights, Snapshot(weights={…}, spec=spec)"
    for path, advice in _ADVICE.items():
        if _is_of(value, path):
            cls = type(value)
            return f"an object of {cls.__module__}.{cls.__qualname__}", advice
    if isinstance(value, (Mapping, list, tuple)):
        return _kind_and_advice_for_items(value)
    return type(value).__qualname__, ""


def _is_of(value: object, path: str) -> bool:
    """Return whether a value is of the class with an import path, or of a subclass of it."""
    return any(f"{base.__module__}.{base.__qualname__}" == path for base in type(value).__mro__)


def _advice_for_text(text: str) -> str:
    if text.endswith(".safetensors"):
        return _advice_for_path(repr(text), text)
    try:
        parse_ref(text)
    except InvalidInputError:
        return _advice_for_path(brief(text), text)
    return f"pull it first, store.pull({text!r})"


def _advice_for_path(written: str, path: str) -> str:
    """Return what to write for a path.

    Args:
        written: the path as an argument of the advised call.
        path: the path.
    """
    if path.endswith(".safetensors"):
        return f"read the file first, Snapshot.load({written})"
    return (
        f"Snapshot.load({written}) reads a file of Snapshot.save, and read_checkpoint({written}) "
        "reads a checkpoint of RLlib; a ref has a form such as 'soccer/main@7', and is pulled by "
        "store.pull(ref)"
    )


def _kind_and_advice_for_items(
    value: Mapping[object, object] | list[object] | tuple[object, ...],
) -> tuple[str, str]:
    """Return how messages name a dict or list, and what to write instead."""
    kind = type(value).__qualname__
    items = list(value.items() if isinstance(value, Mapping) else enumerate(value))
    snapshots = [key for key, item in items if _is_of(item, _SNAPSHOT)]
    if snapshots:
        return f"a {kind} of {len(items)} Snapshots", f"give one, snaps[{brief(snapshots[0])}]"
    if not isinstance(value, Mapping) or not items:
        return brief(value), ""
    return f"a {kind} with {len(items)} keys", (
        "weights alone do not say how their policy is built. Give them to a snapshot of the same "
        "policy, snap.replace(weights=weights), or make a snapshot with its spec, "
        "Snapshot(weights=weights, spec=snap.spec)"
    )
