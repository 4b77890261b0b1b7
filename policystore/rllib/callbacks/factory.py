"""Make the callbacks that ``config.callbacks(…)`` takes from policystore.

The config holds a class of callbacks, or another callable that makes callbacks. Tune copies and
pickles this callable, and RLlib calls it in each process. On the new API stack the config may hold
a list of callables. On the old stack RLlib calls the list itself, and fails
(``algorithms/algorithm.py:746``, ``evaluation/rollout_worker.py:325``). RLlib's
``make_multi_callbacks`` passes on only some of the calls (``callbacks/utils.py:41``). So the
factory of this module also takes the user's own callbacks, and makes one object that passes every
call on to all callbacks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from ray.rllib.algorithms.callbacks import DefaultCallbacks

from policystore.errors import InvalidInputError
from policystore.store import PolicyStore

__all__ = ["CallbackFactory", "CallbackMaker", "open_store"]

CallbackMaker: TypeAlias = Callable[[], Any]
"""A class of callbacks, or another callable without arguments that returns callbacks."""

_HOOKS = tuple(name for name in dir(DefaultCallbacks) if name.startswith("on_"))


class CallbackFactory:
    """Callable that makes callbacks in any process. Its pickle holds the class and the settings.

    Args:
        kind: class of policystore's callbacks.
        settings: keyword arguments of that class; each has to pickle.
        callbacks: callback classes of the user (or other callables that make callbacks), one or
            several; their hooks are called as well.
        last: whether the callbacks of ``kind`` are called last, after the user's callbacks, and
            not first.

    Raises:
        InvalidInputError: ``callbacks`` holds an object that makes no callbacks.
    """

    def __init__(
        self,
        kind: type[DefaultCallbacks],
        settings: Mapping[str, Any],
        callbacks: CallbackMaker | Iterable[CallbackMaker] = (),
        *,
        last: bool = False,
    ) -> None:
        self.kind = kind
        self.settings = dict(settings)
        self.callbacks = _checked_makers(callbacks)
        self.last = last
        # RLlib records the import path of a config's callbacks (utils/serialization.py).
        self.__qualname__ = type(self).__qualname__

    def __call__(self) -> DefaultCallbacks:
        """Make the callbacks. RLlib calls this once in each process."""
        own = self.kind(**self.settings)
        if not self.callbacks:
            return own
        others = [maker() for maker in self.callbacks]
        return _CombinedCallbacks([*others, own] if self.last else [own, *others])

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        others = [getattr(maker, "__name__", repr(maker)) for maker in self.callbacks]
        return f"<{self.kind.__name__}({settings}){' and ' if others else ''}{', '.join(others)}>"


class _CombinedCallbacks(DefaultCallbacks):  # type: ignore[misc]
    """Callbacks that pass every call on to several callbacks, in their order."""

    def __init__(self, parts: list[DefaultCallbacks]) -> None:
        super().__init__()
        self._parts = parts


def _make_hook(name: str) -> Callable[..., None]:
    def hook(self: _CombinedCallbacks, *args: Any, **kwargs: Any) -> None:
        for part in self._parts:
            getattr(part, name)(*args, **kwargs)

    hook.__name__ = name
    return hook


for _name in _HOOKS:
    setattr(_CombinedCallbacks, _name, _make_hook(_name))


def open_store(store: PolicyStore | str | os.PathLike[str], example: str) -> PolicyStore:
    """Return a store, or open the store at a folder or URL.

    Args:
        store: what the caller gave as the first argument.
        example: the call in its right form, for the message.

    Raises:
        InvalidInputError: neither a store nor a folder or URL, such as the dict of policies.
    """
    if isinstance(store, Mapping):
        raise InvalidInputError(
            f"the store comes first, and then the dict: {example}; found a dict as the first "
            "argument"
        )
    return store if isinstance(store, PolicyStore) else PolicyStore(store)


def _checked_makers(
    callbacks: CallbackMaker | Iterable[CallbackMaker],
) -> tuple[CallbackMaker, ...]:
    makers = tuple(callbacks) if isinstance(callbacks, (list, tuple)) else (callbacks,)
    for maker in makers:
        if isinstance(maker, DefaultCallbacks) or not callable(maker):
            raise InvalidInputError(
                "callbacks= takes callback classes, one or a list of them, as config.callbacks() "
                f"does: callbacks=MyCallbacks, not {maker!r}"
            )
    return makers
