"""What an RLModule holds, read where it lives: here, or inside a learner actor.

The functions that run in actors are closed in themselves and defined inside others: Ray then sends
their code along, so nodes of a cluster need no policystore. They never raise, because RLlib ends an
actor whose function raises (``utils/actor_manager.py:195``): errors come back as values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from policystore.errors import InvalidInputError, NotFoundError, StorageError
from policystore.rllib.classes import path_of
from policystore.tensors import Array
from policystore.torch import to_numpy

__all__ = ["ModuleFacts", "MultiFacts", "describe", "describe_multi", "learner_modules"]


@dataclass(frozen=True)
class ModuleFacts:
    """One RLModule: what its constructor was given, and its weights as numpy arrays."""

    cls: type
    observation_space: Any
    action_space: Any
    inference_only: bool
    learner_only: bool
    model_config: Any
    catalog_class: type | None
    weights: dict[str, Array]
    acting: list[str]
    learner_only_values: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class MultiFacts:
    """A MultiRLModule: its own constructor arguments and what it holds, by module id."""

    cls: type
    observation_space: Any
    action_space: Any
    inference_only: bool
    model_config: Any
    modules: dict[str, ModuleFacts]


def describe(module: Any) -> ModuleFacts:
    """Read one RLModule of this process.

    Raises:
        InvalidInputError: its weights cannot be kept; named.
    """
    return _facts(_module_reader()(module), path_of(type(module)))


def describe_multi(multi: Any, ids: Iterable[str] | None = None) -> MultiFacts:
    """Read a MultiRLModule of this process, or of it only the modules of ``ids``.

    Raises:
        InvalidInputError: weights that cannot be kept; named.
    """
    return _multi_facts(_multi_reader()(multi, None if ids is None else list(ids)))


def learner_modules(algorithm: Any, ids: Iterable[str] | None = None) -> MultiFacts:
    """Read an Algorithm's learner: the local one, or the first of the remote ones.

    Weights are read until two readings agree, because IMPALA and APPO go on updating in a thread of
    the learner (``algorithms/impala/impala_learner.py:444``).

    Raises:
        StorageError: the learner is gone, or never stood still.
        InvalidInputError: weights that cannot be kept; named.
    """
    wanted = None if ids is None else list(ids)
    found = _ask_learner(algorithm, _learner_reader(), ids=wanted)
    if found["unsteady"]:
        raise StorageError(
            "the learner's weights changed during each of several readings; make the snapshot "
            "between two calls of train(), when no update is under way"
        )
    return _multi_facts(found)


def learner_module_ids(algorithm: Any) -> tuple[tuple[str, ...], bool]:
    """Module ids of an Algorithm's learner, and whether its MultiRLModule is RLlib's plain one."""
    ids, plain = _ask_learner(algorithm, _id_reader())
    # RLlib keeps policies in sets, whose order changes from process to process.
    return tuple(sorted(ids)), plain


def _ask_learner(algorithm: Any, function: Callable[..., Any], **kwargs: Any) -> Any:
    group = algorithm.learner_group
    # One learner is enough: after each update all hold the same (learner_group.py:update).
    first = None if group.is_local else [0]
    results = group.foreach_learner(function, healthy_only=False, remote_actor_ids=first, **kwargs)
    answers = [result.get() for result in results]
    if not answers or isinstance(answers[0], Exception):
        raise StorageError(
            "the Algorithm's learner does not answer: "
            f"{answers[0] if answers else 'no learner is left'}. Nothing was read."
        )
    answer = answers[0]
    if isinstance(answer, dict) and "error" in answer:
        raise InvalidInputError(f"reading the modules inside the learner failed: {answer['error']}")
    return answer


def _id_reader() -> Callable[..., Any]:
    def read_ids(learner: Any) -> Any:
        from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule

        return list(learner.module.keys()), type(learner.module) is MultiRLModule

    return read_ids


def _module_reader() -> Callable[[Any], dict[str, Any]]:
    def wrapper_paths(module: Any) -> set[str]:
        """Paths of what torch.compile and (Distributed)DataParallel put around modules."""
        paths = set()
        for path, child in module.named_modules(remove_duplicate=False):
            inner = {"OptimizedModule": "_orig_mod"}.get(type(child).__name__)
            if any(base.__name__ in ("DataParallel", "DistributedDataParallel")
                   for base in type(child).__mro__):  # fmt: skip
                inner = "module"
            if inner is not None and inner in child._modules:
                paths.add(f"{path}.{inner}" if path else inner)
        return paths

    def plain_name(name: str, dropped: set[str]) -> str:
        parts = name.split(".")
        return ".".join(
            part for index, part in enumerate(parts) if ".".join(parts[: index + 1]) not in dropped
        )

    def acting_names(module: Any, names: Any) -> list[str]:
        # torch_rl_module.py:get_state, which fails on bf16 and so cannot be asked itself.
        from dataclasses import is_dataclass

        from ray.rllib.core.rl_module.apis import InferenceOnlyAPI

        if not isinstance(module, InferenceOnlyAPI) or module.inference_only:
            return list(names)
        try:
            left = module.get_non_inference_attributes()
        except AttributeError:
            # RLlib's own ask a dict (algorithms/ppo/default_ppo_rl_module.py:60) and cannot say
            # with a dataclass for a config, though they take one: then all weights count.
            if not is_dataclass(module.model_config):
                raise
            return list(names)
        return [n for n in names if not any(n == a or n.startswith(a + ".") for a in left)]

    def read(wrapped: Any) -> dict[str, Any]:
        import torch
        from ray.rllib.core.rl_module.torch import TorchRLModule

        module: Any = wrapped.unwrapped()
        catalog = getattr(module, "catalog", None)
        found: dict[str, Any] = {
            "cls": type(module),
            "observation_space": module.observation_space,
            "action_space": module.action_space,
            "inference_only": bool(module.inference_only),
            "learner_only": bool(getattr(module, "learner_only", False)),
            "model_config": module.model_config,
            "catalog_class": None if catalog is None else type(catalog),
        }
        if isinstance(module, torch.nn.Module):
            dropped = wrapper_paths(module)
            names = {name: plain_name(name, dropped) for name in module.state_dict()}
            found["weights"] = {
                names[name]: value.detach().to("cpu", copy=True)
                if isinstance(value, torch.Tensor)
                else value
                for name, value in module.state_dict().items()
            }
            found["clash"] = len(set(names.values())) != len(names)
            if type(wrapped.unwrapped()).get_state is not TorchRLModule.get_state:
                found["own_get_state"] = set(wrapped.unwrapped().get_state()) != set(names)
            found["acting"] = [names[name] for name in acting_names(module, names)]
        else:
            found["weights"] = module.get_state()
            found["acting"] = list(found["weights"])
        return found

    return read


def _multi_reader() -> Callable[..., dict[str, Any]]:
    read = _module_reader()

    def read_multi(multi: Any, ids: Any) -> dict[str, Any]:
        import torch

        inside = set()
        for child in multi.foreach_module(lambda module_id, module: module):
            if isinstance(child, torch.nn.Module):
                inside |= {id(part) for part in child.modules()}
        outside = sorted(
            name
            for name, value in vars(multi).items()
            if isinstance(value, (torch.nn.Module, torch.Tensor)) and id(value) not in inside
        )
        if isinstance(multi, torch.nn.Module):
            outside += list(multi.state_dict())
        modules = multi.foreach_module(lambda module_id, module: module, return_dict=True)
        return {
            "cls": type(multi),
            "observation_space": multi.observation_space,
            "action_space": multi.action_space,
            "inference_only": bool(multi.inference_only),
            "model_config": multi.model_config,
            "outside": outside,
            "modules": {
                module_id: read(module)
                for module_id, module in modules.items()
                if ids is None or module_id in ids
            },
        }

    return read_multi


def _learner_reader() -> Callable[..., dict[str, Any]]:
    read_multi = _multi_reader()

    def same(one: Any, other: Any) -> bool:
        import torch

        def raw(value: Any) -> Any:
            # As bytes: NaN is not equal to itself, and not every dtype can be compared.
            return value.contiguous().reshape(-1).view(torch.uint8)

        return all(
            torch.equal(raw(value), raw(other["modules"][module_id]["weights"][name]))
            for module_id, facts in one["modules"].items()
            for name, value in facts["weights"].items()
            if isinstance(value, torch.Tensor)
        )

    def read_learner(learner: Any, ids: Any) -> dict[str, Any]:
        import time

        try:
            found = read_multi(learner.module, ids)
            # Only asynchronous learners have a thread of their own and need a second reading.
            unsteady = hasattr(learner, "_learner_thread")
            for _ in range(20):
                if not unsteady:
                    break
                again = read_multi(learner.module, ids)
                unsteady, found = not same(found, again), again
                if unsteady:
                    time.sleep(0.01)
            found["unsteady"] = unsteady
            # SAC's temperature, soft_actor_critic: algorithms/sac/sac_learner.py:36.
            for module_id, facts in found["modules"].items():
                if module_id in getattr(learner, "curr_log_alpha", ()):
                    facts["learner_only_values"] = ["curr_log_alpha"]
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"}
        return found

    return read_learner


def _facts(raw: dict[str, Any], what: str) -> ModuleFacts:
    import torch

    if raw.pop("clash", False):
        raise InvalidInputError(
            f"{what}: two tensors have the same name once the prefixes of compile and "
            "DistributedDataParallel wrappers are gone"
        )
    if raw.pop("own_get_state", False):
        raise InvalidInputError(
            f"{what}: {path_of(raw['cls'])} has a get_state of its own, so its state is not its "
            "torch state_dict. Keep what it adds in a persistent buffer instead."
        )
    weights = {}
    for name, value in raw["weights"].items():
        if not isinstance(name, str):
            raise InvalidInputError(f"{what}: a weight is named {name!r}, which is no string")
        weights[name] = (
            to_numpy(value, f"{what}: {name!r}") if isinstance(value, torch.Tensor) else value
        )
    raw["weights"] = weights
    return ModuleFacts(**raw)


def _multi_facts(raw: dict[str, Any]) -> MultiFacts:
    if raw["outside"]:
        raise InvalidInputError(
            f"{path_of(raw['cls'])} holds {raw['outside']} outside of its modules, which RLlib's "
            "own get_state leaves out as well. Make it a module of the MultiRLModule (as the "
            "shared encoder of RLlib's example is)."
        )
    return MultiFacts(
        cls=raw["cls"],
        observation_space=raw["observation_space"],
        action_space=raw["action_space"],
        inference_only=raw["inference_only"],
        model_config=raw["model_config"],
        modules={
            mid: _facts(facts, f"module {mid!r}") for mid, facts in sorted(raw["modules"].items())
        },
    )


def known_module(
    ids: Iterable[str], module_id: str | None, where: str, kind: str = "module"
) -> str:
    """The module that is meant: the given one, or the only one.

    Raises:
        NotFoundError: no such module; lists those there are.
        InvalidInputError: none was given and there are several.
    """
    known = sorted(ids)
    if module_id is None:
        if len(known) == 1:
            return known[0]
        kinds = "policies" if kind == "policy" else f"{kind}s"
        raise InvalidInputError(
            f"{where} has {len(known)} {kinds}, so say which one: {', '.join(map(repr, known))}"
        )
    if module_id not in known:
        raise NotFoundError(
            f"{where} has no {kind} {module_id!r}; it has {', '.join(map(repr, known))}"
        )
    return module_id
