"""The snapshot: one policy at one moment, in memory, immutable, with arrays of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from policystore._util import files
from policystore._util.late import cached_property
from policystore._util.messages import printable
from policystore.digest import PREFIX, Digest
from policystore.display.pretty import print_text
from policystore.display.words import show_size
from policystore.errors import InvalidInputError
from policystore.format.arrays import Array, Arrays, Weights, own_weights
from policystore.format.canonical_json import Json, canonical_json
from policystore.format.policy import (
    EncodedPolicy,
    ParsedPolicy,
    decode_policy,
    encode_policy,
    part_digest,
    state_digest,
)
from policystore.format.safetensors import MAX_HEADER, declared_size
from policystore.format.spec import Spec
from policystore.format.values import decode_value, encode_value
from policystore.snapshot_advice import instead_of_snapshot

__all__ = ["Snapshot"]


class Snapshot:
    """One policy at one moment: weights, state and spec.

    A snapshot copies the given arrays and returns read-only views. So a snapshot does not change
    when the live policy or a returned value is changed. Equal content has an equal digest in every
    process. An unpickled snapshot has the same content, the same digest and these same guarantees.

    Args:
        weights: parameter name -> numpy array or torch tensor, not nested, such as the result of
            ``module.state_dict()``. The arrays may have any memory layout and byte order, and have
            dtypes of :data:`policystore.format.arrays.DTYPES`. Names are not empty and do not start
            with ``__``.
        spec: what rebuilds the policy; by default an empty one.
        state: what inference needs beside the weights: a dict of plain values and arrays (see
            :mod:`policystore.format.values`). Keys keep their types.

    Raises:
        InvalidInputError: weights, state or a spec that cannot be stored; the message names the
            place.
    """

    def __init__(
        self,
        *,
        weights: Mapping[str, Any],
        spec: Spec | None = None,
        state: Mapping[Any, Any] | None = None,
    ) -> None:
        if spec is not None and not isinstance(spec, Spec):
            raise InvalidInputError(f"spec: expected a Spec, found {type(spec).__qualname__}")
        if state is not None and not isinstance(state, Mapping):
            raise InvalidInputError(f"state: expected a dict, found {type(state).__qualname__}")
        arrays: list[Array] = []
        state_json = encode_value(dict(state or {}), "state", arrays)
        try:
            canonical_json(state_json)
        except InvalidInputError as error:
            raise InvalidInputError(f"state: {error}") from None
        self._fill(own_weights(_as_arrays(weights)), state_json, arrays, spec or Spec())
        unknown = sorted(set(self._spec.acting or ()) - set(self._weights))
        if unknown:
            raise InvalidInputError(
                f"spec.acting names weights that the snapshot does not have: {unknown}. weights= "
                "takes all weights: {**snap.weights, **changed} changes some of a snapshot's"
            )

    _weights: dict[str, Array]
    _state_json: Json
    _state_arrays: list[Array]
    _spec: Spec

    def _fill(
        self, weights: dict[str, Array], state_json: Json, arrays: list[Array], spec: Spec
    ) -> None:
        self.__dict__.update(
            _weights=weights, _state_json=state_json, _state_arrays=arrays, _spec=spec
        )

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Snapshot is immutable; make another one to change its {name}")

    @classmethod
    def _of_parsed(
        cls, parsed: ParsedPolicy, external: Mapping[str, Array], digest: Digest | None
    ) -> Snapshot:
        """Build a snapshot around the read-only arrays of a reader, without copying or hashing.

        Args:
            parsed: the policy object.
            external: the tensors of the policy that are objects of their own, by name.
            digest: the digest that the bytes of ``parsed`` were verified against, if any.
        """
        snapshot = cls.__new__(cls)
        weights, arrays = parsed.join(external)
        snapshot._fill(weights, parsed.state, arrays, parsed.spec)
        if digest is not None:
            snapshot.__dict__["digest"] = digest
        return snapshot

    @property
    def weights(self) -> Weights:
        """Parameter name -> read-only array, in code-point order of the names."""
        return Arrays(self._weights)

    @property
    def state(self) -> dict[Any, Any]:
        """State that inference needs beside the weights; new containers around read-only arrays."""
        arrays = [array.view() for array in self._state_arrays]
        return decode_value(self._state_json, "state", arrays)  # type: ignore[no-any-return]

    @property
    def spec(self) -> Spec:
        """The description from which the policy is rebuilt."""
        return self._spec

    @property
    def ref(self) -> str | None:
        """The name and version from which a store's ``pull`` took the snapshot: ``soccer/main@7``.

        After a pull by digest, and after a pull by a Version that the store does not have, the ref
        is the text of the whole digest. Copies and pickles of the snapshot keep the ref. None for
        all other snapshots, also for those that ``replace`` returns. The ref is no part of the
        content: digests and comparisons do not look at it.
        """
        return self.__dict__.get("_ref")

    @property
    def _named_ref(self) -> str | None:
        """The ref, if it has a name; reports on workers show digests in another column."""
        return None if self.ref is None or self.ref.startswith(PREFIX) else self.ref

    def _pulled_as(self, ref: str) -> Snapshot:
        """Record the ref of a snapshot that was just read, and return the snapshot."""
        self.__dict__["_ref"] = ref
        return self

    @property
    def nbytes(self) -> int:
        """The size of all tensors in bytes, arrays of the state included."""
        arrays = [*self._weights.values(), *self._state_arrays]
        return sum(array.nbytes for array in arrays)

    @cached_property
    def digest(self) -> Digest:
        """The address under which a store keeps this policy."""
        return self._encode().policy.digest

    @cached_property
    def weights_digest(self) -> Digest:
        """Digest of all weights alone."""
        return part_digest(self._weights)

    @cached_property
    def acting_digest(self) -> Digest:
        """Digest of the weights that acting needs, without critics and target networks."""
        names = self._spec.acting
        if names is None or self._weights.keys() == set(names):
            return self.weights_digest
        return part_digest({name: self._weights[name] for name in names})

    @cached_property
    def state_digest(self) -> Digest:
        """Digest of the state alone."""
        return state_digest(self._state_json, self._state_arrays)

    def _part_digests(self) -> tuple[Digest, Digest, Digest]:
        """Return the digests of all weights, of the weights for acting, and of the state."""
        return self.weights_digest, self.acting_digest, self.state_digest

    def same_policy(self, other: Snapshot) -> bool:
        """Return whether two snapshots hold one policy: the same weights and the same state.

        The snapshot of a checkpoint and that of the live policy may have different digests, because
        one of the two sources knows less: a checkpoint may not tell a class, and does not hold how
        far exploration has come. Specs are not compared here, and neither is a part of the state
        that one of the two snapshots lists as omitted.

        Raises:
            InvalidInputError: ``other`` is not a Snapshot; the message says what to write.
        """
        if not isinstance(other, Snapshot):
            raise instead_of_snapshot(other)
        if self.weights_digest != other.weights_digest:
            return False
        if self.state_digest == other.state_digest:
            return True
        places = (*self.spec.omitted, *other.spec.omitted)
        omitted = {place.partition(".")[0].lstrip("_") for place in places}
        parts = [
            {key: value for key, value in each.state.items() if not _is_omitted(key, omitted)}
            for each in (self, other)
        ]
        one, two = (Snapshot(weights={}, state=part).state_digest for part in parts)
        return one == two

    def _encode(self, *, inline: bool = False) -> EncodedPolicy:
        """Encode the snapshot as the objects of a store, or with ``inline`` as one whole file."""
        return encode_policy(
            self._weights, self._state_json, self._state_arrays, self._spec, inline=inline
        )

    def replace(
        self,
        *,
        weights: Mapping[str, Any] | None = None,
        spec: Spec | None = None,
        state: Mapping[Any, Any] | None = None,
    ) -> Snapshot:
        """Return a snapshot with other weights, another spec or another state, each as a whole.

        Args:
            weights: all weights, in the forms that the class takes. ``{**snap.weights, **changed}``
                changes some of them. Names and shapes are compared with those of a network when the
                policy is rebuilt or loaded.
            spec: the spec, such as ``snap.spec.replace(observation_space=space)``.
            state: the state.

        Raises:
            InvalidInputError: as by the class, such as weights without some that ``spec.acting``
                names.
        """
        return Snapshot(
            weights=self._weights if weights is None else weights,
            spec=self._spec if spec is None else spec,
            state=self.state if state is None else state,
        )

    def save(self, file: str | os.PathLike[str]) -> None:
        """Write one self-contained safetensors file that any safetensors reader opens.

        The file appears whole or not at all; an existing file is replaced.

        Raises:
            InvalidInputError: ``file`` is not a path.
            ReadOnlyError: the file may not be written.
            StorageError: the file cannot be written, or its folder does not exist.
        """
        path = files.as_path(file, "the file to save to")
        with files.mapped_errors(f"saving a snapshot to {path}", writing=True):
            files.replace_file(path, self._encode(inline=True).policy.chunks)

    @classmethod
    def load(cls, file: str | os.PathLike[str]) -> Snapshot:
        """Read a file that :meth:`save` wrote; the result has the digest of the saved snapshot.

        A path does not contain a digest, so this call cannot find changed weights. If that matters,
        compare :attr:`digest` with a digest that you know.

        Raises:
            InvalidInputError: ``file`` is not a path.
            NotFoundError: no such file.
            FormatError: not a file of policystore, or a file that is cut short, or whose header was
                changed.
            StorageError: the file cannot be read.
        """
        path = files.as_path(file, "the file to load")
        with files.mapped_errors(f"loading a snapshot from {path}"):
            # No more is read than the header declares: a hostile file may be of any size.
            start = files.read_start(path, 8 + MAX_HEADER)
            data = files.read_file(path, limit=declared_size(start, str(path)))
        # Nobody can change these bytes, so they need no copy as those of from_bytes do.
        return cls._of_parsed(decode_policy(data, str(path), inline=True), {}, None)

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, label: str = "snapshot") -> Snapshot:
        """Read the bytes of a file that :meth:`save` wrote.

        Args:
            data: the whole file. The arrays are views of ``bytes``; any other buffer is copied.
            label: how messages name the file.

        Raises:
            FormatError: anything but the canonical bytes of a policy of format 1 in one file.
        """
        if not isinstance(data, bytes):
            data = bytes(memoryview(data))  # the memory behind a view may change
        return cls._of_parsed(decode_policy(data, label, inline=True), {}, None)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Snapshot) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __reduce__(self) -> tuple[Any, ...]:
        data = b"".join(self._encode(inline=True).policy.chunks)
        return _unpickled, (data, self.ref)

    def __copy__(self) -> Snapshot:
        return self

    def __deepcopy__(self, memo: object) -> Snapshot:
        return self  # a Snapshot never changes

    def __str__(self) -> str:
        """Return one screen of text: the spec in words, and the first tensors as a table."""
        from policystore.display import policy as display  # late: few programs show snapshots

        state = display.state_in_words(self._state_json)
        lines = [
            f"Snapshot {self.digest}",
            f"{display.parameters_in_words(self._weights)}, {show_size(self.nbytes)}",
            *([f"state: {printable(state)}"] if state else []),
            str(self._spec),
            *display.tensors_in_words(self._weights, self._spec.acting, most=12),
        ]
        return "\n".join(lines)

    _repr_pretty_ = print_text

    def _repr_html_(self) -> str:
        from policystore.display import policy as display
        from policystore.display.html import block, details, line

        state = display.state_in_words(self._state_json)
        tensors = display.tensors_html(self._weights, self._spec.acting)
        return block(
            [
                line(f"Snapshot {self.digest.short}", heading=True),
                line(
                    f"{display.parameters_in_words(self._weights)}, {show_size(self.nbytes)}",
                    faint=True,
                ),
                display.spec_html(self._spec.to_json()),
                *([line(f"state: {state}")] if state else []),
                details("tensors", tensors, is_open=True),
            ]
        ).source

    def __repr__(self) -> str:
        return (
            f"<Snapshot {self.digest.short}: {len(self._weights)} tensors, "
            f"{self.nbytes:,} bytes, {self._spec!r}>"
        )


def _unpickled(data: bytes, ref: str | None) -> Snapshot:
    """Return the snapshot of a pickle, which holds the bytes of a file and the ref."""
    snapshot = Snapshot.from_bytes(data, "pickled snapshot")
    return snapshot if ref is None else snapshot._pulled_as(ref)


def _as_arrays(weights: object) -> object:
    """Return weights with torch tensors copied to arrays, bit for bit; all else stays as it is.

    Raises:
        InvalidInputError: a snapshot or module in place of its weights, or a tensor that cannot be
            stored.
    """
    if isinstance(weights, Snapshot):
        raise InvalidInputError(
            "weights: expected a mapping of parameter name to array, found a Snapshot: "
            "weights=snap.weights"
        )
    if _is_of_torch(weights, "torch.nn.modules.module", "Module"):
        raise InvalidInputError(
            "weights: expected a mapping of parameter name to array, found a module: "
            "weights=module.state_dict()"
        )
    if not isinstance(weights, Mapping):
        return weights
    tensors = {name for name, value in weights.items() if _is_of_torch(value, "torch", "Tensor")}
    if not tensors:
        return weights
    from policystore.torch.tensors import to_numpy  # late, because it imports torch

    return {
        name: to_numpy(value, f"weights[{name!r}]") if name in tensors else value
        for name, value in weights.items()
    }


def _is_of_torch(value: object, module: str, name: str) -> bool:
    """Return whether a value is of a class of torch, without an import of torch."""
    return any(base.__module__ == module and base.__name__ == name for base in type(value).__mro__)


def _is_omitted(part: object, omitted: set[str]) -> bool:
    """Return whether a part of a state is among the places that a spec lists as omitted.

    Checkpoints name exploration as RLlib does, ``_exploration_state``.
    """
    return isinstance(part, str) and (part in omitted or f"{part}_state" in omitted)
