"""Import numpy, and compute values, when they are first used, and not before.

A program that reads records and touches no array, such as ``policystore ls``, never waits for
numpy, whose import takes longer than such a program's work. Modules that may be part of such a
program write ``from policystore._util.late import np``, and use ``np`` as everywhere, but only
inside functions.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeGuard, TypeVar, overload

__all__ = ["LateTable", "cached_property", "is_array", "ml_dtypes", "np"]

_Out = TypeVar("_Out")
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


# Held during an import and during a fork. A process that was forked in the middle of an import
# would wait for its end for ever. An import may fork, so the lock is reentrant.
_IMPORTS = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_IMPORTS.acquire,
        after_in_parent=_IMPORTS.release,
        after_in_child=_IMPORTS.release,
    )


class LateModule:
    """Stand for a module, which is imported when one of its attributes is first used.

    Args:
        name: the name of the module.
        after: modules that are imported before it. If the program imports numpy in another thread
            at the same time, ml_dtypes, which imports a part of numpy, would break that import.
    """

    def __init__(self, name: str, *after: str) -> None:
        self._name, self._after = name, after

    def __reduce__(self) -> tuple[Any, ...]:
        return LateModule, (self._name, *self._after)

    def __getattr__(self, attribute: str) -> Any:
        with _IMPORTS:
            for name in self._after:
                importlib.import_module(name)
            value = getattr(importlib.import_module(self._name), attribute)
        # Python finds the attribute in the __dict__ the next time, and does not call this method.
        setattr(self, attribute, value)
        return value


if TYPE_CHECKING:
    import ml_dtypes
    import numpy as np
else:
    ml_dtypes = LateModule("ml_dtypes", "numpy")
    np = LateModule("numpy")


def is_array(value: object) -> TypeGuard[np.ndarray[Any, Any] | np.generic]:
    """Return whether a value is an array or a scalar of numpy, without an import of numpy.

    As long as numpy was not imported, no value can be an array or a scalar of numpy.
    """
    numpy = sys.modules.get("numpy")
    # Another thread may be in the middle of the import, so that the classes are not there yet.
    kinds = getattr(numpy, "ndarray", ()), getattr(numpy, "generic", ())
    return isinstance(value, kinds)


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


class LateTable(Mapping[_Key, _Value]):
    """A read-only mapping that is made when it is first read.

    Args:
        make: returns the items. If two threads read for the first time at once, both may call
            ``make``.
    """

    def __init__(self, make: Callable[[], dict[_Key, _Value]]) -> None:
        self._make = make

    def __getitem__(self, key: _Key) -> _Value:
        return self._items[key]

    def __iter__(self) -> Iterator[_Key]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    @cached_property
    def _items(self) -> dict[_Key, _Value]:
        return self._make()
