"""Which parameters of a program may live where its result lives: nothing is read after its place was written.

A program that reads an array for the last time may store its result over it. This is proved for every pair of a read
of the array and a write of the result:

- They never touch the same place, or only in the same iteration of all loops around both. Then neither the order of
  iterations nor the threads that run them matter. In a single Block the points of its box count as iterations.
- Within one iteration the read comes first: statements run in order, and a point of a Block reads before it writes.

What can't be proved is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from .affine import AffineExpr, Atom, FloorDiv, Mod, Range, linearize
from .bounds import Facts
from .loop import Access, Block, Buffer, LoopFunc, Read, reads
from .sites import Program, Site, program


@dataclass(frozen=True, slots=True)
class _Use:
    """A read or write of an array.

    Args:
        order: number of its Block in program order.
        site: of the Block.
        facts: what holds at a point of the Block's box.
        index: in the terms of `Facts.resolve`.
    """

    order: int
    site: Site
    facts: Facts
    index: tuple[AffineExpr, ...]


def in_place(func: LoopFunc) -> tuple[int, ...]:
    """Parameters whose memory the result may be stored into while the program runs.

    Args:
        func: a verified program; iterations of its parallel loop may run in any order and at the same time.

    Returns:
        Positions of global parameters of the result's element type and size. None if there are several results, or if
        the result is stored past the caches.
    """
    result = func.params[-1]
    fitting = [n for n, buffer in enumerate(func.inputs) if _fits(buffer, result)]
    if func.num_outputs != 1 or result.scope != "global" or not fitting:
        return ()
    found = program(func)
    writes = _uses(found, result.name, writes=True)
    return tuple(n for n in fitting if _read_first(found, func.params[n], result, writes))


def _fits(buffer: Buffer, result: Buffer) -> bool:
    same = (buffer.dtype, math.prod(buffer.shape)) == (result.dtype, math.prod(result.shape))
    return same and buffer.scope == "global"


def _uses(p: Program, name: str, writes: bool) -> list[_Use]:
    found: list[_Use] = []
    for order, (site, block) in enumerate(p.blocks()):
        facts = p.facts(site)
        accesses: Iterable[Access | Read] = (block.write,) if writes else reads(block.value)
        for access in accesses:
            if access.buffer == name and not facts.empty:
                found.append(_Use(order, site, facts, tuple(map(facts.resolve, access.index))))
    return found


def _read_first(p: Program, source: Buffer, result: Buffer, writes: list[_Use]) -> bool:
    """Whether every read of a parameter comes before the write of the same place."""
    pairs = ((read, write) for read in _uses(p, source.name, writes=False) for write in writes)
    return all(_pair_in_order(read, write, source, result) for read, write in pairs)


def _pair_in_order(read: _Use, write: _Use, source: Buffer, result: Buffer) -> bool:
    if source.shape == result.shape:
        axes = tuple(zip(read.index, write.index, strict=True))
    else:
        axes = ((linearize(read.index, source.shape), linearize(write.index, result.shape)),)
    pair = _Pair(read.facts, write.facts, _common(read, write), axes)
    if pair.never_meet():
        return True
    return read.order <= write.order and pair.shared <= pair.equal_where_they_meet()


def _common(read: _Use, write: _Use) -> frozenset[str]:
    """Variables of the loops around both, and of the box if both are one Block, that take more than one value."""
    names = [loop.name for loop, other in zip(read.site.loops, write.site.loops, strict=False) if loop is other]
    block = read.site.stmt
    if read.site is write.site and isinstance(block, Block):
        names += [it.name for it in block.iters]
    found = (f"{n}~" if n in read.facts.origins else n for n in names)
    return frozenset(n for n in found if read.facts.ranges[n][0] != read.facts.ranges[n][1])


@dataclass(frozen=True, slots=True)
class _Pair:
    """A read and a write, at any two iterations.

    Args:
        read: what holds where the read happens.
        write: what holds where the write happens.
        shared: variables that both have; they may differ in value.
        axes: the index of the read and that of the write, which are equal on all axes where both touch one place.
    """

    read: Facts
    write: Facts
    shared: frozenset[str]
    axes: tuple[tuple[AffineExpr, AffineExpr], ...]

    def never_meet(self) -> bool:
        """Whether the places differ, whatever the iterations."""
        return any(low > 0 or high < 0 for low, high in (self._gap(r, w, frozenset()) for r, w in self.axes))

    def equal_where_they_meet(self) -> frozenset[str]:
        """Shared variables that have one value in both wherever they touch the same place."""
        known: frozenset[Atom] = frozenset()
        while True:
            new = {atom for r, w in self.axes for atom in self._decided(r, w, known)} - known
            if not new:
                return frozenset(atom for atom in known if isinstance(atom, str))
            known = _closure(known | new)

    def _decided(self, read: AffineExpr, write: AffineExpr, known: frozenset[Atom]) -> Iterable[Atom]:
        """Parts of an index that must be equal: each step of them moves it by more than the rest can make up for."""
        steps = dict(write.terms)
        for atom, step in read.terms:
            if atom in known or steps.get(atom) != step or not AffineExpr(((atom, 1),)).variables() <= self.shared:
                continue
            low, high = self._gap(read, write, known | {atom})
            if max(-low, high) < abs(step):
                yield atom

    def _gap(self, read: AffineExpr, write: AffineExpr, left_out: frozenset[Atom]) -> Range:
        """Interval of the difference of two indices, equal terms of some parts left out."""
        same = {term for term in read.terms if term[0] in left_out} & set(write.terms)
        ours, theirs = (AffineExpr(tuple(t for t in e.terms if t not in same), e.const) for e in (read, write))
        (low, high), (least, most) = self.read.bounds(ours), self.write.bounds(theirs)
        return low - most, high - least


def _closure(known: frozenset[Atom]) -> frozenset[Atom]:
    """Adds variables that are determined by their quotient and remainder by one number."""
    found = set(known)
    for atom in known:
        if isinstance(atom, FloorDiv) and Mod(atom.operand, atom.divisor) in known:
            name = atom.operand.single_variable()
            found |= {name} if name is not None else set()
    return frozenset(found)
