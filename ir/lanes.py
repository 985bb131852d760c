"""How many values a vector of a program holds: one number for the whole program, from its widest element type."""

from __future__ import annotations

from . import dtypes
from .loop import Expr, LoopFunc, blocks, buffers, operands
from .target import Target


def element_types(func: LoopFunc) -> set[str]:
    """Element types of everything that a program stores or computes."""
    found = {b.dtype for b in buffers(func).values()}
    seen: set[int] = set()
    pending: list[Expr] = [block.value for block in blocks(func.body)]
    while pending:
        expr = pending.pop()
        if id(expr) not in seen:
            seen.add(id(expr))
            found.add(expr.dtype)
            pending += operands(expr)
    return found


def widest(func: LoopFunc) -> int:
    """Bytes of the widest element type of a program.

    Narrower values of the program take up a part of a register each, so that all have as many lanes. Booleans are masks
    in registers: they count only where there is nothing else.
    """
    return max((dtypes.itemsize(dtype) for dtype in element_types(func) - {dtypes.BOOL}), default=1)


def vector_lanes(func: LoopFunc, target: Target) -> int:
    """Values per vector of a program, the same before and after it is scheduled."""
    return target.vector_bytes // widest(func)
