"""Primitives on where and how values are kept: set_scope, nontemporal, pack, cache_read, cache_write."""

from __future__ import annotations

from dataclasses import replace

from ..ir.affine import constant, var
from ..ir.loop import (
    Access,
    Alloc,
    Block,
    Buffer,
    Expr,
    For,
    Index,
    Iter,
    LoopFunc,
    Pack,
    Read,
    Seq,
    Stmt,
    blocks,
    map_expr,
    reads,
    rewrite,
    seq,
)
from .edit import find_alloc, find_buffer, find_loop, fresh, path_to, ranges_at, relaid, replace_stmt, used_names
from .footprint import footprint, within
from .schedule import ScheduleError, primitive


@primitive
def set_scope(func: LoopFunc, buffer: str, scope: str) -> LoopFunc:
    """Put an allocated buffer into another memory.

    Before ``alloc t[14, 32] cache``; after ``alloc t[14, 32] register``.

    Refuses: a parameter, an unknown scope. Whether a ``register`` buffer is only accessed with constant indices is
    known when code is generated; the verifier checks it there.
    """
    alloc = find_alloc(func, buffer)
    if scope not in ("global", "cache", "register"):
        raise ScheduleError(f"expected one of global, cache, register, found {scope!r}")
    return replace_stmt(func, alloc, replace(alloc, buffer=replace(alloc.buffer, scope=scope)))


@primitive
def nontemporal(func: LoopFunc, buffer: str) -> LoopFunc:
    """Store an output past the caches: for one that is large and not read again soon.

    Before ``output y: float32[4096, 4096]``; after ``output y: float32[4096, 4096] stream``. Whole vectors at multiples
    of their size are then stored so, others as before. Lines of memory are written without being read first, and what
    is in the caches stays there.

    Refuses: anything but an output, and one that some Block reads or combines into.
    """
    found = next((b for b in func.outputs if b.name == buffer), None)
    if found is None or found.scope == "stream":
        raise ScheduleError(f"expected an output that is not streamed yet, found {buffer}")
    for block in blocks(func.body):
        if any(r.buffer == buffer for r in reads(block.value)) or (block.monoid and block.write.buffer == buffer):
            raise ScheduleError(f"expected {buffer} to be stored once, found it used in {block.name}")
    params = tuple(replace(b, scope="stream") if b is found else b for b in func.params)
    return replace(func, params=params)


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

    def index(old_index: Index) -> Index:
        kept = tuple(e for i, e in enumerate(old_index) if i != axis)
        return (old_index[axis].floordiv(factor), *kept, old_index[axis].mod(factor))

    return relaid(func, new, index)


@primitive
def cache_read(func: LoopFunc, buffer: str, loop: str, nth: int = -1) -> LoopFunc:
    """Copy the part of a buffer that one iteration of a loop reads into a private buffer first.

    Before ``for o: ... x[8*o + j] ...``; after ``for o: alloc x.c[8]: x.c[i] = x[8*o + i]; ... x.c[j] ...``. Where a
    buffer is read in several ways (both operands of ``x @ x.T``), ``nth`` says which of them, in program order.

    Refuses: a buffer written inside the loop; a read that does not exist; guarded reads; readers whose accesses differ
    by more than a constant.
    """
    target = find_loop(func, loop)
    source = find_buffer(func, buffer)
    inside = list(blocks(target.body))
    if any(b.write.buffer == buffer for b in inside):
        raise ScheduleError(f"expected {buffer} not to be written inside {loop}")
    found = [r for b in inside for r in reads(b.value) if r.buffer == buffer]
    ways = list(dict.fromkeys(r.index for r in found))
    if not ways:
        raise ScheduleError(f"expected an access to {buffer}, found none")
    if not -1 <= nth < len(ways):
        raise ScheduleError(f"expected -1 or the number of one of {len(ways)} ways to read {buffer}, found {nth}")
    chosen = set(ways if nth < 0 else ways[nth : nth + 1])
    if any(r.guard and r.index in chosen for r in found):
        raise ScheduleError(f"expected unguarded reads of {buffer} inside {loop}")
    outer = frozenset(s.name for s in (*(path_to(func.body, target) or ()), target) if isinstance(s, For))
    used = used_names(func)
    name = fresh(f"{buffer}.c", used)
    block = fresh(f"{buffer}.copy", used)
    extents = footprint(target.body, buffer, outer, chosen)
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
        if not isinstance(e, Read) or e.buffer != buffer or e.index not in chosen:
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
