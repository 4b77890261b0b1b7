"""The arguments of calls that change a running Algorithm, and checks of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ray.rllib.utils.metrics import ALL_MODULES

from policystore._util.near import close_names, did_you_mean
from policystore.errors import InvalidInputError, NotFoundError
from policystore.rllib.common.build_guard import check_snapshot
from policystore.rllib.common.trust import Trust
from policystore.rllib.live.checks.compatibility import Compare
from policystore.rllib.worker_code.messages.answers import ToTrain, WorkerInfo
from policystore.rllib.workers.by_value import check_picklable
from policystore.snapshot import Snapshot

__all__ = [
    "Changes",
    "MappingFunction",
    "Steering",
    "check_compare",
    "check_functions",
    "check_known",
    "check_new_id",
    "check_overrides",
    "check_timeout",
    "check_to_train",
    "given_snapshots",
    "listed_ids",
    "split_by_module",
]

MappingFunction: TypeAlias = Callable[..., str]
"""RLlib's function of an agent's id and an episode; returns the id of a policy."""
_FORBIDDEN = frozenset('<>:"/\\|?*')
_LONGEST = 200  # bytes; most disks allow folder names of up to 255 bytes


@dataclass(frozen=True)
class Steering:
    """Name the policies that act and that are trained from now on; None keeps the present choice.

    Attributes:
        policy_mapping_fn: the mapping function for training. Evaluation gets the function, too,
            unless the config gives evaluation a function of its own.
        evaluation_policy_mapping_fn: the mapping function for evaluation alone.
        policies_to_train: ids of the policies to train, or RLlib's function that decides this.
        check: whether the mapping functions are asked which policies they name.
    """

    policy_mapping_fn: Callable[..., str] | None = None
    evaluation_policy_mapping_fn: Callable[..., str] | None = None
    policies_to_train: ToTrain | None = None
    check: bool = True


@dataclass(frozen=True)
class Changes:
    """Changes of one call, with arguments that were checked.

    Attributes:
        load: id of a policy -> snapshot to load into it.
        add: id of a new policy -> its snapshot.
        remove: ids of policies to remove.
        steering: which policies act and which are trained.
        agent_ids: id of a loaded or added policy -> agents whose filters get the statistics of its
            snapshot; None if the caller gave none.
        trust: classes that the added snapshots may name.
        config_overrides: id of a new policy -> values of the config that hold for it alone.
        compare: how spaces of loaded snapshots are compared.
        failed: the beginning of the message of a failure.
    """

    load: Mapping[str, Snapshot] = field(default_factory=dict)
    add: Mapping[str, Snapshot] = field(default_factory=dict)
    remove: tuple[str, ...] = ()
    steering: Steering = field(default_factory=Steering)
    agent_ids: Mapping[str, list[Any]] | None = None
    trust: Trust = ()
    config_overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    compare: Compare = "exact"
    failed: str = "nothing was changed"

    @property
    def steers(self) -> bool:
        """Whether another policy acts or is trained."""
        steering = self.steering
        return bool(self.remove) or any(
            each is not None
            for each in (
                steering.policy_mapping_fn,
                steering.evaluation_policy_mapping_fn,
                steering.policies_to_train,
            )
        )


def given_snapshots(snaps: object, call: str) -> dict[str, Snapshot]:
    """Return snapshots by policy id.

    Args:
        snaps: what the caller gave.
        call: how a right call looks, for messages.

    Raises:
        InvalidInputError: no dict of snapshots by id.
    """
    if not isinstance(snaps, Mapping):
        raise InvalidInputError(f"snapshots are given by policy id: {call}, not {snaps!r:.300}")
    for pid, snap in snaps.items():
        if not isinstance(pid, str):
            raise InvalidInputError(f"policy ids are strings; found {pid!r}: {call}")
        try:
            check_snapshot(snap)
        except InvalidInputError as error:
            raise error.within(f"policy {pid!r}") from None
    return dict(snaps)


def split_by_module(given: dict[str, Snapshot]) -> dict[str, Snapshot]:
    """Return the snapshots by module id, with the snapshot of several modules split by module."""
    if ALL_MODULES not in given:
        return given
    single = dict(given)
    together = single.pop(ALL_MODULES)
    parts = together.spec.modules
    if parts is None:
        raise InvalidInputError(
            f"{together!r} is of one module: give it under that module's id, not {ALL_MODULES!r}"
        )
    acting = together.spec.acting
    for mid, part in parts.items():
        start = f"{mid}/"
        weights = {
            name[len(start) :]: array
            for name, array in together.weights.items()
            if name.startswith(start)
        }
        names = [n[len(start) :] for n in acting or () if n.startswith(start)]
        if mid in single:
            raise InvalidInputError(f"module {mid!r} is given twice, alone and in {ALL_MODULES!r}")
        single[mid] = Snapshot(
            weights=weights, spec=part if acting is None else part.replace(acting=names)
        )
    return single


def listed_ids(policy_ids: object, argument: str) -> list[str]:
    """Return ids of policies as a list.

    Raises:
        InvalidInputError: one text, or nothing that can be listed.
    """
    if isinstance(policy_ids, (str, bytes)) or not isinstance(policy_ids, Iterable):
        raise InvalidInputError(f"{argument} is a list of ids: {argument}=[{policy_ids!r}]")
    return list(policy_ids)


def check_known(policy_ids: Iterable[str], info: WorkerInfo, advice: str = "") -> None:
    """Refuse ids of policies that the Algorithm does not have.

    Raises:
        NotFoundError: the message lists the policies of the Algorithm.
    """
    unknown = [pid for pid in policy_ids if pid not in info.ids]
    if unknown:
        advice = did_you_mean(close_names(unknown[0], info.ids)) + advice
        raise NotFoundError(
            f"the Algorithm has no policy {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(map(repr, info.ids))}" + (f".{advice}" if advice else "")
        )


def check_new_id(policy_id: object, info: WorkerInfo) -> None:
    """Refuse an id that no new policy can have.

    Raises:
        InvalidInputError: the Algorithm has it already, or RLlib could not save such a policy.
    """
    # core/rl_module/validators.py: ids become names of folders in checkpoints.
    if (
        not isinstance(policy_id, str)
        or not policy_id
        or policy_id[-1] in ". \\"
        or _FORBIDDEN & set(policy_id)
        or not policy_id.isprintable()
        or len(policy_id.encode("utf-8", "replace")) > _LONGEST
        or policy_id == ALL_MODULES
    ):
        raise InvalidInputError(
            f"a policy id is a printable text of at most {_LONGEST} bytes, without any of "
            f"{''.join(sorted(_FORBIDDEN))}, without a dot or space at its end, and not "
            f"{ALL_MODULES!r}; found {policy_id!r:.300}"
        )
    if policy_id in info.ids:
        raise InvalidInputError(
            f"the Algorithm has a policy {policy_id!r} already; load_into() gives it other "
            f"weights. It has {', '.join(map(repr, info.ids))}. Nothing was changed."
        )


def check_functions(to_train: object, **mappings: object) -> None:
    """Refuse mapping functions and choices of policies to train that workers cannot take.

    Args:
        to_train: RLlib's choice of policies to train; None is no choice.
        mappings: mapping functions by name of the argument; None is no function.

    Raises:
        InvalidInputError: something else, an empty choice, or a function that cannot be pickled.
    """
    for name, mapping in mappings.items():
        if mapping is not None and not callable(mapping):
            raise InvalidInputError(f"{name} is a function, not {mapping!r}")
    for name, given in (*mappings.items(), ("policies_to_train", to_train)):
        if callable(given):
            check_picklable(given, name)
    if to_train is None or callable(to_train):
        return
    if isinstance(to_train, (str, bytes)) or not isinstance(to_train, (list, tuple, set)):
        raise InvalidInputError(
            f"policies_to_train is a list, tuple or set of ids, or a function; not {to_train!r}"
        )
    if not to_train:
        raise InvalidInputError("policies_to_train is empty: nothing would be trained")


def check_to_train(policies_to_train: object, known: Collection[str]) -> None:
    """Refuse a choice that names policies that the Algorithm would not have.

    Raises:
        NotFoundError: the message lists the policies that the Algorithm would have.
    """
    if policies_to_train is None or callable(policies_to_train):
        return
    assert isinstance(policies_to_train, (list, tuple, set))  # noqa: S101 (check_functions)
    unknown = [pid for pid in policies_to_train if pid not in known]
    if unknown:
        advice = did_you_mean(close_names(str(unknown[0]), known))
        raise NotFoundError(
            f"policies_to_train names {unknown!r}, which the Algorithm would not have; it would "
            f"have {', '.join(map(repr, known))}.{advice} Nothing was "
            "changed."
        )


def check_overrides(overrides: object, policy_id: str) -> dict[str, Any] | None:
    """Return overrides of the config for one policy.

    Raises:
        InvalidInputError: no dict by names of settings.
    """
    if overrides is None:
        return None
    if not isinstance(overrides, Mapping) or not all(isinstance(key, str) for key in overrides):
        raise InvalidInputError(
            f"config_overrides of {policy_id!r} is a dict of settings, such as "
            f"PPOConfig.overrides(lr=0.0001), not {overrides!r:.300}"
        )
    return dict(overrides)


def check_compare(spaces: object) -> None:
    """Refuse other values of ``spaces=`` than ``"exact"`` and ``"shape"``."""
    if spaces not in ("exact", "shape"):
        raise InvalidInputError(f'spaces is "exact" or "shape", not {spaces!r}')


def check_timeout(timeout: object) -> float:
    """Return a number of seconds above 0 that the caller gave.

    Raises:
        InvalidInputError: something else.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0:
        raise InvalidInputError(f"timeout is a number of seconds above 0, not {timeout!r}")
    return float(timeout)
