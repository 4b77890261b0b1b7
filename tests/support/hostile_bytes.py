"""Change valid bytes of a store into hostile ones: at random places, or with a view to the form."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any

__all__ = ["mutated_bytes", "mutated_json", "mutated_object", "mutated_record"]

Change = Callable[[random.Random, bytes], bytes]

NUMBERS: tuple[Any, ...] = (
    0, -1, 1, 2, 255, 2**31, 2**53, 2**62, 2**63 - 1, 2**63, -(2**63), 2**64, 10**19, 9_999_999_999,
    10_000_000_000, 1.0, 1.5, -0.0, 1e308, 5e-324, float("nan"), float("inf"), True, False, None,
)  # fmt: skip
TEXTS = (
    "", " ", "a", "latest", "..", "../..", "a/../b", "/etc/passwd", "con", "@hint", "!s", "\x00",
    "\x1b[2J", "\ud800", "\u202e", "e\u0301", "\U0001f600", "blake3:", "blake3:" + "0" * 64,
    "blake3:" + "A" * 64, "0" * 64, "0" * 32, "2026-11-21T01:25:37.000123Z",
    "0000-13-45T99:99:99.999999Z", "9999-12-31T23:59:59.999999Z", "os:system", "~tuple",
    "%s%n{0.__class__}", "٣", "policy", "tensor", "store", "version", "delete", "prune", "restore",
)  # fmt: skip
KEYS = (
    "~tuple", "~map", "~float", "~bytes", "~array", "~import", "~space", "~x", "__metadata__",
    "format", "kind", "nonce", "objects", "external", "", "\x00", "é", "z",
)  # fmt: skip


def huge(chance: random.Random) -> Any:
    """Return a value that costs a careless reader much."""
    count = chance.choice((100, 1_000, 10_000))
    return chance.choice(
        (
            lambda: "x" * (count * 20),
            lambda: [0] * count,
            lambda: [{}] * count,
            lambda: {f"k{number}": number for number in range(count)},
            lambda: nested(chance.choice((62, 63, 64, 65, 900)), chance.random() < 0.5),
            lambda: {"~tuple": [0] * count},
            lambda: {"~map": [[number, 0] for number in range(count)]},
            lambda: {"~map": [[{"~tuple": [number]}, 0] for number in range(count)]},
            lambda: {"~array": {"data": "00" * count, "dtype": "U8", "shape": [count]}},
            lambda: {"~array": {"data": "", "dtype": "F64", "shape": [0] + [2**62] * count}},
            lambda: {"~array": chance.choice(NUMBERS)},
            lambda: {"~bytes": "0" * count},
            lambda: {"~float": chance.choice(("nan", "inf", "-inf", "1"))},
            lambda: {"~import": chance.choice(TEXTS)},
            lambda: {"~space": {chance.choice(KEYS): chance.choice(NUMBERS)}},
        )
    )()


def nested(depth: int, as_objects: bool) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = {"a": value} if as_objects else [value]
    return value


def any_value(chance: random.Random) -> Any:
    return chance.choice(
        (
            lambda: chance.choice(NUMBERS),
            lambda: chance.choice(TEXTS),
            list,
            dict,
            lambda: {chance.choice(KEYS): chance.choice(NUMBERS)},
            lambda: huge(chance),
        )
    )()


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return each place of a JSON value as its container and its key."""
    found: list[tuple[Any, Any]] = []
    left = [value]
    while left:
        container = left.pop()
        keys = container if isinstance(container, dict) else range(len(container))
        for key in keys:
            found.append((container, key))
            if isinstance(container[key], (dict, list)):
                left.append(container[key])
    return found


def mutate_tree(chance: random.Random, value: Any) -> Any:
    """Change a JSON value at one to three places."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        found = places(value) if isinstance(value, (dict, list)) else []
        if not found or chance.random() < 0.01:
            return any_value(chance)
        container, key = chance.choice(found)
        kind = chance.randrange(8)
        if kind == 0:
            del container[key]
        elif kind == 1 and isinstance(container, dict):
            container[chance.choice(KEYS)] = any_value(chance)
        elif kind == 1:
            container.insert(key, any_value(chance))
        elif kind == 2:
            other, at = chance.choice(found)
            if other is not container[key] and at in (
                other if isinstance(other, dict) else range(len(other))
            ):
                container[key] = json.loads(json.dumps(other[at]))
        elif kind == 3 and isinstance(container[key], int):
            container[key] += chance.choice((-1, 1, 2, 1000))
        elif kind == 3 and isinstance(container[key], str) and container[key]:
            text = container[key]
            at = chance.randrange(len(text))
            container[key] = text[:at] + chance.choice("0fAz/@~!\x7f") + text[at + 1 :]
        elif kind == 4 and isinstance(container[key], list) and container[key]:
            container[key] = container[key] * chance.choice((2, 3, 500))
        else:
            container[key] = any_value(chance)
    return value


def written(chance: random.Random, value: Any) -> bytes:
    """Write JSON, mostly in canonical form."""
    canonical = chance.random() < 0.85
    try:
        text = json.dumps(
            value,
            ensure_ascii=not canonical and chance.random() < 0.5,
            sort_keys=canonical or chance.random() < 0.5,
            separators=(",", ":") if canonical or chance.random() < 0.5 else (", ", ": "),
        )
    except RecursionError:  # two deep values, one inside the other
        return b"[" * 2_000 + b"]" * 2_000
    if not canonical and chance.random() < 0.3:
        text = text.replace("{", '{"format":1,', 1)  # the same key twice
    if not canonical and chance.random() < 0.2:
        text = text.replace(":1", ":" + "1" * chance.choice((5_000, 300_000)), 1)
    return text.encode("utf-8", "surrogatepass")


def mutated_json(chance: random.Random, data: bytes) -> bytes:
    """Change a record, hint or marker with a view to its fields."""
    return written(chance, mutate_tree(chance, json.loads(data)))


def mutated_mark(chance: random.Random, data: bytes) -> bytes:
    """Change the ranges of a mark: many, hiding, touching, overlapping, or far ahead."""
    mark = json.loads(data)
    count = chance.choice((1, 10, 1_000, 20_000, 60_000, 100_000))
    step = chance.choice((0, 1, 2, 2, 2, 3))
    start = chance.choice((1, 1, 2, 9_999_900_000, 10**10))
    number = mark["number"]
    mark["deleted"] = chance.choice(
        (
            lambda: [[1, 9_999_999_999, number]],
            lambda: [[start + step * n, start + step * n, number] for n in range(count)],
            lambda: [[start + step * n, start + step * n, 1 + n % number] for n in range(count)],
            lambda: [[n, n - 1, number] for n in range(1, count)],
            lambda: [[1, 2, number + 1]],
            lambda: [[chance.randrange(-2, 12) for _ in range(3)] for _ in range(3)],
            list,
        )
    )()
    mark["changed"] = chance.choice(
        (
            lambda: mark["changed"],
            lambda: [[1, 9_999_999_999]],
            lambda: [[start + step * n, start + step * n] for n in range(count)],
            list,
        )
    )()
    mark["action"] = chance.choice(("delete", "prune", "restore", mark["action"]))
    return written(chance, mark)


def mutated_bytes(chance: random.Random, data: bytes) -> bytes:
    """Flip, cut, repeat or replace bytes without a view to their meaning."""
    if not data:
        return b"\x00"
    at = chance.randrange(len(data))
    end = min(len(data), at + chance.choice((1, 2, 8, 100)))
    return chance.choice(
        (
            lambda: data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :],
            lambda: data[:at] + chance.randbytes(end - at) + data[end:],
            lambda: data[:at],
            lambda: data[at:],
            lambda: data[:at] + data[end:],
            lambda: data[:at] + data[at:end] * chance.choice((2, 100, 10_000)) + data[end:],
            lambda: data + data[: chance.choice((1, 100))],
            lambda: b"",
            lambda: b"\x00" * len(data),
            lambda: b"\x1f\x8b\x08\x00" + data,
            lambda: b"\xef\xbb\xbf" + data,
            lambda: b"[" * chance.choice((1_000, 30_000)),
            lambda: b'{"a":' * chance.choice((1_000, 10_000)),
            lambda: chance.randbytes(chance.choice((1, 8, 100, 10_000))),
        )
    )()


def mutated_object(chance: random.Random, data: bytes) -> bytes:
    """Change the header of a policy or tensor object; the data mostly stays."""
    length = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    inner = json.loads(header.get("__metadata__", {}).get("policystore", "null"))
    kind = chance.randrange(4)
    if kind == 0 and inner is not None:
        inner = mutate_tree(chance, inner)
    elif kind == 1:
        mutate_entry(chance, header)
    elif kind == 2:
        header = mutate_tree(chance, header)
    else:
        body = mutated_bytes(chance, body) if chance.random() < 0.5 else body
        mutate_entry(chance, header)
    if inner is not None and kind != 2 and isinstance(header, dict):
        header["__metadata__"] = {"policystore": written(chance, inner).decode("utf-8", "replace")}
    text = written(chance, header)
    if chance.random() < 0.9:
        text += b" " * (-len(text) % 8)
    count = (
        len(text) if chance.random() < 0.95 else chance.choice((0, 1, 2**21 + 1, 2**63, 2**64 - 1))
    )
    return struct.pack("<Q", count) + text + body


def mutate_entry(chance: random.Random, header: dict[str, Any]) -> None:
    """Change the offsets, the dtype or the shape of one tensor, or add a tensor."""
    names = [name for name in header if name != "__metadata__"]
    if not names or chance.random() < 0.2:
        at = chance.choice((0, 4, 2**40))
        header[chance.choice(("w", "__state__/0", "__state__/7", "tensor", "a" * 5_000, ""))] = {
            "data_offsets": [at, at], "dtype": "F32", "shape": chance.choice(([0], [], [0, 2**62])),
        }  # fmt: skip
        return
    entry = header[chance.choice(names)]
    field = chance.choice(("data_offsets", "dtype", "shape"))
    entry[field] = {
        "data_offsets": lambda: [chance.choice(NUMBERS), chance.choice(NUMBERS)],
        "dtype": lambda: chance.choice(("BOOL", "U8", "F64", "BF16", "F4", "C64", "", None, 5)),
        "shape": lambda: chance.choice(
            (
                [2**62, 2**62], [2**31, 2**31, 2**31], [0, 2**62, 2**62], [1] * 33, [1] * 32,
                [-1, -4], [1.0], [True], [], [2**40], [2] * 62, [0] * 50_000, "ab", None, {},
            )
        ),
    }[field]()  # fmt: skip


def mutated_record(chance: random.Random, key: str, data: bytes) -> bytes:
    """Change the bytes of a key in a way that fits its kind."""
    if chance.random() < 0.3:
        return mutated_bytes(chance, data)
    if key.endswith(".safetensors"):
        return mutated_object(chance, data)
    if "/@marks/" in key and chance.random() < 0.6:
        return mutated_mark(chance, data)
    return mutated_json(chance, data)
