"""Give restarted and added env runners what those before them were given.

Ray makes a crashed actor anew from the Algorithm's config: with random weights, without policies
that were added, and with the first mapping function. RLlib restores such an actor only if a call to
it failed (``algorithms/algorithm.py:restore_env_runners``), and the mapping function of the new
stack not even then. One that crashes while idle samples on as it was made, with random frozen
policies for ever; so does one that ``add_workers`` adds.

So each group's actor manager (``utils/actor_manager.py``) gets a guard, which changes two things:

- Each call of RLlib to an env runner first replays there what the runner has not taken part in
  (``worker_code/replay.py``), in the same task: nothing comes in between, no sample either.
- When RLlib looks for actors that have to be restored, which it does at the start of each training
  step, the guard asks Ray for restarts that RLlib has not noticed, and RLlib restores these actors
  as well: with the newest weights of policies in training, filters, and all that algorithms have of
  their own.

The replay comes before RLlib's restore, so what that restore brings wins. The weights stay in Ray's
object store, once for each policy, until the policy gets others or is removed.
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

# Attribute of ours on an actor manager: its guard lives and goes with it.
_GUARD = "_policystore_guard"
# Up to so many actors Ray is asked for each by itself; the answer about all lists those of others
# too.
_FEW = 8


def guards_of(algo: Algorithm) -> list[Guard]:
    """Return the guards of all groups of env runners, made where there is none yet."""
    guards = []
    for name, group in groups_of(algo):
        manager = actor_manager(group)
        if not hasattr(manager, _GUARD):
            setattr(manager, _GUARD, Guard(name, group))
        guards.append(getattr(manager, _GUARD))
    return guards


def remembered_policies(algo: Algorithm) -> list[str]:
    """Return ids of the policies whose weights env runners that come later would be given."""
    guards = [getattr(actor_manager(group), _GUARD, None) for _, group in groups_of(algo)]
    ids = (pid for guard in guards if guard is not None for pid in guard.policies())
    return list(dict.fromkeys(ids))


def gate(worker: Worker, function: Any) -> Any:
    """Return what to call on an actor instead of a function: that, behind the gate of its guard."""
    guard: Guard | None = getattr(worker.manager, _GUARD, None)
    return function if guard is None else guard.gated(function)


class _Gated:
    """A function behind the gate; pickled as a call of ``replay_then_call``."""

    def __init__(
        self, generation: int, program: ray.ObjectRef | None, function: Callable[..., Any] | str
    ) -> None:
        self._arguments = (generation, program, function)

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial, (ship(replay_then_call), *self._arguments)


class Guard:
    """Guard of one group of env runners.

    Attributes:
        mapping: the mapping function of the last transaction that had one, for groups without a
            local runner to take it from.
    """

    def __init__(self, name: str, group: EnvRunnerGroup) -> None:
        self.mapping: Callable[..., str] | None = None
        self._name = name
        self._group = weakref.ref(group)
        self._manager = actor_manager(group)
        # Number of transactions so far; workers count the same way (worker_code/rollback.py).
        self._generation = 0
        self._entries: list[ReplayEntry] = []
        self._program: tuple[Callable[..., str] | None, ray.ObjectRef] | None = None
        # By actor, as it was when RLlib last looked for actors to restore.
        self._seen: dict[int, tuple[str, int | None]] = {}
        if not intercept_manager(self._manager, self.gated, self._before_probe):
            _warn("this version of Ray calls env runners in another way")

    def start(self) -> None:
        """Note which actors there are, as long as there is nothing that one of them could lack."""
        if not self._generation:
            self._seen = self._incarnations()

    # What there is to replay ---------------------------------------------------------------------

    def record(self, entry: ReplayEntry) -> None:
        """Count a committed transaction, and keep what env runners that come later replay of it.

        Older entries lose what the new one makes needless. An entry without policies is not kept.
        """
        self._generation += 1
        self._program = None
        dropped: list[str] = []
        if entry.kind == "load":
            self._drop(entry.policies, ("load",))
        if entry.kind == "remove":
            dropped = self._drop(entry.policies, ("load", "add"))
            removed = {p for each in self._entries if each.kind == "remove" for p in each.policies}
            if "add" in dropped or removed >= set(entry.policies):
                return  # no policy of the config, with which every runner starts
        if entry.policies:
            self._entries.append(entry.replace(generation=self._generation))

    def policies(self) -> list[str]:
        """Return ids of the policies whose weights are kept."""
        return [pid for each in self._entries if each.kind != "remove" for pid in each.policies]

    def _drop(self, policies: tuple[str, ...], kinds: tuple[str, ...]) -> list[str]:
        """Take policies out of entries of some kinds; return the kinds of these entries."""
        kept, changed = [], []
        for entry in self._entries:
            left = tuple(pid for pid in entry.policies if pid not in policies)
            if entry.kind not in kinds or left == entry.policies:
                kept.append(entry)
                continue
            changed.append(entry.kind)
            if left:
                kept.append(entry.replace(policies=left))
        self._entries = kept
        return changed

    def _present_mapping(self) -> Callable[..., str] | None:
        """Return the mapping function of now: users may set another one by themselves."""
        group = self._group()
        local = None if group is None else local_runner(group)
        if local is None:
            return self.mapping
        mapping: Callable[..., str] | None = (
            local.policy_mapping_fn if is_old_worker(local) else local.config.policy_mapping_fn
        )
        return mapping

    def _reference(self) -> ray.ObjectRef:
        """Return a reference to the program, put into the object store anew only if it changed."""
        mapping = self._present_mapping()
        if self._program is None or self._program[0] is not mapping:
            wire = to_wire(ReplayProgram(self._entries, mapping))
            self._program = (mapping, ray.put((ship(catch_up), wire)))
        return self._program[1]

    # The gate ------------------------------------------------------------------------------------

    def gated(self, function: Callable[..., Any] | str) -> Any:
        """Return a function, or a method's name, to be called once its worker lacks nothing."""
        if not self._generation:
            return function
        try:
            return _Gated(self._generation, self._reference(), function)
        except Exception as error:
            _warn(f"{type(error).__name__}: {error}")
            return function

    # Restarts that RLlib has not noticed ---------------------------------------------------------

    def _before_probe(self) -> None:
        """Tell RLlib which actors were restarted, before it looks for actors to restore."""
        # RLlib's restore of offline evaluation runners fails by itself (algorithm.py:2395, ids as
        # one number); these get all their weights before each evaluation anyway.
        if not self._generation or self._name == "offline eval":
            return
        now = self._incarnations()
        for index, incarnation in now.items():
            if self._seen.get(index) != incarnation and self._manager.is_actor_healthy(index):
                # As one that was down and is back: RLlib restores it.
                self._manager.set_actor_state(index, healthy=False)
        self._seen = now

    def _incarnations(self) -> dict[int, tuple[str, int | None]]:
        """Return each actor's id, and how often it was restarted, as far as Ray has told."""
        actors = {index: actor_id(actor) for index, actor in self._manager.actors().items()}
        counts = _restarts(list(actors.values()))
        incarnations: dict[int, tuple[str, int | None]] = {}
        for index, name in actors.items():
            before = self._seen.get(index, ("", None))
            known = before[1] if before[0] == name else None
            incarnations[index] = (name, counts.get(name, known))
        return incarnations


def _restarts(actors: list[str]) -> dict[str, int]:
    """Return how often actors were restarted; empty where this version of Ray does not tell."""
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
        "Env runners that restart unnoticed may lack what RLlib restores others with: %s", why
    )
