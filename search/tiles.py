"""Register tiles by counting instructions: how long a tile takes, and which tile is the fastest for a box."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..ir.target import Target

FMA_PER_CYCLE = 2
LOADS_PER_CYCLE = 2
FMA_LATENCY = 4
L2_BYTES_PER_CYCLE = 20
"""What the second-level cache delivers while the arithmetic goes on; a panel that is too large for the first level is
read from there once per tile of rows."""
PAGE_BYTES = 4096
_MIXING = 3
"""Registers for two rows' splats and the vector that is put together from them."""
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
        full_panels, tail_values = divmod(self.values, vectors * lanes)
        tail_vectors = -(-tail_values // lanes)
        total = full_panels * self._all_rows(rows, lambda r: self.tile_cycles(r, vectors, target))
        if tail_vectors:
            total += self._all_rows(rows, lambda r: self.tile_cycles(r, tail_vectors, target))
        return total * self.count

    def joined_cycles(self, rows: int, target: Target) -> float:
        """Cycles for all boxes in tiles of whole rows that are joined to one range of vectors, tails included."""
        return self._all_rows(rows, lambda r: self._joined_tile_cycles(r, target)) * self.count

    def _joined_tile_cycles(self, rows: int, target: Target) -> float:
        """Cycles for one such tile: a vector of the panel that begins inside of a row is two loads, for cache lines."""
        lanes = target.vector_bits // 32
        vectors = -(-rows * self.values // lanes)
        phases = _phases(self.values, rows, lanes)
        mixed = min(rows, _period(self.values, lanes)) - 1  # vectors of two rows: picked from others' loads
        whole = min(self.values // lanes, phases)
        loads = (rows + whole + 2 * max(phases - whole - mixed, 0)) / LOADS_PER_CYCLE
        return max(vectors / FMA_PER_CYCLE, loads, FMA_LATENCY) * self.steps + vectors * 1.5 + TILE_OVERHEAD

    def _all_rows(self, rows: int, tile_cycles: Callable[[int], float]) -> float:
        full, tail = divmod(self.extent, rows)
        return full * tile_cycles(rows) + (tile_cycles(tail) if tail else 0.0)


JOINED = "j"
"""Suffix of the names of tiles of whole rows that are joined to one range of vectors."""


def tile_suffix(tile: str) -> str:
    """What stands after the size in a tile's name; empty for rows of vectors."""
    return tile.lstrip("0123456789x")


def tile_size(tile: str) -> tuple[int, int]:
    """Rows and vectors of a tile, from its name."""
    rows, vectors = tile.removesuffix(tile_suffix(tile)).split("x")
    return int(rows), int(vectors)


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


def joined_tiles(box: Box, target: Target) -> list[tuple[Cost, tuple[int, int]]]:
    """Tiles of whole rows joined to one range, the fastest first; none if rows fill vectors or are less than one.

    Of a row of 24 values, vectors of 16 waste a quarter; two rows are three vectors.

    Returns:
        As `register_tiles`, with as many vectors as a row by itself would take.
    """
    lanes = target.vector_bits // 32
    if box.values % lanes == 0 or box.values < lanes:
        return []
    tiles = [
        rows
        for rows in range(2, min(box.extent, registers(target)) + 1)
        if -(-rows * box.values // lanes) + _phases(box.values, rows, lanes) + _MIXING <= registers(target)
    ]
    width = -(-box.values // lanes)
    costs = [((False, box.joined_cycles(r, target), -r * width), (r, width)) for r in tiles]
    return sorted(costs, key=lambda item: item[0])


def _period(values: int, lanes: int) -> int:
    """Joined rows after which a vector begins with a row again."""
    return lanes // math.gcd(values, lanes)


def _phases(values: int, rows: int, lanes: int) -> int:
    """Different vectors of the panel in a tile of joined rows."""
    return -(-min(rows, _period(values, lanes)) * values // lanes)
