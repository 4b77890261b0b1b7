"""Encode and parse the records of versions."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from policystore._util.messages import printable, shorten
from policystore.digest import Digest
from policystore.display.html import block, line
from policystore.display.html import fields as fields_html
from policystore.display.words import show_age, show_metrics, show_size, show_time
from policystore.errors import FormatError, InvalidInputError
from policystore.format.canonical_json import Json, JsonObject
from policystore.format.metadata import FORMAT
from policystore.format.nonfinite import MAX_NONFINITE, NONFINITE_PARTS, describe_nonfinite
from policystore.format.plain import flatten, plain_fields
from policystore.format.records.annotations import Annotation
from policystore.format.records.fields import (
    check_text,
    decode_plain,
    encode_objects,
    encode_plain,
    encode_record,
    expect,
    format_time,
    parse_list,
    parse_nonce,
    parse_number,
    parse_objects,
    parse_optional_digest,
    parse_record,
    parse_time,
)
from policystore.format.records.marks import Mark
from policystore.format.refs import check_name

__all__ = ["Origin", "Version"]


@dataclass(frozen=True)
class Origin:
    """Name the version of another store, or of another name, from which a copy was made.

    Attributes:
        name, number: the name and the number of that version.
        record: BLAKE3 of the bytes of the record of that version.
    """

    name: str
    number: int
    record: Digest

    def __str__(self) -> str:
        return f"{self.name}@{self.number}"

    def to_json(self) -> JsonObject:
        """Return the field of a record."""
        return {"name": self.name, "number": self.number, "record": str(self.record)}

    @classmethod
    def from_json(cls, value: Json) -> Origin:
        """Read the field of a record.

        Raises:
            InvalidInputError, ValueError: another value.
        """
        expect(isinstance(value, dict) and set(value) == {"name", "number", "record"}, "origin")
        name, number = check_name(value["name"]), parse_number(value["number"])
        return cls(name, number, Digest.parse(value["record"]))


@dataclass(frozen=True, repr=False)
class Version:
    """Record one version of a name. ``push`` returns a Version, and ``log`` a list of Versions.

    Attributes:
        name, number: the name and the number of the version (1, 2, … without gaps). Both are None
            if the push gave no name.
        digest: the digest of the policy object.
        weights_digest, acting_digest, state_digest: digests of the parts alone.
        objects: digest -> size in bytes of every object of the policy; None if there are more
            than :data:`~policystore.format.records.fields.MAX_OBJECTS`.
        previous: BLAKE3 of the bytes of the previous record of the name; None for version 1.
        time: when the version was pushed, by the clock of the writer, in UTC.
        author, message: who pushed the version, and why.
        metrics: numbers and texts given with the push.
        source: where the policy came from, as given with the push.
        parents: digests of the policies from which this policy was trained.
        nonce: 32 random hexadecimal digits, by which a writer recognizes its own record.
        origin: the version that ``copy_to`` has copied to this record under a new number, because
            the target had other versions; None for a version that was pushed to this store, and for
            a record that was copied byte by byte.
        nonfinite: tensors and metrics that have NaN or infinite numbers: up to 4 names each such as
            ``weights.pi.bias``, ``state.0`` and ``metrics.loss``; empty if all numbers are finite.
        deleted: the mark that deleted or pruned the version, in ``log(name, deleted=True)``; None
            for a version that stands. The record does not hold the mark.
        tags: the tags that point to the version, in order; None if the call that returned this
            version was not asked for them. The record does not hold the tags.
        annotations: the annotations of the version, oldest first; None if the call
            that returned this version was not asked for it. The record does not hold the
            annotations.
    """

    name: str | None
    number: int | None
    digest: Digest
    weights_digest: Digest
    acting_digest: Digest
    state_digest: Digest
    objects: Mapping[Digest, int] | None
    previous: Digest | None
    time: datetime.datetime
    author: str
    message: str
    metrics: Mapping[Any, Any] = field(default_factory=dict)
    source: Mapping[Any, Any] = field(default_factory=dict)
    parents: tuple[Digest, ...] = ()
    nonce: str = field(default="", repr=False)
    origin: Origin | None = None
    nonfinite: tuple[str, ...] = ()
    deleted: Mark | None = field(default=None, repr=False, compare=False)
    tags: tuple[str, ...] | None = field(default=None, repr=False, compare=False)
    annotations: tuple[Annotation, ...] | None = field(default=None, repr=False, compare=False)

    @property
    def all_metrics(self) -> dict[Any, Any]:
        """The metrics of the push and of the annotations.

        A metric of an annotation replaces the metric of the push with the same name. If several
        annotations have the same metric, the newest of these annotations counts. The metrics of the
        push come first. If :attr:`annotations` is None, these are the metrics of the push alone.
        """
        metrics = dict(self.metrics)
        for annotation in self.annotations or ():
            metrics.update(annotation.metrics)
        return metrics

    @property
    def ref(self) -> str:
        """The ref of exactly this version, ``soccer/main@7``; the digest if there is no name."""
        return str(self.digest) if self.name is None else f"{self.name}@{self.number}"

    @property
    def acting(self) -> Digest:
        """Digest of the weights that acting needs, equal to ``acting_digest`` of the snapshot.

        Reports on running Algorithms show this digest, and ``PolicyStore.find_acting`` finds the
        versions that have it.
        """
        return self.acting_digest

    @property
    def nbytes(self) -> int | None:
        """The size of the policy in bytes, all objects included; None if ``objects`` is None."""
        return None if self.objects is None else sum(self.objects.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the record as nested plain values, which ``json.dumps`` takes.

        The keys are ``ref``, the attributes of the class, and ``nbytes``. Digests are texts, times
        are texts in UTC with their zone. Numbers that JSON does not have are the texts ``"nan"``,
        ``"inf"`` and ``"-inf"``. ``deleted`` is None, or the mark as a dict. ``annotations`` is
        None, or a list of dicts.
        """
        return {"ref": self.ref, **plain_fields(self), "nbytes": self.nbytes}

    def __hash__(self) -> int:
        return hash((self.name, self.number, self.digest, self.nonce))

    def __str__(self) -> str:
        notes = [annotation.note for annotation in self.annotations or () if annotation.note]
        parts = [
            self.ref,
            f"({', '.join(self.tags)})" if self.tags else "",
            self.digest.short,
            f"acting={self.acting.short}",
            f"{self.time:%Y-%m-%d %H:%M:%S} UTC",
            self.author,
            show_metrics(self.all_metrics),
            self.message,
            f"({describe_nonfinite(self.nonfinite)})" if self.nonfinite else "",
            *(f"[{shorten(note, 80)}]" for note in notes[-1:]),
            "" if self.deleted is None else f"({self.deleted})",
        ]
        return printable("  ".join(part for part in parts if part))

    def __repr__(self) -> str:
        return f"<Version {self}>"

    def _repr_html_(self) -> str:
        age = datetime.datetime.now(datetime.timezone.utc) - self.time
        return block(
            [
                line(f"Version {self.ref}", heading=True),
                fields_html(
                    {
                        "deleted": "" if self.deleted is None else str(self.deleted),
                        "flags": describe_nonfinite(self.nonfinite),
                        "tags": ", ".join(self.tags or ()),
                        "message": self.message,
                        "metrics": show_metrics(flatten(self.all_metrics)),
                        "annotations": _show_newest(self.annotations or ()),
                        "author": self.author,
                        "time": f"{show_time(self.time)} ({show_age(age)} ago)",
                        "size": "" if self.nbytes is None else show_size(self.nbytes),
                        "digest": str(self.digest),
                        "acting": str(self.acting),
                        "parents": ", ".join(parent.short for parent in self.parents),
                        "source": show_metrics(flatten(self.source)),
                        "copied from": "" if self.origin is None else str(self.origin),
                    }
                ),
            ]
        ).source

    def to_bytes(self) -> bytes:
        """Return the bytes of the record.

        Raises:
            InvalidInputError: author, message, metrics or source are too long, or metrics or
                source are not plain values.
        """
        document: JsonObject = {
            "format": FORMAT,
            "kind": "version",
            "name": self.name,
            "number": self.number,
            "nonce": self.nonce,
            "digest": str(self.digest),
            "parts": {
                "weights": str(self.weights_digest),
                "acting": str(self.acting_digest),
                "state": str(self.state_digest),
            },
            "objects": encode_objects(self.objects),
            "previous": None if self.previous is None else str(self.previous),
            "time": format_time(self.time),
            "author": check_text(self.author, "author"),
            "message": check_text(self.message, "message"),
            "metrics": encode_plain(self.metrics, "metrics"),
            "source": encode_plain(self.source, "source"),
            "parents": [str(parent) for parent in self.parents],
        }
        if self.origin is not None:
            document["origin"] = self.origin.to_json()
        if self.nonfinite:
            document["nonfinite"] = list(self.nonfinite)
        return encode_record(document)

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, label: str) -> Version:
        """Read the bytes of a version record; ``label`` names the record in messages.

        Raises:
            FormatError: not a version record of format 1.
        """
        document = parse_record(data, "version", _FIELDS, label, optional={"origin", "nonfinite"})
        try:
            parts = document["parts"]
            expect(set(parts) == {"weights", "acting", "state"}, "parts")
            version = cls(
                name=check_name(document["name"]),
                number=parse_number(document["number"]),
                digest=Digest.parse(document["digest"]),
                weights_digest=Digest.parse(parts["weights"]),
                acting_digest=Digest.parse(parts["acting"]),
                state_digest=Digest.parse(parts["state"]),
                objects=parse_objects(document["objects"]),
                previous=parse_optional_digest(document["previous"]),
                time=parse_time(document["time"]),
                author=check_text(document["author"], "author"),
                message=check_text(document["message"], "message"),
                metrics=decode_plain(document["metrics"], "metrics"),
                source=decode_plain(document["source"], "source"),
                parents=tuple(Digest.parse(parent) for parent in parse_list(document["parents"])),
                nonce=parse_nonce(document["nonce"]),
                origin=Origin.from_json(document["origin"]) if "origin" in document else None,
                nonfinite=_parse_nonfinite(document),
            )
            expect((version.number == 1) == (version.previous is None), "previous")
            expect(version.objects is None or version.digest in version.objects, "objects")
        except (InvalidInputError, ValueError, TypeError, KeyError) as error:
            raise FormatError(f"{label}: malformed version record: {error}") from None
        return version


def _show_newest(annotations: Sequence[Annotation]) -> str:
    """Return the newest annotation as text, with the number of all annotations."""
    if not annotations:
        return ""
    older = f" (and {len(annotations) - 1:,} older)" if annotations[1:] else ""
    return shorten(str(annotations[-1]), 500) + older


def _parse_nonfinite(document: JsonObject) -> tuple[str, ...]:
    """Read the names of what is not finite; raise ValueError for another value."""
    if "nonfinite" not in document:
        return ()
    names = parse_list(document["nonfinite"])
    expect(0 < len(names) <= MAX_NONFINITE, "nonfinite")
    for name in names:
        expect(isinstance(name, str) and len(name) <= 100, "nonfinite")
        expect(name.partition(".")[0] in NONFINITE_PARTS, "nonfinite")
    return tuple(names)


_FIELDS = {
    "name", "number", "nonce", "digest", "parts", "objects", "previous", "time", "author",
    "message", "metrics", "source", "parents",
}  # fmt: skip
