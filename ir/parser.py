"""The text form of the loop IR, read back. `ir.text` describes the form and prints it."""

from __future__ import annotations

from .loop import Access, Alloc, Block, Buffer, Fetch, For, If, Index, LoopFunc, LoopKind, Seq, Stmt
from .scanner import Line, ParseError, Source, read_lines

VERSION_LINE = "tilewright loop ir 1"

_LOOPS: dict[str, LoopKind] = {"for": "serial", "parallel": "parallel", "unroll": "unroll", "grid": "grid"}


def parse_ir(text: str) -> LoopFunc:
    """Read the text form of a function.

    Args:
        text: what `ir.text.print_ir` printed.

    Returns:
        The function. It is well formed as text only: check text of unknown origin with `ir.verify.verify`.

    Raises:
        ParseError: the text is not in the form.
    """
    try:
        return _Program(text).function()
    except RecursionError:
        raise ParseError("expected a program that is less deeply nested") from None


class _Program:
    """The lines of a program, consumed from top to bottom."""

    def __init__(self, text: str) -> None:
        self.lines = read_lines(text)
        self.at = 0
        self.dtypes: dict[str, str] = {}

    def function(self) -> LoopFunc:
        version = self.next_line(0, VERSION_LINE)
        if version.text != VERSION_LINE:
            raise ParseError(f"line {version.number}: expected {VERSION_LINE!r}, found {version.text!r}")
        head = Line(self.next_line(0, "func"), self.dtypes)
        head.need("func")
        name = head.name()
        head.end()
        params: list[tuple[str, Buffer]] = []
        while (line := self.peek(1)) is not None and line.text.partition(" ")[0] in ("input", "constant", "output"):
            params.append(self.parameter())
        kinds = [kind for kind, _ in params]
        count = kinds.count("output")
        if "output" in kinds[: len(kinds) - count]:
            raise ParseError(f"line {head.number}: expected the outputs after all other parameters")
        body = self.body(1)
        if self.at < len(self.lines):
            left = self.lines[self.at]
            raise ParseError(f"line {left.number}: expected the end, found {left.text!r}")
        return LoopFunc(name, tuple(b for _, b in params), count, body)

    def peek(self, depth: int) -> Source | None:
        """The next line if it stands at ``depth``."""
        if self.at < len(self.lines) and self.lines[self.at].depth == depth:
            return self.lines[self.at]
        return None

    def next_line(self, depth: int, expected: str) -> Source:
        line = self.peek(depth)
        if line is None:
            where = self.lines[self.at] if self.at < len(self.lines) else None
            found = "the end" if where is None else f"line {where.number}: {where.text!r} indented {where.depth} times"
            raise ParseError(f"expected {expected} indented {depth} times, found {found}")
        self.at += 1
        return line

    def parameter(self) -> tuple[str, Buffer]:
        line = Line(self.next_line(1, "a parameter"), self.dtypes)
        kind = line.name()
        buffer = line.buffer("constant" if kind == "constant" else "global")
        line.end()
        self.dtypes[buffer.name] = buffer.dtype
        return kind, buffer

    def body(self, depth: int) -> Stmt:
        """All statements at ``depth``."""
        items = [self.statement(self.next_line(depth, "a statement"), depth)]
        while self.peek(depth) is not None and not self.lines[self.at].text == "else":
            items.append(self.statement(self.next_line(depth, "a statement"), depth))
        return items[0] if len(items) == 1 else Seq(tuple(items))

    def statement(self, source: Source, depth: int) -> Stmt:
        line = Line(source, self.dtypes)
        keyword = line.name()
        if keyword in _LOOPS:
            return self.loop(line, _LOOPS[keyword], depth)
        if keyword == "block":
            return self.block(line, depth)
        if keyword == "alloc":
            return self.alloc(line, depth)
        if keyword == "if":
            return self.condition(line, depth)
        if keyword == "pass":
            line.end()
            return Seq(())
        raise ParseError(f"line {source.number}: expected a statement, found {source.text!r}")

    def loop(self, line: Line, kind: LoopKind, depth: int) -> For:
        name = line.name()
        line.need("in")
        lower = line.bounds("max")
        line.need("..")
        upper = line.bounds("min")
        line.end()
        return For(name, lower, upper, self.body(depth + 1), kind)

    def alloc(self, line: Line, depth: int) -> Alloc:
        buffer = line.buffer("global")
        line.end()
        hidden = self.dtypes.get(buffer.name)
        self.dtypes[buffer.name] = buffer.dtype
        body = self.body(depth + 1)
        if hidden is None:
            del self.dtypes[buffer.name]
        else:
            self.dtypes[buffer.name] = hidden
        return Alloc(buffer, body)

    def condition(self, line: Line, depth: int) -> If:
        conditions = line.conditions()
        line.end()
        then = self.body(depth + 1)
        other = self.peek(depth)
        if other is None or other.text != "else":
            return If(conditions, then)
        self.at += 1
        return If(conditions, then, self.body(depth + 1))

    def block(self, head: Line, depth: int) -> Block:
        name = head.name()
        iters = head.box()
        head.end()
        line = Line(self.next_line(depth + 1, "a write"), self.dtypes)
        write = Access(line.name(), line.index())
        monoid = None if line.sees("=") else line.name()
        line.need("=")
        value = line.expression()
        line.end()
        guard: Index = ()
        zero = False
        fetches: list[Fetch] = []
        while self.peek(depth + 1) is not None:
            tail = Line(self.next_line(depth + 1, "a guard or a fetch"), self.dtypes)
            if tail.choice(("guard", "fetch")) == "fetch":
                fetches.append(tail.fetch())
                continue
            zero = tail.choice(("zero", "skip")) == "zero"
            tail.need(":")
            guard = tail.conditions()
            tail.end()
        return Block(name, iters, write, value, monoid, guard, "zero" if zero else "skip", tuple(fetches))
