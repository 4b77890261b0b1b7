"""The slots of one env runner: which opponent each of them holds, and how another one comes in."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from policystore._util.log import logger
from policystore.digest import Digest
from policystore.errors import PolicyStoreError
from policystore.league.pool.messages import Candidate
from policystore.league.pool.runner.buffer import RecordBuffer
from policystore.league.pool.runner.settings import PoolSettings
from policystore.league.pool.runner.weights import WeightWatch, locked_digest
from policystore.rllib.live.local import load_local
from policystore.rllib.worker_code.tensors import PolicyAccess
from policystore.snapshot import Snapshot

__all__ = ["Seat", "Slots", "SnapshotCache"]


class Seat(NamedTuple):
    """The place of one opponent in an episode.

    Attributes:
        policy_id: the policy that plays.
        player: as in :class:`~policystore.league.pool.messages.Candidate`; "" if unknown.
        ref: what reports call the opponent.
        tenure: number of the load that brought the opponent into its slot; 0 for a policy that
            plays as it is.
    """

    policy_id: str
    player: str
    ref: str
    tenure: int = 0


@dataclass(frozen=True)
class _Held:
    """What a slot holds.

    Attributes:
        candidate: the opponent.
        acting: digest of the weights that acting needs.
        tenure: number of the load.
    """

    candidate: Candidate
    acting: str
    tenure: int


class SnapshotCache:
    """The snapshots that were used last, up to a number of bytes together.

    Args:
        pull: fetches a snapshot by the digest of its policy object.
        max_bytes: how many bytes of weights are kept at most. A larger snapshot is not kept.
    """

    def __init__(self, pull: Callable[[Digest], Snapshot], max_bytes: int) -> None:
        self._pull = pull
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, Snapshot] = OrderedDict()
        self.nbytes = 0

    def get(self, player: str) -> Snapshot:
        """Return the snapshot of a player, pulled if it is not in memory."""
        kept = self._kept.get(player)
        if kept is not None:
            self._kept.move_to_end(player)
            return kept
        snap = self._pull(Digest.parse(player))
        if snap.nbytes <= self._max_bytes:
            self._kept[player] = snap
            self.nbytes += snap.nbytes
            while self.nbytes > self._max_bytes:
                self.nbytes -= self._kept.popitem(last=False)[1].nbytes
        return snap


class Slots:
    """Loads opponents into the slots of one env runner, and knows what each slot holds.

    A slot is loaded only while no episode plays with it. A pull or load that fails changes nothing:
    the slot keeps the opponent that it holds, under that opponent's own name.

    Args:
        settings: the settings of the pool.
        watch: digests of what the policies of the env runner hold.
        records: the records, which wait until slots were looked at.

    Attributes:
        swaps: how often weights were loaded.
        failed: how often a pull or load failed.
        notes: what should be told once.
    """

    def __init__(
        self,
        settings: PoolSettings,
        watch: WeightWatch,
        records: RecordBuffer,
    ) -> None:
        self._settings = settings
        self._watch = watch
        self._num_envs = 0
        self._opponents = 1
        self._records = records
        self._cache = SnapshotCache(settings.store.pull, settings.cached_bytes)
        self._held: dict[str, _Held] = {}
        self._refused: set[str] = set()  # players that failed since the last exchange
        self._tenures = 0
        self.swaps = 0
        self.failed = 0
        self.notes: list[str] = []
        self._told: set[tuple[Any, ...]] = set()

    def arrange(self, num_envs: int, opponents: int) -> None:
        """Divide the slots between the sub-environments.

        Args:
            num_envs: number of sub-environments.
            opponents: number of opponents in an episode.
        """
        if (num_envs, opponents) == (self._num_envs, self._opponents):
            return
        self._num_envs, self._opponents = num_envs, opponents
        for kind in self.shared:
            self.tell(
                ("shared", kind),
                f"{len(self._settings.slots[kind])} slots of kind {kind!r} for "
                f"{num_envs} sub-environments with {opponents} opponents each: a slot gets another "
                "opponent only when no episode plays with it, which is when all sub-environments "
                f"start anew. Give {num_envs * opponents} slots for another opponent in each "
                "episode.",
            )

    @property
    def shared(self) -> list[str]:
        """The kinds whose slots several sub-environments share."""
        needed = self._num_envs * self._opponents
        return [kind for kind, slots in self._settings.slots.items() if len(slots) < needed]

    @property
    def holding(self) -> dict[str, str]:
        """What reports call the opponent in each slot that was loaded."""
        return {slot: held.candidate.ref for slot, held in sorted(self._held.items())}

    def forgive(self) -> None:
        """Let players that could not be loaded be tried again."""
        self._refused.clear()

    def seat(
        self,
        access: PolicyAccess,
        env_index: int,
        opponents: Sequence[Candidate],
        busy: Collection[str],
    ) -> list[Seat]:
        """Give each opponent of an episode a policy that plays it, and load what is missing.

        Where a slot cannot be loaded, because another episode plays with it or the opponent cannot
        be had, the seat names the opponent that the slot holds, or, if that is unknown, none.

        Args:
            access: access to the env runner.
            env_index: the sub-environment of the episode.
            opponents: who was drawn.
            busy: slots that other episodes play with.
        """
        seats: list[Seat] = []
        used: set[str] = set()
        for candidate in opponents:
            if candidate.policy_id:
                seats.append(Seat(candidate.policy_id, candidate.player, candidate.ref))
                continue
            slot = self._choose(candidate, env_index, used, busy)
            held = self._intact(access, slot)
            wanted = held is None or held.candidate.player != candidate.player
            if wanted and slot not in used and slot not in busy:
                held = self._load(access, slot, candidate) or held
            used.add(slot)
            if held is None:
                seats.append(Seat(slot, "", ""))
            else:
                now = held.candidate
                seats.append(Seat(slot, now.player, now.ref, held.tenure))
        return seats

    def _choose(
        self, candidate: Candidate, env_index: int, used: set[str], busy: Collection[str]
    ) -> str:
        """Return the slot for an opponent: one that holds it already, else one that is free."""
        slots = self._settings.slots[candidate.kind]
        first = env_index * self._opponents
        own = [slots[(first + each) % len(slots)] for each in range(self._opponents)]
        for slot in own:
            held = self._held.get(slot)
            if held is not None and held.candidate.player == candidate.player:
                return slot
        free = [slot for slot in own if slot not in used and slot not in busy]
        unused = [slot for slot in own if slot not in used]
        return (free or unused or own)[0]

    def _intact(self, access: PolicyAccess, slot: str) -> _Held | None:
        """Return what a slot holds; None if it is unknown, or others wrote into the slot."""
        held = self._held.get(slot)
        if held is None:
            return None
        locked = locked_digest(access, slot) == held.acting
        if locked and self._watch.digest(access, slot) == held.acting:
            return held
        self._lose(slot)
        return None

    def holds(self, access: PolicyAccess, seat: Seat) -> bool:
        """Return whether a slot still holds the weights of a seat's own load."""
        held = self._intact(access, seat.policy_id)
        return held is not None and held.tenure == seat.tenure

    def look(self, access: PolicyAccess, slot: str) -> None:
        """Hash the weights of a slot, and settle whether they are still its opponent's.

        torch does not count each way of writing to a tensor. So this is done for slots that records
        wait for, before the slot is loaded anew and before the records are handed out.
        """
        held = self._held.get(slot)
        if held is None:
            return
        same = (
            locked_digest(access, slot) == held.acting
            and self._watch.digest(access, slot, anew=True) == held.acting
        )
        if same:
            self._records.settle(slot, True)
        else:
            self._lose(slot)

    def _lose(self, slot: str) -> None:
        del self._held[slot]
        self._records.settle(slot, False)

    def _load(self, access: PolicyAccess, slot: str, candidate: Candidate) -> _Held | None:
        """Load an opponent into a slot that no episode plays with; None if that failed."""
        if candidate.player in self._refused:
            return None
        try:
            snap = self._cache.get(candidate.player)
            if self._records.waits_for(slot):
                self.look(access, slot)
            load_local(
                access.worker,
                {slot: snap},
                refs={slot: candidate.ref},
                filters=self._settings.filters,
            )
        except (PolicyStoreError, OSError, MemoryError) as error:
            self.failed += 1
            self._refused.add(candidate.player)
            self.tell(
                ("load", type(error)),
                f"the opponent {candidate.ref} could not be loaded into {slot!r}, which keeps "
                f"what it holds: {error}",
            )
            return None
        self._tenures += 1
        self.swaps += 1
        held = _Held(candidate, locked_digest(access, slot), self._tenures)
        self._held[slot] = held
        self._watch.take(access, slot, held.acting)
        return held

    def tell(self, about: tuple[Any, ...], text: str) -> None:
        """Log a warning, and keep it for the driver, once for each subject."""
        if about not in self._told:
            self._told.add(about)
            self.notes.append(text)
            logger.warning("%s", text)
