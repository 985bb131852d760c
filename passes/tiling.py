"""Primitives on boxes and loops: split, reorder, vectorize, unroll, parallel, fuse, partition."""

from __future__ import annotations

from dataclasses import replace

from ..ir.affine import AffineExpr, FloorDiv, Mod, Range, constant, var
from ..ir.loop import Alloc, Block, For, If, LoopFunc, Stmt, blocks, children, loop_range, reads, seq, substitute, walk
from .copying import copy_stmt
from .edit import find_block, find_iter, find_loop, fresh, path_to, ranges_at, replace_stmt, used_names
from .schedule import ScheduleError, primitive

MAX_UNROLL = 64


@primitive
def split(func: LoopFunc, block: str, iterator: str, factor: int) -> LoopFunc:
    """Take an iterator's range out of a Block's box and make a loop over tiles right around the Block.

    Before ``B[x: 0..100]``; after ``for B.x in 0..13: B[x: 8*B.x..+8, x < 100]``. The limit stands only where the
    factor does not divide the range. Loops nest in the order of the splits, the last one innermost.

    Refuses: no such Block or iterator; a factor outside ``1..extent``; a range that is already cut by a limit and
    would be cut again by a factor that does not divide it.
    """
    found = find_block(func, block)
    it = find_iter(found, iterator)
    if type(factor) is not int or not 1 <= factor <= max(it.extent, 1):
        raise ScheduleError(f"expected a factor in 1..{it.extent} for {block}.{iterator}, found {factor}")
    name = fresh(f"{block}.{iterator}", used_names(func))
    limit = it.limit
    if it.extent % factor:
        if limit is not None:
            raise ScheduleError(f"expected a factor that divides {it.extent}, since {block}.{iterator} is cut by a limit, found {factor}")
        limit = it.lower + it.extent
    tile = replace(it, lower=it.lower + var(name) * factor, extent=factor, limit=limit)
    inner = replace(found, iters=tuple(tile if i is it else i for i in found.iters))
    trips = -(-it.extent // factor)
    return replace_stmt(func, found, For(name, (constant(0),), (constant(trips),), inner))


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

    Refuses: a loop that is not the function's outermost one or has siblings; bounds that are not constants; writes to
    memory that the threads share which two iterations could both make.
    """
    found = find_loop(func, loop)
    for outer in path_to(func.body, found) or []:
        if not isinstance(outer, Alloc):
            raise ScheduleError(f"expected {loop} to be the only outermost loop, found it inside a {type(outer).__name__}")
    if _constant_trips(found) is None:
        raise ScheduleError(f"expected constant bounds for {loop}")
    private = {s.buffer.name for s in walk(found.body) if isinstance(s, Alloc)}
    for block in blocks(found.body):
        if block.write.buffer not in private and not _distinct(found, block):
            raise ScheduleError(f"expected {block.name} to write different elements in each iteration of {loop}")
    return replace_stmt(func, found, replace(found, kind="parallel"))


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

    Refuses: loops that are not directly nested, bounds of the inner one that depend on the outer one, or a body in
    which an element is written by one Block and read by another (their order could change).
    """
    first, second = find_loop(func, outer), find_loop(func, inner)
    if first.body is not second:
        raise ScheduleError(f"expected {inner} directly inside {outer}")
    if any(outer in e.variables() for e in (*second.lower, *second.upper)):
        raise ScheduleError(f"expected the bounds of {inner} not to depend on {outer}")
    private = {s.buffer.name for s in walk(second.body) if isinstance(s, Alloc)}
    inside = list(blocks(second.body))
    written = {b.write.buffer for b in inside} - private
    for block in inside:
        clash = written & {r.buffer for r in reads(block.value)}
        if clash:
            raise ScheduleError(f"expected no value to flow between iterations, found {sorted(clash)} written and read")
    if len([b for b in inside if b.write.buffer not in private]) > len(written):
        raise ScheduleError("expected one writer per buffer inside the loops")
    return replace_stmt(func, first, replace(second, body=replace(first, body=second.body)))


@primitive
def partition(func: LoopFunc, loop: str) -> LoopFunc:
    """Cut a loop where the guards inside are decided, so that the middle part runs without them.

    Before ``for x in 0..4: B(guard 14*x + i - 1 >= 0)``; after ``for x#0 in 0..1: B#0(guard ...); for x#1 in 1..4: B#1``.
    Copies of loops, Blocks and buffers get the suffixes ``#0``, ``#1``, ``#2``.

    Refuses: bounds that are not constants, a parallel loop, or no iterations in which all guards hold.
    """
    found = find_loop(func, loop)
    trips = _constant_trips(found)
    if trips is None or found.kind == "parallel":
        raise ScheduleError(f"expected a serial or unrolled loop with constant bounds, found {loop} otherwise")
    start = found.lower[0].const
    lo, hi = _undisturbed(found, start, start + trips, ranges_at(func, found))
    if hi <= lo:
        raise ScheduleError(f"expected iterations of {loop} in which every guard holds, found none")
    if (lo, hi) == (start, start + trips):
        raise ScheduleError(f"expected a guard inside {loop} that depends on it, found none")
    pieces = [(a, b) for a, b in ((start, lo), (lo, hi), (hi, start + trips)) if a < b]
    copies = [copy_stmt(_piece(found, a, b), f"#{n}") for n, (a, b) in enumerate(pieces)]
    return replace_stmt(func, found, seq(*copies))


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


def _distinct(loop: For, block: Block) -> bool:
    """Whether iterations of ``loop`` provably write different elements: some index moves by more than the rest spans."""
    ranges: dict[str, Range] = {}
    _inner_ranges(loop.body, {loop.name: loop_range(loop, {})}, block, ranges)
    digits = []
    for expr in _resolved(block):
        own = [(a, k) for a, k in expr.terms if loop.name in _variables(a)]
        if not own:
            continue
        rest = AffineExpr(tuple(t for t in expr.terms if t not in own))
        try:
            lo, hi = rest.bounds(ranges)
        except KeyError:
            return False
        if len(own) == 1 and abs(own[0][1]) > hi - lo:
            digits.append(own[0][0])
    if loop.name in digits:
        return True
    return _recomposes(loop.name, digits, loop_range(loop, {}))


def _recomposes(name: str, digits: list[str | FloorDiv | Mod], span: Range) -> bool:
    """Whether the quotients and remainders of a fused loop variable that are written determine the variable."""
    whole = var(name)
    for quotient in digits:
        if isinstance(quotient, FloorDiv) and quotient.operand == whole:
            for digit in digits:
                if isinstance(digit, Mod) and digit.operand == whole and digit.divisor == quotient.divisor:
                    return True
    return span[0] == span[1]


def _variables(atom: str | FloorDiv | Mod) -> frozenset[str]:
    return frozenset((atom,)) if isinstance(atom, str) else atom.operand.variables()


def _resolved(block: Block) -> list[AffineExpr]:
    """Write indices with each iterator replaced by its lower bound plus a relative variable of the same name."""
    env = {i.name: i.lower + var(i.name) for i in block.iters}
    return [e.substitute(env) for e in block.write.index]


def _inner_ranges(stmt: Stmt, known: dict[str, Range], block: Block, out: dict[str, Range]) -> None:
    for s in walk(stmt):
        if isinstance(s, For):
            known[s.name] = loop_range(s, known)
    out.update(known)
    out.update({i.name: (0, max(i.extent - 1, 0)) for i in block.iters})


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
            relative = {**ranges, **{i.name: (0, max(i.extent - 1, 0)) for i in stmt.iters}}
            guards = [*stmt.guard, *(g for r in reads(stmt.value) for g in r.guard)]
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

