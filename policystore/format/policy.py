"""Policies as bytes: metadata, state, and the split rule. ``docs/format.md`` sections 4 and 5.

One policy has one digest. Only one file with a given content is canonical, and readers accept no
other file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from policystore._util.late import np
from policystore._util.messages import brief
from policystore.digest import Digest
from policystore.errors import FormatError, InvalidInputError
from policystore.format.arrays import CODES, Array, Weights, check_tensor_name, size_of, view
from policystore.format.canonical_json import Json, JsonObject
from policystore.format.metadata import (
    FORMAT,
    TENSOR,
    External,
    build_metadata,
    parse_external,
    parse_metadata,
    tensor_layout,
)
from policystore.format.safetensors import (
    MAX_HEADER,
    META,
    EncodedObject,
    HeaderLayout,
    Shapes,
    canonical_layout,
    cut,
    encode_tensors,
    parse_header,
    parse_shapes,
    shapes_of,
    views,
)
from policystore.format.spec import Spec
from policystore.format.values import decode_value, encode_value

__all__ = [
    "MAX_POLICY",
    "SPLIT_TENSOR",
    "SPLIT_TOTAL",
    "EncodedPolicy",
    "ParsedPolicy",
    "decode_object",
    "decode_policy",
    "decode_tensor",
    "encode_policy",
    "named_state",
    "part_digest",
    "state_digest",
]

SPLIT_TOTAL = 4 << 20
"""A policy whose tensors have this many bytes together, or more, is split."""

SPLIT_TENSOR = 256 << 10
"""In a policy that is split, a tensor of this many bytes or more is an object of its own."""

MAX_POLICY = 1 << 30
"""The largest size of a policy object in a store, in bytes."""

_STATE = "__state__/"

_MAX_KEPT = 64 << 10  # bytes of a header that is kept parsed


@dataclass(frozen=True)
class EncodedPolicy:
    """A policy object, and the tensor objects that the policy object names, by their digests."""

    policy: EncodedObject
    tensors: Mapping[Digest, EncodedObject]

    @property
    def objects(self) -> dict[Digest, int]:
        """Digest -> size in bytes of every object of the policy, the policy object first."""
        sizes = {self.policy.digest: self.policy.size}
        sizes.update((item.digest, item.size) for item in self.tensors.values())
        return sizes


@dataclass(frozen=True)
class ParsedPolicy:
    """A policy object that was read; its arrays are views of the bytes of the object.

    Attributes:
        spec: what rebuilds the policy.
        state: the state as JSON; each array in it is a number.
        tensors: the tensors inside the policy object, by name, arrays of the state included.
        external: the tensors that are objects of their own, by name.
    """

    spec: Spec
    state: Json
    tensors: dict[str, Array]
    external: dict[str, External]

    def join(self, arrays: Mapping[str, Array]) -> tuple[dict[str, Array], list[Array]]:
        """Join the tensors inside with the external ones.

        Args:
            arrays: the array of each tensor in :attr:`external`, by name.

        Returns:
            The weights in code-point order of their names, and the arrays of the state by number.
        """
        tensors = {**self.tensors, **arrays}
        weights = {name: tensors[name] for name in sorted(tensors) if not name.startswith(_STATE)}
        return weights, [tensors[name] for name in _state_names(tensors)]


def encode_policy(
    weights: Weights, state: Json, state_arrays: list[Array], spec: Spec, *, inline: bool
) -> EncodedPolicy:
    """Encode a policy as the objects of a store, or as one self-contained file.

    Args:
        weights: owned arrays by parameter name.
        state: the state as JSON of :func:`policystore.format.values.encode_value`.
        state_arrays: the arrays that ``encode_value`` put aside, in order.
        spec: what rebuilds the policy.
        inline: True for one self-contained file; False for the objects of a store, to which the
            split rule applies.

    Raises:
        InvalidInputError: the header or the policy object would be longer than the format allows.
    """
    arrays = {**weights, **named_state(state_arrays)}
    outside = set() if inline else _outside(shapes_of(arrays))
    tensors: dict[Digest, EncodedObject] = {}
    external: JsonObject = {}
    for name in sorted(outside):
        item = encode_tensors({TENSOR: arrays[name]}, None)
        tensors[item.digest] = item
        external[name] = {
            "dtype": CODES[arrays[name].dtype],
            "shape": list(arrays[name].shape),
            "digest": str(item.digest),
        }
    inside = {name: array for name, array in arrays.items() if name not in outside}
    policy = encode_tensors(inside, build_metadata(spec, state, external))
    if policy.size > MAX_POLICY and not inline:
        raise InvalidInputError(
            f"the policy's small tensors take {policy.size} bytes; a policy object has at most "
            f"{MAX_POLICY}. Join tensors of less than {SPLIT_TENSOR} bytes into larger ones."
        )
    return EncodedPolicy(policy, tensors)


def _outside(shapes: Shapes) -> set[str]:
    sizes = {name: size_of(dtype, shape) for name, (dtype, shape) in shapes.items()}
    if sum(sizes.values()) < SPLIT_TOTAL:
        return set()
    return {name for name, size in sizes.items() if size >= SPLIT_TENSOR}


def part_digest(weights: Weights) -> Digest:
    """Return the digest of the safetensors file that holds ``weights`` without metadata."""
    return encode_tensors(weights, None).digest


def state_digest(state: Json, state_arrays: list[Array]) -> Digest:
    """Return the digest of the safetensors file that holds the state with metadata of its own.

    Args:
        state: the state as JSON; each array in it is a number.
        state_arrays: the arrays with these numbers, in order.
    """
    meta = {"format": FORMAT, "kind": "state", "state": state}
    return encode_tensors(named_state(state_arrays), meta).digest


def named_state(arrays: list[Array]) -> dict[str, Array]:
    """Return the arrays of the state by name in a file: ``__state__/0``, ``__state__/1``, …."""
    return {f"{_STATE}{index}": array for index, array in enumerate(arrays)}


def decode_policy(data: bytes | memoryview, label: str, *, inline: bool) -> ParsedPolicy:
    """Read a policy object; its arrays are read-only views of ``data``.

    Args:
        data: the whole file. For an object of a store, the caller has verified the digest.
        label: how messages name the file.
        inline: True for a self-contained file, False for an object of a store.

    Raises:
        FormatError: anything but the canonical bytes of a policy of format 1.
    """
    return _read_policy(memoryview(data), label, inline)


def _read_policy(buffer: memoryview, label: str, inline: bool) -> ParsedPolicy:
    header = _Header(buffer, label, inline)
    content = (_content if len(header.data) <= _MAX_KEPT else _content.__wrapped__)(header)
    arrays = cut(buffer, content.layout, content.shapes, label)
    return ParsedPolicy(content.spec, content.state, arrays, dict(content.external))


class _Header:
    """The header of a policy object, as a key of a cache.

    The snapshots of one training have the same header, if no tensor is an object of its own. To
    parse a header takes longer than to read and hash the weights of a small policy.

    Attributes:
        data: the bytes of the header, or of the whole file if that is cut short.
        label: how messages name the file; two keys may differ in it.
        inline: as in :func:`decode_policy`.
    """

    def __init__(self, buffer: memoryview, label: str, inline: bool) -> None:
        length = int.from_bytes(buffer[:8], "little")
        self.data = bytes(buffer[: 8 + min(length, MAX_HEADER)])
        self.label = label
        self.inline = inline

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Header) and self.inline == other.inline and self.data == other.data
        )

    def __hash__(self) -> int:
        return hash(self.data)


class _Content(NamedTuple):
    """What a header says; shared by all policies with this header, so nobody changes it."""

    spec: Spec
    state: Json
    shapes: Shapes
    external: dict[str, External]
    layout: HeaderLayout


@lru_cache(maxsize=32)
def _content(given: _Header) -> _Content:
    """Read the header of a policy object; errors as in :func:`decode_policy`."""
    label, inline = given.label, given.inline
    header, _ = parse_header(memoryview(given.data), label)
    meta = parse_metadata(header.pop(META, None), label)
    shapes = parse_shapes(header, label)
    external = parse_external(meta.get("external", {}), label)
    spec, state = Spec.from_json(meta["spec"], label), meta.get("state", {})
    everything = {**shapes, **{name: (e.dtype, e.shape) for name, e in external.items()}}
    if len(everything) != len(shapes) + len(external):
        raise FormatError(f"{label}: a tensor is both in the policy object and outside it")
    if set(external) != (set() if inline else _outside(everything)):
        raise FormatError(
            f"{label}: the large tensors of the policy are not where format 1 puts them. "
            + (
                "A single file holds all tensors. Read an object of a store through the store, "
                "with pull."
                if inline
                else "In a policy of 4 MiB or more, exactly the tensors of 256 KiB or more are "
                "objects of their own."
            )
        )
    weights = {name for name in everything if not name.startswith(_STATE)}
    for name in weights:
        _check_weight_name(name, label)
    if spec.acting is not None and not set(spec.acting) <= weights:
        raise FormatError(f"{label}: spec.acting names weights that the policy does not have")
    rewritten = build_metadata(spec, state, {name: meta["external"][name] for name in external})
    layout = canonical_layout(given.data, shapes, rewritten, label)
    _check_state(state, everything, label)
    return _Content(spec, state, shapes, external, layout)


def decode_tensor(data: bytes | memoryview, external: External, label: str) -> Array:
    """Read a tensor object whose dtype and shape are the ones that the policy object names.

    Args:
        data: the whole file; the array is a view of it.
        external: the entry of the tensor in the policy object.
        label: how messages name the file.

    Raises:
        FormatError: anything but the canonical bytes of a tensor of that dtype and shape.
    """
    buffer = memoryview(data)
    layout = tensor_layout(external.dtype, external.shape)
    if buffer.nbytes == layout.size and buffer[: len(layout.header)] == layout.header:
        return cut(buffer, layout, {TENSOR: (external.dtype, external.shape)}, label)[TENSOR]
    header, start = parse_header(buffer, label)
    shapes = {} if META in header else parse_shapes(header, label)
    if shapes != {TENSOR: (external.dtype, external.shape)}:
        raise FormatError(
            f"{label}: expected one tensor of {external.dtype}{list(external.shape)}, found "
            + (", ".join(f"{brief(k)} {d}{list(s)}" for k, (d, s) in shapes.items()) or "a policy")
        )
    return views(buffer, start, shapes, None, label)[TENSOR]


def decode_object(data: bytes | memoryview, label: str) -> ParsedPolicy | Array:
    """Read an object of a store, and return the policy or the tensor that it holds.

    Args:
        data: the whole object; arrays are views of it.
        label: how messages name the object.

    Raises:
        FormatError: the bytes are not canonical, or are neither kind of object.
    """
    buffer = memoryview(data)
    header = _Header(buffer, label, inline=False)
    if (_is_policy if len(header.data) <= _MAX_KEPT else _is_policy.__wrapped__)(header):
        return _read_policy(buffer, label, inline=False)
    parsed, start = parse_header(buffer, label)
    shapes = parse_shapes(parsed, label)
    if set(shapes) != {TENSOR}:
        raise FormatError(f"{label}: neither a policy nor a single tensor of policystore")
    return views(buffer, start, shapes, None, label)[TENSOR]


@lru_cache(maxsize=32)
def _is_policy(given: _Header) -> bool:
    """Return whether a header is that of a policy object; errors as in :func:`decode_object`."""
    return META in parse_header(memoryview(given.data), given.label)[0]


def _check_weight_name(name: str, label: str) -> None:
    try:
        check_tensor_name(name, label)
    except InvalidInputError as error:
        raise FormatError(str(error)) from None


def _state_names(names: Mapping[str, object]) -> Iterator[str]:
    index = 0
    while f"{_STATE}{index}" in names:
        yield f"{_STATE}{index}"
        index += 1


def _check_state(state: Json, everything: Shapes, label: str) -> None:
    """Check that the state is canonical, with arrays numbered as ``encode_value`` does it."""
    named = [name for name in everything if name.startswith(_STATE)]
    numbered = list(_state_names(everything))
    if len(named) != len(numbered):
        raise FormatError(f"{label}: state arrays are not numbered from 0 on")
    # Empty arrays are enough here, because only the numbers from encode_value are compared.
    placeholders = [view(b"", np.dtype(np.int8), (0,)) for _ in numbered]
    arrays: list[Array] = []
    plain = decode_value(state, f"{label}: state", placeholders)
    rewritten = encode_value(plain, "state", arrays)
    if type(plain) is not dict or rewritten != state or len(arrays) != len(placeholders):
        raise FormatError(f"{label}: the state is not in canonical form")
