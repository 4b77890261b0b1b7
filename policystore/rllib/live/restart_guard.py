"""Env runners that are restarted, or added later, are given what those before them were given.

Ray makes a crashed actor anew from the Algorithm's config: with random weights, without policies
that were added, and with the first mapping function. RLlib restores one only if a call to it failed
(``algorithms/algorithm.py:restore_env_runners``), the mapping function of the new stack not even
then. One that crashes while idle samples on as it was made, with random frozen policies for ever;
so does one that ``add_workers`` adds.

So each group's actor manager (``utils/actor_manager.py``) gets a guard, which changes two things:

- Whatever RLlib calls an env runner with first does there what is lacking (``worker_restarts.py``),
  in the same task: nothing comes in between, no sample either.
- Whenever RLlib looks for who has to be restored, which it does at the start of each training step,
  restarts that it has not noticed are looked up with Ray, and it restores these as well: with the
  newest weights of policies in training, filters, and all that algorithms have of their own.

What is done anew comes before RLlib's restore, so what that brings wins. The weights stay in Ray's
object store, once for each policy, until the policy gets others or leaves.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.rllib.algorithms.algorithm import Algorithm

from policystore._util.log import logger
from policystore.rllib.live.transaction import Payload
from policystore.rllib.worker_code.replay import catch_up, replay_then_call
from policystore.rllib.workers.by_value import ship
from policystore.rllib.workers.calls import GROUPS, GUARD, Worker

__all__ = ["forget", "mapping", "remember", "remembered", "watch"]

# Up to so many actors each is asked for by itself; the answer about all lists those of others too.
_FEW = 8


def watch(algo: Algorithm) -> list[_Guard]:
    """The guards of all groups. To be called before each wave, so that no restart is missed."""
    guards = []
    for name, attribute in GROUPS:
        group = getattr(algo, attribute, None)
        if group is None:
            continue
        manager = group._worker_manager
        guard = getattr(manager, GUARD, None)
        if guard is None:
            guard = _Guard(name, group)
            setattr(manager, GUARD, guard)
        guards.append(guard)
        guard.start()
    return guards


def remember(
    algo: Algorithm,
    team: list[Worker],
    job: Mapping[str, Any],
    payload: Payload,
    *,
    join: Callable[..., Any] | None = None,
) -> None:
    """After a wave of weights went through: those who come later are to have them as well.

    Args:
        algo: whose.
        team: who took part.
        job: of the wave; what it has ``plans`` for are its policies.
        payload: of the wave, as its actors got it.
        join: the worker function by which its policies came in; None where they were there.
    """
    runner = next((worker for worker in team if worker.manager is not None), None)
    # Without actors nothing is kept. Those who are added then come to RLlib's restore at once.
    entry: dict[str, Any] | None = None
    if runner is not None:
        entry = {
            "kind": "put" if join is None else "join",
            "policies": tuple(job["plans"]),
            "job": dict(job),
            "payload": payload.of(runner),
            "function": None if join is None else ship(join),
        }
    for guard in watch(algo):
        guard.add(entry)


def forget(algo: Algorithm, policy_id: str) -> None:
    """After a policy was removed by a wave: those who come later are not to have it either."""
    for guard in watch(algo):
        guard.drop(policy_id)


def mapping(algo: Algorithm, function: Callable[..., Any]) -> None:
    """After all got a new mapping function: for groups without a local runner to take it from."""
    for guard in watch(algo):
        guard.mapping = function


def remembered(algo: Algorithm) -> list[str]:
    """The policies that those who come later would be given."""
    found: dict[str, None] = {}
    for _, attribute in GROUPS:
        group = getattr(algo, attribute, None)
        guard = None if group is None else getattr(group._worker_manager, GUARD, None)
        if guard is not None:
            found |= dict.fromkeys(guard.policies())
    return list(found)


class _Gated:
    """What goes to an actor in place of a function: that, behind the gate."""

    def __init__(self, generation: int, program: Any, function: Any) -> None:
        self._arguments = (generation, program, function)

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial, (ship(replay_then_call), *self._arguments)


class _Guard:
    """Of one group of env runners."""

    def __init__(self, name: str, group: Any) -> None:
        self.mapping: Any = None
        self._name = name
        self._group = weakref.ref(group)
        self._manager = group._worker_manager
        self._generation = 0
        self._entries: list[dict[str, Any]] = []
        self._program: tuple[Any, Any] | None = None
        self._seen: dict[int, tuple[str, int | None]] = {}
        self._call = getattr(self._manager, "_call_actors", None)
        self._probe = getattr(self._manager, "probe_unhealthy_actors", None)
        if self._call is None or self._probe is None:
            _warn("this version of Ray calls env runners in another way")
            return
        self._manager._call_actors = self._call_gated
        self._manager.probe_unhealthy_actors = self._look_and_probe

    def start(self) -> None:
        """Note who is there, as long as there is nothing that somebody could lack."""
        if not self._generation:
            self._seen = self._incarnations()

    # What there is to be done anew ---------------------------------------------------------------

    def add(self, entry: dict[str, Any] | None) -> None:
        """The wave that just went through; None if there is nothing to be kept of it."""
        self._next()
        if entry is None:
            return
        if entry["kind"] == "put":
            self._without(entry["policies"], ("put",))
        self._entries.append({**entry, "generation": self._generation})

    def policies(self) -> list[str]:
        """What there are weights of."""
        return [pid for each in self._entries if each["kind"] != "drop" for pid in each["policies"]]

    def drop(self, policy_id: str) -> None:
        """A policy left."""
        self._next()
        joined = self._without((policy_id,), ("put", "join"))
        dropped = any(e["kind"] == "drop" and policy_id in e["policies"] for e in self._entries)
        if "join" not in joined and not dropped:
            # It is one of the config, with which everyone starts.
            self._entries.append(
                {"kind": "drop", "policies": (policy_id,), "generation": self._generation}
            )

    def _next(self) -> None:
        # Workers count the same way (worker_side.commit).
        self._generation += 1
        self._program = None

    def _without(self, policies: tuple[str, ...], kinds: tuple[str, ...]) -> list[str]:
        """Take policies out of entries; tells of what kinds these were."""
        kept, found = [], []
        for entry in self._entries:
            left = tuple(pid for pid in entry["policies"] if pid not in policies)
            if entry["kind"] not in kinds or left == entry["policies"]:
                kept.append(entry)
                continue
            found.append(entry["kind"])
            if left:
                kept.append({**entry, "policies": left})
        self._entries = kept
        return found

    def _mapping_now(self) -> Any:
        """As it is now: users may set another one by themselves."""
        group = self._group()
        local = getattr(group, "local_env_runner", None)
        if local is None:
            return self.mapping
        if hasattr(local, "policy_map"):
            return local.policy_mapping_fn
        return local.config.policy_mapping_fn

    def _reference(self) -> Any:
        """To the program; it is put into the object store anew only where it changed."""
        function = self._mapping_now()
        if self._program is None or self._program[0] is not function:
            program = {
                "catch_up": ship(catch_up),
                "entries": self._entries,
                "mapping": function,
            }
            self._program = (function, ray.put(program))
        return self._program[1]

    # The gate ------------------------------------------------------------------------------------

    def gated(self, function: Any) -> Any:
        """A function, or a method's name, to be called after what its worker lacks was done."""
        if not self._generation:
            return function
        try:
            return _Gated(self._generation, self._reference(), function)
        except Exception as error:
            _warn(f"{type(error).__name__}: {error}")
            return function

    def _call_gated(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        gated = [self.gated(f) for f in func] if isinstance(func, list) else self.gated(func)
        return self._call(gated, *args, **kwargs)  # type: ignore[misc]

    # The look ------------------------------------------------------------------------------------

    def _look_and_probe(self, *args: Any, **kwargs: Any) -> Any:
        # RLlib's restore of offline evaluation runners fails by itself (algorithm.py:2395, ids as
        # one number); these get all their weights before each evaluation anyway.
        if self._generation and self._name != "offline eval":
            self._look()
        return self._probe(*args, **kwargs)  # type: ignore[misc]

    def _look(self) -> None:
        """Whoever is new: RLlib is to treat it as one that was down and is back."""
        now = self._incarnations()
        for index, found in now.items():
            if self._seen.get(index) != found and self._manager.is_actor_healthy(index):
                self._manager.set_actor_state(index, healthy=False)
        self._seen = now

    def _incarnations(self) -> dict[int, tuple[str, int | None]]:
        """By worker: its actor, and how often that was restarted, as far as Ray has told."""
        actors = {index: actor._actor_id.hex() for index, actor in self._manager.actors().items()}
        counts = _restarts(list(actors.values()))
        found: dict[int, tuple[str, int | None]] = {}
        for index, name in actors.items():
            before = self._seen.get(index, ("", None))
            known = before[1] if before[0] == name else None
            found[index] = (name, counts.get(name, known))
        return found


def _restarts(actors: list[str]) -> dict[str, int]:
    """How often actors were restarted: a count that rises before one answers again."""
    if not actors:
        return {}
    try:
        from ray._private.state import actors as table

        if len(actors) <= _FEW:
            rows = {name: table(name) for name in actors}
        else:
            job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
            rows = table(job_id=job)
        return {name: int(rows[name]["NumRestarts"]) for name in actors if rows.get(name)}
    except Exception as error:
        _warn(f"this version of Ray does not tell who was restarted ({error!r})")
        return {}


@functools.cache
def _warn(why: str) -> None:
    logger.warning(
        "Env runners that restart unnoticed may lack what RLlib restores others with: %s", why
    )
