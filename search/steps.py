"""Steps that several sketch rules take: tiles in registers, shared loops, edges without padding."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ..ir import dtypes
from ..ir.affine import AffineExpr, var
from ..ir.loop import Block, Buffer, Iter, bound_ranges, reads
from ..ir.target import Target
from ..passes.schedule import Step
from .anatomy import Anatomy, Product
from .sketch import Decisions

MIN_CHUNKS_PER_THREAD = 4
"""A loop with fewer iterations per thread is fused with the next one before it is shared."""


def trips(it: Iter, factor: int) -> int:
    """Iterations of the loop that a split by ``factor`` makes."""
    return -(-it.extent // factor)


def same_axes(parts: Anatomy) -> bool:
    """Whether every temporary has the output's axes, read and written in place: one tile serves all Blocks."""
    shape = parts.found[parts.root.write.buffer].shape
    names = tuple(i.name for i in parts.root.iters)
    for name in parts.temporaries:
        if parts.found[name].shape != shape:
            return False
    for block in parts.all_blocks:
        if tuple(e.single_variable() for e in block.write.index) != names:
            return False
        for read in reads(block.value):
            if read.buffer in parts.temporaries and tuple(e.single_variable() for e in read.index) != names:
                return False
    return True


def tile_at(parts: Anatomy, loop: str, vector: str) -> list[Step]:
    """Compute every temporary at a tile of the root, in registers, with one vectorised axis."""
    steps = [Step("compute_at", name, (loop,)) for name in reversed(parts.temporaries)]
    steps += [Step("set_scope", name, ("register",)) for name in parts.temporaries]
    return steps + [Step("vectorize", b.name, (vector,)) for b in parts.all_blocks]


def join_rows(members: Iterable[Block], temporaries: Iterable[str], row: str, vector: str) -> list[Step]:
    """Join the rows of a tile to one range of vectors, in all its Blocks; what they share is in registers.

    Args:
        members: the Blocks, whose last two axes written are the rows and the vectors.
        temporaries: buffers inside of the tile.
        row: the iterator of rows.
        vector: the iterator that vectors run along, with all its values in the tile.
    """
    blocks, steps = list(members), list[Step]()
    axis = len(blocks[0].write.index) - 2
    steps += [Step("fuse_box", b.name, (row, vector)) for b in blocks]
    for name in temporaries:
        steps += [Step("flatten", name, (axis,)), Step("set_scope", name, ("register",))]
    return steps + [Step("vectorize", b.name, (f"{row}_{vector}",)) for b in blocks]


def across_tile(parts: Anatomy, match: Product, loop: str, width: int) -> list[Step]:
    """Compute every temporary at a tile of the root whose vectors are transposed on their way to memory.

    The sum is kept in registers with its vectors along its last axis, then written to the cache in the output's order.
    """
    total = match.update.write.buffer
    kept = f"{total}.w"
    axis = next(n for n, e in enumerate(match.update.write.index) if e.single_variable() == match.vector.name)
    names = [n for name in parts.temporaries for n in ((name, kept) if name == total else (name,))]
    steps = [Step("compute_at", name, (loop,)) for name in reversed(names)]
    steps += [Step("pack", total, (axis, width)), Step("set_scope", total, ("register",))]
    stored = parts.root.iters[-1].name
    for block in parts.all_blocks:
        sums = block.write.buffer == total
        steps.append(Step("vectorize", block.name, (match.vector.name if sums else stored,)))
    return [*steps, Step("vectorize", f"{total}.write", (f"i{axis}",))]


def share(loops: list[tuple[str, int, bool]], threads: int) -> list[Step]:
    """Make the outermost loop parallel, fused with the next ones where it alone has too few iterations.

    Args:
        loops: name, trip count and whether the last iteration is cut, outermost first.
        threads: of the target.
    """
    steps: list[Step] = []
    name, trips, cut = loops[0]
    for inner, count, inner_cut in loops[1:]:
        if trips >= MIN_CHUNKS_PER_THREAD * threads or cut or inner_cut:
            break
        steps.append(Step("fuse", name, (inner,)))
        name, trips = f"{name}_{inner}", trips * count
    return [*steps, Step("parallel", name)]


def store_choices(parts: Anatomy, target: Target) -> tuple[str, ...]:
    """How the result may be stored, the default first.

    A result that no cache holds together with what it is made of is better stored past the caches.
    """
    size = buffer_bytes(parts.found[parts.root.write.buffer])
    if size < target.l3_bytes // 2:
        return ("kept",)
    moved = sum(buffer_bytes(b) for name, b in parts.found.items() if name not in parts.temporaries)
    return ("streamed", "kept") if moved >= target.l3_bytes else ("kept", "streamed")


def buffer_bytes(buffer: Buffer) -> int:
    """Bytes of a buffer."""
    return math.prod(buffer.shape) * dtypes.itemsize(buffer.dtype)


def stored(parts: Anatomy, decisions: Decisions) -> list[Step]:
    """The step that a decision of `store_choices` takes."""
    return [Step("nontemporal", parts.root.write.buffer)] if decisions["stores"] == "streamed" else []


def cut_edges(
    update: Block, tiles: list[tuple[Iter, int]], root: str, shared: set[int | str], looped: list[Iter]
) -> list[Step]:
    """Where padding is read along tiles: unroll the taps there and cut the loops so that the middle has no guards.

    Args:
        update: the Block that reads.
        tiles: iterators with the size of their tiles, in the order of the loops over tiles.
        root: name of the Block that the loops over tiles belong to.
        shared: names of loops that are shared among threads.
        looped: reduce iterators that are loops.
    """
    guards = [g for r in reads(update.value) for g in r.guard]
    cut = [(it, size) for it, size in tiles if any(it.name in g.variables() for g in guards)]
    names = {it.name for it, _ in cut}
    edges = [g for g in guards if g.variables() & names]
    taps = [i for i in looped if any(i.name in g.variables() for g in edges)]
    steps = [Step("unroll", f"{update.name}.{i.name}") for i in taps]
    for it, size in reversed(cut):  # a loop that is cut is copied with those inside it, which then have other names
        loop, count = f"{root}.{it.name}", trips(it, size)
        first, last = undisturbed(update, it, size, guards)
        if loop not in shared and count > 1 and (count == 2 or first <= last):
            steps.append(Step("partition" if count > 2 else "unroll", loop))
    return steps


def undisturbed(block: Block, it: Iter, size: int, guards: Iterable[AffineExpr]) -> tuple[int, int]:
    """First and last tile of an iterator in which all conditions on it hold, wherever the others are; may be empty."""
    ranges = {i.name: (0, max(i.extent - 1, 0)) for i in block.iters} | bound_ranges(block.value)
    first, last = 0, trips(it, size) - 1
    for guard in guards:
        step = guard.coefficient(it.name)
        least = (guard - var(it.name) * step).bounds(ranges)[0]
        if step > 0:
            first = max(first, -(least // (step * size)))
        elif step < 0:
            last = min(last, (least // -step - size + 1) // size)
    return first, last
