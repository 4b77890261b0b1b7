"""Give restarted and added env runners the same weights and policies as all other env runners.

If an actor crashes, Ray makes the actor again from the Algorithm's config. The new actor has random
weights and the first mapping function, and it lacks the policies that were added. RLlib restores
such an actor only if a call to the actor failed (``algorithms/algorithm.py:restore_env_runners``).
On the new stack RLlib does not restore the mapping function even then. If an actor crashes while it
is idle, RLlib does not restore it, and the new actor samples with random frozen policies for ever.
The same is so for an env runner that ``add_workers`` adds.

So each group's actor manager (``utils/actor_manager.py``) gets a guard, which changes two things:

- Each call of RLlib to an env runner first replays in the env runner all changes that it has missed
  (``worker_code/replay.py``). The replay and the call are one task, so the env runner cannot sample
  in between.
- At the start of each training step, RLlib looks for actors that have to be restored. Then the
  guard asks Ray for restarts that RLlib has not noticed, and RLlib restores these actors as well.
  This restore brings the newest weights of policies in training, the filters, and the state that
  only some algorithms have.

The replay comes before RLlib's restore, so the values of RLlib's restore are the final ones. The
weights stay in Ray's object store, one copy for each policy, until other weights are loaded into
the policy or the policy is removed.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ray
from ray.rllib.algorithms.algorithm import Algorithm

from policystore._util.log import logger
from policystore.rllib.worker_code.compat import is_old_worker
from policystore.rllib.worker_code.messages.requests import ReplayEntry, ReplayProgram
from policystore.rllib.worker_code.messages.wire import to_wire
from policystore.rllib.worker_code.replay import catch_up, replay_then_call
from policystore.rllib.workers.by_value import ship
from policystore.rllib.workers.compat import (
    actor_id,
    actor_manager,
    groups_of,
    intercept_manager,
    local_runner,
    restart_counts,
)
from policystore.rllib.workers.discovery import Worker

if TYPE_CHECKING:
    from ray.rllib.env.env_runner_group import EnvRunnerGroup

__all__ = ["Guard", "gate", "guards_of", "remembered_policies"]

# The attribute of an actor manager that holds the manager's guard.
_GUARD = "_policystore_guard"
# For up to this many actors, Ray is asked about each actor separately. For more actors, Ray is
# asked once about all actors, and the answer also has the actors of other programs.
_FEW = 8


def guards_of(algo: Algorithm) -> list[Guard]:
    """Return the guards of all groups of env runners; make a guard for a group that has none."""
    guards = []
    for name, group in groups_of(algo):
        manager = actor_manager(group)
        if not hasattr(manager, _GUARD):
            setattr(manager, _GUARD, Guard(name, group))
        guards.append(getattr(manager, _GUARD))
    return guards


def remembered_policies(algo: Algorithm) -> list[str]:
    """Return ids of the policies whose weights are kept for env runners that come later."""
    guards = [getattr(actor_manager(group), _GUARD, None) for _, group in groups_of(algo)]
    ids = (pid for guard in guards if guard is not None for pid in guard.policies())
    return list(dict.fromkeys(ids))


def gate(worker: Worker, function: Any) -> Any:
    """Return a function that first runs the gate of the worker's guard, and then ``function``."""
    guard: Guard | None = getattr(worker.manager, _GUARD, None)
    return function if guard is None else guard.gated(function)


class _Gated:
    """A function that runs after the gate; its pickle is a call of ``replay_then_call``."""

    def __init__(
        self, generation: int, program: ray.ObjectRef | None, function: Callable[..., Any] | str
    ) -> None:
        self._arguments = (generation, program, function)

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial, (ship(replay_then_call), *self._arguments)


class Guard:
    """Guard of one group of env runners.

    Attributes:
        name: of the group, as reports show it.
        mapping: the mapping function of the last transaction that had a mapping function. It is
            used for groups without a local runner.
    """

    def __init__(self, name: str, group: EnvRunnerGroup) -> None:
        self.name = name
        self.mapping: Callable[..., str] | None = None
        self._group = weakref.ref(group)
        self._manager = actor_manager(group)
        # Number of transactions so far; workers count the same way (worker_code/rollback.py).
        self._generation = 0
        self._entries: list[ReplayEntry] = []
        self._program: tuple[Callable[..., str] | None, ray.ObjectRef] | None = None
        # By actor: its id and number of restarts when RLlib last looked for actors to restore.
        self._seen: dict[int, tuple[str, int | None]] = {}
        if not intercept_manager(self._manager, self.gated, self._before_probe):
            _warn("this version of Ray calls env runners in another way")

    def start(self) -> None:
        """Record the present actors, if no transaction was committed so far."""
        if not self._generation:
            self._seen = self._incarnations()

    # The changes to replay -----------------------------------------------------------------------

    def record(self, entries: list[ReplayEntry]) -> None:
        """Count a committed transaction, and keep its entries for env runners that come later.

        Policies are removed from older entries if a new entry makes these needless. An entry
        without policies is not kept.
        """
        self._generation += 1
        self._program = None
        for entry in entries:
            self._keep(entry.replace(generation=self._generation))

    def _keep(self, entry: ReplayEntry) -> None:
        if entry.kind == "load":
            self._drop(entry.policies, ("load",))
        if entry.kind == "remove":
            # A policy that the config does not have needs no removal: no new env runner has it.
            removed = {p for each in self._entries if each.kind == "remove" for p in each.policies}
            added = self._drop(entry.policies, ("load", "add"))["add"]
            entry = entry.replace(policies=tuple(set(entry.policies) - added - removed))
        if entry.policies:
            self._entries.append(entry)

    def policies(self) -> list[str]:
        """Return ids of the policies whose weights are kept."""
        return [pid for each in self._entries if each.kind != "remove" for pid in each.policies]

    def _drop(self, policies: tuple[str, ...], kinds: tuple[str, ...]) -> dict[str, set[str]]:
        """Remove policies from entries of some kinds; return the removed ones by kind."""
        kept: list[ReplayEntry] = []
        dropped: dict[str, set[str]] = {kind: set() for kind in kinds}
        for entry in self._entries:
            gone = set(entry.policies) & set(policies)
            if entry.kind not in kinds or not gone:
                kept.append(entry)
                continue
            dropped[entry.kind] |= gone
            left = tuple(pid for pid in entry.policies if pid not in gone)
            if left:
                kept.append(entry.replace(policies=left))
        self._entries = kept
        return dropped

    def _present_mapping(self) -> Callable[..., str] | None:
        """Return the present mapping function, which users may have set without policystore."""
        group = self._group()
        local = None if group is None else local_runner(group)
        if local is None:
            return self.mapping
        mapping: Callable[..., str] | None = (
            local.policy_mapping_fn if is_old_worker(local) else local.config.policy_mapping_fn
        )
        return mapping

    def _reference(self) -> ray.ObjectRef:
        """Return a reference to the replay program; a changed program is put into the store again.

        The store is Ray's object store.
        """
        mapping = self._present_mapping()
        if self._program is None or self._program[0] is not mapping:
            wire = to_wire(ReplayProgram(self._entries, mapping))
            self._program = (mapping, ray.put((ship(catch_up), wire)))
        return self._program[1]

    # The gate ------------------------------------------------------------------------------------

    def gated(self, function: Callable[..., Any] | str) -> Any:
        """Return a function that first replays missed changes, and then calls ``function``.

        Args:
            function: a function of the worker, or the name of one of the worker's methods.
        """
        if not self._generation:
            return function
        try:
            return _Gated(self._generation, self._reference(), function)
        except Exception as error:
            _warn(f"{type(error).__name__}: {error}")
            return function

    # Restarts that RLlib has not noticed ---------------------------------------------------------

    def _before_probe(self) -> None:
        """Mark restarted actors as unhealthy, before RLlib looks for actors to restore."""
        # RLlib's restore of offline evaluation runners fails by itself (algorithm.py:2395, ids as
        # one number). These runners get all their weights before each evaluation anyway.
        if not self._generation or self.name == "offline eval":
            return
        now = self._incarnations()
        for index, incarnation in now.items():
            if self._seen.get(index) != incarnation and self._manager.is_actor_healthy(index):
                # RLlib restores this actor like an actor that was down and answers again.
                self._manager.set_actor_state(index, healthy=False)
        self._seen = now

    def _incarnations(self) -> dict[int, tuple[str, int | None]]:
        """Return each actor's id and number of restarts; None if Ray has not told the number."""
        actors = {index: actor_id(actor) for index, actor in self._manager.actors().items()}
        counts = _restarts(list(actors.values()))
        incarnations: dict[int, tuple[str, int | None]] = {}
        for index, name in actors.items():
            before = self._seen.get(index, ("", None))
            known = before[1] if before[0] == name else None
            incarnations[index] = (name, counts.get(name, known))
        return incarnations


def _restarts(actors: list[str]) -> dict[str, int]:
    """Return the number of restarts by actor; empty if this version of Ray does not tell it."""
    if not actors:
        return {}
    try:
        return restart_counts(actors, _FEW)
    except Exception as error:
        _warn(f"this version of Ray does not tell which actors were restarted ({error!r})")
        return {}


@functools.cache
def _warn(why: str) -> None:
    logger.warning(
        "Env runners that restart without RLlib's notice may not be restored completely: %s", why
    )
