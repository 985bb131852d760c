"""Primitives that make one axis of two: of a Block's box, and of an allocated buffer."""

from __future__ import annotations

from dataclasses import replace

from ..ir.affine import constant, linearize, var
from ..ir.loop import For, Index, LoopFunc, map_block_indices, walk
from .edit import find_alloc, find_block, find_iter, fresh, relaid, replace_stmt, threads_apart
from .schedule import ScheduleError, primitive


@primitive
def fuse_box(func: LoopFunc, block: str, outer: str, inner: str) -> LoopFunc:
    """Make one iterator of two of a Block's box, so that vectors may run across the ends of short rows.

    Before ``B[x: 6*o..+6, c: 0..24]``; after ``fuse_box(B, x, c)``: ``B[x_c: 0..144]``, with ``6*o + x_c // 24`` in
    place of ``x`` and ``x_c % 24`` in place of ``c``. The new iterator stands where the outer one stood, and is not
    vectorised.

    Refuses: no such Block or iterators; iterators that reduce; an inner one without values, or cut by a limit; Blocks
    inside a parallel loop whose iterations could no longer be told apart.
    """
    found = find_block(func, block)
    first, second = find_iter(found, outer), find_iter(found, inner)
    if first is second or {first.kind, second.kind} != {"data"}:
        raise ScheduleError(f"expected two data iterators of {block}, found {outer} and {inner}")
    if second.limit is not None or not second.extent:
        raise ScheduleError(f"expected all of one or more values of {block}.{inner} in the box")
    size = second.extent
    taken = {i.name for i in found.iters} | {s.name for s in walk(func.body) if isinstance(s, For)}
    name = fresh(f"{outer}_{inner}", taken)
    limit = None if first.limit is None else (first.limit - first.lower) * size
    both = replace(first, name=name, lower=constant(0), extent=first.extent * size, limit=limit, vectorized=False)
    env = {outer: first.lower + var(name).floordiv(size), inner: second.lower + var(name).mod(size)}
    iters = tuple(both if i is first else i for i in found.iters if i is not second)
    moved = map_block_indices(replace(found, iters=()), lambda e: e.substitute(env))
    return threads_apart(replace_stmt(func, found, replace(moved, iters=iters)))


@primitive
def flatten(func: LoopFunc, buffer: str, axis: int) -> LoopFunc:
    """Make one axis of an allocated buffer's axis and the next one; its elements keep their order.

    Before ``t[i // 24, i % 24]`` of shape ``(6, 24)``; after ``flatten(t, 0)``: ``t[i]`` of shape ``(144,)``.

    Refuses: a buffer that is not allocated inside the function; no such axis, or none after it.
    """
    alloc = find_alloc(func, buffer)
    shape = alloc.buffer.shape
    if not 0 <= axis < len(shape) - 1:
        raise ScheduleError(f"expected an axis of {buffer} with one after it, found {axis} of {len(shape)}")
    pair = shape[axis : axis + 2]
    new = replace(alloc.buffer, shape=(*shape[:axis], pair[0] * pair[1], *shape[axis + 2 :]))

    def index(old: Index) -> Index:
        return (*old[:axis], linearize(old[axis : axis + 2], pair), *old[axis + 2 :])

    return relaid(func, new, index)
