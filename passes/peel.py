"""Peeling: the last iterations of a loop become code of their own, so that cut tiles are cut by constants only."""

from __future__ import annotations

from dataclasses import replace

from ..ir.affine import Range, constant, var
from ..ir.loop import Alloc, Block, For, If, Seq, Stmt, blocks, loop_range, seq, substitute, walk
from .copying import copy_stmt

MAX_PEELED = 2
"""Most iterations that are copied out of a loop."""


def peel(stmt: Stmt, ranges: dict[str, Range]) -> Stmt:
    """Take the iterations in which a tile may be cut, if few, out of every loop inside.

    Args:
        stmt: a statement whose boxes start at 0.
        ranges: of the loop variables in scope.
    """
    match stmt:
        case For():
            return _peel_for(stmt, ranges)
        case Alloc():
            return replace(stmt, body=peel(stmt.body, ranges))
        case Seq():
            return seq(*(peel(s, ranges) for s in stmt.body))
        case If():
            return If(
                stmt.conditions, peel(stmt.then, ranges), None if stmt.orelse is None else peel(stmt.orelse, ranges)
            )
        case Block():
            return stmt


def _peel_for(loop: For, ranges: dict[str, Range]) -> Stmt:
    loop = _trimmed(loop, ranges)
    lo, hi = loop_range(loop, ranges)
    fixed = len(loop.lower) == len(loop.upper) == 1 and loop.lower[0].is_constant and loop.upper[0].is_constant
    if fixed and loop.upper[0].const <= loop.lower[0].const:
        return loop
    full = _full_until(loop, lo, hi + 1, ranges) if fixed else hi + 1
    if full > hi or full < lo or hi + 1 - full > MAX_PEELED:
        return replace(loop, body=peel(loop.body, {**ranges, loop.name: (lo, hi)}))
    rests = [peel(_last(loop, v), ranges) for v in range(full, hi + 1)]
    if full == lo and loop.kind != "parallel":
        return seq(*rests)
    body = peel(loop.body, {**ranges, loop.name: (lo, max(full - 1, lo))})
    if loop.kind != "parallel":
        return seq(replace(loop, upper=(constant(full),), body=body), *rests)
    for v, tail in zip(range(hi - 1, full - 1, -1), reversed(rests[:-1]), strict=True):
        rests[-1] = If((constant(v) - var(loop.name),), tail, rests[-1])
    return replace(loop, body=If((constant(full - 1) - var(loop.name),), body, rests[-1]))


def _trimmed(loop: For, ranges: dict[str, Range]) -> For:
    """The loop without the iterations at its end in which every tile inside is empty: only a cut tile has them."""
    fixed = len(loop.lower) == len(loop.upper) == 1 and loop.lower[0].is_constant and loop.upper[0].is_constant
    if not fixed or loop.kind == "parallel":
        return loop
    inner = _ranges_inside(loop, loop_range(loop, ranges), ranges)
    last = loop.lower[0].const
    for block in blocks(loop.body):
        last = max(last, _empty_from(block, loop, inner))
    return replace(loop, upper=(constant(last),)) if last < loop.upper[0].const else loop


def _empty_from(block: Block, loop: For, ranges: dict[str, Range]) -> int:
    """The first iteration from which on a Block's box is empty; the loop's end if there is none."""
    first = loop.upper[0].const
    for limit in (it.limit for it in block.iters if it.limit is not None):
        k = limit.coefficient(loop.name)
        rest = limit - var(loop.name) * k
        if k < 0 and loop.name not in rest.variables():
            first = min(first, -(-max(rest.bounds(ranges)[1], 0) // -k))
    return max(first, loop.lower[0].const)


def _ranges_inside(loop: For, own: Range, ranges: dict[str, Range]) -> dict[str, Range]:
    inner = {**ranges, loop.name: own}
    for s in walk(loop.body):
        if isinstance(s, For):
            inner[s.name] = loop_range(s, inner)
    return inner


def _last(loop: For, value: int) -> Stmt:
    return copy_stmt(substitute(loop.body, {loop.name: constant(value)}), f"#{loop.name}={value}")


def _full_until(loop: For, start: int, stop: int, ranges: dict[str, Range]) -> int:
    """The first iteration in which a tile inside may be cut."""
    inner = _ranges_inside(loop, (start, max(stop - 1, start)), ranges)
    first = stop
    for block in blocks(loop.body):
        for it in block.iters:
            if it.limit is None:
                continue
            slack = it.limit - it.extent
            k = slack.coefficient(loop.name)
            if k < 0:
                least = (slack - var(loop.name) * k).bounds(inner)[0]
                first = min(first, least // -k + 1)
    return max(first, start - 1)
