"""The part of an opponent pool that lives in one env runner: :class:`RunnerPool`.

An adapter for each API stack (``new_stack.py``, ``old_stack.py``) translates RLlib's callbacks into
four calls: :meth:`RunnerPool.begin`, :meth:`~RunnerPool.start`, :meth:`~RunnerPool.step` and
:meth:`~RunnerPool.end`. The driver calls :meth:`RunnerPool.exchange`. All calls come from the one
thread in which the env runner samples.
"""

from __future__ import annotations

import contextlib
import secrets
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from policystore.league.pool.messages import (
    EpisodeRecord,
    RunnerAnswer,
    RunnerRequest,
)
from policystore.league.pool.runner import mapping, reasons
from policystore.league.pool.runner.buffer import RecordBuffer
from policystore.league.pool.runner.draws import Drawer, Drawn, Place
from policystore.league.pool.runner.matches import (
    RefusedEpisodeError,
    RolePlayer,
    explores,
    match_of,
)
from policystore.league.pool.runner.settings import EndedEpisode, PoolSettings, sides_of
from policystore.league.pool.runner.slots import Seat, Slots
from policystore.league.pool.runner.weights import WeightWatch
from policystore.rllib.worker_code.compat import (
    is_old_worker,
    restart_all_episodes,
    restart_every_episode,
)
from policystore.rllib.worker_code.tensors import PolicyAccess

__all__ = ["EpisodeUnderWay", "RunnerPool"]


@dataclass
class EpisodeUnderWay:
    """An episode that has begun and not ended.

    Attributes:
        episode_id: RLlib's id.
        sides: agents that play together.
        policies: agent -> id of the policy that was chosen for it.
        seats: policy id -> the seat of an opponent, for opponents that do not train.
        ordinal: 1 for the first episode of the sub-environment since all of them were started anew.
        reason: why the episode cannot be recorded; "" if it can.
        started: whether the environment has been reset for it.
        first: policy id -> digest of the weights of the first step, for policies in training; empty
            before the first step.
        booked: policy id -> player and label, for policies in training.
        notes: what the adapter of the API stack notes for itself.
        noted: the digests, as in ``first``, of the last two calls of ``note_weights``.
    """

    episode_id: str
    sides: Sequence[Sequence[Any]]
    policies: Mapping[Any, str]
    seats: Mapping[str, Seat]
    ordinal: int
    reason: str = ""
    started: bool = False
    first: dict[str, str] = field(default_factory=dict)
    booked: dict[str, tuple[str, str]] = field(default_factory=dict)
    notes: Any = None
    noted: deque[dict[str, str]] = field(default_factory=lambda: deque(maxlen=2))


class RunnerPool:
    """Draws, loads and records the opponents of one env runner.

    No call raises an error into RLlib's sample: an episode about which something went wrong is not
    recorded and is counted under its reason. An episode is recorded under an opponent's name only
    if the opponent's weights, bit for bit, were in the slot from the first step to the last.

    A copy or a pickle of a pool is another life: it has the settings, and no records.

    Args:
        settings: the settings of the pool.

    Attributes:
        settings: the settings.
        life: random id of this object.
        under_way: number of a sub-environment -> its episode.
        slots: the slots.
        watch: digests of what the policies of the env runner hold.
    """

    def __init__(self, settings: PoolSettings) -> None:
        self.settings = settings
        self.life = secrets.token_hex(8)
        self.under_way: dict[int, EpisodeUnderWay] = {}
        self._buffer = RecordBuffer(settings.max_records)
        self.watch = WeightWatch()
        self.slots = Slots(settings, self.watch, self._buffer)
        self._default = mapping.PoolMapping(settings).default
        self._drawer: Drawer | None = None
        self._started = 0
        self._numbers: dict[int, int] = {}
        self._ordinals: dict[int, int] = {}
        self._ids: dict[int, deque[str]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return RunnerPool, (self.settings,)

    # An episode ----------------------------------------------------------------------------------

    def begin(
        self, runner: Any, env_index: int, episode_id: str, agents: Sequence[Any], num_envs: int
    ) -> None:
        """Choose who plays a new episode, and load the opponents that are missing.

        If the sub-environment's last episode has not ended, RLlib is starting all sub-environments
        anew, and all their episodes are given up: RLlib makes a new episode alone only after the
        end of the old one (``env/multi_agent_env_runner.py:483``).

        Args:
            runner: the env runner.
            env_index: number of the sub-environment.
            episode_id: RLlib's id of the episode.
            agents: the agents that may play in it.
            num_envs: number of sub-environments of the env runner.
        """
        if env_index in self.under_way:
            self.give_up(runner)
        ordinal = self._ordinals[env_index] = self._ordinals.get(env_index, 0) + 1
        number = self._numbers[env_index] = self._numbers.get(env_index, -1) + 1
        sides: list[tuple[Any, ...]] = []
        chosen: dict[Any, str] = {}
        seats: dict[str, Seat] = {}
        reason = reasons.FAILED
        with self._guarded():
            sides = sides_of(self.settings, agents)
            self.slots.arrange(num_envs, max(1, len(sides) - 1))
            drawn = self._draw(Place(_evaluates(runner), _index(runner), env_index, number), sides)
            if drawn is None:
                reason = reasons.NOT_DRAWN
            else:
                others = [side for at, side in enumerate(sides) if at != drawn.side]
                access, busy = PolicyAccess(runner), self._busy(env_index)
                seated = self.slots.seat(access, env_index, drawn.opponents, busy)
                chosen = dict.fromkeys(sides[drawn.side], drawn.learner)
                for side, seat in zip(others, seated, strict=True):
                    chosen |= dict.fromkeys(side, seat.policy_id)
                    if seat.policy_id not in self.settings.learners:
                        seats[seat.policy_id] = seat
                reason = "" if all(seat.player for seat in seated) else reasons.NOT_LOADED
        if not chosen:
            chosen = {agent: self._default(agent) for agent in agents}
        self.under_way[env_index] = EpisodeUnderWay(
            episode_id, sides, chosen, seats, ordinal, reason
        )
        self._remember(env_index, episode_id, chosen)

    def start(self, env_index: int) -> None:
        """Count an episode whose environment has been reset."""
        episode = self.under_way.get(env_index)
        if episode is not None and not episode.started:
            episode.started = True
            self._started += 1

    def step(self, runner: Any, env_index: int) -> None:
        """Note the weights of the policies in training, after the first step of an episode.

        RLlib does not change weights between the forward pass of a step and this call.
        """
        episode = self.under_way.get(env_index)
        if episode is None or episode.first or episode.reason:
            return
        episode.reason = reasons.FAILED
        with self._guarded():
            access = PolicyAccess(runner)
            draws = self._drawer.draws if self._drawer is not None else None
            reason = ""
            for policy_id in sorted(set(episode.policies.values())):
                if policy_id in self.settings.learners and draws is not None:
                    player = draws.players.get(policy_id, "")
                    episode.booked[policy_id] = (player, draws.refs.get(policy_id, ""))
                    episode.first[policy_id] = self.watch.digest(access, policy_id)
                    reason = reason if player else reasons.NO_PLAYER
            episode.reason = reason

    def note_weights(self, runner: Any, env_index: int) -> None:
        """Note the weights of the next action, where RLlib may change them before the next call.

        On the old API stack alone: the last but one of these notes says which weights the last
        action of an episode was computed with.
        """
        episode = self.under_way.get(env_index)
        if episode is None or episode.reason:
            return
        reason, episode.reason = episode.reason, reasons.FAILED
        with self._guarded():
            access = PolicyAccess(runner)
            episode.noted.append({pid: self.watch.digest(access, pid) for pid in episode.first})
            episode.reason = reason

    def fail(self, env_index: int, reason: str = reasons.ENV_FAILED) -> None:
        """Count an episode that ended and cannot be recorded, by default for its environment."""
        episode = self.under_way.pop(env_index, None)
        if episode is not None and episode.started:
            self._buffer.unknown[reason] += 1

    def end(self, runner: Any, env_index: int, ended: EndedEpisode) -> None:
        """Record an episode that ended, or count why it is not recorded.

        Args:
            runner: the env runner.
            env_index: number of the sub-environment.
            ended: the episode.
        """
        episode = self.under_way.pop(env_index, None)
        if episode is None or episode.episode_id != ended.episode_id or not episode.started:
            return  # it began before the pool came
        reason = episode.reason or reasons.FAILED
        with self._guarded():
            reason = episode.reason or self._judge(runner, episode, ended)
        if reason:
            self._buffer.unknown[reason] += 1

    def _judge(self, runner: Any, episode: EpisodeUnderWay, ended: EndedEpisode) -> str:
        """Record an episode and return ""; or return why it cannot be recorded."""
        if self._is_later(runner, episode):
            return reasons.LATER_EPISODE
        if any(episode.policies.get(agent) != pid for agent, pid in ended.policies.items()):
            return reasons.OTHER_POLICIES
        access = PolicyAccess(runner)
        loaded = [seat for seat in episode.seats.values() if seat.tenure]
        if not all(self.slots.holds(access, seat) for seat in loaded):
            return reasons.CHANGED
        by_policy = {pid: RolePlayer(s.player, s.ref, None) for pid, s in episode.seats.items()}
        for pid, (player, ref) in episode.booked.items():
            last = episode.noted[0][pid] if episode.noted else self.watch.digest(access, pid)
            played = (episode.first[pid], last)
            by_policy[pid] = RolePlayer(player, ref, played)
        players = {agent: by_policy[pid] for agent, pid in ended.policies.items()}
        try:
            explore = explores(runner, {*ended.policies.values()})
            match = match_of(self.settings, episode.sides, players, ended, explore=explore)
        except RefusedEpisodeError as error:
            self.slots.tell((error.reason,), str(error))
            return error.reason
        record = EpisodeRecord(ended.episode_id, match, _evaluates(runner))
        self._buffer.add(record, [seat.policy_id for seat in loaded])
        return ""

    def give_up(self, runner: Any, env_indices: Sequence[int] | None = None) -> None:
        """Count episodes under way as unfinished: their sub-environments start anew.

        Args:
            runner: the env runner.
            env_indices: numbers of the sub-environments; None for all.
        """
        dropped = 0
        for env_index in list(self.under_way) if env_indices is None else env_indices:
            episode = self.under_way.pop(env_index)
            self._ordinals.pop(env_index, None)
            if episode.started:
                later = self._is_later(runner, episode)
                self._buffer.unknown[reasons.LATER_EPISODE if later else reasons.UNFINISHED] += 1
                dropped += not later
        if env_indices is None:
            self._ordinals.clear()
        if dropped and not is_old_worker(runner):
            self.slots.tell((reasons.UNFINISHED,), _BIAS)

    # The driver ----------------------------------------------------------------------------------

    def exchange(self, runner: Any, request: RunnerRequest) -> RunnerAnswer:
        """Take new tables, forget the records that the driver has, and answer with all others.

        Args:
            runner: the env runner.
            request: what the driver sends.
        """
        error = ""
        if request.life == self.life:
            self._buffer.confirm(request.received)
        slots = self.slots
        try:
            self._take(runner, request)
            for slot in self._buffer.unsettled:
                slots.look(PolicyAccess(runner), slot)
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
        return RunnerAnswer(
            life=self.life,
            first=self._buffer.first,
            records=self._buffer.records(),
            unknown=dict(self._buffer.unknown),
            started=self._started,
            swaps=slots.swaps,
            holding=slots.holding,
            round=None if self._drawer is None else self._drawer.draws.round,
            ongoing=sum(episode.started for episode in self.under_way.values()),
            failed=slots.failed,
            notes=tuple(slots.notes),
            error=error,
        )

    def _take(self, runner: Any, request: RunnerRequest) -> None:
        draws, before = request.draws, self._drawer
        self.slots.forgive()
        if draws is None or (before is not None and draws.round < before.draws.round):
            return
        self._drawer = Drawer(draws)
        is_new = before is None or draws.round > before.draws.round
        if is_new and self.settings.restart_for_round and self.slots.shared:
            (restart_every_episode if is_old_worker(runner) else restart_all_episodes)(runner)

    # Parts of the calls --------------------------------------------------------------------------

    def _draw(self, place: Place, sides: Sequence[Sequence[Any]]) -> Drawn | None:
        if self._drawer is None:
            return None
        allowed: dict[str, Sequence[int]] = {}
        for learner in self.settings.learners:
            agents = self.settings.learner_agents.get(learner, ())
            allowed[learner] = [
                at for at, side in enumerate(sides) if not agents or set(agents) & set(side)
            ]
        return self._drawer.draw(place, allowed, len(sides))

    def _busy(self, env_index: int) -> set[str]:
        """Return the policies that the episodes of other sub-environments play with."""
        return {
            policy_id
            for index, episode in self.under_way.items()
            if index != env_index
            for policy_id in episode.policies.values()
        }

    def _is_later(self, runner: Any, episode: EpisodeUnderWay) -> bool:
        most = self.settings.first_episodes
        return most is not None and episode.ordinal > most and _resets_each_sample(runner)

    def _remember(self, env_index: int, episode_id: str, policies: Mapping[Any, str]) -> None:
        """Let the mapping function know an episode; the last one may still be worked on."""
        mapping.assign(episode_id, policies)
        ids = self._ids.setdefault(env_index, deque())
        ids.append(episode_id)
        if len(ids) > 2:
            mapping.forget(ids.popleft())

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Log what goes wrong inside, once for each kind of error; RLlib's sample goes on."""
        try:
            yield
        except Exception as error:
            self.slots.tell(
                (reasons.FAILED, type(error)), f"{reasons.FAILED}: {type(error).__name__}: {error}"
            )


_BIAS = (
    "RLlib started all sub-environments anew and dropped the episodes that were under way, so the "
    "records favour short episodes. Without this bias: whole episodes with "
    "num_envs_per_env_runner=1; batch_mode='truncate_episodes' for training; for evaluation, a "
    "duration in timesteps with evaluation_force_reset_envs_before_iteration=False; or "
    "first_episodes=, with so long an evaluation that these all end."
)


def _index(runner: Any) -> int:
    return int(runner.worker_index or 0)


def _evaluates(runner: Any) -> bool:
    return bool(runner.config.in_evaluation)


def _resets_each_sample(runner: Any) -> bool:
    """Return whether RLlib starts all sub-environments anew for each sample."""
    if is_old_worker(runner):
        return False
    return _evaluates(runner) or runner.config.batch_mode == "complete_episodes"
