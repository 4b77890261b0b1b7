"""Compute a value of an object once, without a lock that other objects or a forked process need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

__all__ = ["cached_property"]

_Out = TypeVar("_Out")


class cached_property(Generic[_Out]):  # noqa: N801 - it is used as functools.cached_property is
    """Compute a property at its first access, and keep the value in the ``__dict__`` of the object.

    ``functools.cached_property`` of Python 3.10 and 3.11 holds one lock per class while it computes
    a value. So two objects could not compute theirs at once, and a process that was forked
    meanwhile would wait for the lock for ever. This class has no lock. If two threads access the
    property of one object for the first time at once, both may compute the value.

    Args:
        compute: the method that computes the value.
    """

    def __init__(self, compute: Callable[[Any], _Out]) -> None:
        self._compute = compute
        self._name = compute.__name__
        self.__doc__ = compute.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> cached_property[_Out]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> _Out: ...

    def __get__(self, instance: object | None, owner: type) -> cached_property[_Out] | _Out:
        if instance is None:
            return self
        # Python finds a value in the __dict__ first, so this method runs only until there is one.
        return instance.__dict__.setdefault(self._name, self._compute(instance))  # type: ignore[no-any-return]
