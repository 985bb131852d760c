"""The loop IR: an immutable tree of loops around structured statements over boxes.

Reading guide. A `LoopFunc` has parameters (`Buffer`) and a body made of `Seq`, `For`, `If`, `Alloc` and `Block`. A
`Block` is a statement over a *box* of iterators: it writes one value per point of the box, or combines it into the old
value with a monoid (`ir.monoid`). A whole tensor operation is a Block whose box is the whole tensor; `split` takes a
range out of the box and makes a loop around the Block, so one tree serves every level from tensor to register tile.

The order of a Block's iterators is the order in which its box is unrolled into instructions, outermost first. At most
one iterator is vectorised; where it stands in that order is meaningful as well.

Trees compare by identity; use `ir.text.digest` for equality of meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from .affine import AffineExpr, Range

Scope = Literal["global", "constant", "cache", "register", "stream"]
LoopKind = Literal["serial", "parallel", "unroll", "grid"]
IterKind = Literal["data", "reduce"]
GuardMode = Literal["zero", "skip"]

Index = tuple[AffineExpr, ...]


@dataclass(frozen=True, slots=True)
class Pack:
    """One change of layout: ``axis`` of ``extent`` elements is cut into panels of ``factor``.

    The panel number becomes the first axis, the place inside the panel the last one; the last panel is padded with
    zeros. A shape ``(a, n, b)`` packed on axis 1 becomes ``(ceil(n / factor), a, b, factor)``.
    """

    axis: int
    factor: int
    extent: int


@dataclass(frozen=True, slots=True)
class Buffer:
    """A dense row-major array.

    Args:
        name: unique in its function.
        shape: extents in elements.
        dtype: element type (see `ir.dtypes`).
        scope: the memory it lives in: ``global``; ``constant``: a parameter whose contents are known when the program
            is built, so that `pack` may lay it out anew; ``cache``: private to one thread, sized for L1 or L2;
            ``register``: promoted to registers, accessed with constant whole-vector indices only; ``stream``: an
            output whose elements are stored once and not read, past the caches.
        packing: for a ``constant`` parameter, the layout changes that were applied to the array, first one first;
            ``shape`` is the packed shape.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scope: Scope = "global"
    packing: tuple[Pack, ...] = ()


# ---- scalar expressions: a closed grammar


@dataclass(frozen=True, slots=True, eq=False)
class Const:
    """A scalar constant."""

    value: float | int | bool
    dtype: str


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """One element of a buffer; where a ``guard`` expression is negative, ``otherwise`` without touching memory.

    Args:
        buffer: name of the buffer.
        index: one expression per axis.
        dtype: the buffer's element type.
        guard: conditions, each ``expression >= 0``, all of which must hold for the element to be read.
        otherwise: the value where a condition fails (padding is a guarded read, not an operation of its own).
    """

    buffer: str
    index: Index
    dtype: str
    guard: Index = ()
    otherwise: float | int | bool = 0


@dataclass(frozen=True, slots=True, eq=False)
class IndexValue:
    """The value of an index expression as a number (``iota``)."""

    expr: AffineExpr
    dtype: str


@dataclass(frozen=True, slots=True, eq=False)
class Apply:
    """An elementwise function of scalars, named as in ``jax.lax``; ``dtype`` is the result's type.

    ``select_n`` takes ``(condition, if_false, if_true)``; ``convert_element_type`` takes one argument.
    ``params`` holds what else the primitive needs (``y`` of ``integer_pow``).
    """

    op: str
    args: tuple[Expr, ...]
    dtype: str
    params: tuple[int | str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Where:
    """``then`` where ``condition >= 0``, else ``orelse``; only the one that is chosen touches memory.

    What is put together from parts (a concatenation, an array with a border) is written so. Code generation cuts boxes
    and loops where a condition changes (`passes.choose`), so that no choice is left inside.
    """

    condition: AffineExpr
    then: Expr
    orelse: Expr

    @property
    def dtype(self) -> str:
        """Element type of both."""
        return self.then.dtype


@dataclass(frozen=True, slots=True, eq=False)
class Let:
    """``body``, in whose index expressions ``name`` is ``min(max(value, 0), extent - 1)``: a data-dependent index.

    Args:
        name: distinct from every loop and iterator.
        value: an integer.
        extent: how many values the name can take, at least 1; this is what proves that an index stays in its buffer.
        body: reads only inputs with indices that use the name.
    """

    name: str
    value: Expr
    extent: int
    body: Expr

    @property
    def dtype(self) -> str:
        """Element type of the body."""
        return self.body.dtype


Expr = Const | Read | IndexValue | Apply | Where | Let


# ---- statements


@dataclass(frozen=True, slots=True)
class Iter:
    """An iterator of a Block: ``lower <= name < min(lower + extent, limit)``.

    Args:
        name: unique in its Block, distinct from every loop's name.
        lower: first value, an expression of the surrounding loops.
        extent: number of values, where no limit cuts it.
        kind: ``data``, or ``reduce`` (the Block combines over it).
        vectorized: whether its values are the lanes of vectors.
        limit: exclusive upper bound that cuts the last tile of a range that the tile size does not divide.
    """

    name: str
    lower: AffineExpr
    extent: int
    kind: IterKind = "data"
    vectorized: bool = False
    limit: AffineExpr | None = None


@dataclass(frozen=True, slots=True)
class Access:
    """Where a Block writes: one element of a buffer."""

    buffer: str
    index: Index


@dataclass(frozen=True, slots=True)
class Fetch:
    """A hint: what a Block reads of a parameter ``distance`` iterations of a loop later is fetched into the cache now.

    It has no meaning: a name that no longer exists, or an element outside the buffer, fetches nothing of use.
    """

    buffer: str
    loop: str
    distance: int


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A statement over a box: ``write = value``, or ``write = combine(write, value)`` with a monoid.

    Args:
        name: unique in its function.
        iters: the box, outermost first.
        write: the element written at a point of the box.
        value: the scalar expression written or combined.
        monoid: name of a monoid of `ir.monoid`, or None for a plain store.
        guard: conditions, each ``expression >= 0``.
        guard_mode: what a failing condition means: ``zero`` stores zero, ``skip`` leaves the element alone.
        fetches: what is fetched into the cache on the way.
    """

    name: str
    iters: tuple[Iter, ...]
    write: Access
    value: Expr
    monoid: str | None = None
    guard: Index = ()
    guard_mode: GuardMode = "skip"
    fetches: tuple[Fetch, ...] = ()

    def iterator(self, name: str) -> Iter | None:
        """The iterator of that name, or None."""
        return next((i for i in self.iters if i.name == name), None)


@dataclass(frozen=True, slots=True, eq=False)
class For:
    """``for name in range(max(lower), min(upper))``: bounds are maxima and minima of expressions.

    The kind says how iterations run: ``serial``; ``parallel``, shared among threads in any order; ``unroll``, copied;
    ``grid``, a dimension of the grid of an accelerator's kernel, in order where one iteration depends on another.
    """

    name: str
    lower: Index
    upper: Index
    body: Stmt
    kind: LoopKind = "serial"


@dataclass(frozen=True, slots=True, eq=False)
class If:
    """``then`` where every condition ``expression >= 0`` holds, else ``orelse``."""

    conditions: Index
    then: Stmt
    orelse: Stmt | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Alloc:
    """``buffer`` lives while ``body`` runs; its contents are undefined at the start."""

    buffer: Buffer
    body: Stmt


@dataclass(frozen=True, slots=True, eq=False)
class Seq:
    """Statements one after the other."""

    body: tuple[Stmt, ...]


Stmt = Block | For | If | Alloc | Seq


@dataclass(frozen=True, slots=True, eq=False)
class LoopFunc:
    """A program over buffers.

    Args:
        name: for people; not part of its identity.
        params: inputs and constants first, outputs last.
        num_outputs: how many of the last parameters are outputs; every element of an output is written.
        body: the statement.
    """

    name: str
    params: tuple[Buffer, ...]
    num_outputs: int
    body: Stmt

    @property
    def inputs(self) -> tuple[Buffer, ...]:
        """Parameters that are read: inputs and constants."""
        return self.params[: len(self.params) - self.num_outputs]

    @property
    def outputs(self) -> tuple[Buffer, ...]:
        """Parameters that are written."""
        return self.params[len(self.params) - self.num_outputs :]


# ---- walking and rebuilding


def seq(*items: Stmt | None) -> Stmt:
    """Statements in order, nested sequences flattened, None dropped."""
    flat: list[Stmt] = []
    for item in items:
        if item is None:
            continue
        flat.extend(item.body if isinstance(item, Seq) else (item,))
    return flat[0] if len(flat) == 1 else Seq(tuple(flat))


def children(stmt: Stmt) -> tuple[Stmt, ...]:
    """The statements directly inside ``stmt``."""
    match stmt:
        case For() | Alloc():
            return (stmt.body,)
        case Seq():
            return stmt.body
        case If():
            return (stmt.then,) if stmt.orelse is None else (stmt.then, stmt.orelse)
        case Block():
            return ()


def walk(stmt: Stmt) -> Iterator[Stmt]:
    """``stmt`` and everything inside it, in program order, parents first."""
    waiting = [stmt]
    while waiting:
        stmt = waiting.pop()
        yield stmt
        waiting.extend(reversed(children(stmt)))


def blocks(stmt: Stmt) -> Iterator[Block]:
    """All Blocks, in program order."""
    return (s for s in walk(stmt) if isinstance(s, Block))


def rewrite(stmt: Stmt, f: Callable[[Stmt], Stmt | None]) -> Stmt | None:
    """Rebuild bottom-up: ``f`` maps each statement with rewritten children to its replacement, None deletes it.

    Unchanged subtrees are shared, and containers that end up empty disappear.
    """
    new: Stmt | None = stmt
    match stmt:
        case For() | Alloc():
            body = rewrite(stmt.body, f)
            new = None if body is None else stmt if body is stmt.body else replace(stmt, body=body)
        case Seq():
            items = [rewrite(s, f) for s in stmt.body]
            kept = [s for s in items if s is not None]
            same = len(kept) == len(stmt.body) and all(a is b for a, b in zip(kept, stmt.body, strict=True))
            new = stmt if same else (seq(*kept) if kept else None)
        case If():
            then = rewrite(stmt.then, f)
            orelse = rewrite(stmt.orelse, f) if stmt.orelse is not None else None
            if then is None and orelse is None:
                new = None
            elif then is not stmt.then or orelse is not stmt.orelse:
                new = If(stmt.conditions, then if then is not None else Seq(()), orelse)
        case Block():
            pass
    return None if new is None else f(new)


def operands(expr: Expr) -> tuple[Expr, ...]:
    """The scalar expressions directly inside one."""
    match expr:
        case Apply():
            return expr.args
        case Where():
            return (expr.then, expr.orelse)
        case Let():
            return (expr.value, expr.body)
        case _:
            return ()


def subexpressions(expr: Expr) -> Iterator[Expr]:
    """``expr`` and everything inside it, outermost first."""
    waiting = [expr]
    while waiting:
        expr = waiting.pop()
        yield expr
        waiting.extend(reversed(operands(expr)))


def reads(expr: Expr) -> Iterator[Read]:
    """All reads in a scalar expression."""
    return (e for e in subexpressions(expr) if isinstance(e, Read))


def chosen_reads(expr: Expr, chosen: Index = ()) -> Iterator[tuple[Read, Index]]:
    """All reads in a scalar expression, each with what choices around it say: conditions ``>= 0``."""
    if isinstance(expr, Read):
        yield expr, chosen
    elif isinstance(expr, Where):
        yield from chosen_reads(expr.then, (*chosen, expr.condition))
        yield from chosen_reads(expr.orelse, (*chosen, -expr.condition - 1))
    else:
        for inner in operands(expr):
            yield from chosen_reads(inner, chosen)


def bound_ranges(expr: Expr) -> dict[str, Range]:
    """Inclusive interval of every name that is bound inside a scalar expression."""
    found: dict[str, Range] = {}
    for e in subexpressions(expr):
        if isinstance(e, Let):
            found[e.name] = (0, max(e.extent - 1, found.get(e.name, (0, 0))[1]))
    return found


def map_expr(expr: Expr, f: Callable[[Expr], Expr]) -> Expr:
    """Rebuild a scalar expression bottom-up."""
    old = operands(expr)
    new = tuple(map_expr(e, f) for e in old)
    if any(a is not b for a, b in zip(new, old, strict=True)):
        match expr:
            case Apply():
                expr = replace(expr, args=new)
            case Where():
                expr = replace(expr, then=new[0], orelse=new[1])
            case Let():
                expr = replace(expr, value=new[0], body=new[1])
            case _:
                pass
    return f(expr)


def map_indices(expr: Expr, f: Callable[[AffineExpr], AffineExpr]) -> Expr:
    """Apply ``f`` to every index, guard and condition of a scalar expression; what does not change is shared."""

    def visit(e: Expr) -> Expr:
        match e:
            case Read():
                index, guard = tuple(map(f, e.index)), tuple(map(f, e.guard))
                return e if (index, guard) == (e.index, e.guard) else replace(e, index=index, guard=guard)
            case IndexValue():
                return replace(e, expr=f(e.expr))
            case Where():
                return replace(e, condition=f(e.condition))
            case _:
                return e

    return map_expr(expr, visit)


def map_block_indices(block: Block, f: Callable[[AffineExpr], AffineExpr]) -> Block:
    """Apply ``f`` to every affine expression of a Block: its box, its write, its reads and its guards."""
    return replace(
        block,
        iters=tuple(replace(i, lower=f(i.lower), limit=None if i.limit is None else f(i.limit)) for i in block.iters),
        write=Access(block.write.buffer, tuple(map(f, block.write.index))),
        value=map_indices(block.value, f),
        guard=tuple(map(f, block.guard)),
    )


def substitute(stmt: Stmt, env: Mapping[str, AffineExpr]) -> Stmt:
    """Replace loop variables in every expression of ``stmt``."""

    def sub(e: AffineExpr) -> AffineExpr:
        return e.substitute(env)

    def visit(s: Stmt) -> Stmt:
        if isinstance(s, Block):
            return map_block_indices(s, sub)
        if isinstance(s, For):
            return replace(s, lower=tuple(map(sub, s.lower)), upper=tuple(map(sub, s.upper)))
        if isinstance(s, If):
            return replace(s, conditions=tuple(map(sub, s.conditions)))
        return s

    out = rewrite(stmt, visit)
    assert out is not None
    return out


def loop_range(loop: For, ranges: Mapping[str, Range]) -> Range:
    """Inclusive interval that holds every value of the loop variable."""
    lo = max(e.bounds(ranges)[0] for e in loop.lower)
    hi = min(e.bounds(ranges)[1] for e in loop.upper) - 1
    return lo, max(lo, hi)


def iter_range(it: Iter, ranges: Mapping[str, Range]) -> Range:
    """Inclusive interval that holds every value of the iterator (limits included)."""
    lo, hi = it.lower.bounds(ranges)
    hi += it.extent - 1
    if it.limit is not None:
        hi = min(hi, it.limit.bounds(ranges)[1] - 1)
    return lo, max(lo, hi)


def box_ranges(block: Block, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """``ranges`` extended by the Block's iterators and the names that its value binds."""
    out = dict(ranges)
    for it in block.iters:
        out[it.name] = iter_range(it, out)
    return out | bound_ranges(block.value)


def buffers(func: LoopFunc) -> dict[str, Buffer]:
    """Every buffer of a function by name: parameters and allocations."""
    found = {b.name: b for b in func.params}
    for stmt in walk(func.body):
        if isinstance(stmt, Alloc):
            found[stmt.buffer.name] = stmt.buffer
    return found
