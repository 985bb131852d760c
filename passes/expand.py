"""The inverse of merging axes: channels that come in groups become an axis of groups and one of their members.

A grouped convolution reads channel ``o // members * depth + r`` for output channel ``o``. With ``o`` cut into group and
member that is plain ``[group, r]``: the group is a batch axis, and whatever serves a batched product serves it. Groups
of a few neighbours in memory stay whole: vectors hold several of them. In the same way the results of a transposed
convolution become phases: result ``s*q + p`` of one that dilates by ``s`` reads taps that depend on ``p`` alone, and
elements around ``q``. Buffers keep their row-major order of elements, so parameters need no conversion.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from ..ir.affine import AffineExpr, FloorDiv, Mod, var
from ..ir.loop import (
    Access,
    Alloc,
    Block,
    Buffer,
    Expr,
    Index,
    Iter,
    LoopFunc,
    Read,
    Stmt,
    blocks,
    box_ranges,
    buffers,
    map_block_indices,
    map_expr,
    reads,
    rewrite,
)

SMALL_GROUP = 16
"""Smaller groups do not fill a vector."""


def expand(func: LoopFunc) -> LoopFunc:
    """Cut axes whose quotients a reduction reads; the result computes the same from arrays of the new shapes."""
    refused: set[tuple[str, str, int]] = set()
    while True:
        seed = next((s for s in _quotients(func) if s not in refused), None)
        if seed is None:
            return func
        new = _cut(func, *seed)
        if new is None:
            refused.add(seed)
        else:
            func = new


def _quotients(func: LoopFunc) -> Iterator[tuple[str, str, int]]:
    """Block, data iterator and divisor of each quotient that a reduction reads."""
    for block in blocks(func.body):
        if block.monoid is None:
            continue
        for expr in (e for r in reads(block.value) for e in r.index):
            for atom, _ in expr.terms:
                inner = atom.operand - atom.operand.const if isinstance(atom, FloorDiv) else None
                name = inner.single_variable() if inner is not None else None
                it = block.iterator(name) if name else None
                if (
                    it is not None
                    and it.kind == "data"
                    and isinstance(atom, FloorDiv)
                    and it.extent % atom.divisor == 0
                    and it.extent > atom.divisor
                    and not _shares_vectors(block, it.name, atom.divisor)
                ):
                    yield block.name, it.name, atom.divisor


def _shares_vectors(block: Block, iterator: str, part: int) -> bool:
    """Whether several groups fit into a vector, since their members are written next to each other."""
    return part < SMALL_GROUP and block.write.index[-1].single_variable() == iterator


@dataclass(slots=True)
class _Cuts:
    """What has to be cut together: an axis of a buffer, an iterator of a Block, each with the size of its parts."""

    axes: dict[str, tuple[int, int]] = field(default_factory=dict)
    iters: dict[str, tuple[str, int]] = field(default_factory=dict)

    def axis(self, buffer: str, axis: int, part: int) -> bool:
        """Note a cut of a buffer; whether it agrees with what was noted before."""
        return self.axes.setdefault(buffer, (axis, part)) == (axis, part)

    def iterator(self, block: str, name: str, part: int) -> bool:
        """Note a cut of a Block; whether it agrees with what was noted before."""
        return self.iters.setdefault(block, (name, part)) == (name, part)


def _cut(func: LoopFunc, block: str, iterator: str, part: int) -> LoopFunc | None:
    """Cut an iterator with all that this entails elsewhere; None if something speaks against it."""
    cuts, found = _Cuts(iters={block: (iterator, part)}), buffers(func)
    all_blocks = list(blocks(func.body))
    size = -1
    while size != len(cuts.axes) + len(cuts.iters):
        size = len(cuts.axes) + len(cuts.iters)
        if not all(_entail(b, cuts, found) for b in all_blocks):
            return None
    return _apply(func, cuts, found)


def _accesses(block: Block) -> list[tuple[str, Index]]:
    return [(block.write.buffer, block.write.index), *((r.buffer, r.index) for r in reads(block.value))]


def _entail(block: Block, cuts: _Cuts, found: dict[str, Buffer]) -> bool:
    for name, index in _accesses(block):
        if name in cuts.axes:
            axis, part = cuts.axes[name]
            it = block.iterator(index[axis].single_variable() or "")
            whole = it is not None and it.extent == found[name].shape[axis]
            if it is not None and whole and not cuts.iterator(block.name, it.name, part):
                return False
    if block.name not in cuts.iters:
        return True
    iterator, part = cuts.iters[block.name]
    for name, index in _accesses(block):
        for axis, expr in enumerate(index):
            if iterator not in expr.variables():
                continue
            if _by_phase(expr, iterator, part):
                continue
            step = part if expr.single_variable() else _group_step(expr, iterator, part)
            if step is None or (step > 1 and not cuts.axis(name, axis, step)):
                return False
    return True


def _by_phase(expr: AffineExpr, iterator: str, part: int) -> bool:
    """Whether an index depends on an iterator through shifted quotients and remainders by ``part`` alone."""
    atoms = [atom for atom, _ in expr.terms if not isinstance(atom, str) and iterator in atom.operand.variables()]
    shifted = any(isinstance(a, Mod) or a.operand.const for a in atoms)
    return shifted and not expr.coefficient(iterator) and all(a.divisor == part for a in atoms)


def _group_step(expr: AffineExpr, iterator: str, part: int) -> int | None:
    """How far an index moves per group if it depends on the iterator through its group alone."""
    quotient = var(iterator).floordiv(part)
    step = next((k for atom, k in expr.terms if AffineExpr(((atom, 1),)) == quotient), None)
    return step if step is not None and iterator not in (expr - quotient * step).variables() else None


def _apply(func: LoopFunc, cuts: _Cuts, found: dict[str, Buffer]) -> LoopFunc | None:
    if any(found[name].shape[axis] % part for name, (axis, part) in cuts.axes.items()):
        return None

    def shape(buffer: Buffer) -> Buffer:
        if buffer.name not in cuts.axes:
            return buffer
        axis, part = cuts.axes[buffer.name]
        size = buffer.shape[axis]
        return replace(buffer, shape=(*buffer.shape[:axis], size // part, part, *buffer.shape[axis + 1 :]))

    def visit(s: Stmt) -> Stmt:
        if isinstance(s, Alloc):
            return replace(s, buffer=shape(s.buffer))
        return _cut_block(s, cuts) if isinstance(s, Block) else s

    body = rewrite(func.body, visit)
    assert body is not None
    split = [e for b in blocks(body) for name, index in _accesses(b) if name in cuts.axes for e in index]
    if any(not isinstance(atom, str) for e in split for atom, _ in e.terms):
        return None
    return replace(func, params=tuple(map(shape, func.params)), body=body)


def _cut_block(block: Block, cuts: _Cuts) -> Block:
    """The Block with its iterator cut, and the indices of buffers that are cut."""
    if block.name in cuts.iters:
        name, part = cuts.iters[block.name]
        group = f"{name}g"
        block = map_block_indices(block, lambda e: e.substitute({name: var(group) * part + var(name)}))
        block = replace(block, iters=tuple(i for it in block.iters for i in _parts(it, name, group, part)))
    ranges = box_ranges(block, {})

    def index(buffer: str, old: Index) -> Index:
        if buffer not in cuts.axes:
            return tuple(e.simplify(ranges) for e in old)
        axis, part = cuts.axes[buffer]
        pair = (old[axis].floordiv(part).simplify(ranges), old[axis].mod(part).simplify(ranges))
        return tuple(e.simplify(ranges) for e in (*old[:axis], *pair, *old[axis + 1 :]))

    def visit(e: Expr) -> Expr:
        return replace(e, index=index(e.buffer, e.index)) if isinstance(e, Read) else e

    write = Access(block.write.buffer, index(block.write.buffer, block.write.index))
    return replace(block, write=write, value=map_expr(block.value, visit))


def _parts(it: Iter, name: str, group: str, part: int) -> tuple[Iter, ...]:
    if it.name != name:
        return (it,)
    return replace(it, name=group, extent=it.extent // part), replace(it, extent=part)
