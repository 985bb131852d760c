"""Register tiles by counting instructions: how long a tile takes, and which tile is the fastest for a box."""

from __future__ import annotations

from ..ir.target import Target

FMA_PER_CYCLE = 2
LOADS_PER_CYCLE = 2
FMA_LATENCY = 4
TILE_OVERHEAD = 10
"""Cycles for the loops around a tile."""


def registers(target: Target) -> int:
    """Vector registers of the target."""
    return 32 if "avx512f" in target.feature_set or target.arch == "aarch64" else 16


def fits(rows: int, vectors: int, count: int) -> bool:
    """Whether a tile's accumulators, one operand's vectors and a splat fit into ``count`` registers."""
    if vectors == 1 and rows + 2 <= count:
        return True
    return min(rows * vectors + vectors, rows * vectors + rows) + 1 <= count


def tile_cycles(rows: int, vectors: int, steps: int) -> float:
    """Cycles for one register tile over ``steps`` reduction steps, initialisation and epilogue included."""
    flops = rows * vectors / FMA_PER_CYCLE
    loads = (rows + vectors) / LOADS_PER_CYCLE
    return max(flops, loads, FMA_LATENCY) * steps + rows * vectors * 1.5 + TILE_OVERHEAD


def box_cycles(extent: int, lanes_total: int, steps: int, rows: int, vectors: int, lanes: int) -> float:
    """Cycles for a box of ``extent`` rows and ``lanes_total`` values, tails included."""
    full_rows, tail_rows = divmod(extent, rows)
    width = vectors * lanes
    full_panels, tail_values = divmod(lanes_total, width)
    tail_vectors = -(-tail_values // lanes)
    total = 0.0
    for r, r_count in ((rows, full_rows), (tail_rows, 1)):
        for v, v_count in ((vectors, full_panels), (tail_vectors, 1)):
            if r and v:
                total += r_count * v_count * tile_cycles(r, v, steps)
    return total


def register_tiles(extent: int, values: int, steps: int, target: Target) -> list[tuple[int, int]]:
    """Tiles ``(rows, vectors)`` that fit into registers, the fastest for the box first."""
    lanes = target.vector_bits // 32
    count = registers(target)
    most = max(1, -(-values // lanes))
    tiles = [
        (rows, vectors)
        for vectors in range(1, min(most, 8) + 1)
        for rows in range(1, min(extent, count - 2) + 1)
        if fits(rows, vectors, count)
    ]
    return sorted(tiles, key=lambda t: (box_cycles(extent, values, steps, t[0], t[1], lanes), -t[0] * t[1]))
