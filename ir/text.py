"""The exact text form of the loop IR: goldens, bug reports, the database's workloads, and the identity of a program.

    tilewright loop ir 1
    func matmul_relu
      input x: float32[8, 64]
      constant w: float32[3, 64, 16] pack(1, 16, 40)
      output out: float32[8, 40]
      parallel n in 0..3
        alloc acc: float32[8, 16] register
          block init [i: 0..8, j: 16*n..+16 < 40 vector]
            acc[i, j - 16*n] = 0.0:float32
          block update [k: 0..64 reduce, i: 0..8, j: 16*n..+16 < 40 vector]
            acc[i, j - 16*n] sum= mul(x[i, k], w[n, k, j - 16*n])
            guard skip: i - 1 >= 0
          block out [i: 0..8, j: 16*n..+16 < 40 vector]
            out[i, j] = max(acc[i, j - 16*n], x[i, j + 3]{-j + 36 >= 0 else 0.0})

An iterator is written ``name: first..end`` where its first value is a constant, else ``name: first..+extent``, followed
by its limit. ``for`` is a serial loop, the other kinds have their names; several bounds are written
``max(a, b)..min(c, d)``. ``where{j - 4 >= 0}(a, b)`` chooses, ``let{r < 10 = ids[i]}(x[r, j])`` binds an index between
0 and 9. The element type of a read, and the result type of a function, stand there only where they do
not follow from the operands.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from . import dtypes, elementwise
from .affine import AffineExpr
from .loop import (
    Alloc,
    Apply,
    Block,
    Buffer,
    Const,
    Expr,
    For,
    If,
    Index,
    IndexValue,
    Iter,
    Let,
    LoopFunc,
    Read,
    Seq,
    Stmt,
    Where,
)
from .parser import VERSION_LINE, parse_ir
from .scanner import INDENT, ParseError

__all__ = ["VERSION_LINE", "ParseError", "digest", "excerpt", "parse_ir", "print_ir"]

_DIGEST_BYTES = 20
_KEYWORDS = {"serial": "for", "parallel": "parallel", "unroll": "unroll", "grid": "grid"}


def print_ir(func: LoopFunc) -> str:
    """The text of a function, from which `parse_ir` builds the same function.

    Args:
        func: the function; it need not be valid.
    """
    return "\n".join(_Printer(func, canonical=False).lines) + "\n"


def digest(func: LoopFunc) -> str:
    """The identity of a function: 40 hex digits that do not depend on any name in it.

    The function's, buffers', loops', Blocks' and iterators' names are replaced by numbers in the order in which they
    are introduced; the BLAKE2b hash of that text is the digest.
    """
    text = "\n".join(_Printer(func, canonical=True).lines)
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest()


def excerpt(func: LoopFunc, place: Stmt | Buffer, around: int = 4) -> str:
    """The lines of the printed function near a statement or buffer, which is marked by ``>``.

    Args:
        func: the function.
        place: one of its statements or buffers.
        around: how many lines to show before and after.
    """
    printer = _Printer(func, canonical=False)
    at = printer.starts.get(id(place), 0)
    first = max(0, at - around)
    near = printer.lines[first : at + around + 2]
    return "\n".join(f"{'>' if first + n == at else ' '} {line}" for n, line in enumerate(near))


class _Printer:
    """Prints one function; ``starts`` tells at which line each statement and buffer begins, by object identity."""

    def __init__(self, func: LoopFunc, *, canonical: bool) -> None:
        self.canonical = canonical
        self.lines: list[str] = [VERSION_LINE, f"func {'f' if canonical else func.name}"]
        self.starts: dict[int, int] = {}
        self.dtypes: dict[str, str] = {}
        self.variables: dict[str, str] = {}
        self.buffers: dict[str, str] = {}
        self.counts: dict[str, int] = {}
        self.texts: dict[AffineExpr, str] = {}
        for n, buffer in enumerate(func.params):
            output = n >= len(func.params) - func.num_outputs
            keyword = "output" if output else "constant" if buffer.scope == "constant" else "input"
            self.buffer(buffer, keyword, INDENT)
        self.stmt(func.body, INDENT)

    def define(self, name: str, prefix: str) -> str:
        """What to call something that is introduced here; in canonical text it is numbered."""
        if not self.canonical:
            return name
        number = self.counts[prefix] = self.counts.get(prefix, -1) + 1
        return f"{prefix}{number}"

    def emit(self, line: str, place: Stmt | Buffer) -> None:
        self.starts.setdefault(id(place), len(self.lines))
        self.lines.append(line)

    def buffer(self, buffer: Buffer, keyword: str, pad: str) -> None:
        shape = ", ".join(map(str, buffer.shape))
        self.buffers[buffer.name] = name = self.define(buffer.name, "b")
        text = f"{pad}{keyword} {name}: {buffer.dtype}[{shape}]"
        if buffer.scope != ("constant" if keyword == "constant" else "global"):
            text += f" {buffer.scope}"
        for p in buffer.packing:
            text += f" pack({p.axis}, {p.factor}, {p.extent})"
        self.emit(text, buffer)
        self.dtypes[buffer.name] = buffer.dtype

    # ---- statements

    def stmt(self, stmt: Stmt, pad: str) -> None:
        match stmt:
            case Block():
                self.block(stmt, pad)
            case For():
                lower, upper = self.bounds("max", stmt.lower), self.bounds("min", stmt.upper)
                self.variables[stmt.name] = name = self.define(stmt.name, "l")
                self.emit(f"{pad}{_KEYWORDS.get(stmt.kind, stmt.kind)} {name} in {lower}..{upper}", stmt)
                self.stmt(stmt.body, pad + INDENT)
            case Seq():
                for item in stmt.body:
                    self.stmt(item, pad)
                if not stmt.body:
                    self.emit(f"{pad}pass", stmt)
            case Alloc():
                self.buffer(stmt.buffer, "alloc", pad)
                self.starts[id(stmt)] = self.starts[id(stmt.buffer)]
                self.stmt(stmt.body, pad + INDENT)
                self.dtypes.pop(stmt.buffer.name, None)
            case If():
                self.emit(f"{pad}if {self.conditions(stmt.conditions)}", stmt)
                self.stmt(stmt.then, pad + INDENT)
                if stmt.orelse is not None:
                    self.lines.append(f"{pad}else")
                    self.stmt(stmt.orelse, pad + INDENT)

    def block(self, block: Block, pad: str) -> None:
        if self.canonical:
            self.texts = {}
            self.variables.update({it.name: f"i{n}" for n, it in enumerate(block.iters)})
        box = ", ".join(map(self.iterator, block.iters))
        self.emit(f"{pad}block {self.define(block.name, 's')} [{box}]", block)
        write = f"{self.buffer_name(block.write.buffer)}[{self.affines(block.write.index)}]"
        self.lines.append(f"{pad}{INDENT}{write} {block.monoid or ''}= {self.expr(block.value)}")
        if block.guard:
            self.lines.append(f"{pad}{INDENT}guard {block.guard_mode}: {self.conditions(block.guard)}")
        for f in block.fetches:
            loop = self.variables.get(f.loop, f.loop)
            self.lines.append(f"{pad}{INDENT}fetch {self.buffer_name(f.buffer)} at {loop} + {f.distance}")

    def iterator(self, it: Iter) -> str:
        first = self.affine(it.lower)
        end = str(it.lower.const + it.extent) if it.lower.is_constant else f"+{it.extent}"
        text = f"{self.variables.get(it.name, it.name)}: {first}..{end}"
        if it.limit is not None:
            text += f" < {self.affine(it.limit)}"
        if it.kind == "reduce":
            text += " reduce"
        return f"{text} vector" if it.vectorized else text

    # ---- expressions

    def buffer_name(self, name: str) -> str:
        return self.buffers.get(name, name)

    def affine(self, expr: AffineExpr) -> str:
        text = self.texts.get(expr)
        if text is None:
            text = self.texts[expr] = expr.text(self.variables if self.canonical else {})
        return text

    def affines(self, exprs: Iterable[AffineExpr]) -> str:
        return ", ".join(map(self.affine, exprs))

    def conditions(self, exprs: Index) -> str:
        return ", ".join(f"{self.affine(e)} >= 0" for e in exprs)

    def bounds(self, combine: str, exprs: Index) -> str:
        return self.affine(exprs[0]) if len(exprs) == 1 else f"{combine}({self.affines(exprs)})"

    def expr(self, expr: Expr) -> str:
        match expr:
            case Read():
                return self.read(expr)
            case Const():
                return f"{_literal(expr.value, expr.dtype)}:{expr.dtype}"
            case IndexValue():
                return f"index({self.affine(expr.expr)}):{expr.dtype}"
            case Apply():
                return self.apply(expr)
            case Where():
                return (
                    f"where{{{self.conditions((expr.condition,))}}}({self.expr(expr.then)}, {self.expr(expr.orelse)})"
                )
            case Let():
                return self.let(expr)

    def let(self, let: Let) -> str:
        value = self.expr(let.value)
        shadowed = self.variables.get(let.name)
        self.variables[let.name] = name = self.define(let.name, "v")
        if self.canonical:
            self.texts = {}
        body = self.expr(let.body)
        if self.canonical:
            self.texts = {}
        self.variables.pop(let.name)
        if shadowed is not None:
            self.variables[let.name] = shadowed
        return f"let{{{name} < {let.extent} = {value}}}({body})"

    def read(self, read: Read) -> str:
        text = f"{self.buffer_name(read.buffer)}[{self.affines(read.index)}]"
        if self.dtypes.get(read.buffer) != read.dtype:
            text += f":{read.dtype}"
        if read.guard:
            text += f"{{{self.conditions(read.guard)} else {_literal(read.otherwise, read.dtype)}}}"
        return text

    def apply(self, apply: Apply) -> str:
        params = f"{{{', '.join(map(json.dumps, apply.params))}}}" if apply.params else ""
        text = f"{apply.op}{params}({', '.join(map(self.expr, apply.args))})"
        if elementwise.default_dtype(apply.op, [a.dtype for a in apply.args]) != apply.dtype:
            text += f":{apply.dtype}"
        return text


def _literal(value: float | int | bool, dtype: str) -> str:
    """A number in the one spelling that its element type has."""
    if dtype == dtypes.BOOL:
        return "true" if value else "false"
    return repr(int(value)) if dtypes.is_integer(dtype) and float(value).is_integer() else repr(float(value))
