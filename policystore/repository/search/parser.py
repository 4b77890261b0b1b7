"""Parse the expressions of a search by recursive descent, in linear time.

The grammar::

    condition  = both, { "or", both }
    both       = single, { "and", single }
    single     = "not", single | "(", condition, ")" | comparison
    comparison = operand, sign, operand
               | field, [ "not" ], "in", "(", value, { ",", value }, ")"
               | field, "contains", value
               | field of type "true or false" | "true" | "false"
    sign       = "==" | "!=" | "<" | "<=" | ">" | ">="
    operand    = field | value

:mod:`policystore.repository.search.tokens` describes fields and values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from policystore.errors import InvalidInputError
from policystore.repository.search.conditions import All, AnyOf, Compare, Condition, Fixed, Not
from policystore.repository.search.fields import Field, Type, parse_field
from policystore.repository.search.literals import check_pair, check_sign, convert
from policystore.repository.search.messages import did_you_mean, error_at
from policystore.repository.search.tokens import Kind, Token, tokenize

__all__ = ["MAX_DEPTH", "parse_expression"]

MAX_DEPTH = 40
"""How many brackets and ``not`` may stand inside each other."""

_COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


def parse_expression(text: str) -> Condition:
    """Parse an expression such as ``return > 20 and author == 'ann'``.

    Raises:
        InvalidInputError: the expression is wrong; the message shows where, and what was expected.
    """
    tokens = tokenize(text)
    if tokens[0].kind is Kind.END:
        raise InvalidInputError(
            'the expression is empty: write a comparison such as "return > 20", or leave it out'
        )
    return _Parser(text, tokens).parse()


class _Parser:
    """Parse one expression; arguments: the text, and its tokens."""

    def __init__(self, text: str, tokens: Sequence[Token]) -> None:
        self.text = text
        self.tokens = tokens
        self.index = 0

    @property
    def token(self) -> Token:
        """The next token."""
        return self.tokens[self.index]

    def take(self) -> Token:
        """Return the next token and go past it."""
        token = self.tokens[self.index]
        self.index += 1
        return token

    def is_next(self, *texts: str) -> bool:
        """Return whether one of these words or signs comes next."""
        return self.token.kind in (Kind.WORD, Kind.SIGN) and self.token.text in texts

    def fail(self, expected: str, token: Token | None = None) -> InvalidInputError:
        """Build the error for the next token, or for an earlier one."""
        token = self.token if token is None else token
        return error_at(self.text, token.place, f"expected {expected}, found {token}")

    def parse(self) -> Condition:
        """Parse the whole expression."""
        condition = self.either(0)
        if self.token.kind is not Kind.END:
            hint = ""
            if self.token.kind is Kind.FIELD:
                hint = did_you_mean(self.token.text, ("and", "or"))
            if self.is_next(*_COMPARISONS):
                hint = ". Join two comparisons with 'and': 1 < x and x < 3"
            raise self.fail(f"'and', 'or' or the end{hint}")
        return condition

    def either(self, depth: int) -> Condition:
        """Parse conditions that ``or`` joins."""
        return self.joined("or", AnyOf, self.both, depth)

    def both(self, depth: int) -> Condition:
        """Parse conditions that ``and`` joins."""
        return self.joined("and", All, self.single, depth)

    def joined(
        self,
        word: str,
        make: Callable[[tuple[Condition, ...]], Condition],
        part: Callable[[int], Condition],
        depth: int,
    ) -> Condition:
        """Parse conditions that a word joins."""
        conditions = [part(depth)]
        while self.is_next(word):
            self.take()
            conditions.append(part(depth))
        return conditions[0] if len(conditions) == 1 else make(tuple(conditions))

    def single(self, depth: int) -> Condition:
        """Parse a comparison, a condition in brackets, or its opposite."""
        if depth > MAX_DEPTH:
            raise error_at(
                self.text,
                self.token.place,
                f"brackets and 'not' may be nested {MAX_DEPTH} times at most",
            )
        if self.is_next("not"):
            self.take()
            return Not(self.single(depth + 1))
        if self.is_next("("):
            opening = self.take()
            condition = self.either(depth + 1)
            if not self.is_next(")"):
                problem = f"a ')' for the '(' in column {opening.place + 1}"
                raise self.fail(problem)
            self.take()
            return condition
        return self.comparison()

    def comparison(self) -> Condition:
        """Parse a comparison; the next token should be its left side."""
        left = self.operand("a field or a value")
        if self.is_next(*_COMPARISONS):
            sign = self.take()
            return self.compare(left, sign, self.operand("a value or a field"))
        if left.kind is Kind.LITERAL:
            if isinstance(left.value, bool):
                return Fixed(left.value)
            raise self.fail(f"a comparison such as '==' after {left}")
        field = parse_field(left.text, left.place, quoted=left.quoted)
        if self.is_next("in", "not"):
            return self.membership(field)
        if self.is_next("contains"):
            sign = self.take()
            check_sign(self.text, field, sign)
            value = convert(self.text, field, sign.text, self.literal())
            return Compare(field, "contains", (value,))
        if field.type is Type.FLAG:
            return Compare(field, "==", (True,))
        hint = ""
        if self.token.kind is Kind.FIELD:
            hint = did_you_mean(self.token.text, ("contains", "in", "and", "or"))
        raise self.fail(f"a comparison such as '==', '>', 'in' or 'contains' after {left}{hint}")

    def membership(self, field: Field) -> Condition:
        """Parse ``in`` or ``not in``, and the values in brackets."""
        negated = self.is_next("not")
        sign = self.take()
        if negated:
            if not self.is_next("in"):
                raise self.fail(f"'in' after {field.name!r} and 'not'")
            sign = self.take()
        if not self.is_next("("):
            raise self.fail("a '(' after 'in', and then values: author in ('ann', 'bob')")
        self.take()
        values = [convert(self.text, field, sign.text, self.literal())]
        while self.is_next(","):
            self.take()
            if self.is_next(")"):
                break  # a comma after the last value, as Python allows it
            values.append(convert(self.text, field, sign.text, self.literal()))
        if not self.is_next(")"):
            raise self.fail("',' or ')' after a value")
        self.take()
        return Compare(field, "!=" if negated else "==", tuple(values))

    def compare(self, left: Token, sign: Token, right: Token) -> Condition:
        """Build the comparison of two operands."""
        if left.kind is Kind.LITERAL and right.kind is Kind.LITERAL:
            raise error_at(
                self.text, left.place, f"expected a field on one side of {sign}, found two values"
            )
        operator = sign.text
        if left.kind is Kind.LITERAL:
            left, right, operator = right, left, _FLIPPED.get(operator, operator)
        field = parse_field(left.text, left.place, quoted=left.quoted)
        check_sign(self.text, field, sign)
        if right.kind is Kind.LITERAL:
            return Compare(field, operator, (convert(self.text, field, operator, right),))
        other = parse_field(right.text, right.place, quoted=right.quoted)
        check_pair(self.text, field, other)
        return Compare(field, operator, other=other)

    def operand(self, expected: str) -> Token:
        """Take a field or a value."""
        if self.token.kind in (Kind.FIELD, Kind.LITERAL):
            return self.take()
        raise self.fail(expected)

    def literal(self) -> Token:
        """Take a value."""
        if self.token.kind is Kind.LITERAL:
            return self.take()
        hint = ""
        if self.token.kind is Kind.FIELD:
            hint = "; a text stands in quotes"
        raise self.fail(f"a value{hint}")
