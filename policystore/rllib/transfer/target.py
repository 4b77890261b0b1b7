"""Read the policy that a snapshot is adapted to: its snapshot, and which weights belong together.

A target network is a slower copy of a network, and a tied parameter is one tensor under two names.
Both cannot be told from names and shapes. So a live policy is asked, and a snapshot of a module is
built once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.policy.policy import Policy

from policystore.errors import InvalidInputError, PolicyStoreError
from policystore.format.arrays import Array
from policystore.rllib.api import snapshot
from policystore.rllib.common.ids import pick_id
from policystore.rllib.common.trust import Trust, algorithm_name
from policystore.rllib.new_stack.learner import learner_links, learner_module_ids
from policystore.rllib.new_stack.rebuild import rebuild_module
from policystore.rllib.old_stack.snapshot import own_weights, torch_model
from policystore.rllib.transfer.tensors import Links
from policystore.rllib.worker_code.messages.answers import ModuleLinks
from policystore.rllib.worker_code.read_modules import links_of_network
from policystore.rllib.worker_code.tensors import target_pairs_of
from policystore.rllib.workers.compat import is_new_stack
from policystore.snapshot import Snapshot
from policystore.snapshot_advice import instead_of_snapshot

__all__ = ["Like", "Target", "read_target"]

Like: TypeAlias = Snapshot | Policy | RLModule | Algorithm
"""The policy that a snapshot is adapted to."""


@dataclass(frozen=True)
class Target:
    """The policy that a snapshot is adapted to.

    Attributes:
        snap: the policy as it is now.
        label: the policy in words.
        links: returns which weights belong together; may build the policy once.
    """

    snap: Snapshot
    label: str
    links: Callable[[], Links]


def read_target(like: Like, policy_id: str | None, trust: Trust, **options: Any) -> Target:
    """Read the policy that a snapshot is adapted to.

    Args:
        like: a snapshot, a live policy or module, or an Algorithm.
        policy_id: which policy of an Algorithm or a MultiRLModule.
        trust: classes that a snapshot may name.
        options: other arguments of ``snapshot(algorithm, …)``.

    Raises:
        InvalidInputError: another object, or as ``snapshot``.
        NotFoundError, StorageError: as ``snapshot``.
    """
    if isinstance(like, Snapshot):
        if policy_id is not None:
            raise InvalidInputError(
                f"policy_id={policy_id!r} is for an Algorithm, and like= is a Snapshot: leave "
                "policy_id out"
            )
        name = like.ref if like.ref not in (None, str(like.digest)) else None
        label = like.digest.short if name is None else f"{name} ({like.digest.short})"
        return Target(like, label, lambda: _links_of_snapshot(like, trust))
    if not isinstance(like, (Policy, RLModule, Algorithm)):
        raise InvalidInputError(
            "like= is the policy that the snapshot is adapted to: a Snapshot, an Algorithm, a "
            f"Policy or an RLModule. {instead_of_snapshot(like)}"
        )
    snap = snapshot(like, policy_id, **options)
    if isinstance(like, Algorithm):
        return _of_algorithm(like, policy_id, snap)
    label = f"a {type(like).__name__}"
    if isinstance(like, Policy):
        return Target(snap, label, lambda: _links_of_policy(like))
    return Target(snap, label, lambda: _links_of_module(like, policy_id, snap))


def _of_algorithm(algorithm: Algorithm, policy_id: str | None, snap: Snapshot) -> Target:
    name = algorithm_name(algorithm)
    if not is_new_stack(algorithm):
        known = sorted(algorithm.env_runner.policy_map.keys())
        chosen = pick_id(known, policy_id, "the Algorithm", "policy")
        label = f"policy {chosen!r} of {name}"
        return Target(snap, label, lambda: _links_of_policy(algorithm.get_policy(chosen)))
    parts = snap.spec.modules
    if parts is not None:
        together = list(parts)
        return Target(
            snap,
            f"the modules of {name}",
            lambda: _joined(learner_links(algorithm, together)),
        )
    chosen = pick_id(learner_module_ids(algorithm)[0], policy_id, "the Algorithm")
    return Target(
        snap,
        f"policy {chosen!r} of {name}",
        lambda: _as_links([learner_links(algorithm, [chosen])[chosen]], [""]),
    )


def _joined(by_module: Mapping[str, ModuleLinks]) -> Links:
    """Return the links of modules that are kept together, whose names begin with their ids."""
    return _as_links(by_module.values(), [f"{module_id}/" for module_id in by_module])


def _as_links(found: Iterable[ModuleLinks], starts: Iterable[str]) -> Links:
    copies: list[tuple[tuple[str, str], ...]] = []
    tied: list[tuple[str, ...]] = []
    for links, start in zip(found, starts, strict=True):
        copies += [
            tuple((start + mine, start + theirs) for mine, theirs in pairs)
            for pairs in links.copies
        ]
        tied += [tuple(start + name for name in names) for names in links.tied]
    return Links(tuple(copies), tuple(tied))


def _links_of_module(module: RLModule, module_id: str | None, snap: Snapshot) -> Links:
    """Return the links of a module in this process.

    Args:
        module: the module.
        module_id: which module of a MultiRLModule; None for the only one.
        snap: the snapshot of the module.
    """
    inner = module.unwrapped()
    if not isinstance(inner, MultiRLModule):
        return _as_links([_links(inner)], [""])
    if snap.spec.modules is None:  # one module of RLlib's own MultiRLModule
        chosen = pick_id(inner.keys(), module_id, "the MultiRLModule")
        return _as_links([_links(inner[chosen].unwrapped())], [""])
    return _joined({each: _links(inner[each].unwrapped()) for each in inner.keys()})  # noqa: SIM118


def _links(module: RLModule) -> ModuleLinks:
    if not isinstance(module, torch.nn.Module):
        return ModuleLinks(copies=[], tied=[])
    return links_of_network(module, target_pairs_of(module))


def _links_of_policy(policy: Policy) -> Links:
    """Return the links of an old-stack policy, whose target networks are no part of its weights."""
    network = torch_model(policy)
    if network is None or own_weights(policy) is not None:
        return Links()
    return _as_links([links_of_network(network, [])], [""])


def _links_of_snapshot(snap: Snapshot, trust: Trust) -> Links:
    """Return the links of a snapshot; a snapshot of the new stack is built for this.

    Snapshots of the old stack and of plain modules have no target networks. In these, tensors that
    are equal bit for bit count as tied.

    Raises:
        PolicyStoreError: the snapshot cannot be built; the message says why this is needed.
    """
    spec = snap.spec
    if spec.stack != "new":
        return Links(tied=_equal_tensors(snap.weights))
    if spec.weights == "inference-only" and (spec.cls or "").startswith("ray.rllib."):
        return Links()  # RLlib's own networks have no tied parameters
    try:
        module = rebuild_module(snap, trust=trust)
    except PolicyStoreError as error:
        raise error.within(
            "adapt builds the target once, to see which of its weights are target networks or "
            "tied (if like= is a live Algorithm or module, nothing is built)"
        ) from error
    return _links_of_module(module, None, snap)


def _equal_tensors(weights: Mapping[str, Array]) -> tuple[tuple[str, ...], ...]:
    """Return groups of names whose tensors are equal, without tensors of one value only."""
    groups: dict[tuple[str, tuple[int, ...], bytes], list[str]] = {}
    for name, array in weights.items():
        data = array.tobytes()
        if array.size > 1 and data != data[: array.itemsize] * array.size:
            groups.setdefault((array.dtype.name, array.shape, data), []).append(name)
    return tuple(tuple(names) for names in groups.values() if len(names) > 1)
