"""Choices inside values (`ir.loop.Where`) are decided where boxes and loops can be cut for them.

What is put together from parts becomes one Block per part, each over its own share of the box: a concatenation then
costs what copying its operands costs. What is left (a tile that a part ends in) is chosen lane by lane.
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.affine import AffineExpr, var
from ..ir.loop import (
    Alloc,
    Block,
    Expr,
    For,
    If,
    Iter,
    Seq,
    Stmt,
    Where,
    blocks,
    map_block_indices,
    map_expr,
    reads,
    rewrite,
    seq,
    subexpressions,
    walk,
)
from .copying import copy_stmt

MAX_COPIES = 64
"""Most copies of a Block that choices may make."""


def choose(stmt: Stmt, lanes: int) -> Stmt:
    """Cut boxes where a choice changes, and move choices that loops decide out of the loops they do not depend on.

    Args:
        stmt: the body of a function; its boxes start at 0.
        lanes: values per vector.
    """
    if not any(_choices(b) for b in blocks(stmt)):
        return stmt
    registers = {s.buffer.name for s in walk(stmt) if isinstance(s, Alloc) and s.buffer.scope == "register"}
    cut = rewrite(stmt, lambda s: _cut_box(s, registers, lanes, MAX_COPIES) if isinstance(s, Block) else s)
    assert cut is not None
    return _unswitch(cut, set(), MAX_COPIES)


def _choices(block: Block) -> list[AffineExpr]:
    return list(dict.fromkeys(e.condition for e in subexpressions(block.value) if isinstance(e, Where)))


def decided(expr: Expr, condition: AffineExpr, holds: bool) -> Expr:
    """The expression with every choice on a condition made."""

    def visit(e: Expr) -> Expr:
        if isinstance(e, Where) and e.condition == condition:
            return e.then if holds else e.orelse
        return e

    return map_expr(expr, visit)


# ---- boxes


def _cut_box(block: Block, registers: set[str], lanes: int, budget: int) -> Stmt:
    """The Block cut at every place of its box where a choice changes; vectors in registers stay whole."""
    for condition in _choices(block):
        found = _place(block, condition)
        if found is None or budget < 2:
            continue
        it, place = found
        if not it.vectorized or place % lanes == 0 or not _indexes(block, it, registers):
            parts = _parts(block, condition, it, place)
            return seq(*(_cut_box(part, registers, lanes, budget - 1) for part in parts))
    return block


def _parts(block: Block, condition: AffineExpr, it: Iter, place: int) -> tuple[Block, Block]:
    """The Block below and from ``place`` of an iterator on, where a condition changes."""
    rising = condition.coefficient(it.name) > 0
    moved = {it.name: var(it.name) + place}
    rest = map_block_indices(replace(block, iters=()), lambda e: e.substitute(moved))

    def part(of: Block, extent: int, known: AffineExpr, holds: bool) -> Block:
        iters = tuple(replace(i, extent=extent) if i is it else i for i in block.iters)
        return replace(of, iters=iters, value=decided(of.value, known, holds))

    below = part(block, place, condition, not rising)
    above = part(rest, it.extent - place, condition.substitute(moved), rising)
    return below, replace(above, name=f"{block.name}@{place}")


def _indexes(block: Block, it: Iter, registers: set[str]) -> bool:
    """Whether an iterator tells elements of a register buffer apart."""
    accesses = [block.write, *reads(block.value)]
    return any(a.buffer in registers and any(it.name in e.variables() for e in a.index) for a in accesses)


def _place(block: Block, condition: AffineExpr) -> tuple[Iter, int] | None:
    """The iterator that alone decides a condition, and its first value past the change; None if it is not like that."""
    if len(condition.terms) != 1 or not isinstance(condition.terms[0][0], str):
        return None
    name, k = condition.terms[0]
    it = block.iterator(str(name))
    if it is None or it.limit is not None:
        return None
    place = -(condition.const // k) if k > 0 else condition.const // -k + 1
    return (it, place) if 0 < place < it.extent else None


# ---- loops


def _unswitch(stmt: Stmt, outer: set[str], budget: int) -> Stmt:
    """Choices that ``outer`` variables decide become branches around ``stmt``; then the same inside of it."""
    for condition in _conditions(stmt):
        if condition.variables() <= outer and budget >= 2:
            then = _unswitch(_with(stmt, condition, True), outer, budget // 2)
            orelse = _unswitch(_with(stmt, condition, False), outer, budget // 2)
            return If((condition,), then, copy_stmt(orelse, "@"))
    match stmt:
        case For():
            return replace(stmt, body=_unswitch(stmt.body, outer | {stmt.name}, budget))
        case Alloc():
            return replace(stmt, body=_unswitch(stmt.body, outer, budget))
        case Seq():
            return seq(*(_unswitch(s, outer, budget) for s in stmt.body))
        case If():
            orelse = None if stmt.orelse is None else _unswitch(stmt.orelse, outer, budget)
            return If(stmt.conditions, _unswitch(stmt.then, outer, budget), orelse)
        case Block():
            return _tiles(stmt, outer, budget)


def _conditions(stmt: Stmt) -> list[AffineExpr]:
    return list(dict.fromkeys(c for b in blocks(stmt) for c in _choices(b)))


def _with(stmt: Stmt, condition: AffineExpr, holds: bool) -> Stmt:
    out = rewrite(stmt, lambda s: replace(s, value=decided(s.value, condition, holds)) if isinstance(s, Block) else s)
    assert out is not None
    return out


def _tiles(block: Block, outer: set[str], budget: int) -> Stmt:
    """A Block whose whole box usually lies on one side of a choice: one copy for each side, one for the box between."""
    extents = {i.name: (0, i.extent - 1) for i in block.iters if i.limit is None}
    for condition in _choices(block):
        inner = [(a, k) for a, k in condition.terms if isinstance(a, str) and a in extents]
        rest = condition - AffineExpr(tuple(inner))
        if budget < 4 or not inner or not rest.variables() or not rest.variables() <= outer:
            continue
        low, high = AffineExpr(tuple(inner)).bounds(extents)
        sides = [
            _tiles(replace(block, value=decided(block.value, condition, holds)), outer, budget // 2)
            for holds in (True, False)
        ]
        orelse = If((-(rest + high) - 1,), copy_stmt(sides[1], "@"), copy_stmt(block, "@@"))
        return If((rest + low,), sides[0], orelse)
    return block
