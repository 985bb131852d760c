"""What `stream` works on: which Blocks and buffers have the axis that is streamed, and what depends on the maximum."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace

from ..ir.affine import AffineExpr, var
from ..ir.loop import (
    Alloc,
    Apply,
    Block,
    Buffer,
    Const,
    Expr,
    Index,
    Iter,
    LoopFunc,
    Read,
    Seq,
    Stmt,
    blocks,
    map_expr,
    map_indices,
    reads,
)
from ..ir.monoid import MONOIDS
from ..ir.rescale import NotRescalable, Roles, Scaled, rescalable, same_expr
from .edit import find_block, find_iter, path_to, solve
from .schedule import ScheduleError

SHIFT = "~shift"
"""Stands for the buffer that holds the running maximum, in expressions that `Streamed.values` holds."""


@dataclass(frozen=True, slots=True, eq=False)
class Streamed:
    """Statements that are reduced over one axis, some of them depending on the maximum along it.

    Args:
        whole: the key with all that stands beside it, sequences and allocations, inside of the same loop.
        items: the statements in it, in order.
        buffers: what is allocated in it, outermost first.
        key: the maximum.
        extent: length of the axis.
        along: for each Block that has the axis, its iterator.
        axes: for each buffer of ``buffers`` that has the axis, which one that is.
        before: statements that depend on nothing that has the axis.
        reductions: Blocks that reduce over the axis.
        shift: what is subtracted before exponentials, over the iterators that the key writes.
        scaled: for each buffer that depends on the maximum, how.
        values: for each Block with the axis, its value with `SHIFT` in place of what depends on the maximum.
    """

    whole: Stmt
    items: tuple[Stmt, ...]
    buffers: dict[str, Buffer]
    key: Block
    extent: int
    along: dict[str, str]
    axes: dict[str, int]
    before: tuple[Stmt, ...]
    reductions: tuple[Block, ...]
    shift: Expr
    scaled: dict[str, Scaled]
    values: dict[str, Expr]

    def shifted(self, block: Block, buffer: str) -> Expr:
        """The value of a Block, the shift read from a buffer of that name."""

        def visit(e: Expr) -> Expr:
            if isinstance(e, Apply) and e.op == "exp" and _reads(_subtracted(e), buffer):
                return replace(e, op=self.exp)
            return replace(e, buffer=buffer) if _reads(e, SHIFT) else e

        return map_expr(self.values[block.name], visit)

    @property
    def exp(self) -> str:
        """The exponential of differences with the shift: what stands in for an infinite maximum may be less than it."""
        return "decay" if _reads(self.shift, self.key.write.buffer) else "exp"

    @property
    def passes_over_nan(self) -> bool:
        """Whether only exponentials use the maximum: NaN then comes to light in these, and need not in the maximum."""
        outside = [b.value for s in self.items for b in blocks(s) if b.name not in self.along]
        waiting = [factor for scaled in self.scaled.values() for _, factor in scaled.after]
        used = (*outside, *waiting, *self.values.values())
        return not any(_reads(r, self.key.write.buffer) for e in used for r in reads(e))


def _reads(e: Expr | None, name: str) -> bool:
    return isinstance(e, Read) and e.buffer == name


def _subtracted(e: Apply) -> Expr | None:
    """What the argument of a function is the difference with."""
    inner = e.args[0]
    return inner.args[1] if isinstance(inner, Apply) and inner.op == "sub" else None


def streamed(func: LoopFunc, block: str, iterator: str) -> Streamed:
    """Find what is streamed along the axis of a maximum.

    Args:
        func: a program at any stage of scheduling.
        block: the Block that takes the maximum.
        iterator: the axis, which it reduces.

    Raises:
        ScheduleError: the axis can't be streamed.
    """
    key = find_block(func, block)
    it = find_iter(key, iterator)
    if key.monoid != "max" or it.kind != "reduce" or key.value.dtype != "float32" or key.guard:
        raise ScheduleError(f"expected a float32 maximum over {iterator}, unguarded, found {block}")
    whole: Stmt = key
    for outer in reversed(path_to(func.body, key) or []):
        if not isinstance(outer, Seq | Alloc):
            break
        whole = outer
    items, found = _flat(whole)
    return _Analysis(whole, items, found, key, iterator, it.extent).run()


def _flat(stmt: Stmt) -> tuple[tuple[Stmt, ...], dict[str, Buffer]]:
    """Statements without the sequences and allocations around them, and what these allocate."""
    match stmt:
        case Alloc():
            items, found = _flat(stmt.body)
            return items, {stmt.buffer.name: stmt.buffer, **found}
        case Seq():
            parts = [_flat(s) for s in stmt.body]
            return tuple(i for items, _ in parts for i in items), {n: b for _, f in parts for n, b in f.items()}
        case _:
            return (stmt,), {}


@dataclass(slots=True)
class _Analysis:
    whole: Stmt
    items: tuple[Stmt, ...]
    buffers: dict[str, Buffer]
    key: Block
    iterator: str
    extent: int
    along: dict[str, str] = field(default_factory=dict)
    axes: dict[str, int] = field(default_factory=dict)
    reduced: set[str] = field(default_factory=set)
    dependent: set[str] = field(default_factory=set)
    rows: dict[str, Block] = field(default_factory=dict)
    scaled: dict[str, Scaled] = field(default_factory=dict)
    shift: Expr | None = None

    def run(self) -> Streamed:
        self.along, self.axes = spread(list(self._blocks()), self.buffers, self.key.name, self.iterator)
        if not self.axes:
            raise ScheduleError(f"expected {self.key.name} to reduce a buffer that is computed beside it, found none")
        for block in self._streamed():
            self._check_range(block)
        reductions = tuple(self._reductions())
        if self.key not in reductions:
            raise ScheduleError(f"expected the key {self.key.name} to reduce over the axis")
        self.reduced = {b.write.buffer for b in reductions}
        before = self._independent()
        self._check_outside(before)
        values = {b.name: self._value(b) for b in self._streamed()}
        if self.shift is None:
            raise ScheduleError(f"expected exponentials of differences with {self.key.name}, found none")
        return Streamed(
            self.whole, self.items, self.buffers, self.key, self.extent, self.along, self.axes, before, reductions,
            self.shift, self.scaled, values,
        )  # fmt: skip

    # ---- who has the axis

    def _blocks(self) -> Iterator[Block]:
        return (s for s in self.items if isinstance(s, Block))

    def _streamed(self) -> list[Block]:
        return [b for b in self._blocks() if b.name in self.along]

    def _check_range(self, block: Block) -> None:
        it = block.iterator(self.along[block.name])
        if it is None or not it.lower.is_constant or it.lower.const or it.limit is not None or it.extent != self.extent:
            raise ScheduleError(f"expected {block.name} to cover the streamed axis of {self.extent} as a whole")
        if it.kind == "data" and block.write.buffer not in self.axes:
            raise ScheduleError(f"expected {block.name} to write a buffer that is allocated here")

    def _reductions(self) -> Iterator[Block]:
        """Blocks that reduce over the axis; each with its own initialised buffer."""
        for block in self._streamed():
            it = block.iterator(self.along[block.name])
            if it is None or it.kind != "reduce":
                continue
            writers = [b for b in self._blocks() if b.write.buffer == block.write.buffer]
            if block.write.buffer not in self.buffers or len(writers) != 2 or writers[1] is not block:
                raise ScheduleError(f"expected {block.name} to reduce into a buffer of its own, initialised before")
            if block.guard or not _identity(writers[0], block):
                raise ScheduleError(f"expected {writers[0].name} to store the identity of {block.monoid}")
            yield block

    # ---- what depends on what is reduced

    def _independent(self) -> tuple[Stmt, ...]:
        """Statements without the axis that use nothing that is reduced along it."""
        updates = {id(b) for b in self._streamed()}
        kept: list[Stmt] = []
        changed: set[str] = set()
        for stmt in self.items:
            if isinstance(stmt, Block) and id(stmt) in updates:
                changed.add(stmt.write.buffer)
                continue
            used = {r.buffer for b in blocks(stmt) for r in reads(b.value)}
            written = {b.write.buffer for b in blocks(stmt)}
            if not used & changed and not (written & changed and written & self.reduced):
                kept.append(stmt)
                continue
            changed |= written
            if isinstance(stmt, Block) and stmt.monoid is None and not stmt.guard:
                self.rows[stmt.write.buffer] = stmt
        self.dependent = self.reduced | {b.write.buffer for s in self.items if s not in kept for b in blocks(s)}
        self.dependent -= {b.write.buffer for b in self._streamed()} - self.reduced
        return tuple(kept)

    def _check_outside(self, before: tuple[Stmt, ...]) -> None:
        """What has the axis is used by Blocks that have it only, and no dependent buffer is written twice."""
        for stmt in self.items:
            if isinstance(stmt, Block) and stmt.name in self.along:
                continue
            for block in blocks(stmt):
                touched = {b for b, _ in _accesses(block)} & self.axes.keys()
                if touched:
                    raise ScheduleError(f"expected {min(touched)} to be used along the axis only, found {block.name}")
                if stmt not in before and block.write.buffer in self.reduced:
                    raise ScheduleError(f"expected {block.write.buffer} to have one writer, found {block.name}")
        late = {b.write.buffer for s in self.items if s not in before for b in blocks(s)} - self.reduced
        early = {b.write.buffer for s in before for b in blocks(s)}
        if late & early - self.axes.keys():
            raise ScheduleError(f"expected {min(late & early)} to be written either before or after the reductions")

    # ---- values

    def _value(self, block: Block) -> Expr:
        try:
            value, scaled = rescalable(block.value, self._roles(block))
        except NotRescalable as error:
            raise ScheduleError(f"{error}, in {block.name}") from error
        if scaled is None:
            return value
        target = block.write.buffer
        if target in self.axes and sum(b.write.buffer == target for b in self._blocks()) > 1:
            raise ScheduleError(f"expected {block.name} to be the only one to write {target}")
        if target not in self.axes and block.monoid != "sum":
            raise ScheduleError(f"expected a sum of what depends on the maximum, found {block.monoid} in {block.name}")
        if self._uses(scaled, self.along[block.name]):
            raise ScheduleError(f"expected factors of {block.name} that are constant along the axis")
        self.scaled[target] = scaled
        return value

    def _uses(self, scaled: Scaled, name: str) -> bool:
        exprs = [*scaled.row, *(e for _, f in scaled.after for r in reads(f) for e in r.index)]
        return any(name in e.variables() for e in exprs)

    def _roles(self, block: Block) -> Roles:
        own = self.along[block.name]

        def free(e: Expr) -> bool:
            return not any(r.buffer in self.dependent or r.buffer in self.scaled for r in reads(e))

        def fixed(e: Expr) -> bool:
            found = list(reads(e))
            along = any(own in i.variables() for r in found for i in (*r.index, *r.guard))
            return not along and not any(r.buffer in self.axes for r in found) and not _indexed(e, own)

        def held(read: Read) -> Scaled | None:
            known = self.scaled.get(read.buffer)
            if known is None or read.guard or read.buffer not in self.axes:
                return None
            writer = next(b for b in self._streamed() if b.write.buffer == read.buffer)
            env = solve(writer, read.index)
            return None if env is None else known.at(env)

        return Roles(free, fixed, lambda x, c: self._shifted(block, x, c) if fixed(c) and free(x) else None, held)

    def _shifted(self, block: Block, x: Expr, c: Expr) -> tuple[Expr, Index] | None:
        """``x - c`` with the running maximum for ``c``, if ``c`` is the maximum of ``x``, or stands in for it."""
        whole = self._inlined(c)
        maxima = {r.index for r in reads(whole) if r.buffer == self.key.write.buffer}
        if len(maxima) != 1:
            return None
        row = maxima.pop()
        env = solve(self.key, row)
        if env is None:
            return None
        here = {**env, self.iterator: var(self.along[block.name])}
        if not same_expr(map_indices(self.key.value, lambda i: i.substitute(here)), x):
            return None
        back = {e.single_variable(): var(n) for n, e in env.items()}
        if None in back or len(back) != len(env):
            return None
        shift = map_indices(whole, lambda i: i.substitute({n: v for n, v in back.items() if n is not None}))
        if not self._stands_in(shift) or not self._local(shift):
            return None
        if self.shift is not None and not same_expr(self.shift, shift):
            return None
        self.shift = shift
        return Apply("sub", (x, Read(SHIFT, row, "float32")), "float32"), row

    def _inlined(self, e: Expr) -> Expr:
        """An expression with what is computed from reductions in place of the buffers that it is stored in."""

        def visit(e: Expr) -> Expr:
            writer = self.rows.get(e.buffer) if isinstance(e, Read) and not e.guard else None
            env = solve(writer, e.index) if writer is not None and isinstance(e, Read) else None
            if writer is None or env is None:
                return e
            return self._inlined(map_indices(writer.value, lambda i: i.substitute(env)))

        return map_expr(e, visit)

    def _stands_in(self, shift: Expr) -> bool:
        """Whether an expression is the maximum wherever that is finite."""
        if isinstance(shift, Read):
            return shift.buffer == self.key.write.buffer
        if not isinstance(shift, Apply) or shift.op != "select_n":
            return False
        test, otherwise, chosen = shift.args
        finite = isinstance(test, Apply) and test.op == "is_finite" and self._stands_in(test.args[0])
        return finite and self._stands_in(chosen) and not self._depends(otherwise)

    def _depends(self, e: Expr) -> bool:
        return any(r.buffer in self.dependent or r.buffer in self.scaled for r in reads(e))

    def _local(self, shift: Expr) -> bool:
        """Whether an expression uses the iterators that the key writes and no others."""
        data = {i.name for i in self.key.iters if i.kind == "data"}
        own = {n for i in _indices(shift) for n in i.variables() if self.key.iterator(n) is not None}
        return own <= data


def spread(
    found: list[Block], buffers: Collection[str], block: str, iterator: str
) -> tuple[dict[str, str], dict[str, int]]:
    """Follow an axis from one Block to all that have it.

    Args:
        found: the Blocks.
        buffers: names of the buffers that it is followed through.
        block: the Block to start from.
        iterator: its iterator along the axis.

    Returns:
        For each Block that has the axis its iterator, and for each buffer that has it which of its axes that is.

    Raises:
        ScheduleError: an index mixes the axis with something else.
    """
    along, axes = {block: iterator}, dict[str, int]()
    size = -1
    while size != len(along) + len(axes):
        size = len(along) + len(axes)
        for other in found:
            for buffer, index in _accesses(other):
                if buffer in buffers:
                    _spread(other, buffer, index, along, axes)
    return along, axes


def _spread(block: Block, buffer: str, index: Index, along: dict[str, str], axes: dict[str, int]) -> None:
    if buffer in axes:
        name = index[axes[buffer]].single_variable()
        if name is None or along.setdefault(block.name, name) != name:
            raise ScheduleError(f"expected {block.name} to go along one axis of {buffer}, found {index[axes[buffer]]}")
    own = along.get(block.name)
    where = [n for n, e in enumerate(index) if own is not None and own in e.variables()]
    if own is None or not where:
        return
    if len(where) > 1 or index[where[0]].single_variable() != own:
        raise ScheduleError(f"expected {own} alone on one axis of {buffer} in {block.name}")
    if axes.setdefault(buffer, where[0]) != where[0]:
        raise ScheduleError(f"expected one axis of {buffer} that {own} goes along, found another in {block.name}")


def _accesses(block: Block) -> Iterator[tuple[str, Index]]:
    yield block.write.buffer, block.write.index
    for read in reads(block.value):
        yield read.buffer, read.index


def _indices(e: Expr) -> Iterator[AffineExpr]:
    for read in reads(e):
        yield from (*read.index, *read.guard)


def _indexed(e: Expr, name: str) -> bool:
    """Whether the number of an iterator is part of a value."""
    seen: list[bool] = []
    map_indices(e, lambda i: (seen.append(name in i.variables()), i)[1])
    return any(seen)


def _identity(init: Block, block: Block) -> bool:
    if init.monoid is not None or init.guard or not isinstance(init.value, Const) or block.monoid is None:
        return False
    return init.value.value == MONOIDS[block.monoid].identity(init.value.dtype)


def maxima(func: LoopFunc) -> Iterator[tuple[Block, Iter]]:
    """Blocks that take a maximum, with each iterator that they take it over."""
    for block in blocks(func.body):
        if block.monoid == "max":
            yield from ((block, it) for it in block.iters if it.kind == "reduce")
