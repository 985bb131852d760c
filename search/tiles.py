"""Register tiles by counting instructions: how long a tile takes, and which tile is the fastest for a box."""

from __future__ import annotations

from ..ir.target import Target

FMA_PER_CYCLE = 2
LOADS_PER_CYCLE = 2
FMA_LATENCY = 4
PAGE_BYTES = 4096
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


def register_tiles(
    extent: int, values: int, steps: int, target: Target, stride_bytes: int = 0
) -> list[tuple[int, int]]:
    """Tiles that fit into registers, the fastest for a box first.

    Args:
        extent: rows of the box.
        values: elements of the vectorised axis.
        steps: steps of the reduction.
        target: the CPU.
        stride_bytes: distance of two rows of the operand that is broadcast; rows whose distance is a multiple of a
            page compete for the same few lines of the first-level cache.

    Returns:
        Pairs of rows and vectors.
    """
    lanes = target.vector_bits // 32
    count = registers(target)
    most = max(1, -(-values // lanes))
    aliased = stride_bytes > 0 and stride_bytes % PAGE_BYTES == 0
    ways = max(target.l1_bytes // PAGE_BYTES - 2, 1) if aliased else count
    tiles = [
        (rows, vectors)
        for vectors in range(1, min(most, 8) + 1)
        for rows in range(1, min(extent, count - 2) + 1)
        if fits(rows, vectors, count)
    ]

    def cost(tile: tuple[int, int]) -> tuple[bool, float, int]:
        cycles = box_cycles(extent, values, steps, tile[0], tile[1], lanes)
        return tile[0] > ways, cycles, -tile[0] * tile[1]

    return sorted(tiles, key=cost)
