"""Check the state that custom connectors and explorations give to a snapshot, or get from one."""

from __future__ import annotations

import numpy as np

from policystore.errors import InvalidInputError

__all__ = ["check_plain_state"]

_MAX_TEXT = 64


def check_plain_state(value: object, where: str) -> None:
    """Refuse state that could carry a program: bytes, and text long enough to hide one.

    State of a custom connector goes to the connector's own code. This code may pass the state on to
    RLlib's decoders, which unpickle text (utils/serialization.py:83). In the encoding of these
    decoders, no array or pickle fits into 64 characters.

    Args:
        value: the state.
        where: its place, for messages.

    Raises:
        InvalidInputError: something in the state is not plain; the message names the place.
    """
    if value is None or isinstance(value, (bool, int, float, np.ndarray, np.generic)):
        return
    if isinstance(value, str):
        if len(value) <= _MAX_TEXT:
            return
        raise InvalidInputError(
            f"{where}: a text of {len(value)} characters; state takes {_MAX_TEXT} at most, as "
            "longer ones may be serialized arrays. Give arrays as arrays."
        )
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            check_plain_state(item, f"{where}[{index}]")
        return
    if isinstance(value, dict):
        for key, item in value.items():
            check_plain_state(key, f"{where}, key {key!r}")
            check_plain_state(item, f"{where}[{key!r}]")
        return
    raise InvalidInputError(
        f"{where}: a {type(value).__qualname__} is not plain state. Plain are None, bool, int, "
        "float, short text, numpy arrays, and lists, tuples and dicts of these."
    )
