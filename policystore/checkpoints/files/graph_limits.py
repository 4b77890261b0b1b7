"""Limits the values of a file to a graph that code can walk through.

The values of a pickle form a graph: many places may refer to one value, and a value may contain
itself. So a walk through a file of two kilobytes could visit more values than there are atoms. The
code here visits each value once. A placeholder with the reason replaces

- a value inside of itself,
- a value that is nested more deeply than any config, and
- a value that is too large for a file of this size, with one copy of a shared part for each use.

All other values stay as they are. Afterwards, a walk through the whole graph takes time in
proportion to the file's size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from policystore.checkpoints.files.placeholders import UnbuiltObject

__all__ = ["limit_graph"]

_MAX_HEIGHT = 100
# With one copy of a shared part for each use, a value may have this many times the file's bytes,
# and these bytes more.
_MAX_TIMES_STORED = 64
_MAX_EXTRA_BYTES = 16 << 20
_VALUE_BYTES = 16  # what each value counts for beside its content
_LEAVES = (type(None), bool, int, float, complex, str, bytes, bytearray, np.ndarray, np.generic)


class _Limited(NamedTuple):
    """A value that was visited.

    Attributes:
        value: the value itself, or the placeholder that replaces it.
        nbytes: the value's size in bytes, with one copy of a shared part for each use.
        height: levels of containers in the value; 0 for a leaf.
    """

    value: object
    nbytes: int
    height: int


def limit_graph(root: object, stored: int) -> object:
    """Return a value from a file, with placeholders for the parts that cannot be walked through.

    Args:
        root: the value; the containers in it are changed in place.
        stored: bytes of the file.
    """
    limit = _MAX_TIMES_STORED * stored + _MAX_EXTRA_BYTES
    # By id. Every value is alive as long as root is, so that no id is used twice.
    done: dict[int, _Limited] = {}
    open_ids: set[int] = set()  # the values between root and the one being visited
    stack = [(root, False)]
    while stack:
        node, is_second_visit = stack.pop()
        key = id(node)
        if is_second_visit:
            open_ids.discard(key)
            done[key] = _limit_container(node, done, limit)
        elif key not in done and key not in open_ids:
            parts = _parts(node)
            if parts is None:
                done[key] = _leaf(node)
            else:
                open_ids.add(key)
                stack.append((node, True))
                stack.extend((part, False) for part in parts if not isinstance(part, _LEAVES))
    return done[id(root)].value


def _parts(node: object) -> list[object] | None:
    """Return the values inside of a container or placeholder; None for a leaf."""
    if isinstance(node, (list, tuple)):
        return list(node)
    if isinstance(node, dict):
        return list(node.values())
    if isinstance(node, UnbuiltObject):
        return [node.cls, node.args, node.kwargs, node.state, node.items, node.entries]
    return None


def _leaf(value: object) -> _Limited:
    return _Limited(value, _leaf_bytes(value), 0)


def _leaf_bytes(leaf: object) -> int:
    if isinstance(leaf, (str, bytes, bytearray, set, frozenset)):
        return _VALUE_BYTES + len(leaf)
    if isinstance(leaf, int):
        return _VALUE_BYTES + leaf.bit_length() // 8
    return _VALUE_BYTES + int(getattr(leaf, "nbytes", 0))


def _replaced(reason: str) -> _Limited:
    return _Limited(UnbuiltObject(reason), _VALUE_BYTES, 0)


def _limit_container(node: object, done: Mapping[int, _Limited], limit: int) -> _Limited:
    """Put the limited parts into a container, and replace the container if it is too large."""
    before = _parts(node) or []
    # A part that is neither a leaf nor done is still being visited: it holds itself.
    parts = [
        _leaf(part)
        if isinstance(part, _LEAVES)
        else done.get(id(part)) or _replaced("something inside of itself")
        for part in before
    ]
    values = [part.value for part in parts]
    nbytes = _VALUE_BYTES + sum(part.nbytes for part in parts)
    height = 1 + max((part.height for part in parts), default=0)
    if isinstance(node, dict):
        nbytes += sum(map(_leaf_bytes, node))
        for key, value in zip(node, values, strict=True):
            node[key] = value
    elif isinstance(node, list):
        node[:] = values
    elif isinstance(node, UnbuiltObject):
        cls, args, kwargs, state, items, entries = values
        node.cls, node.state = cls, state
        node.args = args if isinstance(args, tuple) else ()
        node.kwargs = kwargs if isinstance(kwargs, Mapping) else {}
        node.items = items if isinstance(items, (list, tuple)) else ()
        node.entries = entries if isinstance(entries, Mapping) else {}
    elif any(value is not part for value, part in zip(values, before, strict=True)):
        node = tuple(values)
    if nbytes > limit:
        return _replaced("something that is repeated beyond any use")
    if height > _MAX_HEIGHT:
        return _replaced("something that is nested beyond any use")
    return _Limited(node, nbytes, height)
