"""``ls``, ``log``, ``show``, ``diff``, ``tags``: what people and programs read."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from policystore import PolicyStore, Version
from policystore.backends.memory import MemoryBackend
from policystore.cli.terminal.tables import Column, draw_fields, draw_table, wrapped
from policystore.repository.watching import Watch
from tests.cli.conftest import controller
from tests.support.command import Command


def test_ls_lists_names_with_their_newest_version_and_tags(policystore: Command) -> None:
    ran = policystore.run("ls")
    assert (ran.code, ran.err) == (0, "")
    head, duo, soccer = ran.out.splitlines()
    assert head.split() == ["name", "newest", "versions", "tags", "age", "size", "author"]
    assert duo.split()[:3] == ["duo/p0", "@1", "1"]
    assert soccer.split()[:5] == ["soccer/main", "@3", "3", "champion", "@2"]

    document = policystore.json("ls", "soccer/")
    (row,) = document["names"]
    assert (row["name"], row["newest"], row["versions"]) == ("soccer/main", 3, 3)
    assert row["tags"] == {"champion": 2}
    assert row["time"].endswith("+00:00")


def test_ls_says_what_is_close_to_a_prefix_of_no_name(policystore: Command) -> None:
    ran = policystore.run("ls", "socer/")
    assert (ran.code, ran.out) == (3, "")
    assert "soccer/" in ran.error


def test_ls_and_log_leave_out_deleted_versions(policystore: Command, store: PolicyStore) -> None:
    store.delete("soccer/main@3", message="broken")
    assert policystore.json("ls", "soccer/")["names"][0]["newest"] == 2
    shown = policystore.json("log", "soccer/main")["versions"]
    assert [each["number"] for each in shown] == [2, 1]

    every = policystore.run("log", "soccer/main", "--deleted")
    assert "deleted by ann" in every.out
    assert "broken" in every.out
    document = policystore.json("log", "soccer/main", "--deleted", "--limit", 1)
    assert document["versions"][0]["deleted"]["message"] == "broken"


def test_log_lists_the_newest_version_first(policystore: Command) -> None:
    lines = policystore.run("log", "soccer/main").out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "ref", "soccer/main@3", "soccer/main@2", "soccer/main@1",
    ]  # fmt: skip
    assert "return=11" in lines[2]
    assert "champion" in lines[2]
    document = policystore.json("log", "soccer/main", "-n", 2)
    assert [each["tags"] for each in document["versions"]] == [[], ["champion"]]
    assert document["versions"][0]["metrics"] == {"return": 12.0}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["log", "duo/!abc"], 2, "the name 'duo/!abc'"),
        (["tags", "duo/!abc"], 2, "the name 'duo/!abc'"),
        (["tags", "duo/Abc", "!top"], 2, "the tag '!top'"),
        (["show", "duo/Abc@!top"], 2, "the tag '!top'"),
        (["ls", "duo/!a"], 3, "no name starts with 'duo/!a'"),
        (["report", "duo/!a*"], 2, "'duo/!a*' is no pattern of names"),
    ],
)
def test_a_text_that_is_no_name_finds_no_other_name(
    policystore: Command, store: PolicyStore, words: list[str], code: int, message: str
) -> None:
    """The key of ``Abc`` has ``!abc``, which no name and no tag can have."""
    store.push(controller(1.0), "duo/Abc")
    store.tag("duo/Abc@1", "Top")
    ran = policystore.run(*words)
    assert (ran.code, ran.out) == (code, "")
    assert message in ran.error


def test_show_tells_the_record_the_spec_and_the_tensors(policystore: Command) -> None:
    out = policystore.run("show", "soccer/main@champion").out
    for text in ("soccer/main@2", "champion", "round 1", "return=11", "new API stack", "PPO",
                 "12 in 2 tensors", "optimizer: a snapshot holds no optimizers", "2 x 4",
                 "only for training"):  # fmt: skip
        assert text in out

    document = policystore.json("show", "soccer/main@2")
    assert document["version"]["number"] == 2
    assert document["version"]["tags"] == ["champion"]
    assert document["policy"]["parameters"] == 12
    assert document["policy"]["tensors"]["pi.weight"]["shape"] == [2, 4]
    assert not document["policy"]["tensors"]["value.weight"]["acting"]
    assert document["policy"]["spec"]["algorithm"] == "PPO"


def test_show_takes_a_digest_and_limits_the_tensors(
    policystore: Command, store: PolicyStore
) -> None:
    digest = store.resolve("duo/p0")
    ran = policystore.run("show", digest.short, "--rows", 1)
    assert str(digest) in ran.out
    assert "and 1 more tensors" in ran.out
    assert policystore.json("show", digest)["version"] is None


def test_diff_compares_refs_and_files(
    policystore: Command, store: PolicyStore, tmp_path: Path
) -> None:
    store.pull("soccer/main@3").save(tmp_path / "file.safetensors")
    out = policystore.run("diff", "soccer/main@1", "file.safetensors").out
    assert "2 of 2 tensors changed" in out
    assert "spec.config.lr" in out
    assert policystore.json("diff", "soccer/main@3", "file.safetensors")["equal"]
    document = policystore.json("diff", "soccer/main@1", "soccer/main@2")
    assert document["tensors"]["pi.weight"]["status"] == "changed"
    assert policystore.run("diff", "duo/p0", "duo/p0", "--all").out.count("equal") == 3


def test_tags_lists_tags_and_their_moves(policystore: Command, store: PolicyStore) -> None:
    store.tag("soccer/main@3", "champion")
    store.tag("soccer/main@1", "old")
    store.untag("soccer/main", "old")
    assert policystore.json("tags", "soccer/main")["tags"] == {"champion": 3}
    moves = policystore.json("tags", "soccer/main", "--history")["moves"]
    assert [(each["tag"], each["target"]) for each in moves] == [
        ("champion", 3), ("champion", 2), ("old", None), ("old", 1),
    ]  # fmt: skip
    out = policystore.run("tags", "soccer/main", "--history").out
    assert "removed" in out
    assert policystore.run("tags", "duo/p0").error.startswith("duo/p0 has no tags")
    missing = policystore.run("tags", "soccer/main", "champoin")
    assert missing.code == 3
    assert "Did you mean 'champion'?" in missing.error
    assert policystore.run("tags", "soccer/mian").code == 3


def test_search_finds_versions_across_names(policystore: Command, store: PolicyStore) -> None:
    store.annotate("duo/p0", metrics={"elo": 1200.0})
    document = policystore.json("search", "--where", "return > 10", "--sort", "-return", "-n", 5)
    assert [each["ref"] for each in document["versions"]] == ["soccer/main@3", "soccer/main@2"]
    found = policystore.run("search", "soccer/*", "--tag", "champion", "--since", "1d")
    assert found.out.splitlines()[1].split()[0] == "soccer/main@2"
    nothing = policystore.run("search", "soccer/*", "--where", "return > 99")
    assert (nothing.code, nothing.out, nothing.error) == (0, "", "no version fits")
    wrong = policystore.run("search", "--where", "return >")
    assert wrong.code == 2
    assert policystore.run("search", "--since", "soon").code == 2
    assert policystore.run("search", "soccer/mian").code == 3


def test_annotations_appear_in_log_and_show(policystore: Command, store: PolicyStore) -> None:
    ran = policystore.run("annotate", "soccer/main@2", "--metric", "elo=1200", "--note", "good")
    assert ran.out == "annotated soccer/main@2\n"
    document = policystore.json("annotate", "soccer/main@champion", "-m", "do not use")
    assert document["annotation"]["note"] == "do not use"
    assert [each.author for each in store.annotations("soccer/main@2")] == ["ann", "ann"]

    line = policystore.run("log", "soccer/main").out.splitlines()[2]
    assert "elo=1200" in line
    assert "[do not use]" in line
    shown = policystore.run("show", "soccer/main@2").out
    assert "elo=1200 good" in shown
    assert "do not use" in shown
    (logged,) = policystore.json("log", "soccer/main", "-n", 2)["versions"][1:]
    assert [each["note"] for each in logged["annotations"]] == ["good", "do not use"]
    assert policystore.run("annotate", "soccer/main").code == 2
    assert policystore.run("annotate", "soccer/main@9", "-m", "x").code == 3


def test_report_writes_a_page(policystore: Command, tmp_path: Path) -> None:
    document = policystore.json("report", "soccer/", "--out", "site", "--title", "the team")
    assert (document["names"], document["versions"]) == (1, 3)
    assert "the team" in (tmp_path / "site" / "index.html").read_text()
    assert policystore.run("report", "--out", "site").out.split()[1:3] == ["2", "names,"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine").write_text("x")
    assert policystore.run("report", "--out", "other").code == 2


HOSTILE = "\x1b[31m[red]x[/red]\x07\u202eevil :smile:"


def test_texts_from_a_store_move_no_cursor_and_are_no_markup(
    policystore: Command, store: PolicyStore
) -> None:
    store.push(
        controller(1.0), "soccer/main", message=HOSTILE, author=HOSTILE, metrics={HOSTILE: 1.0},
        source={"path": HOSTILE},
    )  # fmt: skip
    for words in (["ls"], ["log", "soccer/main"], ["show", "soccer/main"]):
        out = policystore.run(*words).out
        assert not set(out) & {"\x1b", "\x07", "\u202e"}
        assert "\\x1b[31m[red]x[/red]\\x07\\u202eevil :smile:" in out
    assert policystore.json("show", "soccer/main")["version"]["message"] == HOSTILE


class Terminal(io.StringIO):
    """A terminal of some width."""

    def isatty(self) -> bool:
        return True


def drawn(monkeypatch: pytest.MonkeyPatch, width: int, draw: Any, *arguments: Any) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    file = Terminal()
    draw(file, *arguments)
    lines = file.getvalue().splitlines()
    assert all(len(line) <= width for line in lines), lines
    return lines


def test_a_table_that_does_not_fit_becomes_blocks_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    columns = [Column("ref"), Column("author"), Column("empty"), Column("message", wraps=True)]
    rows = [["soccer/main@12", "somebody", "", "word " * 12]]
    wide = drawn(monkeypatch, 200, draw_table, columns, rows)
    assert wide[0].split() == ["ref", "author", "message"]
    assert len(wide) == 2
    assert len(drawn(monkeypatch, 60, draw_table, columns, rows)) > 2
    narrow = drawn(monkeypatch, 30, draw_table, columns, rows)
    assert narrow[:2] == ["soccer/main@12", "  author: somebody"]
    assert " ".join(narrow).count("word") == 12


def test_fields_fit_into_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = [("acting digest", "blake3:" + "0" * 64), ("tags", ""), ("author", "ann")]
    assert drawn(monkeypatch, 100, draw_fields, fields)[-1] == "author         ann"
    narrow = drawn(monkeypatch, 24, draw_fields, fields)
    assert "".join(narrow).count("0") == 64
    assert narrow[-1] == "author: ann"


def test_a_sentence_is_wrapped_at_words_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    line = "  kept: 3 of the newest versions"
    assert wrapped(line, Terminal()) == "  kept: 3 of the\n    newest versions"
    assert wrapped(line, io.StringIO()) == line
    assert wrapped("x" * 30, Terminal()) == "x" * 30


def test_tables_show_four_metrics_and_those_that_are_named(
    policystore: Command, store: PolicyStore
) -> None:
    many = {"timers": {f"t{at}": float(at) for at in range(30)}, "a": {"return_mean": 3.0}}
    store.push(controller(5.0), "many", metrics=many)
    store.annotate("many", metrics={"elo": 1200.0})
    store.tag("many", "best")

    for words in (["log", "many"], ["search", "many"]):
        plain = policystore.run(*words).out
        named = policystore.run(*words, "--metric", "timers/t7", "--metric", "nothing")

        assert "elo=1200 a.return_mean=3 timers.t0=0 timers.t1=1 +28" in plain
        assert "best" in plain
        assert "timers.t7=7 elo=1200" in named.out
        assert "has the metric 'nothing'" in named.error
        assert max(map(len, plain.splitlines())) < 200


def test_a_search_reads_each_annotation_and_tag_once(
    policystore: Command, store: PolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.annotate("soccer/main@2", metrics={"elo": 1200.0})
    read: Counter[str] = Counter()
    real = MemoryBackend.get

    def get(self: MemoryBackend, key: str, **settings: Any) -> bytes | memoryview:
        read[key] += 1
        return real(self, key, **settings)

    monkeypatch.setattr(MemoryBackend, "get", get)
    for where in ("elo > 1 and tag == 'champion'", "author == 'ann'"):
        read.clear()
        document = policystore.json("search", "soccer/*", "--where", where)
        found = {each["number"]: each for each in document["versions"]}
        assert found[2]["tags"] == ["champion"]
        assert found[2]["annotations"][0]["metrics"] == {"elo": 1200.0}
        notes = [count for key, count in read.items() if "/@notes/" in key]
        assert notes == [1], where
        tags = [count for key, count in read.items() if "/@tags/" in key and "@hint" not in key]
        assert set(tags) <= {1}, where


def test_watch_shows_each_version_that_a_tag_comes_to_mean(
    policystore: Command, store: PolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = policystore.run("watch", "soccer/main@champion", "--timeout", "0")
    assert (ran.code, ran.err) == (0, "")
    assert "  soccer/main@2  blake3:" in ran.out
    look = Watch._look

    def moved_before(watch: Watch) -> Version | None:
        if watch._looks == 1:
            store.tag("soccer/main@1", "champion")
        return look(watch)

    monkeypatch.setattr(Watch, "_look", moved_before)
    words = ["soccer/main@champion", "--interval", "0.001", "--timeout", "0.3", "--json"]
    documents = [json.loads(line) for line in policystore.run("watch", *words).out.splitlines()]
    assert [each["version"]["number"] for each in documents] == [2, 1]


def test_watch_tells_a_ref_that_means_nothing_or_always_the_same(policystore: Command) -> None:
    for words, code, text in (
        (["soccer/main@champion2"], 3, "has no tag 'champion2'"),
        (["soccer/main@2"], 2, "always means the same policy"),
        (["soccer/main", "--interval", "0"], 2, "interval is a number of seconds"),
    ):
        ran = policystore.run("watch", *words)
        assert (ran.code, ran.out) == (code, "")
        assert text in ran.error


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_watch_that_saw_no_version_ends_with_a_code_of_its_own(
    policystore: Command, words: list[str]
) -> None:
    ran = policystore.run("watch", "soccer/new", "--wait", "--timeout", "0", *words)
    assert (ran.code, ran.out) == (1, "")
    assert "the ref means nothing now" in ran.err
    assert ran.err.endswith("soccer/new: no version was seen until --timeout\n")
