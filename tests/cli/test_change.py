"""``tag``, ``untag``, ``delete``, ``restore``, ``prune``, ``gc``: what changes, and what asks."""

from __future__ import annotations

import io

import pytest

from policystore import PolicyStore
from tests.support.command import Command


class Answers(io.StringIO):
    """Somebody at a terminal."""

    def isatty(self) -> bool:
        return True


def answer(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", Answers(text))


DESTROYING = [
    ["untag", "soccer/main", "champion"],
    ["delete", "soccer/main@1"],
    ["delete", "duo/p0", "--all"],
    ["prune", "soccer/main", "--keep-last", 1],
    ["gc", "--grace", "0s", "--exclusive"],
]


def state(store: PolicyStore) -> object:
    return [
        (name, [each.ref for each in store.log(name)], {*store.tags(name)})
        for name in store.names()
    ] + [store.stats().to_dict()]


@pytest.fixture
def with_garbage(store: PolicyStore) -> PolicyStore:
    store.push(store.pull("soccer/main@1").replace(state={"n": 1}), "soccer/gone")
    store.delete_name("soccer/gone")
    return store


@pytest.mark.parametrize("words", DESTROYING, ids=lambda words: str(words[0]))
def test_without_a_terminal_and_without_yes_nothing_is_destroyed(
    policystore: Command, with_garbage: PolicyStore, words: list[object]
) -> None:
    before = state(with_garbage)
    ran = policystore.run(*words)
    assert ran.code == 2
    assert "Give --yes" in ran.error
    assert ran.out, "what would be done is shown first"
    assert state(with_garbage) == before


@pytest.mark.parametrize("words", DESTROYING, ids=lambda words: str(words[0]))
def test_a_dry_run_and_a_no_change_nothing(
    policystore: Command,
    with_garbage: PolicyStore,
    monkeypatch: pytest.MonkeyPatch,
    words: list[object],
) -> None:
    before = state(with_garbage)
    assert policystore.run(*words, "--dry-run").code == 0
    assert policystore.run(*words, "--dry-run", "--yes").code == 0
    for text in ("n\n", "\n", "perhaps\n", ""):
        answer(monkeypatch, text)
        ran = policystore.run(*words)
        assert ran.code == 1
        assert ran.err.endswith("nothing was changed\n")
        assert "[y/N]" in ran.err
    assert state(with_garbage) == before


@pytest.mark.parametrize("words", DESTROYING, ids=lambda words: str(words[0]))
@pytest.mark.parametrize("way", ["asked", "--yes", "--json"])
def test_yes_does_it(
    policystore: Command,
    with_garbage: PolicyStore,
    monkeypatch: pytest.MonkeyPatch,
    words: list[object],
    way: str,
) -> None:
    before = state(with_garbage)
    if way == "asked":
        answer(monkeypatch, "Yes\n")
        assert policystore.run(*words).code == 0
    elif way == "--yes":
        assert policystore.run(*words, "--yes").code == 0
    else:
        policystore.json(*words, "--yes")
    assert state(with_garbage) != before
    assert with_garbage.verify().ok


def test_tag_says_from_where_it_moved(policystore: Command, store: PolicyStore) -> None:
    ran = policystore.run("tag", "soccer/main@3", "champion", "--author", "bob")
    assert ran.out == "champion is soccer/main@3, from soccer/main@2\n"
    assert store.tag_history("soccer/main", "champion")[0].author == "bob"
    document = policystore.json("tag", "duo/p0", "best")
    assert (document["before"], document["version"]["ref"]) == (None, "duo/p0@1")
    assert policystore.run("tag", "soccer/main@9", "best").code == 3
    assert policystore.run("tag", "soccer/main", "7").code == 2


def test_a_protected_tag_is_moved_by_some_or_by_force(
    policystore: Command, store: PolicyStore
) -> None:
    ran = policystore.run("protect", "soccer/main", "champion", "--by", "bob", "--by", "eve")
    assert ran.out == "champion of soccer/main is protected; who may move it: bob, eve\n"
    assert "bob, eve" in policystore.run("tags", "soccer/main").out
    for words in (["tag", "soccer/main@3", "champion"], ["untag", "soccer/main", "champion", "-y"]):
        refused = policystore.run(*words)
        assert (refused.code, refused.out) == (2, "")
    assert policystore.run("tag", "soccer/main@3", "champion", "--author", "bob").code == 0
    assert policystore.run("tag", "soccer/main@1", "champion", "--force").code == 0
    policystore.run("pull", "duo/p0", "x.safetensors")
    pushed = policystore.run("push", "x.safetensors", "soccer/main", "--tag", "champion")
    assert pushed.code == 2
    assert "pushed soccer/main@4, and did not move the tag" in pushed.error
    document = policystore.json("unprotect", "soccer/main", "champion")
    assert document["move"]["protected"] is None
    assert policystore.run("untag", "soccer/main", "champion", "--yes").code == 0
    assert policystore.run("unprotect", "soccer/main", "champion").code == 3


def test_delete_shows_the_version_and_refuses_one_with_a_tag(
    policystore: Command, store: PolicyStore
) -> None:
    refused = policystore.run("delete", "soccer/main@2", "--yes")
    assert refused.code == 2
    assert "soccer/main@2 (champion)" in refused.error
    assert "--force" in refused.error
    shown = policystore.run("delete", "soccer/main", "--dry-run")
    assert "would delete 1 version:" in shown.out
    assert "soccer/main@3" in shown.out
    ran = policystore.run("delete", "soccer/main@2", "--yes", "--force", "-m", "broken")
    assert ran.out == "deleted soccer/main@2\n"
    assert store.log("soccer/main", deleted=True)[1].deleted.message == "broken"


def test_delete_takes_a_whole_name_and_restore_brings_it_back(
    policystore: Command, store: PolicyStore
) -> None:
    document = policystore.json("delete", "soccer/main", "--all", "--force", "--yes")
    assert document["versions"] == ["soccer/main@3", "soccer/main@2", "soccer/main@1"]
    assert store.names() == ["duo/p0"]
    ran = policystore.run("restore", "soccer/main")
    assert ran.out == "restored soccer/main@3, soccer/main@2, soccer/main@1\n"
    assert policystore.run("restore", "soccer/main@1").code == 2
    policystore.run("delete", "soccer/main@1", "--yes")
    assert policystore.json("restore", "soccer/main@1")["versions"][0]["number"] == 1


def test_delete_takes_the_digest_of_a_push_without_a_name(
    policystore: Command, store: PolicyStore
) -> None:
    version = store.push(store.pull("soccer/main@1").replace(state={"n": 1}))
    assert "without a name" in policystore.run("delete", version.digest, "--dry-run").out
    assert policystore.json("delete", version.digest, "--yes")["deleted"]
    assert store.stats().kept == 0


def test_prune_takes_its_criteria(policystore: Command, store: PolicyStore) -> None:
    document = policystore.json(
        "prune", "soccer/main", "--keep-best", "return:min:1", "--tagged", "--yes"
    )
    assert [document["name"], document["count"]] == ["soccer/main", 1]
    assert [each.number for each in store.log("soccer/main")] == [3, 1]
    assert policystore.run("prune", "soccer/main", "--keep-last", 5).code == 0
    assert policystore.run("prune", "soccer/main", "--yes").code == 2
    kept = policystore.json("prune", "soccer/main", "--older-than", "1d")
    assert kept["count"] == 0


def test_gc_moves_garbage_and_says_so(policystore: Command, with_garbage: PolicyStore) -> None:
    document = policystore.json("gc", "--grace", "0s", "--exclusive", "--yes")
    assert document["moved"]["count"] == 1
    assert with_garbage.stats().trash_objects == 1
    back = policystore.json("gc", "--yes")  # with this grace the deleted version still needs it
    assert back["put_back"]["count"] == 1
    assert policystore.json("gc")["moved"]["count"] == 0
    assert policystore.run("gc", "--grace", "1m").code == 2


def test_delete_says_before_the_question_that_a_tag_is_protected(
    policystore: Command, store: PolicyStore
) -> None:
    policystore.run("protect", "soccer/main", "champion")
    for words in (["soccer/main@2"], ["soccer/main", "--all"]):
        ran = policystore.run("delete", *words, "--force", "--dry-run")
        assert (ran.code, ran.out) == (2, "")
        assert "ann protected it at" in ran.error
        assert ran.error.endswith("its protection: policystore unprotect soccer/main champion")
    assert policystore.json("prune", "soccer/main", "--keep-last", 1, "--tagged", "--yes")["kept"]
    assert [each.number for each in store.log("soccer/main")] == [3, 2]
    policystore.run("unprotect", "soccer/main", "champion")
    assert policystore.run("delete", "soccer/main@2", "--force", "--yes").code == 0


def test_gc_without_garbage_says_what_was_done(policystore: Command) -> None:
    for words in (["gc"], ["gc", "--yes"]):
        ran = policystore.run(*words)
        assert (ran.code, ran.err) == (0, "")
        assert "0 (0 bytes) objects were moved to the trash" in ran.out
        assert "no object was moved: a version, a tag" in ran.out
        assert "would be" not in ran.out
    assert "objects would be moved" in policystore.run("gc", "--dry-run").out
    assert policystore.json("gc", "--dry-run")["dry_run"]
