"""Compute the digests of the parts of many policies while each tensor is read once.

The digest of a part is the digest of a file that holds the tensors of the part, in the order of
``docs/format.md`` section 3. This order is the same for all parts and policies: by the size of the
items, then by name. So the tensors of many policies are read in this order. Each tensor goes into
the files of all policies that wait for it, and is then forgotten. Only the states of the hash
functions are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import blake3

from policystore.digest import Digest, digest_of
from policystore.errors import FormatError
from policystore.format.arrays import Array, raw
from policystore.format.canonical_json import JsonObject
from policystore.format.metadata import FORMAT, External
from policystore.format.policy import ParsedPolicy, decode_tensor
from policystore.format.safetensors import HeaderLayout, Shapes, header_layout

__all__ = ["KnownPartFiles", "PartFiles", "WaitingPolicy"]

_MAX_KEPT = 64 << 10  # bytes of a header whose files are kept
_MOST_KNOWN = 32
_STATE = "__state__/"


class _Part:
    """The file of one part, of which only the state of the hash function is kept."""

    def __init__(self, layout: HeaderLayout) -> None:
        self.names = layout.offsets.keys()
        self._hasher = blake3.blake3(layout.header)

    def update(self, name: str, array: Array) -> None:
        if name in self.names:
            self._hasher.update(raw(array))

    def digest(self) -> Digest:
        return Digest.of_digits(self._hasher.hexdigest())


class PartFiles:
    """The files of the parts of a policy: their headers, and the order of their tensors.

    Args:
        parsed: the policy object; its tensors, and those outside it, are in the files.

    Attributes:
        shapes: dtype and shape of each tensor of the policy.
        layouts: the files of weights and state, and of the weights for acting if those are fewer.
    """

    def __init__(self, parsed: ParsedPolicy) -> None:
        shapes = {name: (array.dtype, array.shape) for name, array in parsed.tensors.items()}
        shapes |= {name: (item.dtype, item.shape) for name, item in parsed.external.items()}
        weights = {name: each for name, each in shapes.items() if not name.startswith(_STATE)}
        state = {name: each for name, each in shapes.items() if name not in weights}
        meta: JsonObject = {"format": FORMAT, "kind": "state", "state": parsed.state}
        acting = parsed.spec.acting
        self.shapes = shapes
        self.layouts = [header_layout(weights, None), header_layout(state, meta)]
        if acting is not None:
            self.layouts.append(header_layout({name: weights[name] for name in acting}, None))

    def digests(self, tensors: Mapping[str, Array]) -> tuple[Digest, Digest, Digest]:
        """Return the digests of weights, of weights for acting, and of the state.

        Args:
            tensors: all tensors of the policy by name.
        """
        return _parts(
            digest_of(layout.header, *(raw(tensors[name]) for name in layout.offsets))
            for layout in self.layouts
        )


class KnownPartFiles:
    """The files of the parts of the last policies: policies of one training have equal headers."""

    def __init__(self) -> None:
        self._known: dict[bytes, PartFiles] = {}

    def of(self, data: bytes | memoryview, parsed: ParsedPolicy) -> PartFiles:
        """Return the files of a policy whose object has the bytes ``data``."""
        view = memoryview(data)
        header = bytes(view[: 8 + int.from_bytes(view[:8], "little")])
        files = self._known.get(header)
        if files is None:
            files = PartFiles(parsed)
            if len(header) <= _MAX_KEPT:
                while len(self._known) >= _MOST_KNOWN:
                    del self._known[next(iter(self._known))]
                self._known[header] = files
        return files


class WaitingPolicy:
    """A policy whose tensors have not all been read.

    Args:
        digest: the digest of the policy object.
        nbytes: the size of the policy object.
        parsed: the content of the policy object.

    Attributes:
        digest, nbytes: the same.
        is_stopped: whether a tensor was found that does not belong to the policy.
        objects: digest -> size in bytes of every object of the policy.
    """

    def __init__(self, digest: Digest, nbytes: int, parsed: ParsedPolicy) -> None:
        self.digest = digest
        self.nbytes = nbytes
        self.objects = {item.digest: item.size for item in parsed.external.values()}
        self.objects[digest] = nbytes
        self.is_stopped = False
        self._inside = parsed.tensors
        self._external = parsed.external
        files = PartFiles(parsed)
        shapes = files.shapes
        self._parts = [_Part(layout) for layout in files.layouts]
        self._order = sorted(shapes, key=lambda name: _rank(shapes, name))
        self._ranks = {name: _rank(shapes, name) for name in parsed.external}
        self._next = 0

    def waits_for(self) -> Iterator[tuple[tuple[int, str], External]]:
        """Yield the external tensors that were not fed yet, each with its place in the order."""
        for name in self._order[self._next :]:
            if name in self._external:
                yield self._ranks[name], self._external[name]

    def next_tensor(self) -> External | None:
        """Feed the tensors inside the policy object that are next. Return the one that is needed.

        Returns:
            The external tensor that is needed next; None if all tensors were fed.
        """
        while self._next < len(self._order):
            name = self._order[self._next]
            if name in self._external:
                return self._external[name]
            self._feed(name, self._inside[name])
        return None

    def feed(self, data: bytes | memoryview, label: str) -> None:
        """Feed the bytes of the external tensor that is needed next.

        Args:
            data: the tensor object.
            label: how messages name the tensor object.

        Raises:
            FormatError: the tensor has another dtype or shape than the policy object says.
        """
        name = self._order[self._next]
        self._feed(name, decode_tensor(data, self._external[name], label))

    def _feed(self, name: str, array: Array) -> None:
        for part in self._parts:
            part.update(name, array)
        self._next += 1

    def stop(self) -> None:
        """Feed nothing more: the next tensor is not the one that the policy object names."""
        self.is_stopped = True

    def part_digests(self) -> tuple[Digest, Digest, Digest]:
        """Return the digests of weights, of weights for acting, and of the state."""
        if self.next_tensor() is not None:
            raise FormatError(f"{self.digest}: not all tensors of the policy were read")
        return _parts(part.digest() for part in self._parts)


def _parts(digests: Iterable[Digest]) -> tuple[Digest, Digest, Digest]:
    """Return the digests of :attr:`PartFiles.layouts` as weights, weights for acting, state."""
    weights, state, *acting = digests
    return weights, acting[0] if acting else weights, state


def _rank(shapes: Shapes, name: str) -> tuple[int, str]:
    return -shapes[name][0].itemsize, name
