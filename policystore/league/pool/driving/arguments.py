"""The arguments of an opponent pool, checked and in their final form."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from policystore.errors import InvalidInputError
from policystore.format.refs import check_name
from policystore.rllib.callbacks.trial import TRIAL
from policystore.rllib_schema.trials import LONGEST_TRIAL

__all__ = [
    "check_heuristics_known",
    "check_numbers",
    "check_used",
    "checked_agents",
    "checked_heuristics",
    "checked_names",
    "checked_slots",
    "is_count",
    "module_ids",
]

_PLACEHOLDER = re.compile(r"\{[^{}]*\}")
_PART = re.compile(r"[A-Za-z0-9._-]+")


def check_used(roles: Mapping[str, Any], given: Mapping[str, object]) -> None:
    """Check that at least one learner uses each of some arguments of a pool.

    A learner uses such an argument if its role has no value of its own.

    Args:
        roles: id of a learner -> its role.
        given: name of an argument of the pool, and of an attribute of roles -> value of the
            argument; None if the argument is absent.

    Raises:
        InvalidInputError: each role has its own value, so the argument would change nothing.
    """
    for name, value in given.items():
        if value is not None and all(getattr(role, name) for role in roles.values()):
            raise InvalidInputError(
                f"{name}= would change nothing, because each role has its own {name}: leave "
                f"{name}= out, or change the roles, such as Role({name}=…)"
            )


def checked_names(
    league: str, learners: Iterable[str], name: str | Mapping[str, str] | None
) -> dict[str, str]:
    """Return the names of the learners' snapshots.

    Args:
        league: name of the league.
        learners: ids of the learners.
        name: a name for a single learner; names by learner; or None for ``LEAGUE/LEARNER``.

    Raises:
        InvalidInputError: not names, or two learners with one name.
    """
    ids = list(learners)
    if name is None:
        odd = [each for each in ids if not _PART.fullmatch(each)]
        if odd:
            raise InvalidInputError(
                f"the policy id {odd[0]!r} cannot be part of a name: give name={{{odd[0]!r}: "
                f"'{league}/main'}}"
            )
        names = {each: f"{league}/{each}" for each in ids}
    elif isinstance(name, str):
        if len(ids) > 1:
            raise InvalidInputError(
                f"the learners {', '.join(map(repr, ids))} need a name each: name={{{ids[0]!r}: "
                f"{name!r}, …}}"
            )
        names = {ids[0]: name}
    else:
        names = dict(name)
        if set(names) != set(ids):
            raise InvalidInputError(
                f"name= has the learners {sorted(names)}, and learner= has {sorted(ids)}"
            )
    for each in names.values():
        for placeholder in _PLACEHOLDER.findall(str(each)):
            if placeholder != TRIAL:
                raise InvalidInputError(
                    f"a name may have the placeholder {TRIAL}, and no other one; found "
                    f"{placeholder} in {each!r}"
                )
        check_name(str(each).replace(TRIAL, "t" * LONGEST_TRIAL))
    if len(set(names.values())) < len(names):
        raise InvalidInputError(f"each learner needs a name of its own; two share one: {names}")
    return names


def checked_slots(slots: object) -> dict[str, tuple[str, ...]]:
    """Return kind -> ids of slots; a list of slots has the kind ``""``.

    Raises:
        InvalidInputError: neither a list of ids nor lists by kind, or no slot.
    """
    by_kind = slots if isinstance(slots, Mapping) else {"": slots}
    found: dict[str, tuple[str, ...]] = {}
    for kind, ids in by_kind.items():
        listed = None if isinstance(ids, (str, bytes)) or not isinstance(ids, Iterable) else [*ids]
        if not isinstance(kind, str) or not listed or not all(isinstance(i, str) for i in listed):
            raise InvalidInputError(
                "slots is a list of policy ids, such as ['opponent_0'], or such lists "
                f"by kind: {{'cnn': ['cnn_0'], 'mlp': ['mlp_0']}}; found {slots!r}"
            )
        found[kind] = tuple(listed)
    if not found:
        raise InvalidInputError("a pool needs at least one slot: slots=['opponent_0']")
    return found


def checked_heuristics(heuristics: object) -> dict[str, str]:
    """Return name -> policy id of each heuristic.

    Raises:
        InvalidInputError: not such a dict, or a name with other characters.
    """
    given = {} if heuristics is None else heuristics
    if not isinstance(given, Mapping) or not all(
        isinstance(name, str) and isinstance(pid, str) for name, pid in given.items()
    ):
        raise InvalidInputError(
            f"heuristics are policy ids by name: {{'random': 'random_policy'}}, not {given!r}"
        )
    for name in given:
        if not _PART.fullmatch(name):
            raise InvalidInputError(
                f"the name of a heuristic has letters, digits, '.', '_' and '-', not {name!r}"
            )
    return dict(given)


def check_heuristics_known(heuristics: Mapping[str, str], known: Iterable[str]) -> None:
    """Check that a config has the policies of heuristics.

    Without this check they would be new networks of the config, that nobody trains.

    Raises:
        InvalidInputError: the config lacks one.
    """
    for name, pid in heuristics.items():
        if pid not in known:
            raise InvalidInputError(
                f"the heuristic {name!r} is played by the policy {pid!r}, which the config lacks. "
                "Give the config its class before: config.rl_module(rl_module_spec="
                f"MultiRLModuleSpec(rl_module_specs={{{pid!r}: RLModuleSpec(module_class=…), …}})),"
                " or on the old API stack config.multi_agent(policies="
                f"{{{pid!r}: PolicySpec(policy_class=…)}})"
            )


def module_ids(config: Any) -> tuple[str, ...]:
    """Return the ids that the specs of a config's RLModules name; none on the old API stack."""
    spec = config.rl_module_spec if config.enable_rl_module_and_learner else None
    specs = getattr(spec, "rl_module_specs", None)
    return tuple(specs) if isinstance(specs, Mapping) else ()


def checked_agents(learner_agents: object, learners: Iterable[str]) -> dict[str, tuple[Any, ...]]:
    """Return id of a learner -> the agents that it may play.

    Raises:
        InvalidInputError: not lists of agents by learner, or another policy than a learner.
    """
    given = {} if learner_agents is None else learner_agents
    if not isinstance(given, Mapping) or not all(
        isinstance(each, Iterable) and not isinstance(each, (str, bytes)) for each in given.values()
    ):
        raise InvalidInputError(
            "learner_agents are lists of agents by learner: {'main': ['red']}, not "
            f"{learner_agents!r}"
        )
    known = list(learners)
    other = [pid for pid in given if pid not in known]
    if other:
        raise InvalidInputError(f"learner_agents= names {other}, and the learners are {known}")
    return {pid: tuple(each) for pid, each in given.items()}


def is_count(value: object) -> bool:
    """Tell whether a value is a whole number of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def check_numbers(
    seed: object, decay: object, refresh: object, filters: object, timeout: object
) -> None:
    """Check the arguments that are numbers, and ``filters``.

    Raises:
        InvalidInputError: one has another form.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InvalidInputError(f"seed is a whole number of at least 0, not {seed!r}")
    if isinstance(decay, bool) or not isinstance(decay, (int, float)) or not 0 <= decay <= 1:
        raise InvalidInputError(f"decay is a number from 0 to 1, not {decay!r}")
    if not is_count(refresh):
        raise InvalidInputError(f"refresh is a whole number of at least 1, not {refresh!r}")
    if filters not in ("refuse", "ignore"):
        raise InvalidInputError(f"filters is 'refuse' or 'ignore', not {filters!r}")
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout >= 0:
        raise InvalidInputError(f"timeout is a number of seconds, not {timeout!r}")
