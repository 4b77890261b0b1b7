"""What is published after a restore: from the run's own checkpoint, or from any other one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle
from ray.rllib.algorithms.algorithm import Algorithm

import tests.support.tune_runs as parts
from policystore import PolicyStore
from policystore.checkpoints import read_checkpoint
from policystore.rllib import publish
from policystore.rllib.callbacks import upload_versions
from policystore.rllib.callbacks.lineage import Tracker
from tests.support.cells import sampled
from tests.support.lineages import Held, held
from tests.support.waiting import until

BOTH = pytest.mark.parametrize("stack", ["new", "old"], scope="module")
KEY = "policystore_publish"


class Donor:
    """A run that trained 5 iterations, and its checkpoint of iteration 3.

    It published each iteration to one store, and each second iteration to another store.
    """

    def __init__(self, stack: str, folder: Path) -> None:
        self.own = parts.PARTS[stack]
        self.every, self.second = PolicyStore(folder / "every"), PolicyStore(folder / "second")
        self.checkpoint = folder / "checkpoint"
        self.held = {}
        # With the seed of the others, its first policies would be theirs.
        with self.own.built(self.config("donor").debugging(seed=7)) as algo:
            for iteration in range(1, 6):
                algo.train()
                self.held[iteration] = held(algo)
                if iteration == 3:
                    algo.save(str(self.checkpoint))
        (self.run,) = {version.source["run"] for version in self.every.log("donor")}

    def config(self, name: str, *more: Any) -> Any:
        """Return the config of a run that publishes to both stores; ``more`` are callbacks."""
        second = publish(self.second, {"main": name}, interval=2, max_pending=9, callbacks=more)
        return self.own.configured().callbacks(
            publish(self.every, {"main": name}, max_pending=9, callbacks=second)
        )

    def changed(self, folder: Path, change: Callable[[dict[str, Any]], Any]) -> str:
        """Return a copy of the checkpoint with another state of the Algorithm."""
        shutil.copytree(self.checkpoint, folder)
        (file,) = folder.glob("algorithm_state.pkl")
        state = cloudpickle.loads(file.read_bytes())
        change(state)
        file.write_bytes(cloudpickle.dumps(state))
        return str(folder)


@pytest.fixture(scope="module")
def donor(stack: str, ray_session: None, tmp_path_factory: Any) -> Donor:
    return Donor(stack, tmp_path_factory.mktemp(stack))


def trained(algo: Any, count: int) -> list[str]:
    """Train, and return what the learner held after each iteration."""
    found = []
    for _ in range(count):
        shown = algo.train()["policystore"]["publish"]["main"]
        assert shown["failed"] == shown["skipped"] == 0
        found.append(held(algo))
    return found


def restored_from(algo: Any) -> Any:
    return algo.train()["policystore"]["publish"]["main"]["restored_from"]


@pytest.mark.long
@BOTH
def test_a_checkpoint_of_another_run(
    donor: Donor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_versions, "_PARENT_PATIENCE", 0.1)
    third = PolicyStore(tmp_path / "third")  # has no version of the donor
    config = donor.config("other", publish(third, {"main": "other"}, max_pending=9))
    with donor.own.built(config) as algo:
        prints = trained(algo, 4)
        assert algo.train()["policystore"]["publish"]["main"]["restored_from"] is None
        prints.append(held(algo))
        algo.restore(str(donor.checkpoint))
        assert held(algo) == donor.held[3]
        prints += trained(algo, 2)
        shown = algo.train()["policystore"]["publish"]["main"]
        prints.append(held(algo))
    assert shown["restored_from"] == f"{donor.run}, iteration 3"
    assert shown["repeated"] == 0
    every, second, alone = (Held(s, "other") for s in (donor.every, donor.second, third))
    # Iterations 4 and 5 were published before the restore, too.
    assert every.iterations == alone.iterations == [1, 2, 3, 4, 5, 4, 5, 6]
    assert every.prints == alone.prints == prints
    assert every.parents == [[], *([each] for each in prints[:4]), [donor.held[3]],
                             *([each] for each in prints[5:7])]  # fmt: skip
    assert alone.parents[5:] == [[], *([each] for each in prints[5:7])]
    # The checkpoint's own iteration is not in the second store.
    assert second.iterations == [2, 4, 4, 6]
    assert second.parents == [[], [prints[1]], [donor.held[2]], [prints[5]]]
    for found, count in ((every, 5), (alone, 5), (second, 2)):
        assert {"lineage", "restored_from"}.isdisjoint(
            key for version in found.versions[:count] for key in version.source
        )
        for version in found.versions[count:]:
            assert version.source["restored_from"] == {"run": donor.run, "iteration": 3}
            assert version.source["lineage"] == shown["lineage"] != ""


@pytest.mark.long
@BOTH
def test_a_checkpoint_of_the_run_itself(donor: Donor, tmp_path: Path) -> None:
    """The iterations since the checkpoint stand, and are no ancestors of what comes then."""
    with donor.own.built(donor.config("itself")) as algo:
        prints = trained(algo, 2)
        algo.restore(str(donor.checkpoint))
        prints += trained(algo, 2)  # 4 and 5 of the new lineage
        algo.save(str(tmp_path / "own"))
        prints += trained(algo, 1)
        algo.restore(str(tmp_path / "own"))
        again = trained(algo, 1)
        # The threads of both publishers have compared the copy.
        publishers = Tracker.of(algo, "")._followers
        until(lambda: all(each._uploader.repeated()["main"] for each in publishers))
        shown = algo.train()["policystore"]["publish"]["main"]
        again.append(held(algo))
    assert again[0] != prints[4]
    found = Held(donor.every, "itself")
    assert found.iterations == [1, 2, 4, 5, 6, 7]
    assert found.prints == [*prints, again[1]]
    assert found.parents[2:] == [[donor.held[3]], [prints[2]], [prints[3]], [prints[3]]]
    assert len({version.source.get("lineage") for version in found.versions}) == 2
    assert shown["repeated"] == 1
    assert shown["restored_from"] == f"{found.versions[0].source['run']}, iteration 5"


@pytest.mark.long
@BOTH
@pytest.mark.parametrize(
    "record", sampled(["none", "of another form", "half"], wide=["none", "half"])
)
def test_a_checkpoint_that_does_not_say_where_it_is_from(
    donor: Donor, tmp_path: Path, record: str, caplog: Any
) -> None:
    def change(state: dict[str, Any]) -> None:
        if record == "none":
            del state[KEY]
        elif record == "half":
            del state[KEY]["copies"]
        else:
            state[KEY] = [3]

    path = donor.changed(tmp_path / "changed", change)
    name = "unknown-" + record.replace(" ", "-")
    with donor.own.built(donor.config(name)) as algo:
        trained(algo, 4)
        algo.restore(path)
        assert ("has a record of another form" in caplog.text) == (record != "none")
        assert held(algo) == donor.held[3]
        prints = trained(algo, 1)
        assert restored_from(algo) == "unknown run, iteration 3"
    found = Held(donor.every, name)
    assert found.iterations == [1, 2, 3, 4, 4, 5]
    assert found.parents[4:] == [[donor.held[3]], [prints[0]]]  # the store has this very policy
    assert found.versions[4].source["restored_from"] == {"run": None, "iteration": 3}
    # The second store has iteration 2 alone, and nothing says that 3 descends from it. Iteration 5
    # is copied at the end.
    assert Held(donor.second, name).parents[-2:] == [[], [prints[0]]]


@pytest.mark.long
@BOTH
def test_an_algorithm_made_from_a_checkpoint(donor: Donor) -> None:
    """It has the donor's config: it goes on under the donor's name, as another run."""
    algo = Algorithm.from_checkpoint(str(donor.checkpoint))
    try:
        prints = trained(algo, 2)
    finally:
        algo.stop()
    for store, parents in ((donor.every, [[donor.held[3]], [prints[0]]]),
                           (donor.second, [[donor.held[2]], [prints[0]]])):  # fmt: skip
        found = Held(store, "donor")
        mine = [v for v in found.versions if v.source["run"] != donor.run]
        assert found.parents[-len(mine) :] == parents
        assert all(v.source["restored_from"]["run"] == donor.run for v in mine)


@pytest.mark.long
@pytest.mark.parametrize("stack", ["new"], scope="module")
def test_a_part_of_a_checkpoint_and_a_state(donor: Donor) -> None:
    """Neither names its run; the iterations go on, or are those of the state."""
    part = "learner_group/learner/rl_module"
    with donor.own.built(donor.config("part")) as algo:
        trained(algo, 1)
        algo.restore_from_path(str(donor.checkpoint / part), component=part)
        prints = trained(algo, 1)
        state = algo.get_state()
        with donor.own.built(donor.config("state")) as other:
            other.set_state(state)
            later = trained(other, 1)
    found = Held(donor.every, "part")
    assert found.prints[1:] == prints
    assert found.parents == [[], [donor.held[3]]]
    assert Held(donor.every, "state").prints == later
    assert Held(donor.every, "state").parents == [prints]


@pytest.mark.long
@BOTH
def test_the_record_fails_neither_a_save_nor_a_restore(
    donor: Donor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    from policystore.rllib.callbacks.publish import Publish

    def fail(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("broken")

    with donor.own.built(donor.config("broken")) as algo:
        trained(algo, 4)
        with monkeypatch.context() as patch:
            patch.setattr(Publish, "newest_copies", fail)
            patch.setattr(Publish, "restored", fail)
            algo.save(str(tmp_path / "unrecorded"))
            algo.restore(str(donor.checkpoint))
        assert caplog.text.count("broken") == 3  # two callbacks
        algo.restore(str(tmp_path / "unrecorded"))
        assert restored_from(algo) == "unknown run, iteration 4"


@pytest.mark.long
@BOTH
def test_checkpoints_stay_readable(donor: Donor) -> None:
    assert read_checkpoint(str(donor.checkpoint)).keys() == {"main", "foe"}
