"""The id of one policy or module among several."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from policystore._util.near import close_names, did_you_mean
from policystore.errors import InvalidInputError, NotFoundError

__all__ = ["pick_id"]

_PLURALS = {"policy": "policies", "module": "modules"}


def pick_id(
    ids: Iterable[str],
    given: str | None,
    owner: str,
    kind: Literal["policy", "module"] = "module",
    *,
    argument: str = "its id",
) -> str:
    """Return the given id, or the only one if none was given.

    Args:
        ids: all ids that there are.
        given: the caller's choice; None if the caller did not choose.
        owner: what holds the policies or modules, as messages name it.
        kind: what the ids belong to.
        argument: what the caller has to pass, as messages name it.

    Raises:
        NotFoundError: ``given`` is not among ``ids``; the message lists them.
        InvalidInputError: nothing was given, and there are several ids or none.
    """
    known = sorted(ids)
    listed = ", ".join(map(repr, known)) or "none"
    if given is not None:
        if given not in known:
            advice = did_you_mean(close_names(str(given), known))
            raise NotFoundError(
                f"{owner} has no {kind} {given!r}; it has {listed}" + (advice and f".{advice}")
            )
        return given
    if len(known) == 1:
        return known[0]
    raise InvalidInputError(
        f"{owner} has {len(known)} {_PLURALS[kind]}: pass {argument}, one of {listed}"
    )
