"""Columns that are reduced, and perhaps rescaled: reductions over axes before the last one.

Vectors run along the last axis. Where a workload reads its operand once, a strip is a long piece of a row, so that
memory is read in order, and its results wait in the first-level cache. Where it reads it several times (instance norm,
layer norm over channels, softmax down a column), a strip is narrow, so that its rows may stay in a cache, and its
results wait in registers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..ir import dtypes
from ..ir.lanes import vector_lanes
from ..ir.loop import Access, Block, Iter, LoopFunc, reads
from ..ir.target import Target
from ..passes.schedule import Step, Trace
from .anatomy import Anatomy, anatomy, product, shared_rows, written_variable
from .chains import reduction_loops
from .sketch import Decisions, Sketch
from .steps import MIN_CHUNKS_PER_THREAD, share, trips

_MOST_VECTORS = 8
"""Vectors of a strip whose results are kept in registers."""
_PARTIAL_SUMS = 4
"""Independent partial results where a strip has too few vectors to hide the latency of an addition."""
_LEAST_STRIP, _MOST_STRIP = 256, 2048
"""Values of a strip whose results are kept in the cache: enough to read memory in order, few enough for L1."""
_SHORT_ROW = 1024
"""Rows of at most this many values lie so close together that a strip of a few vectors reads memory in order, too."""
_VECTORS_PER_STEP = 4
_RESCALED_STRIP = 64
"""Values of a strip that is read several times: a few lines of memory at a time, and it may stay in the cache."""


@dataclass(frozen=True, slots=True)
class _Columns:
    """A workload of columns.

    Args:
        parts: the workload.
        channel: the iterator whose values are the lanes.
        leading: iterators of the root that every Block shares.
        steps: steps of the longest reduction.
        row_bytes: bytes that are read per lane and step.
        once: whether the operand is read once.
        lanes: values per vector.
    """

    parts: Anatomy
    channel: Iter
    leading: tuple[Iter, ...]
    steps: int
    row_bytes: int
    once: bool
    lanes: int


def columns(func: LoopFunc, target: Target) -> Sketch | None:
    """Strips of the last axis, shared among threads; every temporary is computed at its strip."""
    parts = anatomy(func)
    if parts is None or not parts.reductions or not parts.root.iters:
        return None
    channel = parts.root.iters[-1]
    if not all(_along(block, channel.extent) for block in parts.all_blocks):
        return None
    lanes = vector_lanes(func, target)
    found = _columns(parts, channel, lanes)
    if found.once and product(parts.reductions[0]) is not None and not _squares(parts.reductions[0]):
        return None  # contractions serve it
    size = math.prod(it.extent for it in found.leading) * channel.extent * found.steps * found.row_bytes
    if channel.extent < lanes or (found.once and size <= target.l2_bytes):
        return None
    strips = _strips(found, target)
    default: Decisions = {"strip": strips[0], "rows": 8}
    choices = {"strip": tuple(sorted(set(strips))), "rows": (1, 2, 4, 8, 16)}
    return Sketch("columns", choices, default, lambda d: _trace(found, int(d["strip"]), int(d["rows"]), target))


def _squares(update: Block) -> bool:
    """Whether all operands of what is summed are the same element."""
    return len({(r.buffer, r.index) for r in reads(update.value)}) == 1


def _channel(block: Block) -> Iter | None:
    """The iterator along which a Block writes neighbouring elements."""
    return written_variable(block, len(block.write.index) - 1) if block.write.index else None


def _along(block: Block, extent: int) -> bool:
    """Whether a Block writes and reads neighbouring elements along its channels, without padding or windows."""
    channel = _channel(block)
    if channel is None or channel.extent != extent or channel.kind != "data":
        return False
    if block.guard or any(r.guard for r in reads(block.value)):
        return False
    reduced = {it.name for it in block.iters if it.kind == "reduce"}
    for index in (block.write.index, *(r.index for r in reads(block.value))):
        if any(channel.name in e.variables() for e in index[:-1]):
            return False
        if index and channel.name in index[-1].variables() and index[-1].single_variable() != channel.name:
            return False
        if any(e.variables() & reduced and e.variables() - reduced for e in index):
            return False
    return True


def _columns(parts: Anatomy, channel: Iter, lanes: int) -> _Columns:
    leading = tuple(it for it in shared_rows(parts) if it.name != channel.name)
    steps = max(math.prod(it.extent for it in b.iters if it.kind == "reduce") for b in parts.reductions)
    long: dict[str, int] = {}
    for block in parts.all_blocks:
        outside = {it.name for it in (*leading, _channel(block)) if it is not None}
        for read in reads(block.value):
            if frozenset[str]().union(*(e.variables() for e in read.index)) - outside:
                long[read.buffer] = dtypes.itemsize(read.dtype)
    once = len(parts.reductions) == 1 and all(it in (*leading, channel) for it in parts.root.iters)
    return _Columns(parts, channel, leading, steps, max(sum(long.values()), 1), once, lanes)


def _strips(found: _Columns, target: Target) -> tuple[int, ...]:
    """Sizes of strips, the preferred one first."""
    lanes, extent = found.lanes, found.channel.extent
    narrow = [v * lanes for v in (1, 2, 4, _MOST_VECTORS) if v * lanes <= extent]
    values = math.prod(it.extent for it in found.leading) * extent
    if not found.once:
        share = max(-(-values // (MIN_CHUNKS_PER_THREAD * target.threads)), lanes)
        return ([s for s in narrow if s <= min(_RESCALED_STRIP, share)][-1], *narrow)
    if extent <= _SHORT_ROW:
        return (min(extent, _MOST_VECTORS * lanes), *narrow)
    strip = min(max(-(-values // target.threads), _LEAST_STRIP), _MOST_STRIP, extent)
    strip = min(-(-strip // lanes) * lanes, extent)
    return (strip, *narrow, *(s for s in (512, 1024) if s < extent))


def _trace(found: _Columns, strip: int, rows: int, target: Target) -> Trace:
    parts, root, channel = found.parts, found.parts.root.name, found.channel
    loops = [*((it, 1) for it in found.leading), (channel, strip)]
    steps = [Step("split", root, (it.name, size)) for it, size in loops]
    steps += [Step("compute_at", name, (f"{root}.{channel.name}",)) for name in reversed(parts.temporaries)]
    vectors = -(-strip // found.lanes)
    for block in parts.all_blocks:
        lane = _channel(block)
        assert lane is not None
        own = [it for it in block.iters if it not in found.leading and it is not lane]
        steps.append(Step("vectorize", block.name, (lane.name,)))
        if block.monoid is None:
            steps += [Step("split", block.name, (it.name, 1)) for it in own]
        elif vectors <= _MOST_VECTORS:
            steps += _in_registers(block, own, rows, vectors)
        else:
            steps += _in_cache(block, own, rows, lane, found.lanes)
    named = [(f"{root}.{it.name}", trips(it, size), it.extent % size != 0) for it, size in loops]
    return (*steps, *share(named, target.threads))


def _in_registers(update: Block, reduce: list[Iter], rows: int, vectors: int) -> list[Step]:
    """The results of a strip in registers, several of each where there are few vectors."""
    *_, last = reduce
    steps: list[Step] = []
    if vectors < _PARTIAL_SUMS and last.extent >= 4 * _PARTIAL_SUMS:
        steps.append(Step("rfactor", update.name, (last.name, _PARTIAL_SUMS)))
        name, buffer = f"{update.name}.p", f"{update.write.buffer}.p"
        reduce = [*reduce[:-1], replace(last, extent=last.extent // _PARTIAL_SUMS)]
        rows = max(rows // _PARTIAL_SUMS, 1)
        update = replace(update, name=name, write=Access(buffer, update.write.index))
    steps.append(Step("set_scope", update.write.buffer, ("register",)))
    return [*steps, *reduction_loops(update, reduce, min(rows, reduce[-1].extent))]


def _in_cache(update: Block, reduce: list[Iter], rows: int, channel: Iter, lanes: int) -> list[Step]:
    """The results of a strip in the cache: a few rows are added to each vector at a time."""
    width = _VECTORS_PER_STEP * lanes
    steps = reduction_loops(update, reduce, min(rows, reduce[-1].extent), registers=False)
    return [*steps, Step("split", update.name, (channel.name, width))]
