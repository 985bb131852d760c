"""What the cost model knows of a workload: its box, what every access touches, and how much it computes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..ir import dtypes
from ..ir.affine import AffineExpr
from ..ir.loop import Apply, Block, Expr, IndexValue, LoopFunc, Read, blocks, buffers, reads
from ..passes.decide import by_place

# Cycles per vector on one core, by throughput; everything else takes half a cycle.
_COSTLY = {"div": 8.0, "rem": 16.0, "sqrt": 9.0, "rsqrt": 9.0, "cbrt": 25.0, "pow": 40.0, "integer_pow": 2.0}
_COSTLY.update(dict.fromkeys("exp exp2 expm1 log log1p".split(), 9.0))
_COSTLY.update(dict.fromkeys("logistic tanh sinh cosh erf erfc sin cos tan".split(), 16.0))
_COSTLY.update(dict.fromkeys("erf_inv asin acos atan atan2 asinh acosh atanh".split(), 30.0))
_CHEAP_CYCLES = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Access:
    """One distinct way in which a Block reads or writes a buffer.

    Args:
        buffer: name.
        block: number of the Block.
        private: whether the buffer is allocated inside the workload.
        writes: whether it is the Block's write.
        strides: int[axes, columns], how far one step of each column's iterator moves along each axis.
        shape: int[axes], extents of the buffer.
        itemsize: bytes per element.
    """

    buffer: str
    block: int
    private: bool
    writes: bool
    strides: np.ndarray
    shape: np.ndarray
    itemsize: int


@dataclass(frozen=True, slots=True, eq=False)
class WorkloadAnatomy:
    """Summary of an unscheduled program.

    Columns are the iterators: those of the root Block (which writes the last output) under their names, the others,
    which belong to one Block alone, as ``Block/name``.

    Args:
        columns: number of each column by its name.
        extents: int[columns].
        root: number of the root Block.
        main: number of the Block that does most of the work: a reduction, or the root if there is none.
        names: names of the Blocks.
        written: the buffer that each Block writes.
        members: bool[blocks, columns], which columns a Block iterates over.
        reduces: bool[columns], which columns are reduced over by the main Block.
        cycles: cycles per vector of each Block's value, apart from the main Block's multiply-add.
        multiplies: whether the main Block's value is a product.
        guarded: whether the main Block reads padding.
        accesses: all distinct accesses.
    """

    columns: dict[str, int]
    extents: np.ndarray
    root: int
    main: int
    names: tuple[str, ...]
    written: tuple[str, ...]
    members: np.ndarray
    reduces: np.ndarray
    cycles: np.ndarray
    multiplies: bool
    guarded: bool
    accesses: tuple[Access, ...]

    def column(self, block: str, iterator: str) -> int | None:
        """Number of a Block's iterator; None if there is none of that name."""
        number = self.columns.get(f"{block}/{iterator}")
        return self.columns.get(iterator) if number is None else number

    def box(self, block: int) -> float:
        """Number of points of a Block's box."""
        return float(np.prod(self.extents[self.members[block]], dtype=float))

    @property
    def flops(self) -> float:
        """Floating point operations of the main Block."""
        return self.box(self.main) * (2.0 if self.multiplies else 1.0)


def dissect(func: LoopFunc) -> WorkloadAnatomy:
    """Sum up an unscheduled program.

    Raises:
        ValueError: it has no Blocks.
    """
    found = tuple(blocks(func.body))
    if not found:
        raise ValueError(f"expected a program with Blocks, found none in {func.name}")
    root = max(i for i, b in enumerate(found) if b.write.buffer == func.outputs[-1].name)
    columns, extents = _columns(found, root)
    members = np.zeros((len(found), len(columns)), bool)
    for number, block in enumerate(found):
        for it in block.iters:
            members[number, _column(columns, block.name, it.name)] = True
    main = max(range(len(found)), key=lambda i: (found[i].monoid is not None, _points(found[i]), i == root))
    update = found[main]
    reduces = np.zeros(len(columns), bool)
    for it in update.iters:
        reduces[_column(columns, update.name, it.name)] = it.kind == "reduce"
    return WorkloadAnatomy(
        columns,
        np.array(extents, int),
        root,
        main,
        tuple(b.name for b in found),
        tuple(b.write.buffer for b in found),
        members,
        reduces,
        np.array([_cycles(b, b is update) for b in found]),
        update.monoid is not None and isinstance(update.value, Apply) and update.value.op == "mul",
        any(r.guard for r in reads(update.value)),
        tuple(_accesses(func, found, columns)),
    )


def _columns(found: tuple[Block, ...], root: int) -> tuple[dict[str, int], list[int]]:
    shared = {i.name: i.extent for i in found[root].iters}
    columns = {name: number for number, name in enumerate(shared)}
    extents = list(shared.values())
    for block in found:
        for it in block.iters:
            if it.name not in shared or shared[it.name] != it.extent:
                columns[f"{block.name}/{it.name}"] = len(extents)
                extents.append(it.extent)
    return columns, extents


def _column(columns: dict[str, int], block: str, iterator: str) -> int:
    number = columns.get(f"{block}/{iterator}")
    return columns[iterator] if number is None else number


def _points(block: Block) -> int:
    return math.prod(i.extent for i in block.iters)


def _cycles(block: Block, main: bool) -> float:
    """Cycles per vector of a Block's value; a multiply-add of the main Block counts elsewhere.

    What does not depend on the last axis written is computed once per row and counts nothing.
    """
    last = block.write.index[-1].variables() if block.write.index else frozenset[str]()
    inner = last | {i.name for i in block.iters if i.kind == "reduce"}
    total = 0.0
    pending: list[tuple[Expr, bool]] = [(block.value, main)]
    while pending:
        expr, free = pending.pop()
        if isinstance(expr, Apply) and expr.op == "select_n" and by_place(expr.args[0]):
            pending += [(arg, False) for arg in expr.args[1:]]  # loops are cut so that it is decided nearly everywhere
        elif isinstance(expr, Apply) and _varies(expr, inner):
            total += 0.0 if free and expr.op == "mul" else _COSTLY.get(expr.op, _CHEAP_CYCLES)
            pending += [(arg, False) for arg in expr.args]
    return total


def _varies(expr: Expr, names: frozenset[str] | set[str]) -> bool:
    if isinstance(expr, IndexValue):
        return bool(expr.expr.variables() & names)
    return any(e.variables() & names for r in reads(expr) for e in r.index)


def _accesses(func: LoopFunc, found: tuple[Block, ...], columns: dict[str, int]) -> list[Access]:
    table = buffers(func)
    params = {b.name for b in func.params}
    out: dict[tuple[object, ...], Access] = {}
    for number, block in enumerate(found):
        pairs = [(r.buffer, r.index, False) for r in _distinct(block.value)]
        for name, index, writes in [*pairs, (block.write.buffer, block.write.index, True)]:
            strides = np.zeros((len(index), len(columns)), int)
            for axis, expr in enumerate(index):
                for variable in expr.variables():
                    if block.iterator(variable) is not None:
                        strides[axis, _column(columns, block.name, variable)] = _stride(expr, variable)
            key = (name, number, writes, strides.tobytes())
            buffer = table[name]
            shape = np.array(buffer.shape, int)
            size = dtypes.itemsize(buffer.dtype)
            out[key] = Access(name, number, name not in params, writes, strides, shape, size)
    return list(out.values())


def _stride(expr: AffineExpr, variable: str) -> int:
    """How far a step moves; a variable inside a division or remainder counts as a step of one."""
    return abs(expr.coefficient(variable)) or 1


def _distinct(value: Expr) -> list[Read]:
    return list({(r.buffer, r.index): r for r in reads(value)}.values())
