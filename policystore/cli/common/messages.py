"""Write errors and warnings of the library as a terminal shows them: in words of the commands.

The library advises a caller in Python: ``give force=True``. Whoever runs a command needs the option
of the command instead: ``give --force``.
"""

from __future__ import annotations

import re
import shlex

from policystore.cli.common.exit_codes import one_line

__all__ = ["for_terminal", "in_options"]

_TEXT = r"""(?:'[^']*'|"[^"]*")"""  # as repr writes a text
# The words of the commands that do what a method of PolicyStore does.
_COMMANDS = {
    "annotate": "annotate", "collect_garbage": "gc", "copy_to": "copy", "delete": "delete",
    "log": "log", "names": "ls", "protect": "protect", "prune": "prune", "pull": "pull",
    "restore": "restore", "tag": "tag", "tags": "tags", "unprotect": "unprotect",
    "untag": "untag", "verify": "verify", "versions": "search",
}  # fmt: skip
_CALL = re.compile(
    rf"(?<![\w.])(?:store\.)?({'|'.join(_COMMANDS)})\(((?:{_TEXT}|[\w.]+(?:=[\w.…]+)?|, )*)\)"
)
_STORE = re.compile(rf"(?:open )?PolicyStore\(({_TEXT})\)")
_POLICIES = re.compile(rf"policy_ids=\[((?:{_TEXT}|[\w.…]+|, )*)\]")
_GIVEN = re.compile(rf"storage_options=\{{{_TEXT}: \{{{_TEXT}: (?:{_TEXT}|…)\}}\}}")
_PHRASES = (
    (", or open the store with read_only=True to read only", ""),
    ("make another PolicyStore with this folder and call its repair()", "call repair in Python"),
    ("make another PolicyStore with this folder", "run the command again"),
    ("repair() puts it back", "the call repair in Python puts it back"),
    ("force=True", "--force"),
    ("exclusive=True", "--exclusive"),
    ("keep_last, keep_best, older_than or keep.", "--keep-last, --keep-best or --older-than."),
    ("use delete_name", "use policystore delete NAME --all"),
    ("keep_best: ", "--keep-best: "),
    ("env=… chooses one", "--env chooses one"),
    ("pass env=(env, config) with the config", "give --env-config with the config"),
    ("pass env=(env, config): ", "give --env and --env-config: "),
    ("give env= as it was for play: ", "replay in Python, with env= as it was for play: "),
    ("pass players=[…] with", "replay in Python: league.replay(match, players=[…]) with"),
    ("pass env=:", "give --env:"),
    ("pass env=, or", "give --env, or"),
    ("Install the package, or pass env=", "Install the package, or give --env"),
    ("pairing='anchors' needs the anchors: against=[ref, …]", "--pairing anchors needs --against"),
    ("by read_checkpoint and push", "by policystore push"),
    ("policy_ids is a list of ids:", "--policy takes an id:"),
)
_INSTEAD = "ive --contents network, or export the policy in Python: export(snap, FILE, "
# What rebuild_player, export and replay advise -> what the commands have.
_EXPORT = (
    (
        r"pass (env_spaces=\(env\.observation_space, env\.action_space\))"
        r"(?:, and connectors= [^.]*)?",
        rf"g{_INSTEAD}\1)",
    ),
    (r"pass (normalize_actions=True)\b", rf"g{_INSTEAD}\1)"),
    (r"pass connectors=.* with the connectors to use instead", "give --contents network"),
    (r"Pass the right (env_spaces=), or connectors= [^.]*", rf"G{_INSTEAD}\1…)"),
    (r"contents=([\"'])(\w+)\1", r"--contents \2"),
    (r"pass module_id=", "give --module"),
    (r"pass agent=", "give --agent"),
    (rf"module_id=({_TEXT})", r"--module \1"),
    (rf"agent=({_TEXT})", r"--agent \1"),
    (r"leave module_id out", "leave --module out"),
    (r"leave agent out", "leave --agent out"),
    (rf"pass trust=\[({_TEXT})\](?:, or the class itself: trust=\[[^]]*\])?", r"give --trust \1"),
    (rf"or trust=\[({_TEXT})\] if", r"or --trust \1 if"),
    (r", or pass the class itself in trust=\[…\]", ""),
    (r"define or import it here and pass the class itself: ", "export the policy in Python: "),
    (r"pass it in trust=\[…\]", "export the policy in Python, with it in trust=[…]"),
)
_CACHE = re.compile(r"by cache=… or ([\w$]+), or cache=False for none")


def for_terminal(text: str, option: str = "--option") -> str:
    """Return a message of the library as the lines that a terminal shows.

    The message is one line. If it ends with an expression and a ``^`` below a place of it, these
    two stay lines of their own, so that the sign stands where the library has put it.

    Args:
        text: the message.
        option: the option that gives ``storage_options`` to the store that the message is about.
    """
    pointed = re.search(r"\n( [^\n]*)\n( *\^)\Z", text)
    lines = [in_options(one_line(text[: pointed.start()] if pointed else text), option)]
    if pointed:
        lines += [one_line(each, keep_blanks=True) for each in pointed.groups()]
    return "\n".join(lines)


def in_options(text: str, option: str = "--option") -> str:
    """Return a message in which options and commands stand for the Python of the library.

    Args:
        text: the message.
        option: the option that gives ``storage_options`` to the store that the message is about.
    """
    for phrase, words in _PHRASES:
        text = text.replace(phrase, words)
    for pattern, words in _EXPORT:
        text = re.sub(pattern, words, text)
    text = _CACHE.sub(r"by \1", text)
    text = _POLICIES.sub(lambda found: " ".join(map(_policy, found[1].split(", "))), text)
    text = _STORE.sub(lambda found: f"give --store {shlex.quote(found[1][1:-1])}", text)
    text = _CALL.sub(_command, text)
    text = _GIVEN.sub(lambda found: _dotted(found[0], option), text)
    # A pyproject.toml names the key as Python does, and only there it may be no dict.
    if "[tool.policystore]" in text or "storage_options is a dict" in text:
        return text
    text = text.replace("the storage_options given", f"the values of {option} given")
    text = text.replace("storage_options are for", f"{option} is for")
    return re.sub(r"\bstorage_options\b", option, text)


def _policy(written: str) -> str:
    return f"--policy {_word(written)}"


def _word(written: str) -> str:
    """Return an argument as a shell takes it; a name of an argument becomes ``NAME``."""
    return shlex.quote(written[1:-1]) if written[0] in "'\"" else written.upper()


def _command(found: re.Match[str]) -> str:
    """Return the words of a command for a call, whose options are left out or translated."""
    words = ["policystore", _COMMANDS[found[1]]]
    for argument in re.findall(rf"{_TEXT}|[\w.]+(?:=[\w.…]+)?", found[2]):
        if argument == "repair_from=…":
            words.append("--repair-from STORE")
        elif "=" not in argument or argument[0] in "'\"":
            words.append(_word(argument))
    return " ".join(words)


def _dotted(written: str, option: str) -> str:
    """Return ``storage_options={'outer': {'inner': value}}`` as ``--option outer.inner=value``."""
    outer, inner, value = re.findall(rf"{_TEXT}|…", written)
    return f"{option} {outer[1:-1]}.{inner[1:-1]}={value.strip(chr(39))}"
