"""The primitive that fuses dependent reductions over tiles of the axis that they share: stream."""

from __future__ import annotations

from dataclasses import replace

from ..ir.affine import AffineExpr, constant, var
from ..ir.loop import Access, Alloc, Apply, Block, Buffer, Const, Expr, For, If, LoopFunc, Read, Stmt, map_expr, seq
from ..ir.monoid import MONOIDS
from .edit import replace_stmt, used_names
from .schedule import ScheduleError, primitive
from .stream_blocks import Joining
from .stream_masked import Masked, masked
from .stream_parts import Streamed, streamed


@primitive
def stream(func: LoopFunc, block: str, iterator: str, factor: int) -> LoopFunc:
    """Fuse a maximum and the reductions that depend on it over tiles of the axis that is reduced.

    Before ``m = max(s[j]); p[j] = exp(s[j] - m); l = sum(p[j]); o[e] = sum(p[j] / l * v[j, e])`` one after the other;
    after ``m = -inf; l = 0; o = 0; for t: (s of the tile); n = max(s); u = m; m = max(m, n); r = exp(u - m);
    (p of the tile); l = l * r + sum(p); o = o * r + sum(p * v)``, and ``o = o / l`` at the end. What has the axis is
    kept for one tile only. While ``m`` is still minus infinity, 0 stands in for it, so that what is masked adds zero.
    Where ``s`` is one constant in a whole tile, as a causal mask makes it, the tile is not computed (`stream_masked`).

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
        self.join = Joining(parts, used)
        self.loop = self.join.name(f"{parts.key.name}.{parts.along[parts.key.name]}")
        self.last = self.join.private(f"{parts.key.write.buffer}.last", self.join.safe)
        self.tiles = {
            b.write.buffer: self.join.private(f"{b.write.buffer}.t", parts.buffers[b.write.buffer])
            for b in parts.reductions
        }

    def whole(self) -> Stmt:
        """What takes the place of the statements and their allocations."""
        parts = self.parts
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
        for buffer in (*shrunk, *self.tiles.values(), *self.join.buffers):
            body = Alloc(buffer, body)
        skipped = masked(parts, self._narrow, self.used)
        if skipped is not None:
            body = If(skipped.conditions, body, skipped.instead)
        loop = For(self.loop, (constant(0),), (constant(-(-parts.extent // self.factor)),), body)
        return self._around(loop, after, skipped)

    def _around(self, loop: For, after: list[Stmt], skipped: Masked | None) -> Stmt:
        parts = self.parts
        before = [s for s in parts.items if s in parts.before]
        kept = [parts.buffers[n] for n in reversed([n for n in parts.buffers if n not in parts.axes])]
        if skipped is not None:
            before += skipped.before
            after = [*skipped.after, *after]
            kept = [*skipped.buffers, *kept]
        out = seq(*before, loop, *after)
        for buffer in (self.last, *kept):
            out = Alloc(buffer, out)
        return out

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
        write = Access(partial.name, tile.write.index)
        init = Block(self.join.name(f"{block.name}.t_init"), data, write, identity)
        new = Read(partial.name, write.index, partial.dtype)
        joined = self.join.maximum(new) if block is parts.key else [self.join.joined(block, new)]
        monoid = "larger" if block is parts.key and parts.passes_over_nan else block.monoid
        return [init, replace(tile, write=write, monoid=monoid), *joined]

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

        value = map_expr(parts.shifted(block, self.join.safe.name), visit)
        write = Access(block.write.buffer, moved(block.write.buffer, block.write.index))
        return replace(block, iters=iters, value=value, write=write)

    # ---- behind the loop

    def _finish(self, block: Block) -> list[Stmt]:
        """The result of a reduction with the shift that the program asks for, and the factors that waited."""
        if block is self.parts.key:
            gap = Apply("sub", (self.join.shift_of(0.0), self.parts.shift), self.last.dtype)
            return [self.join.row("last", self.last, Apply("exp", (gap,), self.last.dtype))]
        scaled = self.parts.scaled.get(block.write.buffer)
        if block not in self.parts.reductions or scaled is None:
            return []
        dtype = self.last.dtype
        result = Read(block.write.buffer, block.write.index, dtype)
        value: Expr = Apply("mul", (result, Read(self.last.name, scaled.row, dtype)), dtype)
        for op, other in scaled.after:
            value = Apply(op, (value, other), dtype)
        data = tuple(i for i in block.iters if i.kind == "data")
        return [Block(self.join.name(f"{block.name}.end"), data, block.write, value)]
