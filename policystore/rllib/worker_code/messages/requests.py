"""Requests to workers, as dataclasses.

``answers.py`` says what a *worker* is, and ``wire.py`` how messages travel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from policystore.rllib.worker_code.messages.wire import Message

if TYPE_CHECKING:
    import ray
    from ray.rllib.core.rl_module.rl_module import RLModuleSpec

    from policystore.rllib.worker_code.messages.answers import Spaces, ToTrain

__all__ = [
    "REQUESTS",
    "AddModuleRequest",
    "AddPolicyRequest",
    "DigestPlan",
    "FilterStats",
    "LoadRequest",
    "MappingRequest",
    "Payload",
    "PolicyRecipe",
    "RemoveRequest",
    "ReplayEntry",
    "ReplayProgram",
    "SteerRequest",
    "requests_of",
]

DigestPlan = tuple[bytes, tuple[tuple[str, str, tuple[int, ...]], ...]]
"""How a digest is made: the header of the canonical safetensors file of some tensors, and the name,
torch dtype and shape of these tensors in the file's order."""

Payload = dict[str, dict[str, tuple[str, Any]]]
"""Weights by policy id and name, each a torch dtype and its bits as a numpy array."""

FilterStats = list[tuple[int, Any, Any]]
"""Count, mean and sum of squared differences, for each component of a filter."""


@dataclass(eq=False, repr=False)
class LoadRequest(Message):
    """Load the weights that come with the request, and return digests of them.

    Attributes:
        token: name of the transaction; its roll-back or commit has the same token.
        plans: by policy id, how its digest is made.
        timeout: seconds to wait for a learner that updates in a thread.
        seq: update number for the weights; None keeps the present number.
        pipeline: new stack: states to set in the env-to-module pipeline, by connector and agent.
        filters: old stack: statistics to set, by policy id.
        learner_only: ids of the modules that env runners do not have.
    """

    token: str
    plans: dict[str, DigestPlan]
    timeout: float
    seq: int | None = None
    pipeline: dict[str, dict[Any, Any]] | None = None
    filters: dict[str, FilterStats] | None = None
    learner_only: tuple[str, ...] = ()


@dataclass(eq=False, repr=False)
class AddModuleRequest(Message):
    """Add a module of the new stack.

    Attributes:
        policy_id: id of the new module.
        spec: RLlib's own spec, which needs no policystore.
        weight_names: names of the weights; they show whether target networks are among them.
        load: the weights and filters that the module gets.
        policies_to_train: the new choice; None keeps the present one.
        config_overrides: values of the config that hold for this module alone.
    """

    policy_id: str
    spec: RLModuleSpec
    weight_names: list[str]
    load: LoadRequest
    policies_to_train: ToTrain | None = None
    config_overrides: dict[str, Any] | None = None


@dataclass(eq=False, repr=False)
class PolicyRecipe(Message):
    """All that a worker needs to build a policy of the old stack.

    Attributes:
        policy_id: id of the new policy.
        cls: its class.
        spaces: observation space, already preprocessed, and action space.
        config: its config dict.
        running_keys: keys whose values come from the worker's own config.
        forced: values that replace those of both configs.
        config_class: an AlgorithmConfig class that the config becomes an object of; None leaves a
            dict.
        connectors: by pipeline, a maker, its arguments, and options to set on its filter.
        filter_name: what RLlib calls the observation filter.
        filters: statistics that the filter begins with, by policy id; empty without a filter.
        exploration: state of the exploration.
    """

    policy_id: str
    cls: type
    spaces: Spaces
    config: dict[str, Any]
    running_keys: list[str]
    forced: dict[str, Any]
    config_class: type | None
    connectors: dict[str, list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]]]
    filter_name: str
    filters: dict[str, FilterStats]
    exploration: dict[str, Any]


@dataclass(eq=False, repr=False)
class AddPolicyRequest(Message):
    """Add a policy of the old stack; fields as in :class:`AddModuleRequest`, with a recipe."""

    recipe: PolicyRecipe
    load: LoadRequest


@dataclass(eq=False, repr=False)
class RemoveRequest(Message):
    """Remove a policy; the fields are those of the other requests."""

    token: str
    policy_id: str
    timeout: float


@dataclass(eq=False, repr=False)
class SteerRequest(Message):
    """Say which policies act and which are trained from now on; the policies themselves stay.

    Attributes:
        token: name of the transaction.
        timeout: seconds to wait for a learner that updates in a thread.
        policy_mapping_fn: the new mapping function; None keeps the present one.
        policies_to_train: the new choice; None keeps the present one.
        removed: ids of policies that the next requests remove.
        restart_episodes: whether env runners of the new stack start all episodes anew.
    """

    token: str
    timeout: float
    policy_mapping_fn: Callable[..., str] | None = None
    policies_to_train: ToTrain | None = None
    removed: tuple[str, ...] = ()
    restart_episodes: bool = False


@dataclass(eq=False, repr=False)
class MappingRequest(Message):
    """Check which policies a mapping function names.

    Attributes:
        policy_mapping_fn: the function to check; None for the worker's present one.
        added: spaces of policies that will be added, by id.
        removed: ids of policies that will be removed.
        ask: whether to call the function; if False, only the rest is checked.
    """

    policy_mapping_fn: Callable[..., str] | None
    added: dict[str, Spaces]
    removed: list[str]
    ask: bool = True


# What a restarted env runner does anew -----------------------------------------------------------


@dataclass(eq=False, repr=False)
class ReplayEntry(Message):
    """One committed change.

    Attributes:
        kind: ``load``, ``add`` or ``remove``.
        policies: ids of the policies for which the change still counts.
        load: weights and filters that the workers got; None for ``remove``.
        payload: reference to the weights in Ray's object store.
        addition: for ``add``, the whole request.
        add: for ``add``, the worker function that carries it out, by value.
        generation: number of the transaction.
    """

    kind: str
    policies: tuple[str, ...]
    load: LoadRequest | None = None
    payload: ray.ObjectRef | None = None
    addition: AddModuleRequest | AddPolicyRequest | None = None
    add: Callable[..., Any] | None = None
    generation: int = 0


@dataclass(eq=False, repr=False)
class ReplayProgram(Message):
    """All changes that a restarted or added env runner lacks.

    Attributes:
        entries: in the order in which they were committed.
        policy_mapping_fn: the present function; None keeps the one that the runner was made with.
    """

    entries: list[ReplayEntry]
    policy_mapping_fn: Callable[..., str] | None


REQUESTS: dict[str, type[Message]] = {
    cls.__name__: cls
    for cls in (
        LoadRequest,
        AddModuleRequest,
        PolicyRecipe,
        AddPolicyRequest,
        RemoveRequest,
        SteerRequest,
        MappingRequest,
        ReplayEntry,
        ReplayProgram,
    )
}
"""Messages that actors receive, by name."""


def requests_of(function: Callable[..., Any] | type[Message]) -> dict[str, type[Message]]:
    """Return the messages that the annotations of a worker function name, and those inside of them.

    The classes of all other messages are not sent: Ray keeps calls cheap up to 100 kB.
    """
    classes: dict[str, type[Message]] = {}
    for annotation in function.__annotations__.values():
        for name, cls in REQUESTS.items():
            if name in annotation and name not in classes:
                classes |= {name: cls, **requests_of(cls)}
    return classes
