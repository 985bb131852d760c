"""Columns that are reduced, and perhaps rescaled: reductions over axes before the last one.

Vectors run along the last axis. Where a workload reads its operand once, a strip is a long piece of a row, so that
memory is read in order, and its results wait in the first-level cache. Where it reads it several times (batch,
instance and layer norm over channels, softmax down a column), a strip is so narrow that all its rows stay in the
second-level cache, and results wait in registers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..ir import dtypes
from ..ir.loop import Access, Block, Iter, LoopFunc, reads
from ..ir.target import Target
from ..passes.schedule import Step, Trace
from .anatomy import Anatomy, anatomy, shared_rows
from .chains import reduction_loops
from .sketch import Decisions, Sketch
from .steps import MIN_CHUNKS_PER_THREAD, share, trips

_MOST_VECTORS = 8
"""Vectors of a strip whose results are kept in registers."""
_PARTIAL_SUMS = 4
"""Independent partial results where a strip has too few vectors to hide the latency of an addition."""
_LEAST_STRIP, _MOST_STRIP = 256, 2048
"""Values of a strip whose results are kept in the cache: enough to read memory in order, few enough for L1."""
_VECTORS_PER_STEP = 4


@dataclass(frozen=True, slots=True)
class _Columns:
    """A workload of columns.

    Args:
        parts: the workload.
        channel: the iterator whose values are the lanes.
        leading: iterators of the root that every Block shares.
        steps: steps of the longest reduction.
        row_bytes: bytes that a vector's lane needs per step, of all buffers that are read once per step.
        once: whether the operand is read once.
    """

    parts: Anatomy
    channel: Iter
    leading: tuple[Iter, ...]
    steps: int
    row_bytes: int
    once: bool


def columns(func: LoopFunc, target: Target) -> Sketch | None:
    """Strips of the last axis, shared among threads; every temporary is computed at its strip."""
    parts = anatomy(func)
    if parts is None or not parts.reductions or not parts.root.iters:
        return None
    channel = parts.root.iters[-1]
    if not all(_along(block, channel) for block in parts.all_blocks):
        return None
    found = _columns(parts, channel)
    lanes = target.vector_bits // 32
    size = math.prod(it.extent for it in found.leading) * channel.extent * found.steps * found.row_bytes
    if channel.extent < lanes or (found.once and size <= target.l2_bytes):
        return None
    strips = _strips(found, target)
    default: Decisions = {"strip": strips[0], "rows": 8}
    choices = {"strip": tuple(sorted(set(strips))), "rows": (1, 2, 4, 8, 16)}
    return Sketch("columns", choices, default, lambda d: _trace(found, int(d["strip"]), int(d["rows"]), target))


def _along(block: Block, channel: Iter) -> bool:
    """Whether a Block writes and reads neighbouring elements along the channel, and without padding."""
    if block.iterator(channel.name) != channel or block.guard:
        return False
    for index in (block.write.index, *(r.index for r in reads(block.value))):
        names = [e.single_variable() for e in index]
        if any(n is None and not e.is_constant for n, e in zip(names, index, strict=True)):
            return False
        if channel.name in names[:-1]:
            return False
    own = [r for r in reads(block.value) if r.index and r.index[-1].single_variable() is not None]
    if any(r.guard for r in reads(block.value)) or any(r.index[-1].single_variable() != channel.name for r in own):
        return False
    return bool(block.write.index) and block.write.index[-1].single_variable() == channel.name


def _columns(parts: Anatomy, channel: Iter) -> _Columns:
    leading = tuple(it for it in shared_rows(parts) if it.name != channel.name)
    outside = {it.name for it in leading}
    steps = max(math.prod(it.extent for it in b.iters if it.kind == "reduce") for b in parts.reductions)
    long: dict[str, int] = {}
    for block in parts.all_blocks:
        for read in reads(block.value):
            if {n for e in read.index for n in e.variables()} - outside - {channel.name}:
                long[read.buffer] = dtypes.itemsize(read.dtype)
    once = len(parts.reductions) == 1 and {it.name for it in parts.root.iters} <= outside | {channel.name}
    return _Columns(parts, channel, leading, steps, max(sum(long.values()), 1), once)


def _strips(found: _Columns, target: Target) -> tuple[int, ...]:
    """Sizes of strips, the preferred one first."""
    lanes, extent = target.vector_bits // 32, found.channel.extent
    narrow = [v * lanes for v in (1, 2, 4, _MOST_VECTORS) if v * lanes <= extent]
    if found.once:
        if extent <= _MOST_VECTORS * lanes:
            return (extent, *narrow)
        outer = math.prod(it.extent for it in found.leading)
        tasks = -(-MIN_CHUNKS_PER_THREAD * target.threads // outer)
        strip = min(max(-(-extent // tasks), _LEAST_STRIP), _MOST_STRIP)
        strip = min(-(-strip // lanes) * lanes, extent)
        return (strip, *narrow, *(s for s in (512, 1024) if s < extent))
    fitting = [s for s in narrow if 2 * s * found.steps * found.row_bytes <= target.l2_bytes]
    wanted = fitting[-1] if fitting else narrow[0]
    return (wanted, *narrow)


def _trace(found: _Columns, strip: int, rows: int, target: Target) -> Trace:
    parts, root, channel = found.parts, found.parts.root.name, found.channel
    loops = [*((it, 1) for it in found.leading), (channel, strip)]
    steps = [Step("split", root, (it.name, size)) for it, size in loops]
    steps += [Step("compute_at", name, (f"{root}.{channel.name}",)) for name in reversed(parts.temporaries)]
    steps += [Step("vectorize", block.name, (channel.name,)) for block in parts.all_blocks]
    vectors = -(-strip // (target.vector_bits // 32))
    outside = {it.name for it in found.leading} | {channel.name}
    for block in parts.all_blocks:
        own = [it for it in block.iters if it.name not in outside]
        if block.monoid is None:
            steps += [Step("split", block.name, (it.name, 1)) for it in own]
        elif vectors <= _MOST_VECTORS:
            steps += _in_registers(block, own, rows, vectors)
        else:
            steps += _in_cache(block, own, rows, channel, target)
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


def _in_cache(update: Block, reduce: list[Iter], rows: int, channel: Iter, target: Target) -> list[Step]:
    """The results of a strip in the cache: a few rows are added to each vector at a time."""
    width = _VECTORS_PER_STEP * (target.vector_bits // 32)
    steps = reduction_loops(update, reduce, min(rows, reduce[-1].extent), registers=False)
    return [*steps, Step("split", update.name, (channel.name, width))]
