"""Register tiles by counting instructions: how long a tile takes, and which tile is the fastest for a box."""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.target import Target

FMA_PER_CYCLE = 2
LOADS_PER_CYCLE = 2
FMA_LATENCY = 4
L2_BYTES_PER_CYCLE = 20
"""What the second-level cache delivers while the arithmetic goes on; a panel that is too large for the first level is
read from there once per tile of rows."""
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


@dataclass(frozen=True, slots=True)
class Box:
    """What register tiles are laid over.

    Args:
        extent: rows.
        values: elements of the vectorised axis.
        steps: steps of the reduction.
        count: how many such boxes there are.
        stride_bytes: distance of two rows of the operand that is broadcast, 0 where they are next to each other. Rows
            whose distance is a multiple of a page compete for the same few lines of the first-level cache.
        loads: loads that a vector takes: one if it is aligned, two if it spans two cache lines, more if it strides.
        store: cycles that a vector of results takes beyond a plain store.
    """

    extent: int
    values: int
    steps: int
    count: int = 1
    stride_bytes: int = 0
    loads: float = 1.0
    store: float = 0.0

    def tile_cycles(self, rows: int, vectors: int, target: Target) -> float:
        """Cycles for one register tile, initialisation and epilogue included."""
        flops = rows * vectors / FMA_PER_CYCLE
        loads = (rows + vectors * self.loads) / LOADS_PER_CYCLE
        step_bytes = vectors * target.vector_bits // 8
        panel = step_bytes / L2_BYTES_PER_CYCLE if step_bytes * self.steps > target.l1_bytes // 2 else 0.0
        stores = rows * vectors * (1.5 + self.store)
        return max(flops, loads, panel, FMA_LATENCY) * self.steps + stores + TILE_OVERHEAD

    def cycles(self, rows: int, vectors: int, target: Target) -> float:
        """Cycles for all boxes in tiles of ``rows`` by ``vectors``, tails included."""
        lanes = target.vector_bits // 32
        full_rows, tail_rows = divmod(self.extent, rows)
        full_panels, tail_values = divmod(self.values, vectors * lanes)
        tail_vectors = -(-tail_values // lanes)
        total = 0.0
        for r, r_count in ((rows, full_rows), (tail_rows, 1)):
            for v, v_count in ((vectors, full_panels), (tail_vectors, 1)):
                if r and v:
                    total += r_count * v_count * self.tile_cycles(r, v, target)
        return total * self.count


Cost = tuple[bool, float, int]


def register_tiles(box: Box, target: Target) -> list[tuple[Cost, tuple[int, int]]]:
    """Tiles that fit into registers, the fastest for a box first.

    Returns:
        What the order goes by (rows that compete for cache lines come last, then cycles), and rows and vectors.
    """
    lanes = target.vector_bits // 32
    count = registers(target)
    most = max(1, -(-box.values // lanes))
    aliased = box.stride_bytes > 0 and box.stride_bytes % PAGE_BYTES == 0
    ways = max(target.l1_bytes // PAGE_BYTES - 2, 1) if aliased else count
    tiles = [
        (rows, vectors)
        for vectors in range(1, min(most, 8) + 1)
        for rows in range(1, min(box.extent, count - 2) + 1)
        if fits(rows, vectors, count)
    ]
    costs = [((r > ways, box.cycles(r, v, target), -r * v), (r, v)) for r, v in tiles]
    return sorted(costs, key=lambda item: item[0])
