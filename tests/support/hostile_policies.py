"""Small files that would cost a careless reader much time or memory."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any


def file_of(
    meta: dict[str, Any], entries: dict[str, Any] | None = None, data: bytes = b""
) -> bytes:
    """Return a file with a header in canonical form; its content need not be valid."""
    text = json.dumps(meta, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    header = {"__metadata__": {"policystore": text}, **(entries or {})}
    raw = json.dumps(header, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    return struct.pack("<Q", len(raw)) + raw + data


def policy(spec: dict[str, Any], **more: Any) -> bytes:
    return file_of({"format": 1, "kind": "policy", "spec": spec, **more})


def tuples(count: int) -> list[Any]:
    """Return the entries of a map whose keys differ but have the same hash, in canonical order."""
    made = []
    for number in range(count):
        bits = [-1 - ((number >> bit) & 1) for bit in range(14)]
        made.append([{"~tuple": bits}, 0])
    return sorted(made, key=lambda pair: json.dumps(pair[0], separators=(",", ":")))


# A reader with only simple checks needed seconds to minutes, or gigabytes, for each of these files.
COSTLY: dict[str, Callable[[], bytes]] = {
    "a long key over a long list": lambda: policy({"config": {"A" * 500_000: [0] * 500_000}}),
    "the same in the state": lambda: policy({}, state={"A" * 500_000: [0] * 500_000}),
    "a shape of very many dimensions": lambda: policy(
        {"config": {"x": {"~array": {"dtype": "U8", "shape": [2**62] * 90_000, "data": ""}}}}
    ),
    "keys that share a hash": lambda: policy({"config": {"~map": tuples(16_000)}}),
    "specs in specs": lambda: policy(
        {"modules": {"a": {"modules": {"a": {"modules": {"a": {"config": {"x": [0] * 90_000}}}}}}}}
    ),
    "very many empty objects": lambda: policy({"config": {"x": [{}] * 650_000}, "stack": "x"}),
    "one integer of a million digits": lambda: policy({"config": {"x": 1}}).replace(
        b'{\\"x\\":1}', b'{\\"x\\":' + b"1" * 1_000_000 + b"}"
    ),
    "an empty tensor of exabytes": lambda: file_of(
        {"format": 1, "kind": "policy", "spec": {}},
        {"w": {"data_offsets": [0, 0], "dtype": "F64", "shape": [0, 2**62, 2**62]}},
    ),
    "very many dimensions of nothing": lambda: file_of(
        {"format": 1, "kind": "policy", "spec": {}},
        {"w": {"data_offsets": [0, 0], "dtype": "F64", "shape": [0] * 60}},
    ),
}
