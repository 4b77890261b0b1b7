"""Say how a snapshot of the other API stack is converted, where messages refuse it."""

from __future__ import annotations

__all__ = ["conversion_advice"]

_CALLS = {("old", "new"): "to_new_stack", ("new", "old"): "to_old_stack"}


def conversion_advice(stack: str, wanted: str) -> str:
    """Return a sentence for a message that refuses a snapshot of the other API stack.

    Args:
        stack: the stack of the snapshot.
        wanted: the stack that is needed, ``"old"`` or ``"new"``.

    Returns:
        The sentence, with a space before it; empty if the snapshot is of neither API stack.
    """
    call = _CALLS.get((stack, wanted))
    if call is None:
        return ""
    return f" policystore.rllib.{call}(snap) converts it to RLlib's {wanted} API stack."
