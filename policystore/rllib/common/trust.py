"""Classes and functions by import path, and who may be imported.

A spec comes from a store that somebody else may have written, and importing a module runs its
code. So only ``ray.rllib.`` is imported freely; all else needs the caller's word.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from typing import Any, TypeAlias

from ray.rllib.algorithms.algorithm import Algorithm

from policystore.errors import InvalidInputError, NotFoundError, UntrustedError

__all__ = [
    "Trust",
    "algorithm_name",
    "is_importable",
    "listed",
    "path_of",
    "resolve",
]

Trust: TypeAlias = Iterable[str | type | Any]
"""Prefixes of import paths (``"mypkg."``), or classes and functions themselves."""

_FREE = "ray.rllib."
# Examples and tests are programs: some start Ray, download, or unpickle files when they are
# imported or built. What the examples define for use elsewhere is free, but for two of them.
_PROGRAMS = ("ray.rllib.examples.", "ray.rllib.tests.", "ray.rllib.tuned_examples.")
_PARTS = ("ray.rllib.examples.rl_modules.classes.", "ray.rllib.examples._old_api_stack.")
_HAZARDOUS = (
    "ray.rllib.examples.rl_modules.classes.mobilenet_rlm",
    "ray.rllib.examples.rl_modules.classes.modelv2_to_rlm",
)
_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*\Z")


def path_of(found: Any) -> str:
    """Import path ``module:QualName`` of a class or function.

    Raises:
        InvalidInputError: it has none (an instance, a partial).
    """
    module = getattr(found, "__module__", None)
    name = getattr(found, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        raise InvalidInputError(f"{found!r} has no import path: it is neither class nor function")
    return f"{module}:{name}"


def is_importable(found: Any) -> bool:
    """Whether another process can find a class or function by its path (no lambda, no local)."""
    try:
        path = path_of(found)
    except InvalidInputError:
        return False
    return bool(_PATH.match(path))


def listed(trust: Trust) -> tuple[Any, ...]:
    """``trust`` as something to go through several times.

    Raises:
        InvalidInputError: not a list.
    """
    if isinstance(trust, (str, type)) or not isinstance(trust, Iterable):
        shown = repr(trust) if isinstance(trust, str) else getattr(trust, "__name__", repr(trust))
        raise InvalidInputError(
            f"trust is a list of prefixes and classes, not one of them: trust=[{shown}]"
        )
    return tuple(trust)


def resolve(path: str, trust: Trust = ()) -> Any:
    """The class or function that ``path`` names, if it may be imported.

    Args:
        path: ``module:QualName``.
        trust: what the caller vouches for: prefixes such as ``"mypkg."`` (matched at dots), or
            classes and functions themselves, matched by their path or, where they were defined
            in a script or notebook, by their name.

    Raises:
        UntrustedError: outside ``ray.rllib.`` and not vouched for; nothing was imported.
        NotFoundError: it may be imported, but is not there.
        InvalidInputError: ``path`` or ``trust`` is malformed.
    """
    if not isinstance(path, str) or not _PATH.match(path):
        raise InvalidInputError(f"not an import path of the form 'module:QualName': {path!r}")
    module_name, _, qualified = path.partition(":")
    prefixes = []
    for item in listed(trust):
        if isinstance(item, str):
            prefixes.append(item)
        elif _is_same(item, path):
            return item
    _check_trusted(path, prefixes, path)
    try:
        found: Any = importlib.import_module(module_name)
        for part in qualified.split("."):
            found = getattr(found, part)
    except Exception as error:  # a module's own code may raise anything
        raise NotFoundError(
            f"the snapshot needs {path}, which cannot be imported here: {error!r}. Install or "
            "put on the path what defines it, or pass the class itself in trust=[…]."
        ) from error
    # A module of Ray imports others, and 'ray.rllib.x:os.system' would reach them.
    if not isinstance(found, type) and not callable(found):
        raise UntrustedError(f"{path} is a {type(found).__name__}, neither class nor function")
    _check_trusted(path_of(found), prefixes, path)
    if path_of(found).startswith(_FREE):
        # A module of RLlib's may hand on, or derive from, a class of its examples.
        for base in getattr(found, "__mro__", ()):
            if base.__module__.startswith(_FREE):
                _check_trusted(path_of(base), prefixes, path)
    return found


def _check_trusted(found: str, prefixes: list[str], path: str) -> None:
    dotted = found.replace(":", ".")
    module = found.partition(":")[0]
    program = module.startswith(_PROGRAMS) or ".tests." in module
    if program and module.startswith(_PARTS) and module not in _HAZARDOUS:
        program = False
    if dotted.startswith(_FREE) and not program:
        return
    if any(_covers(prefix, dotted) for prefix in prefixes):
        return
    if program:
        raise UntrustedError(
            f"the snapshot names {path}, of RLlib's examples and tests. They are programs, and "
            f"some start Ray, download or unpickle. If you trust it, pass trust=[{module + '.'!r}]."
        )
    package, name = found.partition(".")[0].partition(":")[0], found.rpartition(".")[2]
    stands = "" if found == path else f", which is {found}"
    own = f"trust=[{name.rpartition(':')[2]}]"
    if package == "__main__":
        # Another script's __main__ is not this one's: only the class itself is found again.
        raise UntrustedError(
            f"the snapshot names {path}{stands}, which was defined in a script or notebook. If you "
            f"trust it, define or import it here and pass the class itself: {own}."
        )
    raise UntrustedError(
        f"the snapshot names {path}{stands}: outside ray.rllib, so importing or calling it would "
        f"run code of {package!r}. If you trust it, pass trust=[{package + '.'!r}], or the class "
        f"itself: {own}."
    )


def algorithm_name(algorithm: Algorithm) -> str:
    """RLlib's name of the algorithm: of its own class, below the user's subclasses."""
    for cls in type(algorithm).__mro__:
        if cls.__module__.startswith(_FREE) and cls is not Algorithm:
            return str(cls.__name__)
    return type(algorithm).__name__


def _covers(prefix: str, dotted: str) -> bool:
    """``mypkg.`` and ``mypkg`` cover ``mypkg.x`` but not ``mypkg2.x``."""
    return dotted == prefix or dotted.startswith(prefix if prefix.endswith(".") else prefix + ".")


def _is_same(item: Any, path: str) -> bool:
    try:
        own = path_of(item)
    except InvalidInputError:
        raise InvalidInputError(
            f"trust holds {item!r}; it takes prefixes such as 'mypkg.', classes and functions"
        ) from None
    if own == path:
        return True
    # The same class, defined in a script (__main__) there and imported here, or the reverse.
    modules = (own.partition(":")[0], path.partition(":")[0])
    return "__main__" in modules and own.partition(":")[2] == path.partition(":")[2]
