"""Primitives on buffers: where values are computed and kept (compute_at, compute_inline, set_scope, pack, rfactor)."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from ..ir import dtypes
from ..ir.affine import AffineExpr, Range, constant, var
from ..ir.loop import Access, Alloc, Block, Buffer, Const, Expr, For, Iter, LoopFunc, Pack, Read, Scope, Seq, Stmt
from ..ir.loop import blocks, map_expr, map_indices, reads, rewrite, seq, walk
from ..ir.monoid import MONOIDS
from .edit import find_alloc, find_block, find_iter, find_loop, fresh, path_to, ranges_at, replace_in, replace_stmt
from .edit import used_names, with_body
from .footprint import Extent, footprint, within
from .schedule import ScheduleError, primitive


@primitive
def compute_at(func: LoopFunc, buffer: str, loop: str) -> LoopFunc:
    """Compute a buffer inside a loop, just the part that one iteration reads, into a private copy of that size.

    Before ``alloc t: t[i] = ...; for o: out[8*o + j] = t[8*o + j]``; after ``for o: alloc t[8]: t[i - 8*o] = ... over
    i in 8*o..+8; out[...] = t[j]``. All Blocks that write the buffer move (initialisation and update alike).

    Refuses: a parameter; a loop that does not hold every reader, or holds a writer; writers that are already inside
    loops or do not write one iterator per axis; readers whose accesses differ by more than a constant.
    """
    alloc, target = find_alloc(func, buffer), find_loop(func, loop)
    path = path_to(alloc.body, target) if target is not alloc.body else []
    if path is None:
        raise ScheduleError(f"expected {loop} inside the lifetime of {buffer}")
    writers = [b for b in blocks(alloc.body) if b.write.buffer == buffer]
    _check_movable(alloc, target, path, writers)
    outer = frozenset(s.name for s in (*(path_to(func.body, target) or ()), target) if isinstance(s, For))
    extents = footprint(target.body, buffer, outer)
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
    order = [s for s in walk(alloc.body) if isinstance(s, Block | For)]
    first, last = order.index(writers[0]), order.index(target)
    needed = {r.buffer for w in writers for r in reads(w.value)} - {name}
    for stmt in order[first:last]:
        if isinstance(stmt, Block) and stmt not in writers and stmt.write.buffer in needed:
            raise ScheduleError(f"expected {stmt.write.buffer} unchanged between the writers of {name} and {target.name}")
    for writer in writers:
        for outer in path_to(alloc.body, writer) or []:
            if not isinstance(outer, Seq | Alloc):
                raise ScheduleError(f"expected {writer.name} outside loops, found it inside a {type(outer).__name__}")
        if any(i.single_variable() is None for i in writer.write.index):
            raise ScheduleError(f"expected {writer.name} to write one iterator per axis")
        if len({i.single_variable() for i in writer.write.index}) != len(writer.write.index):
            raise ScheduleError(f"expected {writer.name} to write a different iterator per axis")


def _shrink(writer: Block, buffer: Buffer, extents: tuple[Extent, ...], ranges: dict[str, Range]) -> Block:
    """The writer with its box cut down to the footprint, clipped to what it computed before."""
    boxes: dict[str, Iter] = {}
    guards = list(writer.guard)
    for expr, extent, size in zip(writer.write.index, extents, buffer.shape, strict=True):
        it = find_iter(writer, expr.single_variable() or "")
        if not it.lower.is_constant or it.lower.const or it.extent != size or it.limit is not None:
            raise ScheduleError(f"expected {writer.name} to compute all of axis {it.name}")
        above, below = within(extent, size, ranges)
        limit = extent.limit
        if not above:
            guards.append(var(it.name))
        if not below and limit is None:
            limit = constant(size)
        elif not below:
            guards.append(constant(size - 1) - var(it.name))
        boxes[it.name] = replace(it, lower=extent.lower, extent=extent.size, limit=limit)
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

    Refuses: a buffer with several writers, a reduction or a guarded writer, guarded reads of it, or an expression
    whose operands change between the writer and a reader.
    """
    alloc = find_alloc(func, buffer)
    writers = [b for b in blocks(alloc.body) if b.write.buffer == buffer]
    if len(writers) != 1 or writers[0].monoid is not None or writers[0].guard:
        raise ScheduleError(f"expected one plain unguarded writer of {buffer}, found {[w.name for w in writers]}")
    writer = writers[0]
    names = [i.single_variable() for i in writer.write.index]
    if any(n is None for n in names) or {i.name for i in writer.iters} != set(names) or len(set(names)) != len(names):
        raise ScheduleError(f"expected {writer.name} to write exactly one iterator per axis")
    if any(not isinstance(s, Seq | Alloc) for s in path_to(alloc.body, writer) or ()):
        raise ScheduleError(f"expected {writer.name} outside loops")
    operands = {r.buffer for r in reads(writer.value)}
    if any(b.write.buffer in operands for b in blocks(alloc.body)) and _written_after(alloc, writer, operands):
        raise ScheduleError(f"expected the operands of {writer.name} unchanged after it")

    def inline(e: Expr) -> Expr:
        if not isinstance(e, Read) or e.buffer != buffer:
            return e
        if e.guard:
            raise ScheduleError(f"expected unguarded reads of {buffer}")
        env = {n: i for n, i in zip(names, e.index, strict=True) if n is not None}
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


@primitive
def set_scope(func: LoopFunc, buffer: str, scope: str) -> LoopFunc:
    """Put an allocated buffer into another memory.

    Before ``alloc t[14, 32] cache``; after ``alloc t[14, 32] register``.

    Refuses: a parameter, an unknown scope. Whether a ``register`` buffer is only accessed with constant indices is
    known when code is generated; the verifier checks it there.
    """
    alloc = find_alloc(func, buffer)
    if scope not in get_args(Scope) or scope == "constant":
        raise ScheduleError(f"expected one of global, cache, register, found {scope!r}")
    return replace_stmt(func, alloc, replace(alloc, buffer=replace(alloc.buffer, scope=scope)))


@primitive
def pack(func: LoopFunc, buffer: str, axis: int, factor: int) -> LoopFunc:
    """Lay a buffer out in panels: ``(a, n, b)`` on axis 1 becomes ``(ceil(n / factor), a, b, factor)``.

    Before ``read w[k, 32*j + n]``; after ``read w[j, k, n]`` with ``w`` of shape ``(N / 32, K, 32)``. A constant
    parameter is laid out anew when the program is built, at no cost when it runs.

    Refuses: an input or output, whose layout is the caller's; an axis or factor that does not exist.
    """
    found = next((b for b in func.params if b.name == buffer), None)
    if found is not None and found.scope != "constant":
        raise ScheduleError(f"expected a constant or an allocated buffer, found the parameter {buffer}")
    old = found or find_alloc(func, buffer).buffer
    if not 0 <= axis < len(old.shape):
        raise ScheduleError(f"expected an axis in 0..{len(old.shape) - 1}, found {axis}")
    extent = old.shape[axis]
    if not 1 <= factor <= 4096:
        raise ScheduleError(f"expected a panel of 1..4096 elements, found {factor}")
    rest = tuple(n for i, n in enumerate(old.shape) if i != axis)
    new = replace(old, shape=(-(-extent // factor), *rest, factor))
    if found is not None:
        new = replace(new, packing=(*old.packing, Pack(axis, factor, extent)))

    def index(old_index: tuple[AffineExpr, ...]) -> tuple[AffineExpr, ...]:
        kept = tuple(e for i, e in enumerate(old_index) if i != axis)
        return (old_index[axis].floordiv(factor), *kept, old_index[axis].mod(factor))

    def visit_expr(e: Expr) -> Expr:
        return replace(e, index=index(e.index)) if isinstance(e, Read) and e.buffer == buffer else e

    def visit(s: Stmt) -> Stmt:
        if isinstance(s, Alloc) and s.buffer.name == buffer:
            return replace(s, buffer=new)
        if isinstance(s, Block):
            write = Access(buffer, index(s.write.index)) if s.write.buffer == buffer else s.write
            return replace(s, write=write, value=map_expr(s.value, visit_expr))
        return s

    params = tuple(new if b.name == buffer else b for b in func.params)
    return replace(with_body(func, rewrite(func.body, visit)), params=params)


@primitive
def cache_read(func: LoopFunc, buffer: str, loop: str) -> LoopFunc:
    """Copy the part of a buffer that one iteration of a loop reads into a private buffer first.

    Before ``for o: ... x[8*o + j] ...``; after ``for o: alloc x.c[8]: x.c[i] = x[8*o + i]; ... x.c[j] ...``.

    Refuses: a buffer written inside the loop; guarded reads; readers whose accesses differ by more than a constant.
    """
    target = find_loop(func, loop)
    source = _buffer(func, buffer)
    inside = list(blocks(target.body))
    if any(b.write.buffer == buffer for b in inside):
        raise ScheduleError(f"expected {buffer} not to be written inside {loop}")
    if any(r.buffer == buffer and r.guard for b in inside for r in reads(b.value)):
        raise ScheduleError(f"expected unguarded reads of {buffer} inside {loop}")
    outer = frozenset(s.name for s in (*(path_to(func.body, target) or ()), target) if isinstance(s, For))
    extents = footprint(target.body, buffer, outer)
    used = used_names(func)
    name = fresh(f"{buffer}.c", used)
    block = fresh(f"{buffer}.copy", used)
    ranges = ranges_at(func, target.body)
    iters, index, guards = [], [], []
    for axis, (extent, size) in enumerate(zip(extents, source.shape, strict=True)):
        above, below = within(extent, size, ranges)
        if not above or (not below and extent.limit is not None):
            raise ScheduleError(f"expected reads of {buffer} inside its bounds")
        limit = extent.limit if below else constant(size)
        iters.append(Iter(f"{block}{axis}", extent.lower, extent.size, limit=limit))
        index.append(var(f"{block}{axis}"))
    copy = Block(
        block,
        tuple(iters),
        Access(name, tuple(i - e.lower for i, e in zip(index, extents, strict=True))),
        Read(buffer, tuple(index), source.dtype),
        guard=tuple(guards),
    )

    def visit_expr(e: Expr) -> Expr:
        if not isinstance(e, Read) or e.buffer != buffer:
            return e
        return replace(e, buffer=name, index=tuple(i - x.lower for i, x in zip(e.index, extents, strict=True)))

    body = rewrite(
        target.body, lambda s: replace(s, value=map_expr(s.value, visit_expr)) if isinstance(s, Block) else s
    )
    kept = Buffer(name, tuple(e.size for e in extents), source.dtype, "cache")
    return replace_stmt(func, target, replace(target, body=Alloc(kept, seq(copy, body))))


@primitive
def cache_write(func: LoopFunc, buffer: str) -> LoopFunc:
    """Separate where a buffer is accumulated from where its result is read.

    Before ``t += ...; out[i] = f(t[i])``; after ``t += ...; t.w[i] = t[i]; out[i] = f(t.w[i])``, so that ``t`` can be a
    register tile although its readers are loops.

    Refuses: a parameter; a buffer that is read before its last writer.
    """
    alloc = find_alloc(func, buffer)
    inside = list(blocks(alloc.body))
    writers = [b for b in inside if b.write.buffer == buffer]
    readers = [b for b in inside if b not in writers and any(r.buffer == buffer for r in reads(b.value))]
    if not writers or not readers or inside.index(writers[-1]) > inside.index(readers[0]):
        raise ScheduleError(f"expected {buffer} to be written before it is read")
    if any(not isinstance(s, Seq | Alloc) for s in path_to(alloc.body, writers[-1]) or ()):
        raise ScheduleError(f"expected {writers[-1].name} outside loops")
    used = used_names(func)
    old = alloc.buffer
    new = Buffer(fresh(f"{buffer}.w", used), old.shape, old.dtype)
    iters = tuple(Iter(f"i{n}", constant(0), extent) for n, extent in enumerate(old.shape))
    index = tuple(var(i.name) for i in iters)
    copy = Block(fresh(f"{buffer}.write", used), iters, Access(new.name, index), Read(buffer, index, old.dtype))

    def read(e: Expr) -> Expr:
        return replace(e, buffer=new.name) if isinstance(e, Read) and e.buffer == buffer else e

    def visit(s: Stmt) -> Stmt:
        if isinstance(s, Block) and s in readers:
            return replace(s, value=map_expr(s.value, read))
        return seq(s, copy) if s is writers[-1] else s

    return replace_stmt(func, alloc, Alloc(old, Alloc(new, seq(rewrite(alloc.body, visit)))))


def _buffer(func: LoopFunc, name: str) -> Buffer:
    found = next((b for b in func.params if b.name == name), None)
    return found or find_alloc(func, name).buffer


@primitive
def rfactor(func: LoopFunc, block: str, iterator: str, factor: int) -> LoopFunc:
    """Split a reduction into ``factor`` independent partial reductions, combined at the end.

    Before ``acc += x[j] over j in 0..N``; after ``p[l] = 0 over l; p[l] += x[factor*o + l] over o, l;
    acc += x[j] over the rest; acc += p[l] over l``. The lanes ``l`` of the partial results can be vectorised.

    Refuses: a Block without a monoid, a data iterator, a range that does not start at a constant, a factor larger
    than the range.
    """
    found = find_block(func, block)
    it = find_iter(found, iterator)
    if found.monoid is None or it.kind != "reduce":
        raise ScheduleError(f"expected a reduce iterator of a reduction, found {block}.{iterator}")
    if not it.lower.is_constant or it.limit is not None or not 1 <= factor <= it.extent:
        raise ScheduleError(f"expected a whole constant range of at least {factor}, found {it.extent} for {iterator}")
    used = used_names(func)
    lane, partial = fresh(f"{iterator}.l", {i.name for i in found.iters}), fresh(f"{found.write.buffer}.p", used)
    data = tuple(i for i in found.iters if i.kind == "data")
    shape = tuple(i.extent for i in data)
    place = (*(var(i.name) - i.lower for i in data), var(lane))
    dtype = _write_dtype(func, found)
    lanes = Iter(lane, constant(0), factor)
    start, trips = it.lower.const, it.extent // factor
    env = {iterator: var(iterator) * factor + var(lane) + start}
    value = map_indices(found.value, lambda e: e.substitute(env))
    guard = tuple(g.substitute(env) for g in found.guard)
    identity = Const(MONOIDS[found.monoid].identity(dtype), dtype)
    others = tuple(replace(it, lower=constant(0), extent=trips) if i is it else i for i in found.iters)
    init = Block(fresh(f"{block}.p_init", used), (*data, lanes), Access(partial, place), identity)
    update = replace(found, name=fresh(f"{block}.p", used), iters=(*others, lanes), value=value, guard=guard)
    update = replace(update, write=Access(partial, place))
    rest = None
    if it.extent % factor:
        tail = replace(it, lower=constant(start + trips * factor), extent=it.extent % factor)
        tails = tuple(tail if i is it else i for i in found.iters)
        rest = replace(found, name=fresh(f"{block}.rest", used), iters=tails)
    final = replace(
        found,
        iters=(*data, replace(lanes, kind="reduce")),
        value=Read(partial, place, dtype),
        guard=(),
    )
    scratch = Buffer(partial, (*shape, factor), dtype, "cache")
    return replace_stmt(func, found, Alloc(scratch, seq(init, update, rest, final)))


def _write_dtype(func: LoopFunc, block: Block) -> str:
    dtype = _buffer(func, block.write.buffer).dtype
    if not dtypes.is_known(dtype):
        raise ScheduleError(f"expected a known element type, found {dtype}")
    return dtype


