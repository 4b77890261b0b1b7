"""Functions of ours in the actors of a running Algorithm, which may not have policystore.

They go by value: Ray's pickler is told so for the modules that hold them, ``worker_code/``, and what
they call goes along. A function is pickled once per process.
"""

from __future__ import annotations

import functools
import hashlib
import pickle
import sys
from collections.abc import Callable
from typing import Any

from ray import cloudpickle

from policystore.errors import InvalidInputError

__all__ = ["check_ships", "ship"]

_BY_VALUE = "policystore.rllib.worker_code."


def _load(key: str, blob: bytes) -> Any:
    """The function of a blob; an actor unpickles each once, which else takes longer than a load."""
    import pickle
    import sys

    known = vars(sys).setdefault("_policystore_functions", {})
    if key not in known:
        known[key] = pickle.loads(blob)  # noqa: S301 (ours, made by ship)
    return known[key]


class _Loader:
    """:func:`_load`, by value."""

    def __call__(self, key: str, blob: bytes) -> Any:
        return _load(key, blob)

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (_loader_blob(),)


@functools.cache
def _loader_blob() -> bytes:
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    try:
        blob: bytes = cloudpickle.dumps(_load)
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    return blob


class _Shipped:
    """Arrives in an actor as the function that it holds."""

    def __init__(self, blob: bytes) -> None:
        self._blob = blob
        self._key = hashlib.blake2b(blob).hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Loader(), (self._key, self._blob)


@functools.cache
def ship(function: Callable[..., Any]) -> Any:
    """What to pass to a remote call in place of ``function``."""
    modules = [module for name, module in sys.modules.items() if name.startswith(_BY_VALUE)]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        return _Shipped(cloudpickle.dumps(function))
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def check_ships(function: Callable[..., Any], name: str) -> None:
    """Refuse a function of the user's that no other process can be given.

    Raises:
        InvalidInputError: says why.
    """
    try:
        cloudpickle.dumps(function)
    except Exception as error:
        why = (str(error).splitlines() or [""])[0][:200]
        raise InvalidInputError(
            f"{name} cannot be sent to the workers: {type(error).__name__}: {why}. It is pickled "
            "with all that it refers to: that cannot be a lock, an open file or the Algorithm. "
            "Nothing was changed."
        ) from None
