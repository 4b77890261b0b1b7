"""Policies as bytes: metadata, state, and the split rule. ``docs/format.md`` sections 4 and 5.

One policy has one digest: of all files that say the same, only one is canonical, and readers accept
no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from policystore.digest import Digest
from policystore.errors import FormatError, InvalidInputError
from policystore.format.arrays import CODES, Array, Weights, check_tensor_name, size_of, view
from policystore.format.canonical_json import Json, JsonObject, brief, parse_canonical
from policystore.format.safetensors import (
    KEY,
    META,
    EncodedObject,
    Shapes,
    encode_tensors,
    header_layout,
    parse_header,
    parse_shape,
    parse_shapes,
    shapes_of,
    views,
)
from policystore.format.spec import Spec
from policystore.format.values import decode_value, encode_value

__all__ = [
    "FORMAT",
    "MAX_POLICY",
    "SPLIT_TENSOR",
    "SPLIT_TOTAL",
    "EncodedPolicy",
    "External",
    "ParsedPolicy",
    "check_format",
    "check_object",
    "decode_policy",
    "decode_tensor",
    "encode_policy",
    "named_state",
    "part_digest",
    "state_digest",
]

FORMAT = 1
SPLIT_TOTAL = 4 << 20
"""Bytes of all tensors of a policy from which on large tensors become objects of their own."""
SPLIT_TENSOR = 256 << 10
"""Bytes of one tensor from which on it becomes an object of its own, in such a policy."""

MAX_POLICY = 1 << 30
"""Bytes of a policy object, whose tensors are all small or stand outside it."""

_STATE = "__state__/"
_TENSOR = "tensor"


@dataclass(frozen=True)
class EncodedPolicy:
    """A policy object and the tensor objects that it names (by digest, each once)."""

    policy: EncodedObject
    tensors: Mapping[Digest, EncodedObject]

    @property
    def objects(self) -> dict[Digest, int]:
        """Digest -> size in bytes of every object that the policy needs, itself first."""
        found = {self.policy.digest: self.policy.size}
        found.update((item.digest, item.size) for item in self.tensors.values())
        return found


@dataclass(frozen=True)
class External:
    """A tensor that stands in an object of its own."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    digest: Digest

    @property
    def size(self) -> int:
        """Bytes of the object, header included: fixed by dtype and shape."""
        return header_layout({_TENSOR: (self.dtype, self.shape)}, None).size


@dataclass(frozen=True)
class ParsedPolicy:
    """A policy object read back; arrays are views of the bytes it was read from."""

    spec: Spec
    state: Json
    tensors: dict[str, Array]
    external: dict[str, External]

    def join(self, arrays: Mapping[str, Array]) -> tuple[dict[str, Array], list[Array]]:
        """Weights in code-point order and arrays of the state, with the external ones given."""
        found = {**self.tensors, **arrays}
        weights = {name: found[name] for name in sorted(found) if not name.startswith(_STATE)}
        return weights, [found[name] for name in _state_names(found)]


def encode_policy(
    weights: Weights, state: Json, state_arrays: list[Array], spec: Spec, *, inline: bool
) -> EncodedPolicy:
    """Encode owned weights, encoded state with its arrays, and spec.

    Args:
        weights: owned arrays by parameter name.
        state: JSON of :func:`policystore.format.values.encode`, with its arrays beside it.
        state_arrays: those arrays, in order.
        spec: what rebuilds the policy.
        inline: True for one self-contained file; False for the form of the store, where the split
            rule applies.
    """
    arrays = {**weights, **named_state(state_arrays)}
    outside = set() if inline else _outside(shapes_of(arrays))
    tensors: dict[Digest, EncodedObject] = {}
    external: JsonObject = {}
    for name in sorted(outside):
        item = encode_tensors({_TENSOR: arrays[name]}, None)
        tensors[item.digest] = item
        external[name] = {
            "dtype": CODES[arrays[name].dtype],
            "shape": list(arrays[name].shape),
            "digest": str(item.digest),
        }
    inside = {name: array for name, array in arrays.items() if name not in outside}
    policy = encode_tensors(inside, _meta(spec, state, external))
    if policy.size > MAX_POLICY and not inline:
        raise InvalidInputError(
            f"the policy's small tensors take {policy.size} bytes; a policy object has at most "
            f"{MAX_POLICY}. Join tensors below {SPLIT_TENSOR} bytes into larger ones."
        )
    return EncodedPolicy(policy, tensors)


def _meta(spec: Spec, state: Json, external: JsonObject) -> JsonObject:
    meta: JsonObject = {"format": FORMAT, "kind": "policy", "spec": spec.to_json()}
    if state != {}:
        meta["state"] = state
    if external:
        meta["external"] = external
    return meta


def _outside(shapes: Shapes) -> set[str]:
    sizes = {name: size_of(dtype, shape) for name, (dtype, shape) in shapes.items()}
    if sum(sizes.values()) < SPLIT_TOTAL:
        return set()
    return {name for name, size in sizes.items() if size >= SPLIT_TENSOR}


def part_digest(weights: Weights) -> Digest:
    """Digest of some weights alone: of the safetensors file that holds them without metadata."""
    return encode_tensors(weights, None).digest


def state_digest(state: Json, state_arrays: list[Array]) -> Digest:
    """Digest of the state alone: of the file that holds it with metadata of kind ``state``."""
    meta = {"format": FORMAT, "kind": "state", "state": state}
    return encode_tensors(named_state(state_arrays), meta).digest


def named_state(arrays: list[Array]) -> dict[str, Array]:
    """Arrays of the state under their names in a file."""
    return {f"{_STATE}{index}": array for index, array in enumerate(arrays)}


def decode_policy(data: bytes | memoryview, what: str, *, inline: bool) -> ParsedPolicy:
    """Read a policy object; its arrays are read-only views of ``data``.

    Args:
        data: the whole file, verified by the caller where it has an address.
        what: how messages name it.
        inline: True for a self-contained file, False for an object of a store.

    Raises:
        FormatError: anything but the canonical bytes of a policy of format 1.
    """
    buffer = memoryview(data)
    header, start = parse_header(buffer, what)
    meta = _parse_meta(header.pop(META, None), what)
    shapes = parse_shapes(header, what)
    external = _parse_external(meta.get("external", {}), what)
    spec, state = Spec.from_json(meta["spec"], what), meta.get("state", {})
    everything = {**shapes, **{name: (e.dtype, e.shape) for name, e in external.items()}}
    if len(everything) != len(shapes) + len(external):
        raise FormatError(f"{what}: a tensor stands both inside and outside")
    if set(external) != (set() if inline else _outside(everything)):
        raise FormatError(
            f"{what}: its large tensors do not stand where format 1 puts them. "
            + (
                "A single file holds all of its tensors: read an object of a store through the "
                "store."
                if inline
                else "Tensors of 256 KiB and more of a policy of 4 MiB and more are objects of "
                "their own, and no others."
            )
        )
    weights = {name for name in everything if not name.startswith(_STATE)}
    for name in weights:
        _checked_name(name, what)
    if spec.acting is not None and not set(spec.acting) <= weights:
        raise FormatError(f"{what}: spec.acting names weights that are not there")
    again = _meta(spec, state, {name: meta["external"][name] for name in external})
    arrays = views(buffer, start, shapes, again, what)
    _check_state(state, everything, what)
    return ParsedPolicy(spec, state, arrays, external)


def decode_tensor(data: bytes | memoryview, external: External, what: str) -> Array:
    """Read a tensor object and check it against what the policy object says of it."""
    buffer = memoryview(data)
    header, start = parse_header(buffer, what)
    shapes = {} if META in header else parse_shapes(header, what)
    if shapes != {_TENSOR: (external.dtype, external.shape)}:
        raise FormatError(
            f"{what}: expected one tensor of {external.dtype}{list(external.shape)}, found "
            + (", ".join(f"{brief(k)} {d}{list(s)}" for k, (d, s) in shapes.items()) or "a policy")
        )
    return views(buffer, start, shapes, None, what)[_TENSOR]


def check_object(data: bytes | memoryview, what: str) -> str:
    """Check the bytes of any object of a store; ``policy`` or ``tensor``, whichever it is.

    Raises:
        FormatError: neither.
    """
    buffer = memoryview(data)
    header, start = parse_header(buffer, what)
    if META in header:
        decode_policy(data, what, inline=False)
        return "policy"
    shapes = parse_shapes(header, what)
    if set(shapes) != {_TENSOR}:
        raise FormatError(f"{what}: neither a policy nor a single tensor of policystore")
    views(buffer, start, shapes, None, what)
    return "tensor"


def _parse_meta(found: Json, what: str) -> JsonObject:
    if not isinstance(found, dict) or set(found) != {KEY} or not isinstance(found[KEY], str):
        raise FormatError(
            f"{what}: a safetensors file, but not one of policystore (its metadata should hold the "
            f"single key {KEY!r})"
        )
    try:
        text = found[KEY].encode("utf-8")
    except UnicodeEncodeError:
        raise FormatError(f"{what}: metadata with a lone surrogate") from None
    meta = parse_canonical(text, f"{what}: metadata")
    if not isinstance(meta, dict):
        raise FormatError(f"{what}: the metadata is not a JSON object")
    check_format(meta, what)
    if meta.get("kind") != "policy":
        raise FormatError(
            f"{what}: expected an object of kind 'policy', not {brief(meta.get('kind'))}"
        )
    unknown = set(meta) - {"format", "kind", "spec", "state", "external"}
    if unknown or "spec" not in meta:
        raise FormatError(f"{what}: metadata with the fields {brief(sorted(meta))}")
    return meta


def check_format(found: JsonObject, what: str) -> None:
    """Refuse a document of a newer format, saying so.

    Raises:
        FormatError: ``format`` is not 1.
    """
    number = found.get("format")
    if type(number) is int and number > FORMAT:
        raise FormatError(
            f"{what} is of format {number}; this policystore reads format {FORMAT}. "
            "Upgrade policystore to read it."
        )
    if type(number) is not int or number != FORMAT:
        raise FormatError(f"{what}: expected format {FORMAT}, found {brief(number)}")


def _parse_external(found: Json, what: str) -> dict[str, External]:
    if not isinstance(found, dict):
        raise FormatError(f"{what}: 'external' is not a JSON object")
    external = {}
    for name, item in found.items():
        where = f"{what}: external tensor {brief(name)}"
        if not isinstance(item, dict) or set(item) != {"dtype", "shape", "digest"}:
            raise FormatError(f"{where}: malformed")
        dtype, shape = parse_shape(item, where)
        try:
            external[name] = External(dtype, shape, Digest.parse(item["digest"]))
        except InvalidInputError as error:
            raise FormatError(f"{where}: {error}") from None
    return external


def _checked_name(name: str, what: str) -> None:
    try:
        check_tensor_name(name, what)
    except InvalidInputError as error:
        raise FormatError(str(error)) from None


def _state_names(names: Mapping[str, object]) -> Iterator[str]:
    index = 0
    while f"{_STATE}{index}" in names:
        yield f"{_STATE}{index}"
        index += 1


def _check_state(state: Json, everything: Shapes, what: str) -> None:
    """The state's arrays are numbered from 0 in the order of the walk, none more, none less."""
    named = [name for name in everything if name.startswith(_STATE)]
    numbered = list(_state_names(everything))
    if len(named) != len(numbered):
        raise FormatError(f"{what}: state arrays are not numbered from 0 on")
    # Stand-ins are enough to see whether the tree is what encode() would write for its values.
    stand_ins = [view(b"", np.dtype(np.int8), (0,)) for _ in numbered]
    order: list[Array] = []
    plain = decode_value(state, f"{what}: state", stand_ins)
    again = encode_value(plain, "state", order)
    if type(plain) is not dict or again != state or len(order) != len(stand_ins):
        raise FormatError(f"{what}: the state is not in canonical form")
