"""Primitives on boxes and loops: split, reorder, vectorize, unroll, parallel, grid, fuse, interchange, partition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..ir.affine import AffineExpr, Range, constant, var
from ..ir.loop import (
    Alloc,
    Block,
    For,
    If,
    LoopFunc,
    Seq,
    Stmt,
    blocks,
    bound_ranges,
    children,
    loop_range,
    reads,
    seq,
    substitute,
    walk,
)
from .copying import copy_stmt
from .decide import conditions
from .edit import find_block, find_iter, find_loop, fresh, path_to, ranges_at, replace_stmt, threads_apart, used_names
from .schedule import ScheduleError, primitive

MAX_UNROLL = 64


@primitive
def split(func: LoopFunc, block: str, iterator: str, factor: int) -> LoopFunc:
    """Take an iterator's range out of a Block's box and make a loop over tiles right around the Block.

    Before ``B[x: 0..100]``; after ``for B.x in 0..13: B[x: 8*B.x..+8, x < 100]``. The limit stands only where the
    factor does not divide the range. Loops nest in the order of the splits, the last one innermost.

    Refuses: no such Block or iterator; a factor outside ``1..extent``; a range that is already cut by a limit and
    would be cut again by a factor that does not divide it; a range inside a parallel loop whose iterations could no
    longer be told apart.
    """
    found = find_block(func, block)
    it = find_iter(found, iterator)
    if not 1 <= factor <= max(it.extent, 1):
        raise ScheduleError(f"expected a factor in 1..{it.extent} for {block}.{iterator}, found {factor}")
    name = fresh(f"{block}.{iterator}", used_names(func))
    limit = it.limit
    if it.extent % factor:
        if limit is not None:
            cut = f"since {block}.{iterator} is cut by a limit"
            raise ScheduleError(f"expected a factor that divides {it.extent}, {cut}, found {factor}")
        limit = it.lower + it.extent
    tile = replace(it, lower=it.lower + var(name) * factor, extent=factor, limit=limit)
    inner = replace(found, iters=tuple(tile if i is it else i for i in found.iters))
    trips = -(-it.extent // factor)
    return threads_apart(replace_stmt(func, found, For(name, (constant(0),), (constant(trips),), inner)))


@primitive
def reorder(func: LoopFunc, block: str, *order: str) -> LoopFunc:
    """Put the iterators of a Block's box into another order, outermost first.

    Before ``B[x, n]``; after ``reorder(B, n, x)``: ``B[n, x]``. This is the order in which the box is unrolled into
    instructions, which decides which operand stays in a register.

    Refuses: an order that is no permutation of the box.
    """
    found = find_block(func, block)
    names = [i.name for i in found.iters]
    if sorted(order) != sorted(names):
        raise ScheduleError(f"expected a permutation of {names}, found {list(order)}")
    return replace_stmt(func, found, replace(found, iters=tuple(find_iter(found, n) for n in order)))


@primitive
def vectorize(func: LoopFunc, block: str, iterator: str) -> LoopFunc:
    """Make an iterator's values the lanes of vectors.

    Before ``B[x, n]``; after ``B[x, n: vector]``. A data iterator becomes vector stores, a reduce iterator a
    horizontal reduction. Another vectorised iterator of the Block becomes scalar again.

    Refuses: no such Block or iterator.
    """
    found = find_block(func, block)
    it = find_iter(found, iterator)
    iters = tuple(replace(i, vectorized=i is it) for i in found.iters)
    return replace_stmt(func, found, replace(found, iters=iters))


@primitive
def unroll(func: LoopFunc, loop: str) -> LoopFunc:
    """Copy a loop's body once per iteration when code is generated.

    Refuses: a loop whose trip count is not a constant, or more than 64.
    """
    found = find_loop(func, loop)
    trips = _constant_trips(found)
    if trips is None or trips > MAX_UNROLL:
        raise ScheduleError(f"expected a constant trip count of at most {MAX_UNROLL} for {loop}, found {trips}")
    return replace_stmt(func, found, replace(found, kind="unroll"))


@primitive
def parallel(func: LoopFunc, loop: str) -> LoopFunc:
    """Share the iterations of the outermost loop among threads.

    Refuses: a loop that is not the function's outermost one or has siblings; bounds that are not constants; memory
    that the threads share of which two iterations could use the same element, one of them writing it.
    """
    found = find_loop(func, loop)
    for outer in path_to(func.body, found) or []:
        if not isinstance(outer, Alloc):
            kind = type(outer).__name__
            raise ScheduleError(f"expected {loop} to be the only outermost loop, found it inside a {kind}")
    if _constant_trips(found) is None:
        raise ScheduleError(f"expected constant bounds for {loop}")
    return threads_apart(replace_stmt(func, found, replace(found, kind="parallel")))


@primitive
def grid(func: LoopFunc, loop: str) -> LoopFunc:
    """Make a loop a dimension of the grid over which an accelerator runs a kernel; the rest of it is one cell.

    Before ``for o in 0..8: S``; after ``grid o in 0..8: S``. A processor without grids runs it as a serial loop.

    Refuses: a loop that is not serial, whose bounds do not run from 0 to a constant, or that stands inside anything but
    other grid loops, allocations and sequences.
    """
    found = find_loop(func, loop)
    if found.kind != "serial" or _constant_trips(found) is None or found.lower[0].const:
        raise ScheduleError(f"expected a serial loop from 0 to a constant, found {loop} otherwise")
    for outer in path_to(func.body, found) or []:
        if not isinstance(outer, Alloc | Seq) and not (isinstance(outer, For) and outer.kind == "grid"):
            what = f"the {outer.kind} loop {outer.name}" if isinstance(outer, For) else f"an {type(outer).__name__}"
            raise ScheduleError(f"expected {loop} inside grid loops only, found it inside {what}")
    return replace_stmt(func, found, replace(found, kind="grid"))


@primitive
def fuse(func: LoopFunc, outer: str, inner: str) -> LoopFunc:
    """Make one loop of two that are perfectly nested.

    Before ``for i in 0..4: for j in 0..8: S``; after ``for i_j in 0..32: S[i := i_j // 8, j := i_j % 8]``.

    Refuses: loops that are not directly nested, or bounds that do not run from 0 to a constant.
    """
    first, second = find_loop(func, outer), find_loop(func, inner)
    if first.body is not second:
        raise ScheduleError(f"expected {inner} directly inside {outer}")
    m, n = _constant_trips(first), _constant_trips(second)
    starts = (first.lower[0].const, second.lower[0].const)
    if m is None or n is None or n == 0 or starts != (0, 0) or first.kind != "serial" or second.kind != "serial":
        raise ScheduleError(f"expected serial loops from 0 to a constant, found {outer} and {inner} otherwise")
    name = fresh(f"{outer}_{inner}", used_names(func))
    both = var(name)
    env = {outer: both.floordiv(n), inner: both.mod(n)}
    return replace_stmt(func, first, For(name, (constant(0),), (constant(m * n),), substitute(second.body, env)))


@primitive
def interchange(func: LoopFunc, outer: str, inner: str) -> LoopFunc:
    """Swap two loops that are perfectly nested.

    Before ``for i: for j: S``; after ``for j: for i: S``.

    Refuses: loops that are not directly nested or parallel, bounds of the inner one that depend on the outer one, a
    body in which a buffer has several writers or is written by one Block and read by another, and a store that may
    write an element in several iterations of both loops: their order would change.
    """
    first, second = find_loop(func, outer), find_loop(func, inner)
    if first.body is not second:
        raise ScheduleError(f"expected {inner} directly inside {outer}")
    if "parallel" in (first.kind, second.kind):
        raise ScheduleError(f"expected serial or unrolled loops, found {outer} {first.kind}")
    if any(outer in e.variables() for e in (*second.lower, *second.upper)):
        raise ScheduleError(f"expected the bounds of {inner} not to depend on {outer}")
    private = {s.buffer.name for s in walk(second.body) if isinstance(s, Alloc)}
    inside = list(blocks(second.body))
    writers = [b for b in inside if b.write.buffer not in private]
    written = {b.write.buffer for b in writers}
    for block in inside:
        clash = written & {r.buffer for r in reads(block.value)}
        if clash:
            raise ScheduleError(f"expected no value to flow between iterations, found {sorted(clash)} written and read")
    if len(writers) > len(written):
        raise ScheduleError("expected one writer per buffer inside the loops")
    outside = ranges_at(func, first)
    for block in writers:
        if block.monoid is None and not any(_distinct(loop, first, block, outside) for loop in (first, second)):
            raise ScheduleError(f"expected {block.name} to write each element in one iteration of {outer} or {inner}")
    return replace_stmt(func, first, replace(second, body=replace(first, body=second.body)))


@primitive
def partition(func: LoopFunc, loop: str) -> LoopFunc:
    """Cut a loop where the guards inside are decided, so that the middle part runs without them.

    Before ``for x in 0..4: B(guard 14*x + i - 1 >= 0)``; after ``B#0(guard i - 1 >= 0)`` and ``for x#1 in 1..4: B#1``.
    Copies of loops, Blocks and buffers get the suffixes ``#0``, ``#1``, ``#2``. A parallel loop stays one loop, whose
    body tells the parts apart: ``for x in 0..4: if x < 1: B#0 else: B#1``.

    Refuses: bounds that are not constants, or no iterations in which all guards hold.
    """
    found = find_loop(func, loop)
    trips = _constant_trips(found)
    if trips is None or found.kind == "grid":
        raise ScheduleError(
            f"expected a serial, unrolled or parallel loop with constant bounds, found {loop} otherwise"
        )
    start = found.lower[0].const
    lo, hi = _undisturbed(found, start, start + trips, ranges_at(func, found))
    if hi <= lo:
        raise ScheduleError(f"expected iterations of {loop} in which every guard holds, found none")
    if (lo, hi) == (start, start + trips):
        raise ScheduleError(f"expected a guard inside {loop} that depends on it, found none")
    pieces = [(a, b) for a, b in ((start, lo), (lo, hi), (hi, start + trips)) if a < b]
    if found.kind == "parallel":
        return replace_stmt(func, found, _told_apart(found, pieces))
    copies = [copy_stmt(_piece(found, a, b), f"#{n}") for n, (a, b) in enumerate(pieces)]
    return replace_stmt(func, found, seq(*copies))


def _told_apart(loop: For, pieces: list[tuple[int, int]]) -> For:
    """The loop with a copy of its body for each piece of its range."""
    copies = [copy_stmt(loop.body, f"#{n}") for n in range(len(pieces))]
    out = copies[-1]
    for (_, end), copy in zip(reversed(pieces[:-1]), reversed(copies[:-1]), strict=True):
        out = If((constant(end - 1) - var(loop.name),), copy, out)
    return replace(loop, body=out)


def _piece(loop: For, start: int, stop: int) -> Stmt:
    if stop - start == 1:
        return substitute(loop.body, {loop.name: constant(start)})
    return replace(loop, lower=(constant(start),), upper=(constant(stop),))


def _constant_trips(loop: For) -> int | None:
    if len(loop.lower) != 1 or len(loop.upper) != 1:
        return None
    if not loop.lower[0].is_constant or not loop.upper[0].is_constant:
        return None
    return max(0, loop.upper[0].const - loop.lower[0].const)


def _distinct(loop: For, nest: For, block: Block, outside: Mapping[str, Range]) -> bool:
    """Whether two iterations of ``loop`` never write the same element, whatever the other loops in ``nest`` do.

    That is so where some index moves by more than everything else in it can make up for.
    """
    ranges = {name: (0, 0) for name in outside}
    for s in walk(nest):
        if isinstance(s, For):
            ranges[s.name] = loop_range(s, {**outside, **ranges})
    ranges |= {i.name: (0, max(i.extent - 1, 0)) for i in block.iters}
    env = {i.name: i.lower + var(i.name) for i in block.iters}
    for index in block.write.index:
        expr = index.substitute(env)
        step = expr.coefficient(loop.name)
        rest = expr - var(loop.name) * step
        lo, hi = rest.bounds(ranges)
        if loop.name not in rest.variables() and abs(step) > hi - lo:
            return True
    return False


def _undisturbed(loop: For, start: int, stop: int, outer: dict[str, Range]) -> Range:
    """The half-open part of ``[start, stop)`` in which every guard that depends on the loop surely holds."""
    lo, hi = start, stop
    for condition, ranges in _conditions(loop, {**outer, loop.name: (start, stop - 1)}):
        k = condition.coefficient(loop.name)
        if not k:
            continue
        least = (condition - var(loop.name) * k).bounds(ranges)[0]
        if k > 0:
            lo = max(lo, -(least // k))
        else:
            hi = min(hi, least // -k + 1)
    return lo, hi


def _conditions(stmt: Stmt, ranges: dict[str, Range]) -> list[tuple[AffineExpr, dict[str, Range]]]:
    found: list[tuple[AffineExpr, dict[str, Range]]] = []
    match stmt:
        case Block():
            env = {i.name: i.lower + var(i.name) for i in stmt.iters}
            relative = {**ranges, **{i.name: (0, max(i.extent - 1, 0)) for i in stmt.iters}} | bound_ranges(stmt.value)
            guards = [*stmt.guard, *(g for r in reads(stmt.value) for g in r.guard), *conditions(stmt.value)]
            return [(g.substitute(env), relative) for g in guards]
        case For():
            ranges = {**ranges, stmt.name: ranges.get(stmt.name) or loop_range(stmt, ranges)}
        case If():
            found += [(c, ranges) for c in stmt.conditions]
        case _:
            pass
    for child in children(stmt):
        found += _conditions(child, ranges)
    return found
