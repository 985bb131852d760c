"""Predicted seconds of workloads that come as loops over tiles: counted instructions, or the bytes that they move."""

from __future__ import annotations

import math

from ..ir.loop import Apply, Block, Expr, For, LoopFunc, Stmt, children, reads
from ..ir.target import Target
from .bounds import moved_bytes

_CACHE_BYTES_PER_S = 40e9
"""Per thread, between the second and the third level."""
_PER_CYCLE = 2.0
"""Vector instructions per cycle, with loads and stores beside them."""


def predict_tiled(func: LoopFunc, target: Target) -> float:
    """Seconds of a workload with loops of constant bounds around its Blocks, its last axes vectorised.

    Args:
        func: the workload.
        target: the CPU.
    """
    lanes = target.vector_bits // 32
    cycles = _instructions(func.body) / lanes / _PER_CYCLE
    moved = moved_bytes(func)
    cached = moved <= target.l3_bytes // 2
    rate = _CACHE_BYTES_PER_S * target.threads if cached else target.bandwidth_gbs * 1e9
    return max(cycles / target.clock_hz / target.threads, moved / rate)


def _instructions(stmt: Stmt) -> float:
    """Scalar instructions of a statement, those of a vector counted once per lane."""
    if isinstance(stmt, Block):
        each = _operations(stmt.value) + 0.5 * sum(1 for _ in reads(stmt.value)) + 1
        return each * math.prod(i.extent for i in stmt.iters)
    times = stmt.upper[0].const - stmt.lower[0].const if isinstance(stmt, For) else 1
    return times * sum(map(_instructions, children(stmt)))


def _operations(expr: Expr) -> int:
    return 1 + sum(map(_operations, expr.args)) if isinstance(expr, Apply) else 0
