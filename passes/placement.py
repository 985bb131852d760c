"""Primitives on where values are computed: compute_at, compute_inline."""

from __future__ import annotations

from dataclasses import replace

from ..ir.affine import AffineExpr, Range, constant, var
from ..ir.loop import (
    Access,
    Alloc,
    Block,
    Buffer,
    Expr,
    For,
    Iter,
    LoopFunc,
    Read,
    Seq,
    Stmt,
    blocks,
    map_expr,
    map_indices,
    reads,
    rewrite,
    seq,
    walk,
)
from .edit import find_alloc, find_loop, path_to, ranges_at, replace_in, replace_stmt, solve, written_axes
from .footprint import Extent, footprint, within
from .schedule import ScheduleError, primitive


@primitive
def compute_at(func: LoopFunc, buffer: str, loop: str) -> LoopFunc:
    """Compute a buffer inside a loop, just the part that one iteration reads, into a private copy of that size.

    Before ``alloc t: t[i] = ...; for o: out[8*o + j] = t[8*o + j]``; after ``for o: alloc t[8]: t[i - 8*o] = ... over
    i in 8*o..+8; out[...] = t[j]``. All Blocks that write the buffer move (initialisation and update alike).

    Refuses: a parameter; a loop that does not hold every reader, or holds a writer; writers inside loops that the
    buffer is not, do not write one iterator per axis or not all of the buffer; operands of the writers that change
    before the loop ends or do not live there; readers whose accesses differ by more than a constant.
    """
    alloc, target = find_alloc(func, buffer), find_loop(func, loop)
    path = path_to(alloc.body, target) if target is not alloc.body else []
    if path is None:
        raise ScheduleError(f"expected {loop} inside the lifetime of {buffer}")
    writers = [b for b in blocks(alloc.body) if b.write.buffer == buffer]
    _check_movable(alloc, target, path, writers)
    outer = frozenset(s.name for s in (*(path_to(func.body, target) or ()), target) if isinstance(s, For))
    extents = tuple(map(_inside, footprint(target.body, buffer, outer), alloc.buffer.shape))
    body = target.body
    ranges = ranges_at(func, body)
    moved = [_shrink(w, alloc.buffer, extents, ranges) for w in writers]
    kept = Buffer(buffer, tuple(e.size for e in extents), alloc.buffer.dtype, "cache")
    inner = rewrite(seq(*moved, body), lambda s: _rebase(s, buffer, extents) if isinstance(s, Block) else s)
    assert inner is not None
    without = alloc.body
    for w in writers:
        rest = replace_in(without, w, None)
        assert rest is not None
        without = rest
    target = next(s for s in walk(without) if isinstance(s, For) and s.name == loop)
    new = replace_in(without, target, replace(target, body=Alloc(kept, inner)))
    return replace_stmt(func, alloc, new)


def _inside(extent: Extent, size: int) -> Extent:
    """An axis of a footprint without what only guarded reads reach, where that is the same for every iteration."""
    if not extent.lower.is_constant or extent.limit is not None:
        return extent
    low, high = max(extent.lower.const, 0), min(extent.lower.const + extent.size, size)
    return Extent(constant(low), high - low, None) if low < high else extent


def _check_movable(alloc: Alloc, target: For, path: list[Stmt], writers: list[Block]) -> None:
    name = alloc.buffer.name
    for outer in path:
        if isinstance(outer, For) and outer.kind == "unroll":
            raise ScheduleError(f"expected no unrolled loop around {target.name}")
    inside = {id(b) for b in blocks(target.body)}
    if not writers or any(id(w) in inside for w in writers):
        raise ScheduleError(f"expected the writers of {name} before {target.name}")
    for block in blocks(alloc.body):
        if id(block) not in inside and block not in writers and any(r.buffer == name for r in reads(block.value)):
            raise ScheduleError(f"expected every reader of {name} inside {target.name}, found {block.name} outside")
    _check_order(alloc, target, writers)
    for writer in writers:
        for outer in path_to(alloc.body, writer) or []:
            if not isinstance(outer, Seq | Alloc):
                raise ScheduleError(f"expected {writer.name} outside loops, found it inside a {type(outer).__name__}")
        if written_axes(writer) is None:
            raise ScheduleError(f"expected {writer.name} to write one iterator per axis, each another one")


def _check_order(alloc: Alloc, target: For, writers: list[Block]) -> None:
    """What the writers read must be the same, and alive, where they move to."""
    name = alloc.buffer.name
    order = [s for s in walk(alloc.body) if isinstance(s, Block | For)]
    if order.index(writers[-1]) > order.index(target):
        raise ScheduleError(f"expected the writers of {name} before {target.name}")
    needed = {r.buffer for w in writers for r in reads(w.value)} - {name}
    # Loops around the target repeat it, so that what is written after it in the text may be written before it in time.
    for stmt in order[order.index(writers[0]) :]:
        if isinstance(stmt, Block) and stmt not in writers and stmt.write.buffer in needed:
            raise ScheduleError(
                f"expected {stmt.write.buffer} unchanged after the first writer of {name}, found {stmt.name}"
            )
    check_alive(alloc, writers, target, needed)


def check_alive(alloc: Alloc, writers: list[Block], reader: Stmt, needed: set[str]) -> None:
    """Refuse to move expressions out of the lifetime of a buffer that they read."""
    alive = {s.buffer.name for s in path_to(alloc.body, reader) or () if isinstance(s, Alloc)}
    for writer in writers:
        around = {s.buffer.name for s in path_to(alloc.body, writer) or () if isinstance(s, Alloc)}
        lost = (around - alive) & needed
        if lost:
            raise ScheduleError(f"expected {sorted(lost)} alive where {alloc.buffer.name} is read")


def _shrink(writer: Block, buffer: Buffer, extents: tuple[Extent, ...], ranges: dict[str, Range]) -> Block:
    """The writer with its box cut down to the footprint, clipped to what it computed before."""
    boxes: dict[str, Iter] = {}
    guards = list(writer.guard)
    for (it, rest), extent, size in zip(written_axes(writer) or (), extents, buffer.shape, strict=True):
        if it.lower + rest != constant(0) or it.extent != size:
            raise ScheduleError(f"expected {writer.name} to compute all of axis {it.name}")
        above, below = within(extent, size, ranges)
        limit = None if extent.limit is None else extent.limit - rest
        if not above:
            guards.append(var(it.name) + rest)
        if not below and limit is None:
            limit = constant(size) - rest
        elif not below:
            guards.append(constant(size - 1) - var(it.name) - rest)
        if limit is None:
            limit = it.limit
        elif it.limit is not None and it.limit != limit:
            guards.append(it.limit - 1 - var(it.name))
        boxes[it.name] = replace(it, lower=extent.lower - rest, extent=extent.size, limit=limit)
    return replace(writer, iters=tuple(boxes.get(i.name, i) for i in writer.iters), guard=tuple(guards))


def _rebase(block: Block, buffer: str, extents: tuple[Extent, ...]) -> Block:
    def shift(index: tuple[AffineExpr, ...]) -> tuple[AffineExpr, ...]:
        return tuple(i - e.lower for i, e in zip(index, extents, strict=True))

    def visit(e: Expr) -> Expr:
        return replace(e, index=shift(e.index)) if isinstance(e, Read) and e.buffer == buffer else e

    write = block.write
    if write.buffer == buffer:
        write = Access(buffer, shift(write.index))
    return replace(block, write=write, value=map_expr(block.value, visit))


@primitive
def compute_inline(func: LoopFunc, buffer: str) -> LoopFunc:
    """Replace every read of a buffer by the expression that computes it, and drop the buffer.

    Before ``t[i] = f(x[i]); out[j] = g(t[2*j])``; after ``out[j] = g(f(x[2*j]))``.

    Refuses: a buffer with several writers, a reduction or a guarded writer, a writer that reads it, guarded reads of
    it, or an expression whose operands change after the writer or do not live where it is read.
    """
    alloc = find_alloc(func, buffer)
    writers = [b for b in blocks(alloc.body) if b.write.buffer == buffer]
    if len(writers) != 1 or writers[0].monoid is not None or writers[0].guard:
        raise ScheduleError(f"expected one plain unguarded writer of {buffer}, found {[w.name for w in writers]}")
    writer = writers[0]
    if solve(writer, writer.write.index) is None:
        raise ScheduleError(f"expected {writer.name} to write exactly one iterator per axis")
    if any(not isinstance(s, Seq | Alloc) for s in path_to(alloc.body, writer) or ()):
        raise ScheduleError(f"expected {writer.name} outside loops")
    operands = {r.buffer for r in reads(writer.value)}
    if buffer in operands or _written_after(alloc, writer, operands):
        raise ScheduleError(f"expected the operands of {writer.name} unchanged after it")
    for block in blocks(alloc.body):
        if any(r.buffer == buffer for r in reads(block.value)):
            check_alive(alloc, writers, block, operands)

    def inline(e: Expr) -> Expr:
        if not isinstance(e, Read) or e.buffer != buffer:
            return e
        if e.guard:
            raise ScheduleError(f"expected unguarded reads of {buffer}")
        env = solve(writer, e.index)
        assert env is not None
        return map_indices(writer.value, lambda a: a.substitute(env))

    def visit(s: Stmt) -> Stmt | None:
        if s is writer:
            return None
        return replace(s, value=map_expr(s.value, inline)) if isinstance(s, Block) else s

    return replace_stmt(func, alloc, rewrite(alloc.body, visit))


def _written_after(alloc: Alloc, writer: Block, operands: set[str]) -> bool:
    after = False
    for block in blocks(alloc.body):
        if after and block.write.buffer in operands:
            return True
        after = after or block is writer
    return False
