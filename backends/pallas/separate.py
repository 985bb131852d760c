"""Blocks whose indices mix iterators (windows, reshapes, diagonals) as several Blocks whose indices don't.

An iterator that shares an axis of a buffer with another one is given one value after the other, so that what is left
are slices: a convolution becomes one product of tiles per tap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...ir.affine import AffineExpr, Range, var
from ...ir.loop import Access, Block, Iter, Read, map_block_indices, reads
from .errors import PallasError

MAX_PARTS = 64
"""Most Blocks that one Block is taken apart into."""


def separated(block: Block, ranges: Mapping[str, Range]) -> tuple[Block, ...]:
    """Blocks of which each index moves along at most one iterator, which together compute what one Block does.

    Args:
        block: any Block.
        ranges: intervals of the loops around it.

    Raises:
        PallasError: that takes too many, or the Block's guard means something else for the parts.
    """
    done: list[Block] = []
    left = [block]
    while left:
        part = left.pop(0)
        mixed = _mixed(part, ranges)
        if mixed is None:
            done.append(part)
            continue
        it, where = mixed
        left = [_fixed(part, it, value) for value in range(it.extent)] + left
        if len(done) + len(left) > MAX_PARTS:
            raise PallasError(
                f"expected indices that move along one iterator each, found {where}; {block.name} would become more "
                f"than {MAX_PARTS} statements"
            )
    return tuple(done)


def _mixed(block: Block, ranges: Mapping[str, Range]) -> tuple[Iter, str] | None:
    """An iterator that has to be fixed and the index that says so.

    Where there is a choice it is the shortest one, and of those a reduced one, so that a product is left per part.
    """
    moving = {i.name: i for i in block.iters if i.extent > 1}
    env = {i.name: i.lower + var(i.name) if i.extent > 1 else i.lower for i in block.iters}
    inner = {**ranges, **{name: (0, i.extent - 1) for name, i in moving.items()}}
    for access in (block.write, *reads(block.value)):
        index = [e.substitute(env).simplify(inner) for e in access.index]
        names = _candidates(access, index, moving)
        if names:
            choice = [i for i in moving.values() if i.name in names]
            shortest = min(choice, key=lambda i: (i.extent, i.kind != "reduce"))
            return shortest, f"{access.buffer}[{', '.join(map(str, access.index))}]"
    return None


def _candidates(access: Access | Read, index: list[AffineExpr], moving: Mapping[str, Iter]) -> set[str]:
    seen: set[str] = set()
    for expr in index:
        names = expr.variables() & moving.keys()
        plain = {n for n in names if expr.coefficient(n)}
        inside = {n for atom, _ in expr.terms if not isinstance(atom, str) for n in atom.operand.variables()}
        if inside & moving.keys():
            return set(inside & moving.keys())
        if len(names) > 1 or names & seen:
            return set(names)
        if isinstance(access, Access) and any(expr.coefficient(n) != 1 for n in plain):
            return set(names)
        seen |= names
    return set()


def _fixed(block: Block, it: Iter, value: int) -> Block:
    here = it.lower + value
    env = {it.name: here}
    rest = map_block_indices(
        replace(block, iters=tuple(i for i in block.iters if i is not it)), lambda e: e.substitute(env)
    )
    if it.limit is None:
        return rest
    if block.guard and block.guard_mode == "zero":
        raise PallasError(f"expected no guard that stores zeros on the cut tile {block.name}.{it.name}")
    return replace(rest, guard=(*rest.guard, it.limit - 1 - here), guard_mode="skip")
