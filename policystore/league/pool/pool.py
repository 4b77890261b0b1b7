"""Let policies in training play against opponents from a league: :class:`OpponentPool`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.policy.policy import PolicySpec

from policystore.errors import InvalidInputError, NotFoundError
from policystore.league.env_identity import identify_env
from policystore.league.pool.candidates import Keep, check_keep, keep_all
from policystore.league.pool.driver import Driver
from policystore.league.pool.driving.arguments import (
    check_heuristics_known,
    check_numbers,
    check_used,
    checked_agents,
    checked_heuristics,
    checked_names,
    checked_slots,
    module_ids,
)
from policystore.league.pool.driving.settings import DriverSettings, Learner
from policystore.league.pool.messages import Draws, RunnerAnswer, RunnerRequest
from policystore.league.pool.roles import Role
from policystore.league.pool.runner import PoolCallbacks, PoolMapping, PoolSettings, exchange
from policystore.league.pool.runner.settings import Outcome, check_env, sides_of
from policystore.league.pool.samplers import Sampler, check_sampler, prioritised
from policystore.league.pool.triggers import Trigger, check_trigger, when_better
from policystore.rllib.callbacks.factory import CallbackFactory, CallbackMaker
from policystore.rllib.worker_code.tensors import PolicyAccess

if TYPE_CHECKING:
    from policystore.league.league import League

__all__ = ["DrivenCallbacks", "OpponentPool", "driver_of", "opponents_of"]

_DRIVER = "_policystore_opponent_pool"


class OpponentPool(CallbackFactory):
    """Callbacks that give policies in training opponents from a league, on both API stacks.

    Use::

        league = League("s3://team/policies", "soccer")
        pool = OpponentPool(league, learner="main", slots=["opponent_0", "opponent_1"])
        config = pool.configure(PPOConfig().environment(Soccer))

    in ``tune.Tuner``, or for an Algorithm that is built by hand. ``docs/league.md`` has a whole
    program, and says what happens inside.

    A few frozen policies of the config are *slots*. At the start of an episode, the env runner
    draws a learner and opponents, pulls the opponents through the cache of its node, and loads them
    into slots, for itself alone. Any number of opponents needs only the memory of the
    slots and ``cached_bytes``. Snapshots of the learners become opponents, the first one before the
    first sample. Each finished episode is recorded in the league under the opponents that played it
    from its first to its last step, or counted as unknown, with the reason.

    Training results show the progress under ``policystore/opponent_pool``: ``matches``,
    ``episodes``, ``unknown``, ``waiting`` (matches that the store does not have yet), ``swaps``,
    ``failed`` (loads of opponents that failed), ``silent`` (env runners that did not answer in
    time), ``round``, ``error``, ``seconds`` (the time of the pool in this iteration, in the process
    of the Algorithm), and for each learner, under its id, ``candidates``, ``win_rate``,
    ``snapshots``, ``resets``, ``player``, ``name``, ``pushed`` and ``error``.

    Args:
        league: the league. Every node that runs a trial or env runners has to reach its store.
        learner: policy id of the learner; several ids; or roles by id, see :class:`Role`.
        slots: policy ids of the slots, which must not be trained. With one slot for each opponent
            of each sub-environment, each episode has opponents of its own. If opponents have
            different networks or spaces: lists by kind, ``{"cnn": ["cnn_0"], "mlp": ["mlp_0"]}``.
        sampler: which opponent plays next, such as ``uniform()``; or a function of ``(payoffs,
            candidates, rng)`` that returns a candidate, or one probability for each candidate. The
            default is ``prioritised(power=2)``.
        snapshot: when a learner becomes a member: ``every(10)``, ``when_better(0.7)``, or a
            function of a :class:`Progress`.
        name: name of the snapshots in the store; for several learners names by id. The default is
            ``LEAGUE/LEARNER``. ``{trial}`` stands for the name of the trial's folder: each trial
            then has a pool of its own, and otherwise all trials share one.
        candidates: which snapshots stay candidates: ``keep_all()``, ``keep_last(20)``,
            ``keep_best(20)``, ``keep_diverse(20)``, or a function of ``(payoffs, candidates)``. The
            store keeps all of them.
        opponents: refs of stored policies that are always candidates.
        heuristics: name -> id of a policy of the config that plays as it is: it has no weights to
            load. Its player is ``heuristic:NAME``.
        learner_agents: agents that a learner may play, by its id; a learner that is absent may play
            every agent. For each episode one of them is drawn.
        teams: agent -> team. A policy plays all agents of a team.
        agent_ids: the agents, if the environment does not name them.
        outcome: who wins: ``"returns"``, the higher one; None, nobody; or a function of an
            ``EndedEpisode`` that returns a score for each agent.
        seed: seed of all choices. The same seed and league give the same choices.
        decay: how much a learner's episodes count for samplers, relative to episodes of its next
            snapshot.
        same_for_all: whether all env runners play the same opponent, one for each iteration.
        refresh: iterations from one look for matches and snapshots of other writers to the next.
        filters: ``"refuse"`` if the env runners normalise observations by their statistics, which
            opponents cannot have for themselves; ``"ignore"`` to play all the same.
        first_episodes: as for :class:`PoolSettings`: without the bias to short episodes.
        restart_for_round: as for :class:`PoolSettings`: new opponents in shared slots.
        cached_bytes: bytes of snapshots that an env runner keeps in memory, beside its slots.
        timeout: seconds that ``algorithm.stop()`` waits for pushes.
        callbacks: callback classes of the user, one or a list; called after those of the pool. With
            ``publish`` and ``warm_start``: ``callbacks=[warm_start(…), MyCallbacks]``.

    Attributes:
        policy_mapping_fn: the mapping function for ``config.multi_agent()``.
        learners: policy ids of the learners.
        slots: policy ids of all slots.

    Raises:
        InvalidInputError: an argument of the wrong form.
        ReadOnlyError: the store was opened read-only.

    The Algorithm raises one InvalidInputError with everything that is wrong with the config, while
    it is built (in Tune: in the trial's first ``train()``). Its first ``train()`` or ``evaluate()``
    raises MismatchError if stored opponents fit no slot, NotFoundError for unknown refs, and
    StorageError if the store cannot be reached. Later, an absent store does not stop the training.
    """

    def __init__(
        self,
        league: League,
        learner: str | Sequence[str] | Mapping[str, Role] = "main",
        slots: Sequence[str] | Mapping[str, Sequence[str]] = ("opponent_0",),
        *,
        sampler: Sampler | None = None,
        snapshot: Trigger | None = None,
        name: str | Mapping[str, str] | None = None,
        candidates: Keep | None = None,
        opponents: Iterable[str] = (),
        heuristics: Mapping[str, str] | None = None,
        learner_agents: Mapping[str, Sequence[Any]] | None = None,
        teams: Mapping[Any, str] | None = None,
        agent_ids: Sequence[Any] = (),
        outcome: Outcome | str | None = "returns",
        seed: int = 0,
        decay: float = 0.5,
        same_for_all: bool = False,
        refresh: int = 10,
        filters: str = "refuse",
        first_episodes: int | None = None,
        restart_for_round: bool = False,
        cached_bytes: int = 32 * 2**20,
        timeout: float = 60.0,
        callbacks: CallbackMaker | Iterable[CallbackMaker] = (),
    ) -> None:
        if not callable(getattr(league, "record", None)):
            raise InvalidInputError(
                "an opponent pool takes a league first: OpponentPool(League(store, 'soccer'), "
                f"learner='main', slots=['opponent_0']), not {league!r}"
            )
        league.store._check_writable("OpponentPool")
        roles = _roles(learner)
        check_used(roles, {"sampler": sampler, "snapshot": snapshot, "candidates": candidates})
        defaults = Role(
            sampler=prioritised() if sampler is None else sampler,
            snapshot=when_better() if snapshot is None else snapshot,
            candidates=keep_all() if candidates is None else candidates,
        )
        names = checked_names(league.name, roles, name)
        by_kind = checked_slots(slots)
        beside = checked_heuristics(heuristics)
        check_numbers(seed, decay, refresh, filters, timeout)
        if isinstance(opponents, (str, bytes)):
            raise InvalidInputError(f"opponents is a list of refs: [{opponents!r}]")
        runner_settings = PoolSettings(
            league.store,
            league.name,
            tuple(roles),
            by_kind,
            checked_agents(learner_agents, roles),
            dict(teams or {}),
            tuple(agent_ids),
            outcome=outcome,
            filters=filters,
            first_episodes=first_episodes,
            restart_for_round=restart_for_round,
            cached_bytes=cached_bytes,
        )
        driver_settings = DriverSettings(
            league=league,
            learners=tuple(
                _learner(pid, role, defaults, names[pid], roles) for pid, role in roles.items()
            ),
            slots=by_kind,
            heuristics=beside,
            opponents=tuple(map(str, opponents)),
            seed=seed,
            decay=float(decay),
            same_for_all=bool(same_for_all),
            refresh=refresh,
            filters=filters,
            timeout=float(timeout),
            opponents_each=max(0, len(sides_of(runner_settings, agent_ids)) - 1),
            mapping=PoolMapping,
            exchange=exchange_with,
            env_of=env_of,
        )
        super().__init__(
            DrivenCallbacks, {"settings": runner_settings, "driver": driver_settings}, callbacks
        )
        self.policy_mapping_fn: Callable[..., str] = PoolMapping(runner_settings)
        self.learners = tuple(roles)
        self.slots = tuple(slot for ids in by_kind.values() for slot in ids)
        self._heuristics = beside

    def __repr__(self) -> str:
        driver = self.settings["driver"]
        return (
            f"<OpponentPool({driver.league!r}, learner={list(self.learners)}, "
            f"slots={list(self.slots)})>"
        )

    def configure(self, config: AlgorithmConfig) -> AlgorithmConfig:
        """Set the policies, the mapping function and the callbacks of a config, and return it.

        Policies that the config has stay as they are. Learners and slots that it lacks are added,
        with the network of the config. Heuristics have classes of their own, so the config has to
        have them. Only the learners are trained.

        Args:
            config: a config with an environment, without callbacks.

        Raises:
            InvalidInputError: the config has callbacks, which ``config.callbacks(pool)`` would
                replace; it has no policy of a heuristic; or its environment is for one agent.
        """
        check_env(config.env)
        if config.callbacks_class is not AlgorithmConfig().callbacks_class:
            raise InvalidInputError(
                f"the config has callbacks, {config.callbacks_class!r}, which those of the pool "
                "would replace: pass them as OpponentPool(…, callbacks=MyCallbacks)"
            )
        known = {
            pid: spec for pid, spec in (config.policies or {}).items() if pid != "default_policy"
        }
        ids = (*self.learners, *self.slots, *self._heuristics.values())
        policies = {**{pid: PolicySpec() for pid in ids}, **known}
        check_heuristics_known(self._heuristics, {*known, *module_ids(config)})
        config.multi_agent(
            policies=policies,
            policy_mapping_fn=self.policy_mapping_fn,
            policies_to_train=list(self.learners),
        )
        config.callbacks(self)
        return config


class DrivenCallbacks(PoolCallbacks):
    """The callbacks of a pool: those of env runners, and those of the Algorithm's process.

    Args:
        settings: what env runners need.
        driver: what the driver needs.
    """

    def __init__(self, settings: PoolSettings, driver: DriverSettings) -> None:
        super().__init__(settings)
        self._driver_settings = driver
        self._driver: Driver | None = None

    def on_algorithm_init(self, *, algorithm: Algorithm, **_: Any) -> None:
        """Check the Algorithm, after its workers were made."""
        if getattr(algorithm, _DRIVER, None) is not None:
            raise InvalidInputError(
                "the config has two opponent pools: give one pool several learners, "
                "learner=['main', 'exploiter']"
            )
        self._driver = Driver(self._driver_settings, algorithm)
        setattr(algorithm, _DRIVER, self._driver)

    def on_train_result(self, *, result: dict[str, Any], **_: Any) -> None:
        """Do what is due after each iteration."""
        if self._driver is not None:
            self._driver.on_train_result(result)

    def on_evaluate_end(self, **_: Any) -> None:
        """Gather what evaluation workers have recorded."""
        if self._driver is not None:
            self._driver.on_evaluate_end()

    def on_env_runners_recreated(self, **_: Any) -> None:
        """Give restarted env runners the present tables."""
        if self._driver is not None:
            self._driver.on_env_runners_recreated()

    def on_workers_recreated(self, **_: Any) -> None:
        """Give restarted workers the present tables; the name of the call in older Ray."""
        if self._driver is not None:
            self._driver.on_env_runners_recreated()


def driver_of(algorithm: Algorithm) -> Driver:
    """Return the driver of an Algorithm's pool.

    Raises:
        NotFoundError: the Algorithm has no pool.
    """
    driver: Driver | None = getattr(algorithm, _DRIVER, None)
    if driver is None:
        raise NotFoundError(
            f"{algorithm} has no opponent pool: config.callbacks(OpponentPool(…)) before the build"
        )
    return driver


def opponents_of(algorithm: Algorithm) -> dict[str, dict[str, str]]:
    """Return which opponents the slots of each env runner hold, as the env runners last told.

    ``check_sync`` asks the env runners themselves, and compares digests of the weights.

    Returns:
        Name of an env runner, such as ``"train 1"`` -> slot -> opponent, such as
        ``"soccer/main@17"``. An env runner that has not answered yet is absent.

    Raises:
        NotFoundError: the Algorithm has no pool.
    """
    return driver_of(algorithm).holding()


def exchange_with(worker: Any, request: RunnerRequest, draws: Draws | None) -> RunnerAnswer:
    """Call :func:`exchange` with an env runner, or with the access to one of this process."""
    env_runner = worker.worker if isinstance(worker, PolicyAccess) else worker
    return exchange(env_runner, replace(request, draws=draws))


def env_of(config: Any) -> tuple[str, str]:
    """Return id and digest of the environment of a config; empty texts if it has no name."""
    try:
        identity = identify_env(config.env, config.env_config or None)
    except InvalidInputError:
        return "", ""
    return identity.id, identity.digest


def _roles(learner: object) -> dict[str, Role]:
    roles: dict[Any, Any] = {}
    if isinstance(learner, str):
        roles = {learner: Role()}
    elif isinstance(learner, Mapping):
        roles = dict(learner)
    elif isinstance(learner, Sequence):
        roles = {pid: Role() for pid in learner}
    if not roles or not all(
        isinstance(pid, str) and isinstance(role, Role) for pid, role in roles.items()
    ):
        raise InvalidInputError(
            "learner is a policy id, a list of ids, or roles by id: {'main': Role()}, not "
            f"{learner!r}"
        )
    return roles


def _learner(pid: str, role: Role, defaults: Role, name: str, roles: Mapping[str, Role]) -> Learner:
    for argument, ids in (("against", role.against or ()), ("live", role.live)):
        unknown = [each for each in ids if each not in roles]
        if unknown:
            raise InvalidInputError(
                f"{argument}= of {pid!r} names {unknown}, and the learners are {sorted(roles)}"
            )
    chosen = {
        field: getattr(role, field) or getattr(defaults, field)
        for field in ("sampler", "snapshot", "candidates")
    }
    check_sampler(chosen["sampler"])
    check_trigger(chosen["snapshot"])
    check_keep(chosen["candidates"])
    return Learner(
        id=pid,
        name=name,
        against=None if role.against is None else tuple(role.against),
        live=tuple(role.live),
        reset=float(role.reset),
        reset_to=role.reset_to,
        share=float(role.share),
        **chosen,
    )
