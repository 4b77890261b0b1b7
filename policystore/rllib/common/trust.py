"""Import the classes and functions that a spec names, if the caller trusts them.

A spec comes from a store that somebody else may have written, and importing a module runs its
code. So only ``ray.rllib.`` is imported freely; all else needs the caller's trust.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm

from policystore.errors import InvalidInputError, NotFoundError, UntrustedError
from policystore.rllib_schema.trusted import Trust, covers, listed

__all__ = [
    "Trust",
    "algorithm_name",
    "is_importable",
    "listed",
    "path_of",
    "resolve",
]

_FREE = "ray.rllib."
# policystore's own classes that a spec may name.
_OWN = (
    "policystore.rllib.convert.modules.TanhSACTorchRLModule",
    "policystore.rllib.new_stack.cast.CastObservations",
    "policystore.rllib.new_stack.catalogs.LinearEncoderCatalog",
)
# Examples and tests are programs: some start Ray, download, or unpickle files when they are
# imported or built. The parts of the examples that are made for use in other programs are imported
# freely, except two modules.
_PROGRAMS = ("ray.rllib.examples.", "ray.rllib.tests.", "ray.rllib.tuned_examples.")
_PARTS = ("ray.rllib.examples.rl_modules.classes.", "ray.rllib.examples._old_api_stack.")
_HAZARDOUS = (
    "ray.rllib.examples.rl_modules.classes.mobilenet_rlm",
    "ray.rllib.examples.rl_modules.classes.modelv2_to_rlm",
)
_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*\Z")


def path_of(target: object) -> str:
    """Return the import path ``module:QualName`` of a class or function.

    Raises:
        InvalidInputError: ``target`` has no import path (an instance, a partial).
    """
    module = getattr(target, "__module__", None)
    name = getattr(target, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        raise InvalidInputError(f"{target!r} has no import path: it is neither class nor function")
    return f"{module}:{name}"


def is_importable(target: object) -> bool:
    """Return whether another process can import a class or function by its path.

    A lambda, or a class or function defined inside a function, cannot be imported.
    """
    try:
        path = path_of(target)
    except InvalidInputError:
        return False
    return bool(_PATH.match(path))


def resolve(path: str, trust: Trust = ()) -> Any:
    """Import the class or function that ``path`` names, if it may be imported.

    Args:
        path: ``module:QualName``.
        trust: what the caller trusts: prefixes such as ``"mypkg."`` (matched at dots), or classes
            and functions themselves, matched by their path or, if they were defined in a script or
            notebook, by their name.

    Raises:
        UntrustedError: ``path`` is outside ``ray.rllib.`` and not in ``trust``; nothing was
            imported.
        NotFoundError: ``path`` may be imported, but there is no such module or name.
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
        target: object = importlib.import_module(module_name)
        for part in qualified.split("."):
            target = getattr(target, part)
    except Exception as error:  # a module's own code may raise anything
        raise NotFoundError(
            f"the snapshot needs {path}, which cannot be imported here: {error!r}. Install the "
            "package that defines it or put it on the path, or pass the class itself in trust=[…]."
        ) from error
    # A module of Ray imports others, and 'ray.rllib.x:os.system' would reach them.
    if not isinstance(target, type) and not callable(target):
        raise UntrustedError(f"{path} is a {type(target).__name__}, neither class nor function")
    _check_trusted(path_of(target), prefixes, path)
    if path_of(target).startswith(_FREE):
        # A module of RLlib may re-export, or derive from, a class of RLlib's examples.
        for base in getattr(target, "__mro__", ()):
            if base.__module__.startswith(_FREE):
                _check_trusted(path_of(base), prefixes, path)
    return target


def _check_trusted(own_path: str, prefixes: list[str], path: str) -> None:
    """Check that a class or function may be imported.

    Args:
        own_path: the path where the class or function is defined.
        prefixes: what the caller trusts.
        path: the path in the spec, where the class or function may be re-exported only.

    Raises:
        UntrustedError: it may not be imported; the message says what to pass as ``trust``.
    """
    dotted = own_path.replace(":", ".")
    module = own_path.partition(":")[0]
    program = module.startswith(_PROGRAMS) or ".tests." in module
    if program and module.startswith(_PARTS) and module not in _HAZARDOUS:
        program = False
    if dotted in _OWN or (dotted.startswith(_FREE) and not program):
        return
    if any(covers(prefix, dotted) for prefix in prefixes):
        return
    if program:
        raise UntrustedError(
            f"the snapshot names {path}, of RLlib's examples and tests. They are programs, and "
            f"some start Ray, download or unpickle. If you trust it, pass trust=[{module + '.'!r}]."
        )
    package, name = own_path.partition(".")[0].partition(":")[0], own_path.rpartition(".")[2]
    origin = "" if own_path == path else f", which is {own_path}"
    by_class = f"trust=[{name.rpartition(':')[2]}]"
    if package == "__main__":
        # Each script has a __main__ of its own: only the class itself can be trusted.
        raise UntrustedError(
            f"the snapshot names {path}{origin}, which was defined in a script or notebook. If you "
            f"trust it, define or import it here and pass the class itself: {by_class}."
        )
    raise UntrustedError(
        f"the snapshot names {path}{origin}: outside ray.rllib, so importing or calling it would "
        f"run code of {package!r}. If you trust it, pass trust=[{package + '.'!r}], or the class "
        f"itself: {by_class}."
    )


def algorithm_name(algorithm: Algorithm) -> str:
    """Return RLlib's name of an algorithm: the name of the first class of RLlib among its bases."""
    for cls in type(algorithm).__mro__:
        if cls.__module__.startswith(_FREE) and cls is not Algorithm:
            return str(cls.__name__)
    return type(algorithm).__name__


def _is_same(item: object, path: str) -> bool:
    """Return whether a class or function in ``trust`` is the one that ``path`` names."""
    try:
        own = path_of(item)
    except InvalidInputError:
        raise InvalidInputError(
            f"trust holds {item!r}; it takes prefixes such as 'mypkg.', classes and functions"
        ) from None
    if own == path:
        return True
    # The same class, defined in a script (__main__) in one process and imported in the other.
    modules = (own.partition(":")[0], path.partition(":")[0])
    return "__main__" in modules and own.partition(":")[2] == path.partition(":")[2]
