"""What a fresh workload is made of, as sketch rules see it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..ir.affine import linearize, var
from ..ir.loop import Alloc, Apply, Block, Buffer, Iter, LoopFunc, Read, blocks, buffers, reads, walk


@dataclass(frozen=True, slots=True)
class Anatomy:
    """A workload with a single output, written by one Block.

    Args:
        root: the Block that writes the output.
        reductions: Blocks with a monoid, in program order.
        temporaries: allocated buffers, in the order in which they are computed.
        found: all buffers by name.
    """

    root: Block
    reductions: tuple[Block, ...]
    temporaries: tuple[str, ...]
    found: dict[str, Buffer]
    all_blocks: tuple[Block, ...]


def anatomy(func: LoopFunc) -> Anatomy | None:
    """The parts of a workload, or None if it has several outputs, is scheduled already, or has nothing to compute."""
    if func.num_outputs != 1 or any(0 in b.shape for b in buffers(func).values()):
        return None
    if any(not isinstance(s, Block | Alloc) and type(s).__name__ != "Seq" for s in walk(func.body)):
        return None
    all_blocks = tuple(blocks(func.body))
    roots = [b for b in all_blocks if b.write.buffer == func.outputs[0].name]
    if len(roots) != 1 or roots[0].monoid is not None:
        return None
    allocated = {s.buffer.name for s in walk(func.body) if isinstance(s, Alloc)}
    order = tuple(dict.fromkeys(b.write.buffer for b in all_blocks if b.write.buffer in allocated))
    return Anatomy(roots[0], tuple(b for b in all_blocks if b.monoid), order, buffers(func), all_blocks)


def written_variable(block: Block, axis: int) -> Iter | None:
    """The iterator that a Block writes along an axis, if it is exactly one."""
    name = block.write.index[axis].single_variable()
    return block.iterator(name) if name else None


def shared_rows(parts: Anatomy) -> list[Iter]:
    """Leading iterators of the root that every Block has as its own leading data iterators."""
    shared: list[Iter] = []
    for axis, it in enumerate(parts.root.iters):
        for block in parts.all_blocks:
            if len(block.iters) <= axis or block.iters[axis] != it or len(block.write.index) <= axis:
                return shared
            if block.write.index[axis].single_variable() != it.name:
                return shared
            for read in reads(block.value):
                if read.buffer in parts.temporaries and read.index[axis].single_variable() != it.name:
                    return shared
        shared.append(it)
    return shared


@dataclass(frozen=True, slots=True)
class Product:
    """A reduction of products: the operand that runs along the vector axis, and the one that is broadcast.

    Args:
        update: the Block.
        vector: the iterator whose values are the lanes.
        tile: innermost data iterator that the panel operand does not depend on, or None (a matrix-vector product).
        outer: the other data iterators, outermost first.
        reduce: the reduce iterators.
        panel: read of the operand that depends on ``vector`` but not on ``tile``.
        other: read of the other operand.
        by_channel: whether the other operand depends on ``vector`` as well (depthwise).
    """

    update: Block
    vector: Iter
    tile: Iter | None
    outer: tuple[Iter, ...]
    reduce: tuple[Iter, ...]
    panel: Read
    other: Read
    by_channel: bool

    @property
    def stored_across(self) -> bool:
        """Whether lanes are written apart from each other: neighbours in memory differ in the tile's iterator."""
        return written_variable(self.update, len(self.update.write.index) - 1) is not self.vector

    @property
    def steps(self) -> int:
        """Steps of the reduction."""
        return math.prod(i.extent for i in self.reduce)

    @property
    def rows(self) -> int:
        """Rows of the whole product along the tile's iterator."""
        return self.tile.extent if self.tile else 1


def product(update: Block) -> Product | None:
    """Match a sum of products along the last axis written; None if the Block is something else."""
    if not update.write.index:
        return None
    vector = written_variable(update, len(update.write.index) - 1)
    return None if vector is None else product_along(update, vector)


def product_along(update: Block, vector: Iter) -> Product | None:
    """Match a sum of products whose vectors run along a given data iterator; None if the Block is something else."""
    if update.monoid != "sum" or not isinstance(update.value, Apply) or update.value.op != "mul":
        return None
    operands = [a for a in update.value.args if isinstance(a, Read)]
    if len(operands) != 2:
        return None
    data = [i for i in update.iters if i.kind == "data" and i is not vector]
    best: Product | None = None
    for panel, other in (operands, operands[::-1]):
        in_panel = _variables(panel)
        if vector.name not in in_panel:
            continue
        free = [i for i in data if i.name not in in_panel]
        tile = free[-1] if free else None
        rest = tuple(i for i in data if i is not tile)
        reduce = tuple(i for i in update.iters if i.kind == "reduce")
        candidate = Product(update, vector, tile, rest, reduce, panel, other, vector.name in _variables(other))
        if best is None or (best.tile is None and tile is not None):
            best = candidate
    return best


def _variables(read: Read) -> frozenset[str]:
    return frozenset().union(*(e.variables() for e in read.index))


def axis_of(read: Read, name: str, shifted: bool = False) -> int | None:
    """The axis of a read whose index is exactly that variable, if it occurs nowhere else.

    Args:
        read: the read.
        name: the variable.
        shifted: whether the variable plus a constant will do as well.
    """
    where = [n for n, e in enumerate(read.index) if name in e.variables()]
    if len(where) != 1:
        return None
    index = read.index[where[0]]
    found = (index - index.const if shifted else index).single_variable()
    return where[0] if found == name else None


def padded_along(read: Read, name: str) -> bool:
    """Whether it depends on a variable if a read touches memory."""
    return any(name in g.variables() for g in read.guard)


def stride_of(read: Read, shape: tuple[int, ...], name: str) -> int | None:
    """Elements that a read moves in memory per step of a variable; None if that is not the same everywhere."""
    offset = linearize(read.index, shape)
    step = offset.coefficient(name)
    return step if name not in (offset - var(name) * step).variables() else None
