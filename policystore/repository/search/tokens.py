"""Cut an expression of a search into tokens, in one pass over the text."""

from __future__ import annotations

import datetime
import math
import re
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from policystore.errors import InvalidInputError
from policystore.repository.search.messages import error_at

__all__ = ["MAX_LENGTH", "Kind", "Literal", "Token", "tokenize"]

MAX_LENGTH = 10_000
"""The most characters that an expression may have."""

Literal: TypeAlias = bool | int | float | str | datetime.timedelta | None
"""A value that stands in an expression. Sizes such as ``10MB`` are ints."""


class Kind(Enum):
    """Name the kind of a token, in words for messages."""

    FIELD = "a field"
    LITERAL = "a value"
    WORD = "a word"
    SIGN = "a sign"
    END = "the end"


@dataclass(frozen=True)
class Token:
    """Hold a part of an expression.

    Attributes:
        kind: what the token is.
        text: the words and signs of the grammar in lower case, the name of a field, or the text of
            a value as it stands in the expression.
        place: the index of its first character.
        value: the value of a literal.
        quoted: whether a field begins with a backquote. Such a field is a metric, whatever its name
            is.
    """

    kind: Kind
    text: str
    place: int
    value: Literal = None
    quoted: bool = False

    def __str__(self) -> str:
        return self.kind.value if self.kind is Kind.END else f"{self.text!r}"


_WORDS = {"and", "or", "not", "in", "contains"}
_VALUES: dict[str, Literal] = {
    "true": True, "false": False, "null": None, "none": None, "nan": math.nan, "inf": math.inf,
}  # fmt: skip
_SIGNS = re.compile(r"==|!=|<=|>=|<|>|\(|\)|,")
_MISTAKES = {
    "=>": "write >=",
    "=<": "write <=",
    "<>": "write !=",
    "===": "write ==",
    "=": "write ==",
    "&": "conditions are joined with 'and'",
    "|": "conditions are joined with 'or'",
    "!": "a condition is negated with 'not', and values are compared with '!='",
    "~": "a text is searched with 'contains'",
    "[": "several values stand in round brackets: tag in ('a', 'b')",
}
_WRONG_SIGNS = re.compile(r"=>|=<|<>|===")
_BLANK = re.compile(r"\s+")
# Signs of arithmetic may be a part of a name, because the grammar has no arithmetic.
_NAME = re.compile(r"[^\W\d][\w./-]*")
_MORE_NAME = re.compile(r"[\w./-]+")
_NUMBER = re.compile(r"-?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_UNIT = re.compile(r"[^\W\d_]+")
_MAX_DIGITS = 40
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_BYTES = {"B": 1} | {
    f"{letter}{i}B": base**power
    for i, base in (("", 1000), ("i", 1024))
    for power, letter in enumerate("KMGT", 1)
}
_ESCAPES = {"\\": "\\", "'": "'", '"': '"', "n": "\n", "t": "\t"}


def tokenize(text: str) -> list[Token]:
    """Return the tokens of an expression; the last one is the end.

    Raises:
        InvalidInputError: not text, too long, or a character or value that the grammar lacks.
    """
    if not isinstance(text, str):
        raise InvalidInputError(
            "an expression is a string such as \"return > 20 and author == 'ann'\", not "
            f"{type(text).__qualname__}"
        )
    if len(text) > MAX_LENGTH:
        raise InvalidInputError(
            f"an expression has at most {MAX_LENGTH:,} characters, this one {len(text):,}"
        )
    tokens: list[Token] = []
    place = 0
    while True:
        if blank := _BLANK.match(text, place):
            place = blank.end()
        if place == len(text):
            tokens.append(Token(Kind.END, "", place))
            return tokens
        token, place = _next_token(text, place)
        tokens.append(token)


def _next_token(text: str, place: int) -> tuple[Token, int]:
    """Return the token at a place, and the place behind it."""
    char = text[place]
    if char in "'\"":
        return _text(text, place)
    if _NUMBER.match(text, place):
        return _number(text, place)
    if char == "`" or _NAME.match(text, place):
        return _name(text, place)
    wrong = _WRONG_SIGNS.match(text, place)
    if wrong is None and (sign := _SIGNS.match(text, place)):
        return Token(Kind.SIGN, sign.group(), place), sign.end()
    if text.startswith("-inf", place):
        return Token(Kind.LITERAL, "-inf", place, -math.inf), place + 4
    found = wrong.group() if wrong else char
    hint = _MISTAKES.get(found, "a name with other characters stands in backquotes: `my metric`")
    raise error_at(text, place, f"{found!r} is no sign of an expression: {hint}")


def _text(text: str, place: int) -> tuple[Token, int]:
    quote, parts, index = text[place], list[str](), place + 1
    while index < len(text):
        char = text[index]
        if char == quote:
            end = index + 1
            return Token(Kind.LITERAL, text[place:end], place, "".join(parts)), end
        if char == "\\":
            escaped = text[index + 1 : index + 2]
            if escaped not in _ESCAPES or not escaped:
                raise error_at(
                    text, index, "after a backslash comes \\, ', \", n or t; a backslash is '\\\\'"
                )
            parts.append(_ESCAPES[escaped])
            index += 2
            continue
        parts.append(char)
        index += 1
    raise error_at(text, place, f"the text that begins here has no {quote} at its end")


def _number(text: str, place: int) -> tuple[Token, int]:
    match = _NUMBER.match(text, place)
    assert match is not None  # noqa: S101 (the caller has matched it)
    digits, end = match.group(), match.end()
    if len(digits) > _MAX_DIGITS:
        raise error_at(text, place, f"a number has at most {_MAX_DIGITS} characters")
    number: int | float = int(digits) if digits.lstrip("-").isdigit() else float(digits)
    unit = _UNIT.match(text, end)
    if unit is None:
        return Token(Kind.LITERAL, digits, place, number), end
    name, value = unit.group(), None
    if name in _SECONDS:
        try:
            value = datetime.timedelta(seconds=number * _SECONDS[name])
        except OverflowError:
            raise error_at(text, place, "a duration of at most 999999999 days") from None
        return Token(Kind.LITERAL, text[place : unit.end()], place, value), unit.end()
    if name in _BYTES:
        size = number * _BYTES[name]
        return Token(Kind.LITERAL, text[place : unit.end()], place, size), unit.end()
    raise error_at(
        text,
        end,
        f"{name!r} is no unit: durations end with s, m, h, d or w (7d), and sizes with "
        "KB, MB, GB, TB, KiB, MiB, GiB or TiB (10MB). A text stands in quotes",
    )


def _name(text: str, place: int) -> tuple[Token, int]:
    """Return a field or a word; parts of the name of a field may stand in backquotes."""
    parts, index = list[str](), place
    quoted = any_quoted = False
    while index < len(text):
        if text[index] == "`":
            end = text.find("`", index + 1)
            if end < 0:
                raise error_at(text, index, "the name that begins here has no ` at its end")
            if end == index + 1:
                raise error_at(text, index, "between two backquotes stands the name of a field")
            quoted, any_quoted = quoted or index == place, True
            parts.append(text[index + 1 : end])
            index = end + 1
        elif match := _MORE_NAME.match(text, index):
            parts.append(match.group())
            index = match.end()
        else:
            break
    name = "".join(parts)
    if not any_quoted:
        if name.lower() in _WORDS:
            return Token(Kind.WORD, name.lower(), place), index
        if name.lower() in _VALUES:
            return Token(Kind.LITERAL, name, place, _VALUES[name.lower()]), index
    return Token(Kind.FIELD, name, place, quoted=quoted), index
