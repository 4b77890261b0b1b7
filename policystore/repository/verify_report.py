"""Report what the verification of a store has found."""

from __future__ import annotations

from dataclasses import dataclass, field

from policystore.errors import IntegrityError

__all__ = ["Fault", "VerifyReport"]


@dataclass(frozen=True)
class Fault:
    """Something that is wrong in a store.

    Attributes:
        key: the key at which it was found.
        problem: a sentence that tells what is wrong.
    """

    key: str
    problem: str


@dataclass(repr=False)
class VerifyReport:
    """The result of ``verify``. If :attr:`ok` is True, all policies in the store can be pulled.

    Attributes:
        url: the folder or URL of the store.
        objects: how many objects were read.
        nbytes: how many bytes these objects have together.
        policies: how many of the objects are policies.
        tensors: how many of the objects are tensors.
        names: how many names have a version.
        versions: how many version records were read.
        tags: how many tags the store has, including removed tags.
        faults: everything that is wrong, in the order in which it was found.
    """

    url: str
    objects: int = 0
    nbytes: int = 0
    policies: int = 0
    tensors: int = 0
    names: int = 0
    versions: int = 0
    tags: int = 0
    faults: list[Fault] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the store has no fault."""
        return not self.faults

    def raise_if_bad(self) -> None:
        """Raise IntegrityError with the whole report if the store has a fault."""
        if self.faults:
            raise IntegrityError(str(self))

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        lines = [
            f"{self.url}: {self.objects} objects ({self.nbytes:,} bytes: {self.policies} policies, "
            f"{self.tensors} tensors), {self.names} names, {self.versions} versions, "
            f"{self.tags} tags: " + ("ok" if self.ok else f"{len(self.faults)} faults")
        ]
        lines += [f"  {fault.key}: {fault.problem}" for fault in self.faults]
        return "\n".join(lines)
