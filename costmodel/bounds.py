"""The roofline of a workload: below which time no code can get on a machine (Williams et al., CACM 2009)."""

from __future__ import annotations

import math

from ..ir import dtypes
from ..ir.loop import LoopFunc, blocks
from ..ir.target import Target


def flops(func: LoopFunc) -> int:
    """Floating point operations of a workload's reductions: two for each point of a box that combines."""
    return sum(2 * math.prod(i.extent for i in b.iters) for b in blocks(func.body) if b.monoid is not None)


def box_points(func: LoopFunc) -> int:
    """Points of all boxes of a workload: how often a scalar statement runs."""
    return sum(math.prod(i.extent for i in b.iters) for b in blocks(func.body))


def moved_bytes(func: LoopFunc) -> int:
    """Bytes of the parameters: what has to be read or written at least once."""
    return sum(math.prod(b.shape) * dtypes.itemsize(b.dtype) for b in func.params)


def bound_seconds(func: LoopFunc, limits: Target) -> float:
    """Seconds that arithmetic or memory traffic alone would take.

    Args:
        func: the workload.
        limits: the machine with measured speeds.

    Returns:
        The larger of the two; 0 where neither is a bound: no reductions, and all data fits into the last-level cache.
    """
    arithmetic = flops(func) / (limits.fma_gflops_per_thread * limits.threads * 1e9)
    cached = moved_bytes(func) <= limits.l3_bytes // 2
    traffic = 0.0 if cached else moved_bytes(func) / (limits.bandwidth_gbs * 1e9)
    return max(arithmetic, traffic)
