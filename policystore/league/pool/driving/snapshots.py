"""Take snapshots of learners for a pool, and push them in the background as ``publish`` does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm

from policystore._util.log import logger
from policystore.errors import StorageError
from policystore.league.pool.driving.architecture import architecture_of
from policystore.league.pool.driving.members import ARCHITECTURE
from policystore.league.pool.driving.policies import snapshot_of
from policystore.rllib.callbacks.lineage import Ancestor, Lineage, Restore
from policystore.rllib.callbacks.upload_history import Copy
from policystore.rllib.callbacks.upload_queue import Uploader
from policystore.snapshot import Snapshot
from policystore.store import PolicyStore

__all__ = ["Head", "Snapshots"]

_MOST_WAITING = 16  # snapshots of a learner that may wait for the store
_LONGEST_LINEAGE = 8  # earlier snapshots count less and less


@dataclass
class Head:
    """The snapshot that a learner's episodes are booked under.

    Attributes:
        player: its digest, as text; "" before the first snapshot.
        iteration: the training iteration of the snapshot.
        lineage: the players that the learner was booked under, this one first.
        count: how many snapshots of the learner this run has taken.
        resets: how often the learner has begun anew.
    """

    player: str = ""
    iteration: int = 0
    lineage: list[str] = field(default_factory=list)
    count: int = 0
    resets: int = 0

    def move(self, player: str, iteration: int, *, anew: bool = False) -> None:
        """Go on with a new snapshot; ``anew``: its weights do not come from the last one."""
        earlier = [] if anew else [each for each in self.lineage if each != player]
        self.player, self.iteration = player, iteration
        self.lineage = [player, *earlier][:_LONGEST_LINEAGE]

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint."""
        return {
            "player": self.player,
            "iteration": self.iteration,
            "lineage": list(self.lineage),
            "count": self.count,
            "resets": self.resets,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Head:
        """Read the values of a checkpoint."""
        lineage = [str(each) for each in value["lineage"]]
        return cls(
            str(value["player"]),
            int(value["iteration"]),
            lineage,
            int(value["count"]),
            int(value["resets"]),
        )


class Snapshots:
    """Takes and pushes the snapshots of all learners of a pool.

    Args:
        store: the store.
        names: id of a learner -> name in the store.
        run: name of the training run.
        league: name of the league, for the source of the versions.
        resumes: whether an earlier process may have pushed for this run.
        trial_source: what the source of each version says of Tune's trial.
        lineage: the lineage of the training.
    """

    def __init__(
        self,
        store: PolicyStore,
        names: Mapping[str, str],
        *,
        run: str,
        league: str,
        resumes: bool,
        trial_source: Callable[[], Mapping[str, Any] | None],
        lineage: Lineage,
    ) -> None:
        self._names = dict(names)
        self._run = run
        self._league = league
        # One for each learner: a reset of one begins anew while snapshots of others are pushed.
        self._lineages = {learner: dataclasses.replace(lineage, ancestors={}) for learner in names}
        self.heads = {learner: Head() for learner in names}
        self._uploader = Uploader(
            store,
            names,
            max_pending=_MOST_WAITING,
            metrics=dict.fromkeys(names),
            lowest=False,
            resumes=resumes,
            trial_source=trial_source,
        )

    def take(
        self,
        algorithm: Algorithm,
        learner: str,
        iteration: int,
        message: str,
        metrics: Mapping[str, Any],
    ) -> Snapshot:
        """Copy a learner, and push the copy in the background. Its episodes are booked under it.

        Raises:
            StorageError: no copy could be made, because a worker does not answer.
        """
        snap = snapshot_of(algorithm, learner)
        self._uploader.put(
            Copy(
                learner,
                self._names[learner],
                snap,
                self._run,
                iteration,
                metrics=metrics,
                lineage=self._lineages[learner],
                message=message,
                source={"league": self._league, ARCHITECTURE: architecture_of(snap)},
                again=True,  # matches are booked under the very policy
            )
        )
        head = self.heads[learner]
        head.move(str(snap.digest), iteration)
        head.count += 1
        return snap

    def reset(self, learner: str, snap: Snapshot, iteration: int) -> None:
        """Note that a learner goes on with the weights of a stored snapshot."""
        ancestors = {learner: [Ancestor(iteration, snap.digest, True)]}
        lineage = self._lineages[learner]
        self._lineages[learner] = dataclasses.replace(lineage, ancestors=ancestors)
        self.heads[learner].move(str(snap.digest), iteration, anew=True)
        self.heads[learner].resets += 1

    def newest(self) -> dict[str, int]:
        """Return, by learner, the number of the newest version that is in the store; 0 for none."""
        return {pid: each["pushed"] or 0 for pid, each in self._uploader.status().items()}

    def status(self) -> dict[str, dict[str, Any]]:
        """Return the progress of the pushes, by learner."""
        return self._uploader.status()

    def newest_copies(self) -> dict[str, list[Ancestor]]:
        """Return the copies from which the next snapshots descend, for a checkpoint's record."""
        return {
            learner: self._uploader.newest_copies(lineage)[learner]
            for learner, lineage in self._lineages.items()
        }

    def restored(self, restore: Restore) -> None:
        """Continue with the lineage of a restored checkpoint."""
        for learner in self._names:
            ancestors = dict(restore.lineage.ancestors)
            self._lineages[learner] = dataclasses.replace(restore.lineage, ancestors=ancestors)
        if restore.own:
            self._uploader.restored(restore.iteration)

    def raise_fatal(self) -> None:
        """Raise an error of a push that cannot be solved by a retry, if there is one."""
        self._uploader.raise_fatal()

    def wait(self, timeout: float, description: str) -> None:
        """Wait until all snapshots are pushed.

        Raises:
            StorageError: some were not pushed; the message has the reasons.
        """
        lost = self._uploader.finish(timeout)
        if lost:
            text = f"{description}: {len(lost)} snapshots were not pushed:\n" + "\n".join(
                f"  {each}" for each in lost[-20:]
            )
            logger.error("%s", text)
            raise StorageError(text)
