"""The primitive that fuses dependent reductions over tiles of the axis that they share: stream."""

from __future__ import annotations

from dataclasses import replace

from ..ir.affine import AffineExpr, constant, var
from ..ir.loop import (
    Access,
    Alloc,
    Apply,
    Block,
    Buffer,
    Const,
    Expr,
    For,
    Iter,
    LoopFunc,
    Read,
    Stmt,
    map_expr,
    seq,
)
from ..ir.monoid import MONOIDS
from ..ir.rescale import same_expr
from .edit import fresh, replace_stmt, used_names
from .schedule import ScheduleError, primitive
from .stream_parts import Streamed, streamed

_LOWEST = float("-inf")


@primitive
def stream(func: LoopFunc, block: str, iterator: str, factor: int) -> LoopFunc:
    """Fuse a maximum and the reductions that depend on it over tiles of the axis that is reduced.

    Before ``m = max(s[j]); p[j] = exp(s[j] - m); l = sum(p[j]); o[e] = sum(p[j] / l * v[j, e])`` one after the other;
    after ``m = -inf; l = 0; o = 0; for t: (s of the tile); n = max(s); u = m; m = max(m, n); r = exp(u - m);
    (p of the tile); l = l * r + sum(p); o = o * r + sum(p * v)``, and ``o = o / l`` at the end. What has the axis is
    kept for one tile only. While ``m`` is still minus infinity, 0 stands in for it, so that what is masked adds zero.

    Refuses: a Block that is no maximum over a whole range; what has the axis but is used inside other loops, or is an
    output; reductions that `ir.rescale` can't repair by one factor.
    """
    parts = streamed(func, block, iterator)
    if not 1 <= factor <= parts.extent:
        raise ScheduleError(f"expected a tile of 1..{parts.extent} for {block}.{iterator}, found {factor}")
    return replace_stmt(func, parts.whole, _Rewriter(parts, factor, used_names(func)).whole())


class _Rewriter:
    """Makes the loop over tiles of one streamed axis."""

    def __init__(self, parts: Streamed, factor: int, used: set[str]) -> None:
        self.parts = parts
        self.factor = factor
        self.used = used
        self.loop = self._fresh(f"{parts.key.name}.{parts.along[parts.key.name]}")
        key = parts.buffers[parts.key.write.buffer]
        names = (f"{key.name}.{n}" for n in ("old", "safe", "repair", "last"))
        self.old, self.shift, self.repair, self.last = (self._private(n, key) for n in names)
        self.tiles = {b.write.buffer: self._private(f"{b.write.buffer}.t", parts.buffers[b.write.buffer])
                      for b in parts.reductions}  # fmt: skip

    def whole(self) -> Stmt:
        """What takes the place of the sequence with its allocations."""
        parts = self.parts
        before = [s for s in parts.items if s in parts.before]
        after: list[Stmt] = []
        inside: list[Stmt] = []
        for stmt in parts.items:
            if isinstance(stmt, Block) and stmt.name in parts.along:
                inside += self._tile(stmt)
                after += self._finish(stmt)
            elif stmt not in parts.before:
                after.append(stmt)
        body = seq(*inside)
        shrunk = [self._shrunk(parts.buffers[name]) for name in reversed(parts.axes)]
        for buffer in (*shrunk, *self.tiles.values(), self.old, self.shift, self.repair):
            body = Alloc(buffer, body)
        trips = -(-parts.extent // self.factor)
        loop = For(self.loop, (constant(0),), (constant(trips),), body)
        out = seq(*before, loop, *after)
        out = Alloc(self.last, out)
        for name in reversed([n for n in parts.buffers if n not in parts.axes]):
            out = Alloc(parts.buffers[name], out)
        return out

    def _fresh(self, name: str) -> str:
        found = fresh(name, self.used)
        self.used.add(found)
        return found

    def _private(self, name: str, like: Buffer) -> Buffer:
        return Buffer(self._fresh(name), like.shape, like.dtype, "cache")

    def _shrunk(self, buffer: Buffer) -> Buffer:
        axis = self.parts.axes[buffer.name]
        shape = (*buffer.shape[:axis], self.factor, *buffer.shape[axis + 1 :])
        return replace(buffer, shape=shape, scope="cache" if buffer.scope == "global" else buffer.scope)

    # ---- inside the loop

    def _tile(self, block: Block) -> list[Stmt]:
        """A Block over one tile of the axis, and what joins its result with that of the tiles before."""
        parts = self.parts
        tile = self._narrow(block)
        if block not in parts.reductions:
            return [tile]
        partial = self.tiles[block.write.buffer]
        data = tuple(i for i in tile.iters if i.kind == "data")
        assert block.monoid is not None
        identity = Const(MONOIDS[block.monoid].identity(partial.dtype), partial.dtype)
        index = tile.write.index
        init = Block(self._fresh(f"{block.name}.t_init"), data, Access(partial.name, index), identity)
        tile = replace(tile, write=Access(partial.name, index))
        return [init, tile, *self._joined(block, data, Read(partial.name, index, partial.dtype))]

    def _joined(self, block: Block, data: tuple[Iter, ...], new: Read) -> list[Stmt]:
        write, dtype = block.write, new.dtype
        old: Expr = Read(write.buffer, write.index, dtype)
        scaled = self.parts.scaled.get(write.buffer)
        if scaled is not None:
            old = Apply("mul", (old, Read(self.repair.name, scaled.row, dtype)), dtype)
        assert block.monoid is not None
        both = Apply(MONOIDS[block.monoid].combine, (old, new), dtype)
        join = Block(self._fresh(f"{block.name}.join"), data, write, both)
        if block is not self.parts.key:
            return [join]
        return [self._row("old", self.old, self._shift_of(_LOWEST)), join, *self._shifts()]

    def _shifts(self) -> list[Stmt]:
        """The shift now in use, which is never minus infinity, and what repairs sums made with the one before."""
        index, dtype = self.parts.key.write.index, self.shift.dtype
        gap = Apply("sub", (Read(self.old.name, index, dtype), Read(self.shift.name, index, dtype)), dtype)
        safe = self._row("safe", self.shift, self._shift_of(0.0))
        return [safe, self._row("repair", self.repair, Apply("exp", (gap,), dtype))]

    def _shift_of(self, lowest: float) -> Expr:
        """What is subtracted from values whose maximum is known so far, ``lowest`` where that is minus infinity."""
        key, dtype = self.parts.key, self.shift.dtype
        maximum = Read(key.write.buffer, key.write.index, dtype)
        if lowest == _LOWEST and same_expr(self.parts.shift, maximum):
            return maximum
        none = Apply("eq", (maximum, Const(_LOWEST, dtype)), "bool")
        return Apply("select_n", (none, self.parts.shift, Const(lowest, dtype)), dtype)

    def _row(self, suffix: str, buffer: Buffer, value: Expr) -> Block:
        key = self.parts.key
        data = tuple(i for i in key.iters if i.kind == "data")
        return Block(self._fresh(f"{key.name}.{suffix}"), data, Access(buffer.name, key.write.index), value)

    def _narrow(self, block: Block) -> Block:
        """The Block with its range of the axis cut down to the tile, factors that wait left out."""
        parts = self.parts
        name = parts.along[block.name]
        start = var(self.loop) * self.factor
        limit = constant(parts.extent) if parts.extent % self.factor else None
        iters = tuple(
            replace(i, lower=start, extent=self.factor, limit=limit) if i.name == name else i for i in block.iters
        )

        def moved(buffer: str, index: tuple[AffineExpr, ...]) -> tuple[AffineExpr, ...]:
            axis = parts.axes.get(buffer)
            return index if axis is None else (*index[:axis], index[axis] - start, *index[axis + 1 :])

        def visit(e: Expr) -> Expr:
            return replace(e, index=moved(e.buffer, e.index)) if isinstance(e, Read) else e

        value = map_expr(parts.shifted(block, self.shift.name), visit)
        write = Access(block.write.buffer, moved(block.write.buffer, block.write.index))
        return replace(block, iters=iters, value=value, write=write)

    # ---- behind the loop

    def _finish(self, block: Block) -> list[Stmt]:
        """The result of a reduction with the shift that the program asks for, and the factors that waited."""
        if block is self.parts.key:
            gap = Apply("sub", (self._shift_of(0.0), self.parts.shift), self.last.dtype)
            return [self._row("last", self.last, Apply("exp", (gap,), self.last.dtype))]
        scaled = self.parts.scaled.get(block.write.buffer)
        if block not in self.parts.reductions or scaled is None:
            return []
        dtype = self.last.dtype
        result = Read(block.write.buffer, block.write.index, dtype)
        value: Expr = Apply("mul", (result, Read(self.last.name, scaled.row, dtype)), dtype)
        for op, other in scaled.after:
            value = Apply(op, (value, other), dtype)
        data = tuple(i for i in block.iters if i.kind == "data")
        return [Block(self._fresh(f"{block.name}.end"), data, block.write, value)]
