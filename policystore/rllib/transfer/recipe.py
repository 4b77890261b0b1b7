"""Describe how a policy is to be adapted, before the policy that it is adapted to exists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm

from policystore._util.messages import printable
from policystore.errors import InvalidInputError
from policystore.format.records import Version
from policystore.repository.ref_like import RefLike, as_ref
from policystore.rllib.new_stack.env_interface import stateful_connectors
from policystore.rllib.transfer.adapt import adapt_to_target
from policystore.rllib.transfer.fields import TakeSpaces, check_take_spaces
from policystore.rllib.transfer.report import Adapted
from policystore.rllib.transfer.selection import Selection
from policystore.rllib.transfer.state import TakeState, check_take_state
from policystore.rllib.transfer.target import Target, read_target
from policystore.rllib.worker_code.compat import is_multi_agent
from policystore.rllib.workers.compat import actor_manager, is_new_stack, unmerged_states
from policystore.snapshot import Snapshot

__all__ = ["AdaptRecipe", "adapted"]


def adapted(
    source: RefLike | Snapshot,
    *,
    rename: Mapping[str, str] | None = None,
    only: Iterable[str] | None = None,
    keep: Iterable[str] | None = None,
    spaces: TakeSpaces = "target",
    state: TakeState = "snapshot",
) -> AdaptRecipe:
    """Describe for ``warm_start`` how a policy is adapted to the policy of each new Algorithm.

    Use: ``warm_start(store, {"main": adapted("soccer/main@7", keep=["pi."])})``. The result holds
    the arguments, and can be pickled. When an Algorithm is built, ``warm_start`` adapts the policy
    to the Algorithm's own policy, as :func:`~policystore.rllib.adapt` does.

    Args:
        source: a ref, or the snapshot itself.
        rename, only, keep, spaces, state: as for :func:`~policystore.rllib.adapt`.

    Raises:
        InvalidInputError: an argument of the wrong form. Prefixes are compared with names when the
            Algorithm is built.
    """
    check_take_spaces(spaces)
    check_take_state(state)
    selection = Selection.of(rename, only, keep)
    if not isinstance(source, Snapshot):
        try:
            as_ref(source)
        except InvalidInputError as error:
            raise error.within("adapted takes a ref or a Snapshot") from None
    return AdaptRecipe(source, selection, spaces, state)


@dataclass(frozen=True, repr=False)
class AdaptRecipe:
    """What :func:`adapted` returns: a source, and the arguments for ``adapt``.

    Attributes:
        source: a ref, or the snapshot itself.
        selection: renames, and which tensors are taken.
        spaces, state: as for :func:`~policystore.rllib.adapt`.
    """

    source: RefLike | Snapshot
    selection: Selection
    spaces: TakeSpaces = "target"
    state: TakeState = "snapshot"

    @property
    def source_text(self) -> str:
        """The ref of the source, or the beginning of its digest."""
        if isinstance(self.source, Snapshot):
            return self.source.ref or self.source.digest.short
        return self.source.ref if isinstance(self.source, Version) else str(self.source)

    def __repr__(self) -> str:
        arguments = [repr(self.source_text)]
        if self.selection.rename:
            arguments.append(f"rename={dict(self.selection.rename)!r}")
        if self.selection.only is not None:
            arguments.append(f"only={list(self.selection.only)!r}")
        if self.selection.keep:
            arguments.append(f"keep={list(self.selection.keep)!r}")
        if self.spaces != "target":
            arguments.append(f"spaces={self.spaces!r}")
        if self.state != "snapshot":
            arguments.append(f"state={self.state!r}")
        return printable(f"adapted({', '.join(arguments)})")

    def apply(
        self, snap: Snapshot, algorithm: Algorithm, policy_id: str, agent_ids: list[Any] | None
    ) -> Adapted:
        """Adapt a snapshot to a policy of an Algorithm that was just built.

        Args:
            snap: the snapshot that ``source`` means.
            algorithm: the Algorithm.
            policy_id: id of the policy.
            agent_ids: the agents whose filters get the snapshot's statistics, in a multi-agent
                Algorithm of the new stack; None if the caller gave none.

        Raises:
            MismatchError, InvalidInputError, NotFoundError, StorageError: as by ``adapt``.
        """
        target = _fresh_target(algorithm, policy_id, agent_ids)
        result = adapt_to_target(snap, target, self.selection, self.spaces, self.state)
        left = [
            row.name for row in result.report.rows if row.kind == "state" and row.status == "left"
        ]
        if left and agent_ids is None and _has_agents(algorithm) and stateful_connectors(algorithm):
            raise InvalidInputError(
                f"the snapshot for {policy_id!r} has the state of {', '.join(left)}, and filters "
                f"belong to agents: pass agent_ids={{{policy_id!r}: […]}} with the ids of the "
                "agents that act through this policy, or an empty list to leave all filters as "
                "they are"
            )
        return result


def _has_agents(algorithm: Algorithm) -> bool:
    """Return whether filters of an Algorithm belong to single agents."""
    return is_new_stack(algorithm) and bool(is_multi_agent(algorithm.config))


def _fresh_target(algorithm: Algorithm, policy_id: str, agent_ids: list[Any] | None) -> Target:
    """Read a policy of an Algorithm that has not sampled, so that its filters are all empty."""
    options: dict[str, Any] = {}
    if unmerged_states(algorithm):
        options["from_runner"] = min(actor_manager(algorithm.env_runner_group).actors())
    if _has_agents(algorithm):
        if agent_ids:
            options["agent_ids"] = agent_ids
        else:
            options["omit"] = stateful_connectors(algorithm)
    return read_target(algorithm, policy_id, (), **options)
