"""Messages of the library on a terminal speak of commands and options."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from policystore import PolicyStore
from policystore.cli.common.messages import for_terminal, in_options
from tests.support.command import Command


@pytest.mark.parametrize(
    ("python", "words"),
    [
        ("or give force=True", "or give --force"),
        ("policy_ids=['p0', 'p 2']", "--policy p0 --policy 'p 2'"),
        ("open PolicyStore('s3://b/x'), and", "give --store s3://b/x, and"),
        ("look at names('hockey/').", "look at policystore ls hockey/."),
        ("collect_garbage(dry_run=False) or", "policystore gc or"),
        ("store.restore('a/b@2') brings", "policystore restore a/b@2 brings"),
        ("store.untag('a/b', 'best')", "policystore untag a/b best"),
        ("verify(repair_from=…)", "policystore verify --repair-from STORE"),
        ("tags(name) lists", "policystore tags NAME lists"),
        (
            "storage_options={'client_kwargs': {'region_name': …}}",
            "--option client_kwargs.region_name=…",
        ),
        ("pass module_id=, one of 'a', 'b'", "give --module, one of 'a', 'b'"),
        ("agent='x': it does not; leave agent out", "--agent 'x': it does not; leave --agent out"),
        ('Give contents="network" to', "Give --contents network to"),
        (
            "If you trust it, pass trust=['mypkg.'], or the class itself: trust=[Net].",
            "If you trust it, give --trust 'mypkg.'.",
        ),
        (
            "define or import it here and pass the class itself: trust=[Net].",
            "export the policy in Python: trust=[Net].",
        ),
        ("pass connectors=[…] with the connectors to use instead", "give --contents network"),
        ("pass env=(env, config): the match", "give --env and --env-config: the match"),
        (
            "pass env=, or trust=['mypkg.'] if you trust this code",
            "give --env, or --trust 'mypkg.' if you trust this code",
        ),
        (
            "give env= as it was for play: the match does not hold",
            "replay in Python, with env= as it was for play: the match does not hold",
        ),
        (
            "pass players=[…] with the exported file 'x.onnx', which played red",
            "replay in Python: league.replay(match, players=[…]) with the exported file 'x.onnx', "
            "which played red",
        ),
        ("[tool.policystore] in x: storage_options", "[tool.policystore] in x: storage_options"),
    ],
)
def test_the_python_of_a_message_becomes_words_of_a_command(python: str, words: str) -> None:
    assert in_options(python) == words


def test_a_sign_below_an_expression_stays_below_its_place() -> None:
    text = "'=>' is no sign (column 8)\n  return => 1\n         ^"
    assert for_terminal(text) == text
    assert for_terminal("one\n two\n\x1b[2J") == "one two \\x1b[2J"


@pytest.fixture
def mistakes(policystore: Command, store: PolicyStore, tmp_path: Path) -> list[tuple[str, ...]]:
    store.protect("soccer/main", "champion", author="bob", by=["bob"])
    store.delete("soccer/main@1")
    return [
        ("tag", "soccer/main@3", "champion"),
        ("untag", "soccer/main", "champion", "--yes"),
        ("show", "soccer/main@1"),
        ("restore", "soccer/main"),
        ("prune", "soccer/main", "--yes"),
        ("gc", "--grace", "1s", "--yes"),
        ("ls", "socer/"),
        ("search", "--tag", "none"),
        ("copy", "s3://bucket/team", "--option", "endpoint_url=http://127.0.0.1:1"),
        ("copy", str(tmp_path / "m"), "--target-option", "endpoint_url=http://127.0.0.1:1"),
        ("stats",),
    ]


def test_no_message_of_a_mistake_speaks_python(
    policystore: Command, mistakes: list[tuple[str, ...]]
) -> None:
    for words in mistakes:
        ran = policystore.run(*words)
        assert not re.search(r"=True|PolicyStore\(|\(\)|storage_options", ran.out + ran.err), words
    assert "--target-option" in policystore.run(*mistakes[-3]).error
    assert "--target-option is for" in policystore.run(*mistakes[-2]).error
    assert policystore.run("search", "soxer/*").err.startswith("warning: no name in ")


def test_a_wrong_expression_has_its_sign_below_the_place(policystore: Command) -> None:
    ran = policystore.run("search", "--where", "return => 1")
    first, shown, sign = ran.err.splitlines()
    assert "write >=" in first
    assert shown[sign.index("^") :] == "=> 1"
    message = policystore.run("search", "--where", "return => 1", "--json").document["error"]
    assert message["message"].endswith("(column 8)")
