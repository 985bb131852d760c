"""Tokens of the loop IR's text form, and what stands on one line: boxes, index expressions, scalar expressions."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, get_args

from . import elementwise
from .affine import AffineExpr, Atom, FloorDiv, Mod, Term
from .loop import Apply, Buffer, Const, Expr, Fetch, Index, IndexValue, Iter, Let, Pack, Read, Scope, Where

INDENT = "  "
NAME = r"[A-Za-z_][\w#']*(?:\.[\w#']+)*"

_TOKEN = re.compile(
    rf'\s*(?:(?P<name>{NAME})|(?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|(?P<string>"(?:[^"\\]|\\.)*")'
    r"|(?P<symbol>\.\.|//|>=|[-+*%()\[\]{},:<=]))",
    re.ASCII,
)
_WORDS = {"inf": float("inf"), "nan": float("nan"), "true": True, "false": False}
_MAX_DIGITS = 40

_T = TypeVar("_T")


class ParseError(ValueError):
    """Text that is not a loop function; the message names the line, what was expected and what was found."""


@dataclass(frozen=True, slots=True)
class Source:
    """A line of a program: its number in the text, how often it is indented, and the rest."""

    number: int
    depth: int
    text: str


def read_lines(text: str) -> list[Source]:
    """The lines of a program that are not blank.

    Raises:
        ParseError: a line is indented by half a step.
    """
    lines: list[Source] = []
    for number, raw in enumerate(text.splitlines(), 1):
        content = raw.strip()
        if not content:
            continue
        spaces = len(raw) - len(raw.lstrip(" "))
        if spaces % len(INDENT):
            raise ParseError(f"line {number}: expected steps of {len(INDENT)} spaces, found {spaces}")
        lines.append(Source(number, spaces // len(INDENT), content))
    return lines


class Line:
    """A cursor over the tokens of one line.

    Args:
        source: the line.
        dtypes: element types of the buffers in scope, by name.
    """

    def __init__(self, source: Source, dtypes: dict[str, str]) -> None:
        self.number = source.number
        self.dtypes = dtypes
        self.tokens = _tokens(source)
        self.at = 0

    # ---- tokens

    def fail(self, expected: str) -> ParseError:
        """The error that something else was expected here."""
        found = repr(self.tokens[self.at][1]) if self.at < len(self.tokens) else "the end of the line"
        return ParseError(f"line {self.number}: expected {expected}, found {found}")

    def sees(self, text: str) -> bool:
        """Whether the next token is ``text``."""
        return self.at < len(self.tokens) and self.tokens[self.at][1] == text

    def accept(self, text: str) -> bool:
        """Step over the next token if it is ``text``."""
        found = self.sees(text)
        self.at += found
        return found

    def need(self, text: str) -> None:
        """Step over the next token, which must be ``text``."""
        if not self.accept(text):
            raise self.fail(repr(text))

    def end(self) -> None:
        """Check that nothing is left."""
        if self.at < len(self.tokens):
            raise self.fail("the end of the line")

    def name(self) -> str:
        """The next token, a name."""
        return self._take("name", "a name")

    def choice(self, options: tuple[str, ...]) -> str:
        """The next token, one of some words."""
        if not any(self.sees(o) for o in options):
            raise self.fail(" or ".join(options))
        return self.name()

    def integer(self) -> int:
        """An integer with an optional minus sign."""
        sign = -1 if self.accept("-") else 1
        digits = self._take("number", "an integer")
        if not digits.isdigit() or len(digits) > _MAX_DIGITS:
            self.at -= 1
            raise self.fail(f"an integer of at most {_MAX_DIGITS} digits")
        return sign * int(digits)

    def _take(self, kind: str, expected: str) -> str:
        if self.at >= len(self.tokens) or self.tokens[self.at][0] != kind:
            raise self.fail(expected)
        self.at += 1
        return self.tokens[self.at - 1][1]

    def _listed(self, item: Callable[[], _T], close: str) -> tuple[_T, ...]:
        """Items separated by commas, up to and with the closing symbol."""
        items: list[_T] = []
        while not self.accept(close):
            if items:
                self.need(",")
            items.append(item())
        return tuple(items)

    def fetch(self) -> Fetch:
        """What follows the word ``fetch``: ``x at loop + 1``."""
        buffer = self.name()
        self.need("at")
        loop = self.name()
        self.need("+")
        found = Fetch(buffer, loop, self.integer())
        self.end()
        return found

    # ---- declarations

    def buffer(self, scope: Scope) -> Buffer:
        """``name: dtype[shape] scope pack(axis, factor, extent)``; ``scope`` is the one that is not written."""
        name = self.name()
        self.need(":")
        dtype = self.name()
        self.need("[")
        shape = self._listed(self.integer, "]")
        scopes = get_args(Scope)
        if self.at < len(self.tokens) and not self.sees("pack"):
            word = self.choice(scopes)
            scope = next(s for s in scopes if s == word)
        packing: list[Pack] = []
        while self.accept("pack"):
            self.need("(")
            numbers = self._listed(self.integer, ")")
            if len(numbers) != 3:
                raise self.fail("pack(axis, factor, extent)")
            packing.append(Pack(*numbers))
        return Buffer(name, shape, dtype, scope, tuple(packing))

    def box(self) -> tuple[Iter, ...]:
        """The iterators of a Block, in brackets."""
        self.need("[")
        return self._listed(self._iterator, "]")

    def _iterator(self) -> Iter:
        name = self.name()
        self.need(":")
        lower = self.affine()
        self.need("..")
        if lower.is_constant and not self.sees("+"):
            extent = self.integer() - lower.const
        else:
            self.need("+")
            extent = self.integer()
        limit = self.affine() if self.accept("<") else None
        kind = "reduce" if self.accept("reduce") else "data"
        return Iter(name, lower, extent, kind, self.accept("vector"), limit)

    # ---- index expressions

    def bounds(self, combine: str) -> Index:
        """One bound, or several as ``max(...)`` or ``min(...)``."""
        if self.sees(combine) and self.at + 1 < len(self.tokens) and self.tokens[self.at + 1][1] == "(":
            self.at += 2
            return self._listed(self.affine, ")")
        return (self.affine(),)

    def index(self) -> Index:
        """Index expressions in brackets."""
        self.need("[")
        return self._listed(self.affine, "]")

    def conditions(self) -> Index:
        """One or more ``expression >= 0``, separated by commas."""
        found = [self._condition()]
        while self.accept(","):
            found.append(self._condition())
        return tuple(found)

    def _condition(self) -> AffineExpr:
        expr = self.affine()
        self.need(">=")
        self.need("0")
        return expr

    def affine(self) -> AffineExpr:
        """A sum of multiples of variables, quotients and remainders."""
        terms: list[Term] = []
        const = 0
        sign = -1 if self.accept("-") else 1
        while True:
            atom, k = self._term()
            if atom is None:
                const += sign * k
            else:
                terms.append((atom, sign * k))
            if self.accept("+"):
                sign = 1
            elif self.accept("-"):
                sign = -1
            else:
                return AffineExpr(tuple(terms), const)

    def _term(self) -> tuple[Atom | None, int]:
        if self.at < len(self.tokens) and self.tokens[self.at][0] == "number":
            k = self.integer()
            return (self._atom(), k) if self.accept("*") else (None, k)
        return self._atom(), 1

    def _atom(self) -> Atom:
        if not self.accept("("):
            return self.name()
        operand = self._operand()
        kind = FloorDiv if self.accept("//") else Mod
        if kind is Mod:
            self.need("%")
        divisor = self.integer()
        if divisor <= 0:
            self.at -= 1
            raise self.fail("a positive divisor")
        self.need(")")
        return kind(operand, divisor)

    def _operand(self) -> AffineExpr:
        """The left side of a quotient: a variable, or any expression in parentheses."""
        if not self.accept("("):
            return AffineExpr(((self.name(), 1),))
        operand = self.affine()
        self.need(")")
        return operand

    # ---- scalar expressions

    def expression(self) -> Expr:
        """A scalar expression."""
        if self.sees("-") or (self.at < len(self.tokens) and self.tokens[self.at][0] == "number"):
            return self._constant()
        name = self.name()
        if self.sees("["):
            return self._read(name)
        if name in _WORDS and self.sees(":"):
            self.at -= 1
            return self._constant()
        if name == "index" and self.accept("("):
            expr = self.affine()
            self.need(")")
            self.need(":")
            return IndexValue(expr, self.name())
        if name == "where":
            return self._where()
        if name == "let":
            return self._let()
        return self._apply(name)

    def _where(self) -> Where:
        self.need("{")
        condition = self._condition()
        self.need("}")
        self.need("(")
        parts = self._listed(self.expression, ")")
        if len(parts) != 2:
            raise self.fail("two parts to choose from")
        return Where(condition, *parts)

    def _let(self) -> Let:
        self.need("{")
        name = self.name()
        self.need("<")
        extent = self.integer()
        self.need("=")
        value = self.expression()
        self.need("}")
        self.need("(")
        body = self.expression()
        self.need(")")
        return Let(name, value, extent, body)

    def _constant(self) -> Const:
        value = self._literal()
        self.need(":")
        return Const(value, self.name())

    def _literal(self) -> float | int | bool:
        sign = -1 if self.accept("-") else 1
        if self.at < len(self.tokens) and self.tokens[self.at][1] in _WORDS:
            value = _WORDS[self.name()]
            return value if isinstance(value, bool) else sign * value
        if self.at < len(self.tokens) and self.tokens[self.at][1].isdigit():
            return sign * self.integer()
        return sign * float(self._take("number", "a number"))

    def _read(self, name: str) -> Read:
        index = self.index()
        dtype = self.name() if self.accept(":") else self.dtypes.get(name)
        if dtype is None:
            raise self.fail(f"an element type (no buffer {name} is in scope)")
        if not self.accept("{"):
            return Read(name, index, dtype)
        guard = self.conditions()
        self.need("else")
        otherwise = self._literal()
        self.need("}")
        return Read(name, index, dtype, guard, otherwise)

    def _apply(self, op: str) -> Apply:
        params = self._listed(self._param, "}") if self.accept("{") else ()
        self.need("(")
        args = self._listed(self.expression, ")")
        dtype = self.name() if self.accept(":") else elementwise.default_dtype(op, [a.dtype for a in args])
        if dtype is None:
            raise self.fail(f"the result type of {op}")
        return Apply(op, args, dtype, params)

    def _param(self) -> int | str:
        if self.at >= len(self.tokens) or self.tokens[self.at][0] != "string":
            return self.integer()
        text = self._take("string", "a string")
        try:
            return str(json.loads(text))
        except ValueError:
            raise ParseError(f"line {self.number}: expected a JSON string, found {text}") from None


def _tokens(source: Source) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    at = 0
    while at < len(source.text):
        match = _TOKEN.match(source.text, at)
        if match is None or match.lastgroup is None:
            raise ParseError(f"line {source.number}: expected a name, number or symbol, found {source.text[at:]!r}")
        found.append((match.lastgroup, match[match.lastgroup]))
        at = match.end()
    return found
