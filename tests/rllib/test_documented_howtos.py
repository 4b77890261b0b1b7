"""The tutorial and the how-tos that need RLlib: the program of each page runs from an empty folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from policystore.checkpoints import read_checkpoint
from tests.support.doc_blocks import DOCS, outputs, run_blocks

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("ray_session")]


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run_page(name: str) -> dict[str, Any]:
    """Run all blocks of a page as a program would; return the names of the program."""
    names: dict[str, Any] = {"__name__": "__main__"}  # so that Ray sends its classes by value
    run_blocks("rllib", names, DOCS / name)
    return names


def test_the_tutorial_runs_as_printed(capsys: pytest.CaptureFixture[str]) -> None:
    names = run_page("tutorial.md")

    assert names["best"] == max(names["returns"], key=names["returns"].get)
    assert names["store"].resolve("cartpole/ppo@champion") == names["store"].resolve(names["best"])
    printed = capsys.readouterr().out
    shown = [re.escape(each).replace("…", ".*?") for each in outputs(DOCS / "tutorial.md")]
    assert len(shown) == 6
    assert re.search(".*?".join(shown), printed, re.DOTALL), printed


def test_a_notebook() -> None:
    names = run_page("how-to/notebook.md")

    trained_on, *earlier = names["store"].log("cartpole/ppo")
    assert trained_on.message == "trained on"
    assert [version.metrics["lr"] for version in earlier] == [0.003, 0.0001]
    assert trained_on.parents == (names["best"].digest,)


def test_tune() -> None:
    names = run_page("how-to/tune.md")

    store = names["store"]
    assert len(store.names("cartpole/")) == 2
    assert all(len(store.log(name)) == 2 for name in store.names("cartpole/"))
    assert names["started"] == str(names["best"].digest)


def test_a_league() -> None:
    names = run_page("how-to/league.md")

    assert len(names["store"].log("matching/main")) == 4
    assert names["row"].status == "own"
    assert names["row"].note.startswith("load_local loaded matching/main@")
    assert {row.policy for row in names["report"]} >= {"slot_0", "slot_1"}


def test_serving() -> None:
    names = run_page("how-to/serving.md")

    player, observation = names["player"], names["observation"]
    assert set(names["actions"]) == {player.act(observation)}
    assert names["first"][names["ann"]] == player.act(observation)


def test_following() -> None:
    names = run_page("how-to/following.md")

    store, player = names["store"], names["player"]
    assert names["changed"].is_set()
    assert player.ref == "cartpole/ppo@2"
    assert names["playing"].digest == store.resolve("cartpole/ppo@champion") == player.digest
    assert names["version"].ref == "cartpole/ppo@2"
    assert names["following"].changes == 1
    assert names["following"].error is None
    assert not names["following"].running


def test_a_migration() -> None:
    names = run_page("how-to/migration.md")

    assert names["store"].names() == ["cartpole/ppo", "cartpole/trial_1/default_policy"]
    assert names["report"].errors == {}
    snap = read_checkpoint(names["folder"])["default_policy"]
    assert names["store"].pull("cartpole/ppo").digest == snap.digest
