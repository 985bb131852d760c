"""Reductions over windows of planes: depthwise convolutions and pooling of images stored channel by channel."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..ir.lanes import vector_lanes
from ..ir.loop import Block, Iter, LoopFunc, Read, reads
from ..ir.target import Target
from ..passes.schedule import Step, Trace
from .anatomy import Anatomy, anatomy, stride_of
from .sketch import Decisions, Sketch
from .steps import cut_edges, same_axes, share, tile_at, trips
from .tiles import FMA_LATENCY, FMA_PER_CYCLE, LOADS_PER_CYCLE, TILE_OVERHEAD, registers

_MAX_TILES = 24
_MAX_STRIDE = 4
_MAX_TAPS_IN_BOX = 8
_LONG_CODE = 20_000
"""Steps unrolled into the pieces that the edges of a plane make for which code is taken to be half as fast."""


@dataclass(frozen=True, slots=True)
class _Plane:
    """A reduction over windows.

    Args:
        update: the Block.
        vector: the iterator of the last axis, whose values are the lanes.
        tile: the iterator of the axis before it, or None.
        tap: the reduce iterator that moves along the tile's axis, or None: neighbouring rows of a tile share operands.
        outer: the other data iterators, outermost first.
        looped: the other reduce iterators, those that move along neither axis first.
        stride: elements between neighbouring lanes.
        step: rows of the operand between neighbouring rows of the tile.
    """

    update: Block
    vector: Iter
    tile: Iter | None
    tap: Iter | None
    outer: tuple[Iter, ...]
    looped: tuple[Iter, ...]
    stride: int
    step: int


def planes(func: LoopFunc, target: Target) -> Sketch | None:
    """Vectors along the last axis, where windows overlap, and a register tile of rows."""
    parts = anatomy(func)
    if parts is None or len(parts.reductions) != 1 or not same_axes(parts):
        return None
    plane = _plane(parts)
    if plane is None:
        return None
    lanes = vector_lanes(func, target)
    tiles = _tiles(plane, lanes, target)
    default: Decisions = {"tile": tiles[0], "inner": "rows"}
    choices = {"tile": tiles, "inner": ("rows", "vectors")}
    return Sketch("planes", choices, default, lambda d: _planes_trace(parts, plane, lanes, d, target))


def _plane(parts: Anatomy) -> _Plane | None:
    update = parts.reductions[0]
    data = [i for i in update.iters if i.kind == "data"]
    taps = [i for i in update.iters if i.kind == "reduce"]
    if not data or not taps:
        return None
    vector, tile = data[-1], data[-2] if len(data) > 1 else None
    moved = [r for r in reads(update.value) if any(vector.name in e.variables() for e in r.index)]
    strides = [stride_of(r, parts.found[r.buffer].shape, vector.name) for r in moved]
    if not moved or any(s is None or not 1 <= s <= _MAX_STRIDE for s in strides):
        return None
    along = [t for t in taps if any(_together(r, vector, t) for r in moved)]
    stride = max(s for s in strides if s is not None)
    if not along and stride == 1:
        return None
    down = [t for t in taps if tile is not None and t not in along and any(_together(r, tile, t) for r in moved)]
    tap = next((t for t in down if t.extent <= _MAX_TAPS_IN_BOX), None)
    looped = sorted((t for t in taps if t is not tap), key=lambda t: t in along or t in down)
    step = max((e.coefficient(tile.name) for r in moved for e in r.index), default=1) if tile is not None else 1
    return _Plane(update, vector, tile, tap, tuple(data[:-2]), tuple(looped), stride, max(step, 1))


def _together(read: Read, first: Iter, second: Iter) -> bool:
    """Whether two iterators move a read along the same axis."""
    return any({first.name, second.name} <= e.variables() for e in read.index)


def _tiles(plane: _Plane, lanes: int, target: Target) -> tuple[str, ...]:
    """Tiles of rows and vectors that fit into registers, the fastest first."""
    count = registers(target)
    rows = plane.tile.extent if plane.tile else 1
    taps = plane.tap.extent if plane.tap else 1
    most = -(-plane.vector.extent // lanes)
    sizes = [
        (r, v)
        for v in range(1, min(most, 8) + 1)
        for r in range(1, min(rows, count) + 1)
        if r * v + 2 * taps + 1 <= count or r * v == 1
    ]
    sizes.sort(key=lambda size: (_cycles(plane, *size, lanes), -size[0] * size[1]))
    return tuple(f"{r}x{v}" for r, v in sizes[:_MAX_TILES])


def _cycles(plane: _Plane, rows: int, vectors: int, lanes: int) -> float:
    """Cycles for a plane in tiles of ``rows`` by ``vectors``, tails included."""
    full_rows, tail_rows = divmod(plane.tile.extent if plane.tile else 1, rows)
    full_panels, tail_values = divmod(plane.vector.extent, vectors * lanes)
    total = 0.0
    for r, r_count in ((rows, full_rows), (tail_rows, 1)):
        for v, v_count in ((vectors, full_panels), (-(-tail_values // lanes), 1)):
            if r and v:
                total += r_count * v_count * _tile_cycles(plane, r, v)
    pieces = min(full_rows + (tail_rows > 0), 3) * min(full_panels + (tail_values > 0), 3)
    taps = math.prod(t.extent for t in (*plane.looped, *((plane.tap,) if plane.tap else ())))
    return total * (1.0 + pieces * rows * vectors * taps / _LONG_CODE)


def _tile_cycles(plane: _Plane, rows: int, vectors: int) -> float:
    taps = plane.tap.extent if plane.tap else 1
    steps = math.prod(t.extent for t in plane.looped)
    work = rows * vectors * taps / FMA_PER_CYCLE
    # A vector inside a row spans two cache lines, and a strided one is picked from several.
    loads = vectors * 2 * plane.stride * ((rows - 1) * plane.step + taps) / LOADS_PER_CYCLE
    return steps * max(work, loads, FMA_LATENCY * taps) + rows * vectors * 1.5 + TILE_OVERHEAD


def _planes_trace(parts: Anatomy, plane: _Plane, lanes: int, decisions: Decisions, target: Target) -> Trace:
    rows, vectors = (int(n) for n in str(decisions["tile"]).split("x"))
    root, update = parts.root.name, plane.update.name
    width = min(vectors * lanes, plane.vector.extent)
    loops = [*((i, 1) for i in plane.outer), (plane.vector, width)]
    loops += [(plane.tile, rows)] if plane.tile else []
    steps = [Step("split", root, (it.name, size)) for it, size in loops]
    steps += tile_at(parts, f"{root}.{loops[-1][0].name}", plane.vector.name)
    if plane.tile is not None and decisions["inner"] == "rows":
        names = [i.name for i in plane.update.iters if i not in (plane.vector, plane.tile)]
        steps.append(Step("reorder", update, (plane.vector.name, plane.tile.name, *names)))
    steps += [Step("split", update, (it.name, 1)) for it in plane.looped]
    named = [(f"{root}.{it.name}", trips(it, size), it.extent % size != 0) for it, size in loops]
    shared = share(named, target.threads)
    steps += shared
    used = {a for s in shared for a in (s.target, *s.args)}
    tiles = loops[len(plane.outer) :]
    return (*steps, *cut_edges(plane.update, tiles, root, used, list(plane.looped)))
