"""The kinds of policies that have a counterpart on the other API stack, by algorithm."""

from __future__ import annotations

from dataclasses import dataclass

from policystore.errors import InvalidInputError
from policystore.format.spec import Spec
from policystore.rllib_schema.class_paths import ALGORITHMS, POLICIES, todays_path
from policystore.snapshot import Snapshot

__all__ = [
    "TANH_SAC",
    "Kind",
    "check_stack",
    "kind_named",
    "kind_of_module",
    "kind_of_policy",
    "no_counterpart",
]

TANH_SAC = "policystore.rllib.convert.modules:TanhSACTorchRLModule"
"""The module class of a converted SAC policy with Box actions."""

_MODULE = "ray.rllib.algorithms.{0}.torch.default_{0}_torch_rl_module:Default{1}TorchRLModule"
_CATALOG = "ray.rllib.algorithms.{0}.{0}_catalog:{1}Catalog"


@dataclass(frozen=True)
class Kind:
    """The classes of one algorithm on both API stacks.

    Attributes:
        algorithm: RLlib's name of the algorithm.
        policy: import path of the policy class of the old stack.
        module: import path of the module class of the new stack.
        catalog: import path of the module's catalog.
    """

    algorithm: str
    policy: str
    module: str
    catalog: str

    @property
    def is_actor_critic(self) -> bool:
        """Whether the module has a policy head and a value head."""
        return self.algorithm not in ("DQN", "SAC")


def _kind(algorithm: str, policy: str, module: str) -> Kind:
    """Return the kind of an algorithm; ``module`` is the folder of the module's class."""
    catalog = "ppo" if module == "appo" else module
    return Kind(
        algorithm,
        POLICIES[policy],
        _MODULE.format(module, module.upper()),
        _CATALOG.format(catalog, catalog.upper()),
    )


_KINDS = {
    kind.algorithm: kind
    for kind in (
        _kind("PPO", "PPOTorchPolicy", "ppo"),
        _kind("APPO", "APPOTorchPolicy", "appo"),
        # IMPALA and MARWIL have PPO's module (algorithms/impala/impala.py, marwil/marwil.py).
        _kind("IMPALA", "ImpalaTorchPolicy", "ppo"),
        _kind("MARWIL", "MARWILTorchPolicy", "ppo"),
        _kind("DQN", "DQNTorchPolicy", "dqn"),
        _kind("SAC", "SACTorchPolicy", "sac"),
    )
}


def no_counterpart(snap: Snapshot, part: str, why: str) -> InvalidInputError:
    """Return the error for a snapshot with a part that the other stack does not have.

    Args:
        snap: the snapshot that was to be converted.
        part: the tensor or setting.
        why: what the other stack has instead, and what the caller can do.
    """
    other = {"old": "new", "new": "old"}[snap.spec.stack]
    return InvalidInputError(
        f"{snap!r} cannot be converted: {part} has no counterpart on the {other} API stack: {why}. "
        "Nothing was converted."
    )


def check_stack(snap: Snapshot, source: str) -> None:
    """Check that a snapshot holds one policy of the given API stack.

    Raises:
        InvalidInputError: a snapshot of another kind, or one without its class.
    """
    spec = snap.spec
    target = {"old": "new", "new": "old"}[source]
    if spec.stack == target:
        raise InvalidInputError(f"{snap!r} is of the {target} API stack already")
    if spec.stack != source:
        raise InvalidInputError(
            f"{snap!r} is no policy of RLlib (its stack is {spec.stack!r}), so it "
            "belongs to no API stack"
        )
    if spec.modules is not None:
        raise no_counterpart(
            snap, "spec.modules", "policies of the old stack share no parts with each other"
        )
    if spec.cls is None:
        reason = spec.omitted.get("class", "the source of the snapshot did not name the class")
        raise InvalidInputError(f"{snap!r} has no class, so its networks are not known: {reason}")


def kind_named(algorithm: str) -> Kind:
    """Return the kind of an algorithm that converts, by RLlib's name of it."""
    return _KINDS[algorithm]


def kind_of_policy(snap: Snapshot) -> Kind:
    """Return the kind of an old-stack policy.

    Raises:
        InvalidInputError: a class that has no counterpart.
    """
    spec = snap.spec
    algorithm = ALGORITHMS.get(spec.cls or "", "")
    if spec.algorithm == "BC":  # its policy is MARWIL's
        raise no_counterpart(
            snap, "the value network of BC (_value_branch)", "BC's module has no value network"
        )
    if algorithm not in _KINDS:
        raise no_counterpart(
            snap, f"the class {spec.cls}", f"policies of {', '.join(_KINDS)} convert"
        )
    return _KINDS[algorithm]


def kind_of_module(snap: Snapshot) -> Kind:
    """Return the kind of a new-stack module.

    Raises:
        InvalidInputError: a class that has no counterpart.
    """
    spec: Spec = snap.spec
    path = todays_path(spec.cls or "")
    if path == TANH_SAC or path == _KINDS["SAC"].module:
        raise no_counterpart(
            snap,
            "the module of SAC",
            "the old stack's Q network takes observation and action together, and the actor "
            "alone is no policy of the old stack",
        )
    kinds = [kind for kind in _KINDS.values() if kind.module == path]
    if not kinds:
        raise no_counterpart(
            snap,
            f"the class {spec.cls}",
            f"the classes that convert are {', '.join(sorted(_modules()))}",
        )
    named = [kind for kind in kinds if kind.algorithm == spec.algorithm]
    return (named or kinds)[0]


def _modules() -> set[str]:
    return {kind.module.rpartition(":")[2] for kind in _KINDS.values() if kind.algorithm != "SAC"}
