"""Send functions of policystore to actors, also on nodes where it is not installed.

The functions of ``worker_code/`` are pickled by value, together with the functions that they call.
A function is pickled once per process.
"""

from __future__ import annotations

import functools
import hashlib
import pickle
import sys
import zlib
from collections.abc import Callable
from typing import Any

from ray import cloudpickle

from policystore.errors import InvalidInputError
from policystore.rllib.worker_code.messages.requests import requests_of
from policystore.rllib.worker_code.messages.wire import run_on_wire

__all__ = ["check_picklable", "ship", "ship_for_wire"]

_BY_VALUE = "policystore.rllib.worker_code."


def _load(key: str, blob: bytes) -> Any:
    """Return the function of a blob.

    An actor process unpickles each blob once. To unpickle the blob for each call would take longer
    than loading weights does.
    """
    import pickle
    import sys
    import zlib

    known = vars(sys).setdefault("_policystore_functions", {})
    if key not in known:
        known[key] = pickle.loads(zlib.decompress(blob))  # noqa: S301 (ours, made by ship)
    return known[key]


class _Loader:
    """A stand-in for :func:`_load` that is pickled by value."""

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
    """A function by value: an actor unpickles it as the function itself."""

    def __init__(self, blob: bytes) -> None:
        self._blob = blob
        self._key = hashlib.blake2b(blob).hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Loader(), (self._key, self._blob)


@functools.cache
def ship(function: Callable[..., Any]) -> Any:
    """Return what to pass to a remote call in place of a function of ``worker_code``."""
    return _shipped(function)


@functools.cache
def ship_for_wire(function: Callable[..., Any]) -> Any:
    """Return what to pass in place of a function that is called through ``wire.run_on_wire``."""
    return _shipped(functools.partial(run_on_wire, function, requests_of(function)))


def _shipped(function: Callable[..., Any]) -> _Shipped:
    modules = [module for name, module in sys.modules.items() if name.startswith(_BY_VALUE)]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        # Compressed: Ray keeps calls cheap up to 100 kB, and the blob travels with each call.
        return _Shipped(zlib.compress(cloudpickle.dumps(function)))
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def check_picklable(function: Callable[..., Any], name: str) -> None:
    """Check that the user's function can be sent to another process.

    Args:
        function: the user's function.
        name: name of the argument, for the message.

    Raises:
        InvalidInputError: the function cannot be pickled; the message says why.
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
