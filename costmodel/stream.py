"""Predicted seconds of schedules that fuse dependent reductions: two products in turns, and what is between them.

The features describe one product and its loops. A streamed workload has two, each with a register tile of its own, and
functions of their elements between them that no product hides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..ir.target import Target
from ..passes.schedule import Step, Trace
from .anatomy import WorkloadAnatomy

_FMA_PER_CYCLE = 2.0
_LOADS_PER_CYCLE = 2.0
_FMA_LATENCY = 4.0
_TILE_CYCLES = 20.0
"""For the loops around a register tile and its way to memory."""
_PASS_CYCLES = 1.0
"""Per vector, to read and write what a Block between the products makes."""
_REPAIR_CYCLES = 2.5
"""Per vector of a partial result, to join it with that of the next tile."""
_SPILLED = 3.0
_DISPATCH_S = 1.5e-6


@dataclass(frozen=True, slots=True)
class _Tiling:
    """What a trace says.

    Args:
        axis: length of a tile of the streamed axis.
        width: rows of a register tile.
        row: the root's iterator along the rows.
        registers: for each product, by the name of its Block, how many vectors of rows its register tile has.
        joined: the product that reduces along the axis.
        inlined: buffers that are not stored, because what wrote them was a factor that waits.
    """

    axis: int
    width: int
    row: str
    registers: dict[str, int]
    joined: str
    inlined: frozenset[str]


def stream_seconds(work: WorkloadAnatomy, trace: Trace, target: Target) -> float | None:
    """Seconds of a schedule that streams an axis.

    Args:
        work: the workload.
        trace: a schedule of it.
        target: the CPU.

    Returns:
        The prediction; None if the trace streams nothing.
    """
    key = next((s for s in trace if s.primitive == "stream"), None)
    if key is None:
        return None
    tiling = _tiling(work, trace, key)
    cycles = sum(_block_cycles(work, number, tiling, target) for number in range(len(work.names)))
    tasks = _parallel(work, trace)
    busiest = max(1.0, -(-math.ceil(tasks) // target.threads) * target.threads / tasks)
    return _DISPATCH_S + cycles * busiest / target.threads / target.clock_hz


def _tiling(work: WorkloadAnatomy, trace: Trace, key: Step) -> _Tiling:
    root = work.names[work.root]
    inner = next((str(s.args[0]) for s in trace if s.primitive == "compute_at"), "")
    row = inner.removeprefix(f"{root}.")
    sizes = {(s.target, str(s.args[0])): int(s.args[1]) for s in trace if s.primitive == "split"}
    placed = {s.target: str(s.args[0]) for s in trace if s.primitive == "compute_at"}
    inlined = frozenset(s.target for s in trace if s.primitive == "compute_inline")
    registers: dict[str, int] = {}
    joined = ""
    width = sizes.get((root, row), 1)
    for number in (n for n, product in enumerate(work.products) if product):
        buffer = work.written[number]
        joined = work.names[number] if f"{buffer}.t" in placed else joined
        loop = placed.get(f"{buffer}.t") or placed.get(buffer, "")
        block, _, iterator = loop.rpartition(".")
        registers[work.names[number]] = sizes.get((block, iterator), 1)
        width = min([width, *(n for (b, i), n in sizes.items() if b == block and i != iterator and b != root)])
    return _Tiling(int(key.args[1]), width, row, registers, joined, inlined)


def _block_cycles(work: WorkloadAnatomy, number: int, tiling: _Tiling, target: Target) -> float:
    if work.written[number] in tiling.inlined:
        return 0.0
    lanes = target.vector_bits // 32
    vectors = -(-tiling.width // lanes)
    extent = int(work.extents[work.columns[tiling.row]]) if tiling.row in work.columns else tiling.width
    padded = -(-extent // tiling.width) * vectors * lanes / max(extent, 1)
    points = work.box(number) * padded / lanes
    if not work.products[number]:
        return points * (work.cycles[number] + _PASS_CYCLES)
    rows = tiling.registers[work.names[number]]
    count = 32 if lanes >= 16 or target.arch == "aarch64" else 16
    step = max(rows * vectors / _FMA_PER_CYCLE, (rows + vectors) / _LOADS_PER_CYCLE, _FMA_LATENCY)
    if rows * vectors + min(rows, vectors) + 1 > count:
        step *= _SPILLED
    steps = _steps(work, number, tiling)
    tiles = points / (rows * vectors)
    return tiles * (step + (_TILE_CYCLES + rows * vectors * _REPAIR_CYCLES) / steps)


def _steps(work: WorkloadAnatomy, number: int, tiling: _Tiling) -> float:
    """Steps of a product's sum until it is stored, at most a tile of the axis for what is reduced along it."""
    over = float(math.prod(int(n) for n in work.extents[work.reduced[number]]))
    return max(1.0, min(over, tiling.axis) if tiling.joined == work.names[number] else over)


def _parallel(work: WorkloadAnatomy, trace: Trace) -> float:
    """Iterations of the parallel loop, of all loops that were fused into it; a cut one counts as the part it is."""
    target = next((s.target for s in trace if s.primitive == "parallel"), "")
    root = work.names[work.root]
    total = 1.0
    for step in trace:
        if step.primitive == "split" and step.target == root and f"{root}.{step.args[0]}" in target:
            column = work.column(root, str(step.args[0]))
            total *= max(1.0, int(work.extents[column]) / int(step.args[1])) if column is not None else 1.0
    return total
