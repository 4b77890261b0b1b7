"""Snapshots as bytes: canonical safetensors files. ``docs/format.md`` sections 3 to 5.

The header is written here rather than by the safetensors library, whose tensor order is a private
detail that changed between releases. What is written, any safetensors reader opens.

Reading is strict: a header is parsed, laid out again and compared, so that any other bytes for the
same content (padded, reordered, with holes, overlaps or repeated keys) are refused. One policy has
one digest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from policystore import tree
from policystore.canonical import Json, JsonObject, canonical_json, parse_canonical
from policystore.digest import Digest, digest_of
from policystore.errors import FormatError, InvalidInputError
from policystore.spec import Spec
from policystore.tensors import CODES, DTYPES, Array, Weights, check_name, raw, size_of, view

__all__ = [
    "FORMAT",
    "MAX_HEADER",
    "SPLIT_TENSOR",
    "SPLIT_TOTAL",
    "EncodedObject",
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
MAX_HEADER = 8 << 20
"""Longest header, in bytes: what a hostile file can make a reader parse."""

_MAX_RANK = 64  # numpy's own limit
_STATE = "__state__/"
_META = "__metadata__"
_KEY = "policystore"
_TENSOR = "tensor"


@dataclass(frozen=True)
class EncodedObject:
    """Bytes ready to be stored, in pieces that are views of the arrays, never joined."""

    digest: Digest
    size: int
    chunks: tuple[bytes | memoryview, ...]


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
        return _layout({_TENSOR: (self.dtype, self.shape)}, None).size


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


_Shapes = Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]


@dataclass(frozen=True)
class _Layout:
    header: bytes  # with its length in front
    offsets: dict[str, tuple[int, int]]  # into the whole file, in file order
    size: int


def _layout(shapes: _Shapes, meta: JsonObject | None) -> _Layout:
    """Where every tensor stands: largest items first, so that each is aligned to its own size."""
    header: JsonObject = {}
    if meta is not None:
        header[_META] = {_KEY: canonical_json(meta).decode("utf-8")}
    ends: dict[str, tuple[int, int]] = {}
    position = 0
    for name in sorted(shapes, key=lambda name: (-shapes[name][0].itemsize, name)):
        dtype, shape = shapes[name]
        end = position + size_of(dtype, shape)
        ends[name] = (position, end)
        header[name] = {
            "dtype": CODES[dtype],
            "shape": list(shape),
            "data_offsets": [position, end],
        }
        position = end
    text = canonical_json(header)
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise InvalidInputError(
            f"the header takes {len(text)} bytes; a policy's names, shapes, spec and state may "
            f"take {MAX_HEADER}. Large values belong into arrays."
        )
    start = 8 + len(text)
    offsets = {name: (start + a, start + b) for name, (a, b) in ends.items()}
    return _Layout(len(text).to_bytes(8, "little") + text, offsets, start + position)


def _shapes_of(arrays: Mapping[str, Array]) -> _Shapes:
    return {name: (array.dtype, array.shape) for name, array in arrays.items()}


def _encode(arrays: Mapping[str, Array], meta: JsonObject | None) -> EncodedObject:
    layout = _layout(_shapes_of(arrays), meta)
    chunks: tuple[bytes | memoryview, ...] = (
        layout.header,
        *(raw(arrays[name]) for name in layout.offsets),
    )
    return EncodedObject(digest_of(*chunks), layout.size, chunks)


def encode_policy(
    weights: Weights, state: Json, state_arrays: list[Array], spec: Spec, *, inline: bool
) -> EncodedPolicy:
    """Encode owned weights, encoded state with its arrays, and spec.

    Args:
        weights: owned arrays by parameter name.
        state: JSON of :func:`policystore.tree.encode`, with its arrays beside it.
        state_arrays: those arrays, in order.
        spec: what rebuilds the policy.
        inline: True for one self-contained file; False for the form of the store, where the split
            rule applies.
    """
    arrays = {**weights, **named_state(state_arrays)}
    outside = set() if inline else _outside(_shapes_of(arrays))
    tensors: dict[Digest, EncodedObject] = {}
    external: JsonObject = {}
    for name in sorted(outside):
        item = _encode({_TENSOR: arrays[name]}, None)
        tensors[item.digest] = item
        external[name] = {
            "dtype": CODES[arrays[name].dtype],
            "shape": list(arrays[name].shape),
            "digest": str(item.digest),
        }
    inside = {name: array for name, array in arrays.items() if name not in outside}
    return EncodedPolicy(_encode(inside, _meta(spec, state, external)), tensors)


def _meta(spec: Spec, state: Json, external: JsonObject) -> JsonObject:
    meta: JsonObject = {"format": FORMAT, "kind": "policy", "spec": spec.to_json()}
    if state != {}:
        meta["state"] = state
    if external:
        meta["external"] = external
    return meta


def _outside(shapes: _Shapes) -> set[str]:
    sizes = {name: size_of(dtype, shape) for name, (dtype, shape) in shapes.items()}
    if sum(sizes.values()) < SPLIT_TOTAL:
        return set()
    return {name for name, size in sizes.items() if size >= SPLIT_TENSOR}


def part_digest(weights: Weights) -> Digest:
    """Digest of some weights alone: of the safetensors file that holds them without metadata."""
    return _encode(weights, None).digest


def state_digest(state: Json, state_arrays: list[Array]) -> Digest:
    """Digest of the state alone: of the file that holds it with metadata of kind ``state``."""
    meta = {"format": FORMAT, "kind": "state", "state": state}
    return _encode(named_state(state_arrays), meta).digest


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
    header, start = _parse_header(buffer, what)
    meta = _parse_meta(header.pop(_META, None), what)
    shapes = _parse_shapes(header, what)
    external = _parse_external(meta.get("external", {}), what)
    spec, state = Spec.from_json(meta["spec"]), meta.get("state", {})
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
    for name in everything:
        if not name.startswith(_STATE):
            _checked_name(name, what)
    if spec.acting is not None and not set(spec.acting) <= set(everything):
        raise FormatError(f"{what}: spec.acting names weights that are not there")
    again = _meta(spec, state, {name: meta["external"][name] for name in external})
    arrays = _arrays(buffer, start, shapes, again, what)
    _check_state(state, everything, what)
    return ParsedPolicy(spec, state, arrays, external)


def decode_tensor(data: bytes | memoryview, external: External, what: str) -> Array:
    """Read a tensor object and check it against what the policy object says of it."""
    buffer = memoryview(data)
    header, start = _parse_header(buffer, what)
    shapes = _parse_shapes(header, what)
    if shapes != {_TENSOR: (external.dtype, external.shape)}:
        raise FormatError(
            f"{what}: expected one tensor of {external.dtype}{list(external.shape)}, found "
            + ", ".join(f"{name!r} {dtype}{list(shape)}" for name, (dtype, shape) in shapes.items())
        )
    return _arrays(buffer, start, shapes, None, what)[_TENSOR]


def check_object(data: bytes | memoryview, what: str) -> str:
    """Check the bytes of any object of a store; ``policy`` or ``tensor``, whichever it is.

    Raises:
        FormatError: neither.
    """
    buffer = memoryview(data)
    header, start = _parse_header(buffer, what)
    if _META in header:
        decode_policy(data, what, inline=False)
        return "policy"
    shapes = _parse_shapes(header, what)
    if set(shapes) != {_TENSOR}:
        raise FormatError(f"{what}: neither a policy nor a single tensor of policystore")
    _arrays(buffer, start, shapes, None, what)
    return "tensor"


def _parse_header(buffer: memoryview, what: str) -> tuple[JsonObject, int]:
    if buffer.nbytes < 8:
        raise FormatError(f"{what}: {buffer.nbytes} bytes are too few for a safetensors file")
    length = int.from_bytes(buffer[:8], "little")
    if length > MAX_HEADER:
        raise FormatError(f"{what}: a header of {length} bytes; at most {MAX_HEADER} are allowed")
    if 8 + length > buffer.nbytes:
        raise FormatError(
            f"{what}: cut short: the header says {length} bytes, the file has {buffer.nbytes}"
        )
    text = bytes(buffer[8 : 8 + length])
    stripped = text.rstrip(b" ")
    if length % 8 or len(text) - len(stripped) > 7:
        raise FormatError(f"{what}: the header is not padded as format 1 pads it")
    header = parse_canonical(stripped, f"{what}: header")
    if not isinstance(header, dict):
        raise FormatError(f"{what}: the header is not a JSON object")
    return header, 8 + length


def _parse_meta(found: Json, what: str) -> JsonObject:
    if not isinstance(found, dict) or set(found) != {_KEY} or not isinstance(found[_KEY], str):
        raise FormatError(
            f"{what}: a safetensors file, but not one of policystore (its metadata should hold the "
            f"single key {_KEY!r})"
        )
    try:
        text = found[_KEY].encode("utf-8")
    except UnicodeEncodeError:
        raise FormatError(f"{what}: metadata with a lone surrogate") from None
    meta = parse_canonical(text, f"{what}: metadata")
    if not isinstance(meta, dict):
        raise FormatError(f"{what}: the metadata is not a JSON object")
    check_format(meta, what)
    if meta.get("kind") != "policy":
        raise FormatError(f"{what}: expected an object of kind 'policy', not {meta.get('kind')!r}")
    unknown = set(meta) - {"format", "kind", "spec", "state", "external"}
    if unknown or "spec" not in meta:
        raise FormatError(f"{what}: metadata with the fields {sorted(meta)}")
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
        raise FormatError(f"{what}: expected format {FORMAT}, found {number!r}")


def _parse_shape(item: Json, what: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    dtype = DTYPES.get(item["dtype"]) if isinstance(item["dtype"], str) else None
    shape = item["shape"]
    if dtype is None:
        raise FormatError(f"{what}: unknown dtype {item['dtype']!r}")
    if (
        not isinstance(shape, list)
        or len(shape) > _MAX_RANK
        or not all(type(n) is int and n >= 0 for n in shape)
    ):
        raise FormatError(f"{what}: malformed shape")
    return dtype, tuple(shape)


def _parse_shapes(header: JsonObject, what: str) -> dict[str, tuple[np.dtype[Any], Any]]:
    found = {}
    for name, item in header.items():
        if not isinstance(item, dict) or set(item) != {"dtype", "shape", "data_offsets"}:
            raise FormatError(f"{what}: malformed entry {name!r} in the header")
        found[name] = _parse_shape(item, f"{what}: {name!r}")
    return found


def _parse_external(found: Json, what: str) -> dict[str, External]:
    if not isinstance(found, dict):
        raise FormatError(f"{what}: 'external' is not a JSON object")
    external = {}
    for name, item in found.items():
        where = f"{what}: external tensor {name!r}"
        if not isinstance(item, dict) or set(item) != {"dtype", "shape", "digest"}:
            raise FormatError(f"{where}: malformed")
        dtype, shape = _parse_shape(item, where)
        try:
            external[name] = External(dtype, shape, Digest.parse(item["digest"]))
        except InvalidInputError as error:
            raise FormatError(f"{where}: {error}") from None
    return external


def _checked_name(name: str, what: str) -> None:
    try:
        check_name(name, what)
    except InvalidInputError as error:
        raise FormatError(str(error)) from None


def _state_names(names: Mapping[str, object]) -> Iterator[str]:
    index = 0
    while f"{_STATE}{index}" in names:
        yield f"{_STATE}{index}"
        index += 1


def _check_state(state: Json, everything: _Shapes, what: str) -> None:
    """The state's arrays are numbered from 0 in the order of the walk, none more, none less."""
    named = [name for name in everything if name.startswith(_STATE)]
    numbered = list(_state_names(everything))
    if len(named) != len(numbered):
        raise FormatError(f"{what}: state arrays are not numbered from 0 on")
    # Stand-ins are enough to see whether the tree is what encode() would write for its values.
    stand_ins = [view(b"", np.dtype(np.int8), (0,)) for _ in numbered]
    order: list[Array] = []
    again = tree.encode(tree.decode(state, f"{what}: state", stand_ins), "state", order)
    if not isinstance(state, dict) or again != state or len(order) != len(stand_ins):
        raise FormatError(f"{what}: the state is not in canonical form")


def _arrays(
    buffer: memoryview, start: int, shapes: _Shapes, meta: JsonObject | None, what: str
) -> dict[str, Array]:
    """Views of the data, after the header was found to be the one that we would write."""
    try:
        layout = _layout(shapes, meta)
    except InvalidInputError as error:
        raise FormatError(f"{what}: {error}") from None
    if layout.header != bytes(buffer[:start]):
        raise FormatError(
            f"{what}: the header is not in canonical form (order, offsets, overlaps or holes). It "
            "was not written by policystore, or was changed since."
        )
    if layout.size != buffer.nbytes:
        raise FormatError(
            f"{what}: expected {layout.size} bytes, found {buffer.nbytes}: "
            + ("cut short" if buffer.nbytes < layout.size else "with bytes behind the end")
        )
    return {
        name: view(buffer[a:b], *shapes[name]) if b > a else view(b"", *shapes[name])
        for name, (a, b) in layout.offsets.items()
    }
