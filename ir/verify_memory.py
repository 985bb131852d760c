"""Verifier rules about memory: indices inside buffers, order inside a box, registers, and threads that don't race."""

from __future__ import annotations

from collections.abc import Iterator

from .affine import AffineExpr, Atom, FloorDiv, Mod, Range, var
from .bounds import Facts
from .loop import Access, Alloc, Block, Buffer, For, Index, Iter, Read, chosen_reads, reads, walk
from .sites import Fault, Program, Site, path


def accesses(block: Block) -> list[Access | Read]:
    """The write and every read of a Block."""
    return [block.write, *reads(block.value)]


def indices_inside(p: Program) -> Iterator[Fault]:
    """Every index is provably inside its buffer wherever the access happens."""
    for site, block in p.blocks():
        box = p.facts(site)
        # Where a guard fails, nothing is read, and zeros are stored: only the write has to stay inside then.
        body = box.assume(block.guard) if block.guard else box
        chosen: list[tuple[Access | Read, Index]] = [(block.write, ()), *chosen_reads(block.value)]
        for access, conditions in chosen:
            facts = body
            if isinstance(access, Read):
                conditions = (*conditions, *access.guard)
                facts = body.assume(conditions) if conditions else body
            elif block.guard_mode == "zero":
                facts = box
            shape = site.scope[access.buffer].shape
            for axis, (index, extent) in enumerate(zip(access.index, shape, strict=True)):
                if not facts.inside(index, extent):
                    low, high = facts.resolve(index).bounds(facts.ranges)
                    yield (
                        site.stmt,
                        f"expected index {axis} of {access.buffer} surely in 0..{extent - 1}, found {index} in "
                        f"{low}..{high}; guard it, or limit the iterator",
                    )


def self_reads(p: Program) -> Iterator[Fault]:
    """The points of a box can be taken in any order: none reads an element that another one writes."""
    for site, block in p.blocks():
        for read in reads(block.value):
            if read.buffer != block.write.buffer or not block.iters:
                continue
            same = block.monoid is None and read.index == block.write.index
            if not same and not _apart(p.facts(site), block, read):
                yield site.stmt, f"expected the points of {block.name} not to read what others write in {read.buffer}"


def _apart(facts: Facts, block: Block, read: Read) -> bool:
    """Whether the elements that a Block reads and those it writes differ, whatever two points are taken."""
    own = [n for it in block.iters for n in (it.name, f"{it.name}~") if n in facts.ranges]
    other = {n: f"{n}~other" for n in own}
    ranges = {**facts.ranges, **{other[n]: facts.ranges[n] for n in own}}
    for mine, theirs in zip(block.write.index, read.index, strict=True):
        gap = mine.substitute(facts.origins) - theirs.substitute(facts.origins).rename(other)
        low, high = gap.simplify(ranges).bounds(ranges)
        if low > 0 or high < 0:
            return True
    return False


# ---- registers


def registers(p: Program) -> Iterator[Fault]:
    """Register buffers are accessed by constants once boxes are unrolled, in whole vectors of one length per buffer.

    Vectors lie along the last axis, begin at multiples of their length, and rows hold a whole number of them. A buffer
    that no vectorised iterator indexes holds scalars.
    """
    lanes: dict[str, int] = {}
    for site, block in p.blocks():
        for access in accesses(block):
            buffer = site.scope[access.buffer]
            facts = p.facts(site)
            if buffer.scope != "register" or facts.empty:
                continue
            index = [facts.resolve(e) for e in access.index]
            message = _varying(site, block, buffer, index) or _vector_fault(block, buffer, index, facts)
            if message:
                yield site.stmt, message
                continue
            count = _lanes(block, index)
            usual = lanes.setdefault(buffer.name, count)
            if usual != count:
                yield site.stmt, f"expected vectors of {usual} in the register buffer {buffer.name}, found {count}"


def _varying(site: Site, block: Block, buffer: Buffer, index: list[AffineExpr]) -> str | None:
    fixed = {loop.name for loop in site.loops if loop.kind == "unroll"}
    for it in block.iters:
        fixed |= {it.name, f"{it.name}~"}
    varying = {n for e in index for n in e.variables()} - fixed
    if varying:
        names = ", ".join(sorted(n.rstrip("~") for n in varying))
        return f"expected constant indices of the register buffer {buffer.name}, found loops in them: {names}"
    return None


def _vector_name(block: Block, index: list[AffineExpr]) -> tuple[Iter, str] | None:
    """The vectorised iterator and what it is called in the resolved index, if the index uses it."""
    for it in block.iters:
        for name in (it.name, f"{it.name}~"):
            if it.vectorized and any(name in e.variables() for e in index):
                return it, name
    return None


def _lanes(block: Block, index: list[AffineExpr]) -> int:
    found = _vector_name(block, index)
    return 1 if found is None else found[0].extent


def _vector_fault(block: Block, buffer: Buffer, index: list[AffineExpr], facts: Facts) -> str | None:
    found = _vector_name(block, index)
    if found is None:
        return None
    it, name = found
    # A lane counts from the iterator's first value; where that is a constant it is still part of the index.
    start = index[-1] - var(name) + (0 if name.endswith("~") else it.lower)
    if any(name in e.variables() for e in (*index[:-1], start)):
        return f"expected lanes of {it.name} along the last axis of {buffer.name}, found [{', '.join(map(str, index))}]"
    if start.const % it.extent or any(k % it.extent for _, k in start.terms):
        return f"expected vectors of {it.extent} at multiples of their length in {buffer.name}, found {start}"
    if buffer.shape[-1] % it.extent:
        return f"expected rows of whole vectors of {it.extent} in {buffer.name}, found {buffer.shape[-1]} elements"
    return None


# ---- threads


def parallel_loops(p: Program) -> Iterator[Fault]:
    """A parallel loop is the outermost statement; only allocations may stand around it."""
    for site in p.sites:
        if isinstance(site.stmt, For) and site.stmt.kind == "parallel":
            around = [s for s in path(site) if not isinstance(s, Alloc)]
            if around:
                yield site.stmt, f"expected {site.stmt.name} outermost, found it inside a {type(around[-1]).__name__}"


def no_races(p: Program) -> Iterator[Fault]:
    """Iterations of a parallel loop write different elements, and read none that another iteration writes.

    Buffers allocated inside the loop are private. Of any other one that is written inside, some indices must tell the
    iterations apart, in the same way in all accesses.
    """
    for site in p.sites:
        loop = site.stmt
        if not isinstance(loop, For) or loop.kind != "parallel" or _trips(loop) <= 1:
            continue
        private = {s.buffer.name for s in walk(loop.body) if isinstance(s, Alloc)}
        inside = [(s, b) for s, b in p.blocks() if loop in s.loops]
        for name in dict.fromkeys(b.write.buffer for _, b in inside):
            if name in private:
                continue
            found = [
                ([p.facts(s).resolve(e) for e in a.index], p.facts(s))
                for s, b in inside
                for a in accesses(b)
                if a.buffer == name and not p.facts(s).empty
            ]
            if found and not _tells_apart(loop.name, found):
                yield loop, f"expected iterations of {loop.name} to use different elements of {name} for sure"


def _trips(loop: For) -> int:
    return min(e.const for e in loop.upper) - max(e.const for e in loop.lower)


def _tells_apart(name: str, found: list[tuple[list[AffineExpr], Facts]]) -> bool:
    """Whether two accesses with different values of the variable ``name`` never touch the same element."""
    known: set[AffineExpr] = set()
    for axis in range(len(found[0][0])):
        atom = _owned([(index[axis], facts) for index, facts in found], name)
        if atom is not None:
            known.add(AffineExpr(((atom, 1),)))
    return var(name) in _closure(known)


def _owned(found: list[tuple[AffineExpr, Facts]], name: str) -> Atom | None:
    """The part of an index that equal indices must agree on: it moves by more than all the rest can make up for."""
    parts: set[tuple[Atom, int]] = set()
    spans: list[Range] = []
    for expr, facts in found:
        own = [(a, k) for a, k in expr.terms if name in AffineExpr(((a, 1),)).variables()]
        if len(own) != 1:
            return None
        parts.add(own[0])
        spans.append(facts.bounds(expr - AffineExpr(tuple(own))))
    if len(parts) != 1:
        return None
    atom, k = parts.pop()
    # The atom itself may hold other variables; then it tells nothing about the loop alone.
    if AffineExpr(((atom, 1),)).variables() != {name}:
        return None
    return atom if abs(k) > max(high for _, high in spans) - min(low for low, _ in spans) else None


def _closure(known: set[AffineExpr]) -> set[AffineExpr]:
    """Everything that is determined where ``known`` is: a quotient and a remainder by one divisor give the operand."""
    known = set(known)
    while True:
        new: set[AffineExpr] = set()
        for expr in known:
            atom = expr.terms[0][0]
            if isinstance(atom, FloorDiv) and len(expr.terms) == 1:
                rest = AffineExpr(((Mod(atom.operand, atom.divisor), 1),))
                if rest in known and atom.operand not in known:
                    new.add(atom.operand)
        if not new:
            return known
        known |= new
