"""What is done to a scheduled program before kernels are made of it: what never runs goes, what is decided goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ...ir.affine import var
from ...ir.bounds import Facts
from ...ir.loop import (
    Alloc,
    Block,
    Expr,
    For,
    If,
    Iter,
    Let,
    LoopFunc,
    Read,
    Stmt,
    Where,
    buffers,
    loop_range,
    map_expr,
    rewrite,
    seq,
    subexpressions,
    walk,
)
from ...ir.sites import program
from ...ir.verify import verify
from ...passes.footprint import footprint
from ...passes.schedule import ScheduleError
from .errors import PallasError


def prepare(func: LoopFunc, *, powers_of_two: bool) -> LoopFunc:
    """Check a scheduled program and bring it into the form that kernels are made from.

    Args:
        func: the program.
        powers_of_two: whether to round every tile up to powers of two, its new part cut off by limits.

    Returns:
        A program that computes the same, without loops and boxes that are empty and conditions that always hold.

    Raises:
        PallasError: it has statements that kernels don't have.
        VerifyError: it is not valid.
    """
    verify(func)
    _check(func)
    func = _without_empty(func)
    if powers_of_two:
        func = _with_blocks(func, _rounded_block)
    return _decided(_roomy(func, powers_of_two))


def _check(func: LoopFunc) -> None:
    for stmt in walk(func.body):
        if isinstance(stmt, If):
            raise PallasError("expected no branches, found an If; conditions belong to Blocks as guards")
        if isinstance(stmt, Block) and any(isinstance(e, Where | Let) for e in subexpressions(stmt.value)):
            raise PallasError(f"expected values without choices and data-dependent indices, found some in {stmt.name}")
        if isinstance(stmt, For):
            if stmt.kind == "parallel":
                raise PallasError(f"expected grid, serial or unrolled loops, found the parallel loop {stmt.name}")
            if not all(len(bound) == 1 and bound[0].is_constant for bound in (stmt.lower, stmt.upper)):
                raise PallasError(f"expected constant bounds of the loop {stmt.name}")
    for buffer in buffers(func).values():
        if buffer.packing:
            raise PallasError(f"expected constants in their own layout, found {buffer.name} packed")


def _without_empty(func: LoopFunc) -> LoopFunc:
    def visit(s: Stmt) -> Stmt | None:
        empty = isinstance(s, Block) and any(map(_never, s.iters))
        never = isinstance(s, For) and s.upper[0].const <= s.lower[0].const
        return None if empty or never else s

    return replace(func, body=rewrite(func.body, visit) or seq())


def _never(it: Iter) -> bool:
    """Whether an iterator has no value, a limit that is never reached included."""
    room = None if it.limit is None else it.limit - it.lower
    return it.extent == 0 or (room is not None and room.is_constant and room.const <= 0)


# ---- tiles of powers of two


def _with_blocks(func: LoopFunc, change: Callable[[Block], Block]) -> LoopFunc:
    body = rewrite(func.body, lambda s: change(s) if isinstance(s, Block) else s)
    return replace(func, body=body or seq())


def _power_of_two(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length() if n else 0


def _rounded_block(block: Block) -> Block:
    iters: list[Iter] = []
    guard = list(block.guard)
    for it in block.iters:
        extent = _power_of_two(it.extent)
        if extent == it.extent:
            iters.append(it)
            continue
        if it.limit is not None:
            if block.guard_mode == "zero":
                raise PallasError(f"expected a power of two for the cut tile {block.name}.{it.name}, found {it.extent}")
            guard.append(it.limit - 1 - var(it.name))
        iters.append(replace(it, extent=extent, limit=it.lower + it.extent))
    return replace(block, iters=tuple(iters), guard=tuple(guard))


def without_limits(block: Block) -> Block:
    """The Block over whole tiles, as they are loaded."""
    return replace(block, iters=tuple(replace(i, limit=None) for i in block.iters))


def _roomy(func: LoopFunc, powers_of_two: bool) -> LoopFunc:
    """Private buffers large enough for whole tiles: a slice that reaches too far would start earlier instead."""
    whole = _with_blocks(func, without_limits)
    shapes: dict[str, tuple[int, ...]] = {}
    for site in program(whole).sites:
        if isinstance(site.stmt, Alloc):
            buffer = site.stmt.buffer
            try:
                touched = footprint(site.stmt.body, buffer.name, frozenset(loop.name for loop in site.loops))
            except ScheduleError:
                continue
            ends = [e.lower.const + e.size if e.lower.is_constant else 0 for e in touched]
            shape = tuple(map(max, buffer.shape, ends))
            shapes[buffer.name] = tuple(map(_power_of_two, shape)) if powers_of_two else shape

    def visit(s: Stmt) -> Stmt:
        if isinstance(s, Alloc) and s.buffer.name in shapes:
            return replace(s, buffer=replace(s.buffer, shape=shapes[s.buffer.name]))
        return s

    return replace(func, body=rewrite(func.body, visit) or seq())


# ---- conditions that always hold


def _decided(func: LoopFunc) -> LoopFunc:
    known = program(func)
    new: dict[int, Block] = {}
    for site, block in known.blocks():
        around = Facts()
        for loop in site.loops:
            around = around.enter_loop(loop)
        iters = tuple(_without_limit(it, around) for it in block.iters)
        inside = known.facts(site)
        guard = tuple(g for g in block.guard if not inside.proves(g))
        body = inside.assume(guard)

        def visit(e: Expr, body: Facts = body) -> Expr:
            if not isinstance(e, Read) or not e.guard:
                return e
            return replace(e, guard=tuple(g for g in e.guard if not body.proves(g)))

        new[id(block)] = replace(block, iters=iters, guard=guard, value=map_expr(block.value, visit))
    body = rewrite(func.body, lambda s: new.get(id(s), s))
    return replace(func, body=body or seq())


def _without_limit(it: Iter, around: Facts) -> Iter:
    if it.limit is None or not around.proves(it.limit - it.lower - it.extent):
        return it
    return replace(it, limit=None)


def loop_ranges(loops: tuple[For, ...]) -> dict[str, tuple[int, int]]:
    """Interval of each of some loops with constant bounds."""
    ranges: dict[str, tuple[int, int]] = {}
    for loop in loops:
        ranges[loop.name] = loop_range(loop, ranges)
    return ranges
