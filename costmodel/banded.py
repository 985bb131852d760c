"""Predicted seconds of chains of stages that are computed band by band.

The features describe one reduction and its loops. A chain has several, each with a register tile of its own; what a
band costs is the sum of its stages for as many rows as each has to compute, and what is moved between them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..ir.target import Target
from ..passes.schedule import Step, Trace
from .anatomy import Access, WorkloadAnatomy

_FMA_PER_CYCLE = 2.0
_LOADS_PER_CYCLE = 2.0
_FMA_LATENCY = 4.0
_TILE_CYCLES = 14.0
_STORE_CYCLES = 1.5
_ADDING_CYCLES = 6.0
"""Per vector, to add the sum of a chunk to those before it: from the cache and back."""
_L2_BYTES_PER_CYCLE = 48.0
_L3_BYTES_PER_CYCLE = 12.0
_EXPOSED = 0.3
"""Share of the time for moving data that arithmetic does not hide."""
_LATE = 0.15
"""Share of a band for which a thread waits at the end for another one that started late."""
_L1_SHARE = 0.7
_L2_SHARE = 0.7
_DISPATCH_S = 1.5e-6


@dataclass(frozen=True, slots=True)
class _Nest:
    """What a trace says.

    Args:
        band: of each column that the root is cut along around everything else, how many values a band has.
        chunk: column and size of what the last reduction adds up part by part; None if it reduces all at once.
        tiles: sizes of register tiles by column, for each Block that reduces.
        bands: how many bands there are.
        axis: number of the axis that the innermost band is cut out of.
        joined: the Blocks whose vectors run across the ends of rows.
    """

    band: dict[int, int]
    chunk: tuple[int, int] | None
    tiles: dict[int, dict[int, int]]
    bands: int
    axis: int = 0
    joined: frozenset[int] = frozenset()


def banded_seconds(work: WorkloadAnatomy, trace: Trace, target: Target) -> float | None:
    """Seconds of a schedule that computes a chain band by band.

    Args:
        work: the workload.
        trace: a schedule of it.
        target: the CPU.

    Returns:
        The prediction; None if the trace is none of a chain.
    """
    nest = _nest(work, trace)
    if nest is None:
        return None
    spans = _spans(work, nest)
    band = _cycles(work, nest, spans, target) + _EXPOSED * _moved(work, nest, spans, target)
    late = _LATE if target.threads > 1 else 0.0
    return _DISPATCH_S + (math.ceil(nest.bands / target.threads) + late) * band / target.clock_hz


# ---- reading the trace


def _nest(work: WorkloadAnatomy, trace: Trace) -> _Nest | None:
    root = work.names[work.root]
    placed = {s.target: str(s.args[0]) for s in trace if s.primitive == "compute_at"}
    hosts = {loop.rsplit(".", 1)[0] for loop in placed.values()} & set(work.names) - {root}
    if not hosts or any(s.primitive == "stream" for s in trace):
        return None
    around = next(n for n, s in enumerate(trace) if s.primitive == "compute_at")
    band = _sizes(work, root, trace[:around])
    reducing = [n for n in range(len(work.names)) if work.reduced[n].any()]
    if not band or not reducing:
        return None
    tiles: dict[int, dict[int, int]] = {}
    for number in reducing:
        own, host = work.names[number], _host(work, number, placed)
        # The Blocks of a tile have the same names for its iterators.
        sizes = {} if host is None else _sizes(work, own, trace, host)
        tiles[number] = sizes | _sizes(work, own, trace)
    bands = math.prod(-(-int(work.extents[c]) // n) for c, n in band.items())
    stored = next(a for a in work.accesses if a.block == work.root and a.writes)
    axis = int(np.flatnonzero(stored.strides[:, list(band)[-1]])[0])
    joins = {s.target for s in trace if s.primitive == "fuse_box"}
    joined = frozenset(n for n, name in enumerate(work.names) if name in joins)
    return _Nest(band, _chunk(work, trace, work.names[reducing[-1]]), tiles, bands, axis, joined)


def _sizes(work: WorkloadAnatomy, block: str, trace: Trace, split: str = "") -> dict[int, int]:
    """Sizes of the tiles that a Block's iterators are split into, by column; ``split`` is another Block with them."""
    found = [(work.column(block, str(s.args[0])), int(s.args[1])) for s in trace if _splits(s, split or block)]
    return {column: size for column, size in found if column is not None}


def _chunk(work: WorkloadAnatomy, trace: Trace, last: str) -> tuple[int, int] | None:
    """What the last reduction adds up part by part: along it, other stages are computed in its loop."""
    first = next((s for s in trace if _splits(s, last)), None)
    placed = {s.args for s in trace if s.primitive == "compute_at"}
    inside = first is not None and (f"{last}.{first.args[0]}",) in placed
    column = work.column(last, str(first.args[0])) if first is not None and inside else None
    return None if first is None or column is None else (column, int(first.args[1]))


def _splits(step: Step, block: str) -> bool:
    return step.primitive == "split" and step.target == block


def _host(work: WorkloadAnatomy, number: int, placed: dict[str, str]) -> str | None:
    """The Block in whose register tile a reduction is computed."""
    loop = placed.get(work.written[number], "")
    return next((name for name in work.names if loop.startswith(f"{name}.")), None)


# ---- what a band covers


def _spans(work: WorkloadAnatomy, nest: _Nest) -> list[np.ndarray]:
    """How many values of each column every Block covers in one band, or one chunk of it."""
    spans = [np.where(work.members[n], work.extents, 1).astype(float) for n in range(len(work.names))]
    needed: dict[str, np.ndarray] = {}
    for number in range(len(work.names) - 1, -1, -1):
        span = spans[number]
        known = needed.get(work.written[number])
        for access in work.accesses:
            if known is not None and access.block == number and access.writes:
                for axis, size in enumerate(known):
                    columns = np.flatnonzero(access.strides[axis])
                    if len(columns) == 1:
                        span[columns[0]] = min(span[columns[0]], size)
        for column, size in nest.band.items():
            if known is None and work.members[number][column]:
                span[column] = min(span[column], size)
        if nest.chunk is not None and number == max(nest.tiles):
            span[nest.chunk[0]] = nest.chunk[1]
        for access in work.accesses:
            if access.block == number and access.private and not access.writes:
                size = np.minimum(1.0 + access.strides @ (span - 1.0), access.shape)
                if nest.axis < len(size):
                    size[nest.axis] = _average(size[nest.axis], access.shape[nest.axis], nest, work)
                needed[access.buffer] = np.maximum(needed.get(access.buffer, 0.0), size)
    return spans


def _average(rows: float, extent: float, nest: _Nest, work: WorkloadAnatomy) -> float:
    """Rows per band of what has that many in one away from the borders, where bands stick out of the image."""
    column, size = list(nest.band.items())[-1]
    bands = -(-int(work.extents[column]) // size)
    return rows - max(rows - extent / bands, 0.0) / bands


# ---- what that costs


def _cycles(work: WorkloadAnatomy, nest: _Nest, spans: list[np.ndarray], target: Target) -> float:
    """Cycles of one thread to compute a band."""
    lanes = target.vector_bits // 32
    chunks = 1 if nest.chunk is None else -(-int(work.extents[nest.chunk[0]]) // nest.chunk[1])
    last = max(nest.tiles)
    total = 0.0
    for number, span in enumerate(spans):
        vector = _vector(work, number)
        if number in nest.tiles:
            tile = nest.tiles[number]
            total += chunks * _reduction(work, number, span, tile, vector, lanes, number in nest.joined)
            if nest.chunk is not None and number == last:
                total += chunks * _ADDING_CYCLES * _vectors(work, span * ~work.reduced[number], vector, lanes)
        else:
            total += (chunks if number < last else 1) * work.cycles[number] * _vectors(work, span, vector, lanes)
    return total


def _vector(work: WorkloadAnatomy, number: int) -> int:
    """The column along which a Block writes neighbouring elements."""
    access = next(a for a in work.accesses if a.block == number and a.writes)
    found = np.flatnonzero(access.strides[-1]) if len(access.strides) else np.array([], int)
    return int(found[0]) if len(found) else -1


def _vectors(work: WorkloadAnatomy, span: np.ndarray, vector: int, lanes: int) -> float:
    """Vectors that a span fills."""
    sizes = np.maximum(span, 1.0)
    along = sizes[vector] if vector >= 0 else 1.0
    return float(np.prod(sizes) / along * math.ceil(along / lanes))


def _reduction(
    work: WorkloadAnatomy, number: int, span: np.ndarray, tile: dict[int, int], vector: int, lanes: int, joined: bool
) -> float:
    """Cycles of a reduction over a span in register tiles, with whole rows joined to one range of vectors or not."""
    reduced = work.reduced[number]
    steps = float(np.prod(np.where(reduced, span, 1.0)))
    rows, trips = 1.0, 1.0
    for column in np.flatnonzero(work.members[number] & ~reduced):
        size = float(span[column])
        if column != vector:
            own = min(float(tile.get(int(column), 1)), size)
            rows, trips = rows * own, trips * math.ceil(size / own)
    width = min(float(tile.get(vector, lanes)), float(span[vector])) if vector >= 0 else 1.0
    vectors = width / lanes if joined else math.ceil(width / lanes)
    trips *= math.ceil(float(span[vector]) / width) if vector >= 0 else 1.0
    shared = not _by_channel(work, number, vector)
    loads = rows + vectors if shared else vectors * (rows + 1.0) * 0.75
    step = max(rows * vectors / _FMA_PER_CYCLE, loads / _LOADS_PER_CYCLE, _FMA_LATENCY if shared else 0.0)
    return trips * (step * steps + rows * vectors * _STORE_CYCLES + _TILE_CYCLES)


def _by_channel(work: WorkloadAnatomy, number: int, vector: int) -> bool:
    """Whether all operands move along the vectors."""
    found = [a for a in work.accesses if a.block == number and not a.writes and len(a.strides)]
    return vector >= 0 and all(a.strides[:, vector].any() for a in found)


def _moved(work: WorkloadAnatomy, nest: _Nest, spans: list[np.ndarray], target: Target) -> float:
    """Cycles to write and read what lies between the stages of a band, and to read its rows of the input anew."""
    between: dict[str, float] = {}
    read: dict[str, float] = {}
    for access in work.accesses:
        reduces = access.block in nest.tiles
        size = _touched(access, spans[access.block])
        if access.private and access.writes and not reduces and not _starts(work, nest, access.block):
            between[access.buffer] = size
        if not access.private and not access.writes and reduces and _varies(work, access, size):
            read[access.buffer] = size
    chunks = 1 if nest.chunk is None else -(-int(work.extents[nest.chunk[0]]) // nest.chunk[1])
    held, written = sum(between.values()), 2.0 * chunks * sum(between.values())
    total = chunks * sum(read.values()) / _L3_BYTES_PER_CYCLE
    if held > target.l2_bytes * _L2_SHARE:
        return total + written / _L3_BYTES_PER_CYCLE
    return total + (written / _L2_BYTES_PER_CYCLE if held > target.l1_bytes * _L1_SHARE else 0.0)


def _touched(access: Access, span: np.ndarray) -> float:
    """Bytes of a buffer that an access touches over a box."""
    elements = np.minimum(1.0 + access.strides @ (np.maximum(span, 1.0) - 1.0), access.shape)
    return float(np.prod(elements)) * access.itemsize


def _varies(work: WorkloadAnatomy, access: Access, size: float) -> bool:
    """Whether bands read different parts of a buffer: weights are the same for all."""
    whole = np.where(work.members[access.block], work.extents, 1).astype(float)
    return _touched(access, whole) > size


def _starts(work: WorkloadAnatomy, nest: _Nest, number: int) -> bool:
    """Whether a Block writes what a reduction accumulates."""
    return any(work.written[n] == work.written[number] for n in nest.tiles)
