"""Fit a snapshot to another policy: tensors by name, the rest as the other policy has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from policystore.rllib.common.build_guard import check_snapshot
from policystore.rllib.common.trust import Trust, listed
from policystore.rllib.transfer.fields import (
    TakeSpaces,
    check_stacks,
    check_take_spaces,
    differences,
    mix_spaces,
)
from policystore.rllib.transfer.report import Adapted, AdaptReport
from policystore.rllib.transfer.selection import Selection
from policystore.rllib.transfer.state import TakeState, check_take_state, mix_state
from policystore.rllib.transfer.target import Like, Target, read_target
from policystore.rllib.transfer.tensors import MixedWeights, mix, without_a_place
from policystore.rllib_schema.weight_names import todays_weights
from policystore.snapshot import Snapshot

__all__ = ["adapt", "adapt_to_target"]


def adapt(
    snap: Snapshot,
    like: Like,
    policy_id: str | None = None,
    *,
    rename: Mapping[str, str] | None = None,
    only: Iterable[str] | None = None,
    keep: Iterable[str] | None = None,
    spaces: TakeSpaces = "target",
    state: TakeState = "snapshot",
    agent_ids: Iterable[Any] | None = None,
    trust: Trust = (),
) -> Adapted:
    """Make a snapshot that fits another policy, from the weights of a snapshot.

    The result has exactly the names, shapes, dtypes and spec of the target, so ``load_into``,
    ``rebuild_module`` and ``rebuild_policy`` take the result. Tensors are taken from ``snap`` by
    name. All other tensors are as the target has them. Neither ``snap`` nor the target changes.

    ``rename``, ``only`` and ``keep`` take prefixes of names: ``"pi."`` means all tensors whose name
    begins with these characters. ``only`` and ``keep`` take names of the target, and are used after
    the renames. A prefix without any effect is an error.

    If a network got a tensor of ``snap``, and ``snap`` has no tensors for the target network of
    this network, the target network becomes a copy of the network. If a parameter is tied, all its
    names get the same value.

    Args:
        snap: the snapshot from which tensors are taken.
        like: the policy that the result fits: a Snapshot; a live ``Policy``, ``RLModule`` or
            ``MultiRLModule``; or an Algorithm, of which the learner's full weights are read.
        policy_id: which policy of an Algorithm, as for :func:`~policystore.rllib.snapshot`.
        rename: prefix of names in ``snap`` -> prefix of names in the target, such as
            ``{"_encoder.": "encoder.actor_encoder."}``. Of several prefixes that fit a name, the
            longest is used. All renames happen at once.
        only: take these tensors, and no others.
        keep: these tensors stay as the target has them. Needed for tensors whose shapes differ.
        spaces: ``"target"``: the result has the target's spaces. ``"snapshot"``: spaces of ``snap``
            replace those that differ in the bounds of Boxes only; ``load_into`` then compares these
            spaces.
        state: whose filter statistics are used where both policies have the filter. ``"snapshot"``:
            those with which the taken weights were trained. If no weights that acting needs were
            taken, or shapes differ, the target's statistics stay. ``"target"``: always the
            target's.
        agent_ids: as for ``snapshot`` of a multi-agent Algorithm of the new stack.
        trust: prefixes of import paths and classes that a target may name, if the target is a
            Snapshot of a module of your own: the module is built once, to see which weights are
            target networks or tied.

    Returns:
        The snapshot and a report. ``print(adapted.report)`` shows where each tensor, each part of
        the state and each differing space is from, and notes other differences, such as another
        activation function.

    Raises:
        MismatchError: tensors have other shapes, and ``keep`` does not list them, or values would
            be rounded to the target's dtype; the error lists all such tensors. Or no tensor would
            be taken, or ``snap`` is of the other API stack. If the target's dtype holds all values
            of the snapshot's dtype, this is no error.
        InvalidInputError: no name begins with a prefix, two tensors get the same name, or an
            argument has another form.
        NotFoundError: the Algorithm has no such policy.
        UntrustedError: the target is a Snapshot that names a class outside of ``trust``.
    """
    check_snapshot(snap)
    selection = Selection.of(rename, only, keep)
    check_take_spaces(spaces)
    check_take_state(state)
    options = {} if agent_ids is None else {"agent_ids": agent_ids}
    target = read_target(like, policy_id, listed(trust), **options)
    return adapt_to_target(snap, target, selection, spaces, state)


def adapt_to_target(
    snap: Snapshot, target: Target, selection: Selection, spaces: TakeSpaces, state: TakeState
) -> Adapted:
    """Make a snapshot that fits a target; see :func:`adapt`.

    Args:
        snap: the snapshot from which tensors are taken.
        target: the policy that the result fits.
        selection: renames, and which tensors are taken.
        spaces, state: as for :func:`adapt`, already checked.
    """
    check_stacks(snap, target.snap)
    given = todays_weights(snap.spec.cls, snap.weights)
    present = todays_weights(target.snap.spec.cls, target.snap.weights)
    selection.check(given, present)
    label = f"{snap!r} adapted to {target.label}"
    mixed = mix(given, present, selection, target.links, label)
    acting = target.snap.spec.acting
    acts = not mixed.taken.isdisjoint(present if acting is None else acting)
    spec, space_rows = mix_spaces(snap, target.snap, spaces)
    new_state, state_rows = mix_state(snap, target.snap, state, acts=acts)
    notes = differences(snap, target.snap)
    hint = without_a_place(mixed.rows, given, present)
    notes += [hint] if hint else []
    if not acts:
        notes.append("no weights that acting needs were taken: the result acts as the target does")
    report = AdaptReport(
        source=snap.digest,
        source_ref=snap.ref,
        target=target.label,
        rows=(*mixed.rows, *state_rows, *space_rows),
        parameters=_size(mixed, present),
        parameters_taken=_size(mixed, mixed.taken),
        notes=tuple(notes),
    )
    return Adapted(Snapshot(weights=mixed.arrays, spec=spec, state=new_state), report)


def _size(mixed: MixedWeights, names: Iterable[str]) -> int:
    return sum(mixed.arrays[name].size for name in names)
