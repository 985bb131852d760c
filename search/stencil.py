"""Neighbours on a grid: each point is computed from points around it, and borders are told apart by their place.

One step of a stencil needs no more than vectors along the last axis, rows shared among threads, and borders in code of
their own. Several steps (or a value that neighbours of a point share) are computed band by band: all of them for some
rows, with as many rows more on either side as the steps after it read, while the band stays in the second-level cache.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

from ..ir import dtypes
from ..ir.lanes import vector_lanes
from ..ir.loop import Block, Iter, LoopFunc, reads
from ..ir.target import Target
from ..passes.decide import conditions
from ..passes.schedule import Step, Trace
from .anatomy import Anatomy, anatomy
from .sketch import Decisions, Sketch
from .steps import same_axes, trips, undisturbed

_MIN_BANDS_PER_THREAD = 2
_NEAR = 2
"""Places are neighbours if they are less than this part of an axis apart."""
_CACHE_SHARE = 0.4
"""How much of a second-level cache a band may take."""


@dataclass(frozen=True, slots=True)
class _Grid:
    """A stencil.

    Args:
        parts: the workload.
        halo: rows that values before the last one are computed for beyond those of a band, on either side.
        row_bytes: of a row of all of these values.
    """

    parts: Anatomy
    halo: int
    row_bytes: int


def stencil(func: LoopFunc, target: Target) -> Sketch | None:
    """Rows or bands of rows shared among threads, each in runs of vectors; borders in code of their own."""
    grid = _grid(func, target)
    if grid is None:
        return None
    lanes = vector_lanes(func, target)
    first, last = grid.parts.root.iters[0], grid.parts.root.iters[-1]
    vectors = tuple(n for n in (1, 2, 4, 8) if n * lanes <= last.extent)
    if not vectors:
        return None
    default: Decisions = {"vectors": min(4, vectors[-1])}
    choices: dict[str, tuple[int, ...]] = {"vectors": vectors}
    if grid.parts.temporaries:
        rows = int(target.l2_bytes * _CACHE_SHARE) // grid.row_bytes - 2 * grid.halo
        rows = min(rows, first.extent // (_MIN_BANDS_PER_THREAD * target.threads), first.extent // 4)
        if rows <= 2 * grid.halo:
            return None
        default["rows"] = rows
        choices["rows"] = tuple(n for n in (rows // 4, rows // 2, rows) if n > grid.halo)
    return Sketch("stencil", choices, default, lambda d: _trace(grid, d, lanes))


def _grid(func: LoopFunc, target: Target) -> _Grid | None:
    parts = anatomy(func)
    if parts is None or parts.reductions or len(parts.root.iters) < 2 or any(i.extent < 3 for i in parts.root.iters):
        return None
    if parts.root.iters[0].extent < target.threads:
        return None
    borders = any(_by_place(block) and _of_neighbours(parts, block) for block in parts.all_blocks)
    if not borders and (not parts.temporaries or same_axes(parts)):
        return None
    halo = 0
    for name in parts.temporaries:
        distance = _reach(parts, name)
        if distance is None:
            return None
        halo += distance
    shapes = [parts.found[name] for name in parts.temporaries]
    return _Grid(parts, halo, sum(math.prod(b.shape[1:]) * dtypes.itemsize(b.dtype) for b in shapes))


def _reach(parts: Anatomy, name: str) -> int | None:
    """How many rows away a value is read; None if it is not written and read in place or at fixed distances."""
    farthest = 0
    for block in parts.all_blocks:
        names = [i.name for i in block.iters]
        if block.write.buffer == name and [e.single_variable() for e in block.write.index] != names:
            return None
        for read in reads(block.value):
            if read.buffer != name:
                continue
            if [(e - e.const).single_variable() for e in read.index] != names:
                return None
            farthest = max(farthest, abs(read.index[0].const))
    return farthest


def _by_place(block: Block) -> bool:
    return any(r.guard for r in reads(block.value)) or any(True for _ in conditions(block.value))


def _of_neighbours(parts: Anatomy, block: Block) -> bool:
    """Whether a Block reads several places of a buffer, all of them near each other."""
    apart: list[int] = []
    found = list(reads(block.value))
    for one, other in combinations(found, 2):
        if one.buffer != other.buffer:
            continue
        for a, b, extent in zip(one.index, other.index, parts.found[one.buffer].shape, strict=True):
            distance = a - b
            if not distance.is_constant or _NEAR * abs(distance.const) >= extent:
                return False
            apart.append(abs(distance.const))
    return any(apart)


def _trace(grid: _Grid, d: Decisions, lanes: int) -> Trace:
    root, wide = grid.parts.root, int(d["vectors"]) * lanes
    first = root.iters[0]
    band = f"{root.name}.{first.name}"
    steps: list[Step] = []
    cuts: list[Step] = []
    if "rows" in d:
        steps.append(Step("split", root.name, (first.name, int(d["rows"]))))
        steps += [Step("compute_at", name, (band,)) for name in reversed(grid.parts.temporaries)]
    for block in grid.parts.all_blocks:
        tiles = [*((i, 1) for i in block.iters[:-1]), (block.iters[-1], min(wide, block.iters[-1].extent))]
        steps += [Step("split", block.name, (i.name, size)) for i, size in tiles]
        steps.append(Step("vectorize", block.name, (block.iters[-1].name,)))
        # From the inside out: a loop that is cut is copied with those inside it, which then have other names.
        inner = [(i, size) for i, size in reversed(tiles) if i is not block.iters[0]]
        cuts += [Step("partition", f"{block.name}.{i.name}") for i, size in inner if _cut(block, i, size)]
    steps += [Step("parallel", band), *cuts]
    size = int(d.get("rows", 1))
    # Bands are cut where all that is computed for them is away from the borders.
    if _cut(root, first, size) and trips(first, size) > 3:
        steps.append(Step("partition", band))
    return tuple(steps)


def _cut(block: Block, it: Iter, size: int) -> bool:
    """Whether a loop over tiles has some in which all conditions on its iterator hold, and some in which not."""
    guards = [*(g for r in reads(block.value) for g in r.guard), *conditions(block.value)]
    first, last = undisturbed(block, it, size, guards)
    return first <= last and (first, last) != (0, trips(it, size) - 1)
