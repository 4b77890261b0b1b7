"""What ``config.callbacks(…)`` takes from policystore, alone or beside the user's own.

RLlib makes callbacks anew in each process, by calling what the config holds: a class or another
callable, which Tune copies and pickles. On the new API stack it may be a list of them; on the old
one a list is called as well, and fails (``algorithms/algorithm.py:746``,
``evaluation/rollout_worker.py:325``). RLlib's ``make_multi_callbacks`` passes on a part of the
calls only (``callbacks/utils.py:41``). Hence a maker that takes others beside its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ray.rllib.algorithms.callbacks import DefaultCallbacks

from policystore.errors import InvalidInputError

__all__ = ["CallbackFactory", "report"]

_HOOKS = tuple(name for name in dir(DefaultCallbacks) if name.startswith("on_"))


class CallbackFactory:
    """Makes callbacks, in whatever process; pickles as what it was made of.

    Args:
        kind: class of the callbacks.
        settings: what it is called with, by keyword; has to pickle.
        callbacks: callback classes (or other callables that make callbacks) whose callbacks are to be
            called as well: one, or several.
        last: call them before these, not after.

    Raises:
        InvalidInputError: something in ``callbacks`` that makes no callbacks.
    """

    def __init__(
        self,
        kind: type[DefaultCallbacks],
        settings: Mapping[str, Any],
        callbacks: Callable[[], Any] | Iterable[Callable[[], Any]] = (),
        *,
        last: bool = False,
    ) -> None:
        self.kind = kind
        self.settings = dict(settings)
        self.callbacks = _makers(callbacks)
        self.last = last
        # RLlib writes configs down with their callbacks' import path (utils/serialization.py).
        self.__qualname__ = type(self).__qualname__

    def __call__(self) -> DefaultCallbacks:
        """Make the callbacks; RLlib calls this once in each process."""
        own = self.kind(**self.settings)
        if not self.callbacks:
            return own
        others = [maker() for maker in self.callbacks]
        return _Together([*others, own] if self.last else [own, *others])

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        others = [getattr(maker, "__name__", repr(maker)) for maker in self.callbacks]
        return f"<{self.kind.__name__}({given}){' beside ' if others else ''}{', '.join(others)}>"


class _Together(DefaultCallbacks):  # type: ignore[misc]
    """Passes every call on to several callbacks, in their order."""

    def __init__(self, parts: list[DefaultCallbacks]) -> None:
        super().__init__()
        self._parts = parts


def _passed_on(name: str) -> Callable[..., None]:
    def hook(self: _Together, *args: Any, **kwargs: Any) -> None:
        for part in self._parts:
            getattr(part, name)(*args, **kwargs)

    hook.__name__ = name
    return hook


for _name in _HOOKS:
    setattr(_Together, _name, _passed_on(_name))


def report(result: dict[str, Any], what: str, found: Mapping[str, Any]) -> None:
    """Into a training result, under ``policystore``, where Tune's loggers take it from."""
    result.setdefault("policystore", {}).setdefault(what, {}).update(found)


def _makers(callbacks: Any) -> tuple[Callable[[], Any], ...]:
    listed = tuple(callbacks) if isinstance(callbacks, (list, tuple)) else (callbacks,)
    for maker in listed:
        if isinstance(maker, DefaultCallbacks) or not callable(maker):
            raise InvalidInputError(
                "callbacks= takes classes of callbacks, one or a list of them, as config.callbacks() "
                f"does: callbacks=MyCallbacks, not {maker!r}"
            )
    return listed
