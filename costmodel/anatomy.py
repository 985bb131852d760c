"""What the cost model knows of a workload: its box, what every access touches, and how much it computes."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..ir import dtypes
from ..ir.affine import AffineExpr, Range
from ..ir.lanes import widest
from ..ir.loop import (
    Apply,
    Block,
    Const,
    Expr,
    Index,
    IndexValue,
    Let,
    LoopFunc,
    Where,
    blocks,
    buffers,
    chosen_reads,
    operands,
    reads,
)
from ..passes.decide import by_place
from .shares import box_ranges, narrowed, remaining, share_held

# Cycles per vector on one core, by throughput; everything else takes half a cycle.
_COSTLY = {"div": 8.0, "rem": 16.0, "sqrt": 9.0, "rsqrt": 9.0, "cbrt": 25.0, "pow": 40.0}
_COSTLY.update(dict.fromkeys("exp exp2 expm1 log log1p".split(), 9.0))
_COSTLY.update(dict.fromkeys("logistic tanh sinh cosh erf erfc sin cos tan".split(), 16.0))
_COSTLY.update(dict.fromkeys("asin acos atan atan2 asinh acosh atanh".split(), 30.0))
_COSTLY.update(erf_inv=42.0, threefry=30.0, lgamma=100.0, digamma=70.0)
_WIDE = 2.0
"""How many times as long those take in float64."""
_IN_FLOAT64 = frozenset(("lgamma", "digamma"))
"""Those that are computed in float64 whatever their type, so that it is the other way round."""
_CHEAP_CYCLES = 0.5
_VECTOR_BYTES = 64
"""Of the longest vectors, which parts along the last axis are filled up to."""
_BFLOAT16_ROUNDING = 2.0
_CONSTANT_DIVISION = 6.0
_INTEGER_DIVISION = {1: 40.0, 2: 20.0, 4: 36.0, 8: 60.0}
"""Cycles per vector of a division of integers, by their bytes: in floats, the widest ones one after the other."""


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
        share: the part of the box at which it happens, less than 1 for one part of what is put together.
    """

    buffer: str
    block: int
    private: bool
    writes: bool
    strides: np.ndarray
    shape: np.ndarray
    itemsize: int
    share: float = 1.0


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
        products: for each Block, whether it sums products.
        reduced: bool[blocks, columns], which columns each Block reduces.
        guarded: whether the main Block reads padding.
        accesses: all distinct accesses.
        element_bytes: bytes of the widest element type, which decides how many lanes vectors have.
        taken: share of the main Block's points for which its guard holds, as far as that is cheap to count.
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
    products: tuple[bool, ...]
    reduced: np.ndarray
    guarded: bool
    accesses: tuple[Access, ...]
    element_bytes: int
    taken: float = 1.0

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
        return self.box(self.main) * self.taken * (2.0 if self.multiplies else 1.0)


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
    reduced = np.zeros((len(found), len(columns)), bool)
    for number, block in enumerate(found):
        for it in block.iters:
            reduced[number, _column(columns, block.name, it.name)] = it.kind == "reduce"
    return WorkloadAnatomy(
        columns,
        np.array(extents, int),
        root,
        main,
        tuple(b.name for b in found),
        tuple(b.write.buffer for b in found),
        members,
        reduced[main],
        np.array([_cycles(b, b is update, widest(func)) for b in found]),
        update.monoid is not None and _multiplies(update),
        tuple(b.monoid == "sum" and _multiplies(b) for b in found),
        reduced,
        any(r.guard for r in reads(update.value)),
        tuple(_accesses(func, found, columns)),
        widest(func),
        math.prod(share_held(update, condition) for condition in update.guard),
    )


def _multiplies(block: Block) -> bool:
    return isinstance(block.value, Apply) and block.value.op == "mul"


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


def _cycles(block: Block, main: bool, element_bytes: int) -> float:
    """Cycles per vector of a Block's value; a multiply-add of the main Block counts elsewhere.

    What does not depend on the last axis written is computed once per row and counts nothing. Of what is chosen by
    place, each part counts where it is chosen.
    """
    last = block.write.index[-1].variables() if block.write.index else frozenset[str]()
    inner = last | {i.name for i in block.iters if i.kind == "reduce"}
    vector, lanes = next(iter(last)) if len(last) == 1 else None, _VECTOR_BYTES // element_bytes
    total = 0.0
    pending: list[tuple[Expr, bool, Mapping[str, Range]]] = [(block.value, main, box_ranges(block))]
    while pending:
        expr, free, ranges = pending.pop()
        if isinstance(expr, Where):
            pending.append((expr.then, False, narrowed(ranges, expr.condition)))
            pending.append((expr.orelse, False, narrowed(ranges, -expr.condition - 1)))
        elif isinstance(expr, Apply) and expr.op == "select_n" and by_place(expr.args[0]):
            # Loops are cut so that it is decided nearly everywhere.
            pending += [(arg, False, ranges) for arg in expr.args[1:]]
        elif isinstance(expr, Apply) and _varies(expr, inner):
            if not (free and expr.op == "mul"):
                total += _cost(expr) * remaining(block, ranges, vector, lanes)
            pending += [(arg, False, ranges) for arg in expr.args]
        elif isinstance(expr, Let):
            pending += [(part, False, ranges) for part in operands(expr)]
    return total


def _cost(expr: Apply) -> float:
    """Cycles per vector of one function."""
    if expr.op in ("div", "rem") and dtypes.is_integer(expr.dtype):
        return _CONSTANT_DIVISION if isinstance(expr.args[1], Const) else _INTEGER_DIVISION[dtypes.itemsize(expr.dtype)]
    if expr.op == "integer_pow":
        return _power_cycles(int(expr.params[0]), expr.dtype)
    if expr.op not in _COSTLY:
        return _BFLOAT16_ROUNDING if expr.dtype == "bfloat16" else _CHEAP_CYCLES
    return _COSTLY[expr.op] * (_WIDE if (expr.dtype == "float64") != (expr.op in _IN_FLOAT64) else 1.0)


def _power_cycles(exponent: int, dtype: str) -> float:
    """Multiplications of a power by squaring, and a division where it is negative."""
    bits = abs(exponent)
    count = max(bits.bit_length() - 1, 0) + max(bits.bit_count() - 1, 0)
    each = _BFLOAT16_ROUNDING if dtype == "bfloat16" else _CHEAP_CYCLES
    division = _COSTLY["div"] * (_WIDE if dtype == "float64" else 1.0) if exponent < 0 else 0.0
    return each * max(count, 1) + division


def _varies(expr: Expr, names: frozenset[str] | set[str]) -> bool:
    if isinstance(expr, IndexValue):
        return bool(expr.expr.variables() & names)
    return any(e.variables() & names for r in reads(expr) for e in r.index)


def _accesses(func: LoopFunc, found: tuple[Block, ...], columns: dict[str, int]) -> list[Access]:
    table = buffers(func)
    params = {b.name for b in func.params}
    out: dict[tuple[object, ...], Access] = {}
    for number, block in enumerate(found):
        found_reads = [(r.buffer, r.index, False, conditions) for r, conditions in chosen_reads(block.value)]
        distinct = dict.fromkeys([*found_reads, (block.write.buffer, block.write.index, True, ())])
        for name, index, writes, conditions in distinct:
            strides = np.zeros((len(index), len(columns)), int)
            for axis, expr in enumerate(index):
                for variable in expr.variables():
                    if block.iterator(variable) is not None:
                        strides[axis, _column(columns, block.name, variable)] = _stride(expr, variable)
            key = (name, number, writes, strides.tobytes())
            buffer = table[name]
            shape = np.array(buffer.shape, int)
            size = dtypes.itemsize(buffer.dtype)
            share = _share(block, index, shape, conditions) if conditions else 1.0
            if key in out:  # other elements, or the same ones elsewhere
                share = min(1.0, share + out[key].share)
            out[key] = Access(name, number, name not in params, writes, strides, shape, size, share)
    return list(out.values())


def _share(block: Block, index: Index, shape: np.ndarray, conditions: Sequence[AffineExpr]) -> float:
    """The part of a box at which one of several parts is read: at most as many points as that has elements."""
    names = {n for e in index for n in e.variables()}
    points = math.prod(i.extent for i in block.iters if i.name in names)
    elements = min(1.0, float(np.prod(shape, dtype=float)) / max(points, 1))
    return min(elements, remaining(block, functools.reduce(narrowed, conditions, box_ranges(block))))


def _stride(expr: AffineExpr, variable: str) -> int:
    """How far a step moves; a variable inside a division or remainder counts as a step of one."""
    return abs(expr.coefficient(variable)) or 1
