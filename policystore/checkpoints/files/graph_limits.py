"""What a file says, made safe to walk.

A pickle is a graph: what is there once may be meant any number of times, also inside of itself, so
that two kilobytes hold more values than there are atoms. Here every value is visited once. What is
inside of itself, deeper than any config, or more than a file of its size can mean when written out,
becomes a stand-in that says so; the rest is as it was, and walking it takes as long as its size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from policystore.checkpoints.files.placeholders import UnbuiltObject

__all__ = ["limit_graph"]

_DEEPEST = 100
_TIMES = 64  # what is shared may come to so many times the file, and
_BYTES = 16 << 20  # so many bytes
_EACH = 16  # what a value without a length counts for
_SCALARS = (type(None), bool, int, float, complex, str, bytes, bytearray, np.ndarray, np.generic)


def limit_graph(root: Any, stored: int) -> Any:
    """The same value without what cannot be walked.

    Args:
        root: what was read; containers in it are changed.
        stored: bytes of the file.
    """
    limit = _TIMES * stored + _BYTES
    # id -> what stands in its place, its size written out, and its height. All are alive in root.
    done: dict[int, tuple[Any, int, int]] = {}
    path: set[int] = set()
    stack = [(root, False)]
    while stack:
        node, leaving = stack.pop()
        key = id(node)
        if leaving:
            path.discard(key)
            done[key] = _finished(node, done, limit)
        elif key not in done and key not in path:
            inner = _inner(node)
            if inner is None:
                done[key] = (node, _size(node), 0)
            else:
                path.add(key)
                stack.append((node, True))
                stack.extend((one, False) for one in inner if not isinstance(one, _SCALARS))
    return done[id(root)][0]


def _inner(node: Any) -> list[Any] | None:
    if isinstance(node, (list, tuple)):
        return list(node)
    if isinstance(node, dict):
        return list(node.values())
    if isinstance(node, UnbuiltObject):
        return [node.cls, node.args, node.kwargs, node.state, node.items, node.entries]
    return None


def _size(leaf: Any) -> int:
    if isinstance(leaf, (str, bytes, bytearray, set, frozenset)):
        return _EACH + len(leaf)
    if isinstance(leaf, int):
        return _EACH + leaf.bit_length() // 8
    return _EACH + int(getattr(leaf, "nbytes", 0))


def _finished(node: Any, done: dict[int, tuple[Any, int, int]], limit: int) -> tuple[Any, int, int]:
    inner = _inner(node) or []
    found = [
        (one, _size(one), 0)
        if isinstance(one, _SCALARS)
        else done.get(id(one)) or (UnbuiltObject("something inside of itself"), _EACH, 0)
        for one in inner
    ]
    values = [one[0] for one in found]
    size = _EACH + sum(one[1] for one in found)
    height = 1 + max((one[2] for one in found), default=0)
    if isinstance(node, dict):
        size += sum(map(_size, node))
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
    elif any(value is not one for value, one in zip(values, inner, strict=True)):
        node = tuple(values)
    if size > limit:
        return UnbuiltObject("something that is repeated beyond any use"), _EACH, 0
    if height > _DEEPEST:
        return UnbuiltObject("something that is nested beyond any use"), _EACH, 0
    return node, size, height
