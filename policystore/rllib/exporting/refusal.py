"""The error for a policy, or a part of one, that has no form in an exported file."""

from __future__ import annotations

from policystore.errors import InvalidInputError

__all__ = ["NETWORK_INSTEAD", "not_exportable", "path_of_type"]

NETWORK_INSTEAD = (
    'Give contents="network" to export what the network alone computes, without this part.'
)


def path_of_type(value: object) -> str:
    """Return the import path of a value's class, or of a class, as messages name it."""
    cls = value if isinstance(value, type) else type(value)
    return f"{cls.__module__}.{cls.__qualname__}"


def not_exportable(part: str, reason: str, advice: str = "") -> InvalidInputError:
    """Return the error that names the part of a policy that cannot be exported.

    Args:
        part: the part, such as ``"the connector mypkg.Shift"``.
        reason: why, as a clause.
        advice: what to do instead, as a sentence; "" for nothing.
    """
    return InvalidInputError(
        f"this policy cannot be exported: {part} {reason}. Nothing was written."
        + (f" {advice}" if advice else "")
    )
