"""Answers of workers: what they say of policies, modules and weights, as dataclasses.

A *worker* is a learner or an env runner of the new API stack, or a rollout worker of the old one.
``wire.py`` says how messages travel. All code of this package is sent to actors by value, so the
package imports no other modules of policystore.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from policystore.rllib.worker_code.messages.wire import Message

__all__ = [
    "ANSWERS",
    "MappingAnswer",
    "ModuleContent",
    "ModuleIds",
    "ModuleLinks",
    "MultiModuleContent",
    "PolicyDigest",
    "PolicyInfo",
    "Spaces",
    "ToTrain",
    "WorkerDigests",
    "WorkerInfo",
]

Spaces = tuple[Any, Any]
"""Observation space and action space; either may be None."""

ToTrain: TypeAlias = "list[str] | tuple[str, ...] | set[str] | Callable[..., bool]"
"""Ids of the policies that training updates, or RLlib's function of an id and a batch."""


@dataclass(eq=False, repr=False)
class PolicyInfo(Message):
    """One policy as a worker holds it, without any values.

    Attributes:
        tensors: name -> torch dtype and shape of all weights.
        acting: names of the weights that acting needs.
        targets: names of the weights that belong to target networks.
        spaces: observation and action space.
        trained: whether training updates the policy.
        learner_only: whether RLlib builds the policy on learners alone (new stack).
    """

    tensors: dict[str, tuple[str, tuple[int, ...]]]
    acting: list[str]
    targets: list[str]
    spaces: Spaces
    trained: bool
    learner_only: bool = False


@dataclass(eq=False, repr=False)
class WorkerInfo(Message):
    """One worker's policies, without any values.

    Attributes:
        ids: of all policies, sorted.
        seq: number of the learner's update that made the weights; None if RLlib counts no updates.
        trains_new: whether training would update a policy with a new id.
        asynchronous: whether the worker is a learner that updates in a thread of its own.
        policies: the requested policies, by id.
    """

    ids: list[str]
    seq: int | None
    trains_new: bool
    asynchronous: bool
    policies: dict[str, PolicyInfo]

    def is_trained(self, pid: str, policies_to_train: ToTrain | None = None) -> bool:
        """Return whether training will update a policy, present or new.

        Args:
            pid: its id; a policy that is not among :attr:`policies` counts as a new one.
            policies_to_train: the future choice; None for the present choice.
        """
        if policies_to_train is None:
            known = self.policies.get(pid)
            return self.trains_new if known is None else known.trained
        if not callable(policies_to_train):
            return pid in policies_to_train
        try:
            return bool(policies_to_train(pid, None))
        except Exception:
            # The user's own function, made for a batch: then the policy may well be trained.
            return True


@dataclass(eq=False, repr=False)
class PolicyDigest(Message):
    """The weights of one policy on one worker.

    Attributes:
        digest: digest of the weights that acting needs, as text. On a node without blake3, the
            bytes to hash. None if the weights do not have the requested names, dtypes and shapes.
        wrong: why there is no digest.
        targets: a digest of the target networks, to compare learners; None without such networks.
        filters: number of observations that the policy's filter has seen (old stack).
        filter_mark: the same text for the same statistics of the filter (old stack).
        own: digest of the weights that ``load_local`` loaded on this worker; None without such.
        own_label: what reports call these weights.
        beneath: old stack: digest of the weights that the worker would hold without them.
    """

    digest: str | bytes | None
    wrong: str = ""
    targets: str | None = None
    filters: int | None = None
    filter_mark: str = ""
    own: str | None = None
    own_label: str = ""
    beneath: str | bytes | None = None


@dataclass(eq=False, repr=False)
class WorkerDigests(Message):
    """What a worker holds now.

    Attributes:
        seq: as in :class:`WorkerInfo`.
        policies: by id; those that the worker does not have are missing.
        filters: number of observations that the filter of each agent has seen (new stack).
        remark: why the worker may hold other weights than a worker that took part in every load.
        filter_mark: the same text for the same statistics of all filters (new stack).
        fenced: ids of the policies of the load that raised ``seq``, if nothing has changed it
            since. The worker's weights of other policies are older than ``seq`` says.
    """

    seq: int | None
    policies: dict[str, PolicyDigest]
    filters: dict[Any, int] | None = None
    remark: str = ""
    filter_mark: str = ""
    fenced: tuple[str, ...] | None = None


@dataclass(eq=False, repr=False)
class MappingAnswer(Message):
    """Which policies a mapping function names on a worker.

    Attributes:
        named: ids, sorted; empty if the function could not be asked.
        asked: whether the function was asked for a new episode of each agent.
        remark: why the function could not be asked; empty if it could, or if the worker has no
            environment.
    """

    named: list[str]
    asked: bool
    remark: str = ""


@dataclass(eq=False, repr=False)
class ModuleContent(Message):
    """One RLModule: what its constructor was given, and its weights.

    Attributes:
        cls: its class, without RLlib's wrapper.
        weights: copies by name: CPU tensors, or arrays if the module is not a torch module.
        acting: names of the weights that acting needs.
        names_clash: whether two tensors have one name without the prefixes of wrappers.
        own_get_state: whether ``get_state`` is the user's own and gives other names.
        learner_only_values: values beside the weights that only the learner has.
    """

    cls: type
    observation_space: Any
    action_space: Any
    inference_only: bool
    learner_only: bool
    model_config: Any
    catalog_class: type | None
    weights: dict[str, Any]
    acting: list[str]
    names_clash: bool = False
    own_get_state: bool = False
    learner_only_values: list[str] = field(default_factory=list)


@dataclass(eq=False, repr=False)
class MultiModuleContent(Message):
    """A MultiRLModule: its own constructor arguments, and its modules by id.

    Attributes:
        outside: names of the tensors that it holds outside of its modules.
    """

    cls: type
    observation_space: Any
    action_space: Any
    inference_only: bool
    model_config: Any
    outside: list[str]
    modules: dict[str, ModuleContent]


@dataclass(eq=False, repr=False)
class ModuleIds(Message):
    """Ids of a learner's modules; ``plain``: whether the MultiRLModule is of RLlib's own class."""

    ids: list[str]
    plain: bool


@dataclass(eq=False, repr=False)
class ModuleLinks(Message):
    """Which weights of a module belong together.

    Attributes:
        copies: for each target network, pairs of the name of a weight of the target network and the
            name of the weight that it follows.
        tied: groups of names under which one and the same tensor stands.
    """

    copies: list[list[tuple[str, str]]]
    tied: list[list[str]]


ANSWERS: dict[str, type[Message]] = {
    cls.__name__: cls
    for cls in (
        PolicyInfo,
        WorkerInfo,
        PolicyDigest,
        WorkerDigests,
        MappingAnswer,
        ModuleContent,
        MultiModuleContent,
        ModuleIds,
        ModuleLinks,
    )
}
"""Messages that the driver receives, by name."""
