"""Which parts of its parameters a program touches next: what is worth fetching while an iteration computes.

A product whose operands and result lie in the last-level cache or in memory waits for them: the processor's own
prefetchers stop at the end of a page, and a row of a tile is rarely longer. Each parameter is fetched one iteration
ahead, of the outermost loop for which its part is small against the second-level cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ..ir import dtypes
from ..ir.affine import AffineExpr
from ..ir.loop import Buffer, For, LoopFunc, blocks, reads, walk
from .edit import path_to
from .footprint import Extent, footprint
from .schedule import ScheduleError

_WAYS = 2
"""Lines of one place in the cache that a part may take."""
_STREAMED_WAYS = 4
"""The same for a tile of a streamed axis, which all rows of an iteration are multiplied with before the next one."""


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a parameter that lie at equal distances.

    Args:
        buffer: the parameter.
        index: where the part begins, over the loop and those around it.
        rows: how many rows there are.
        row_bytes: length of a row.
        stride_bytes: distance of two rows, at least their length.
    """

    buffer: str
    index: tuple[AffineExpr, ...]
    rows: int
    row_bytes: int
    stride_bytes: int


def next_parts(func: LoopFunc, loops: list[For], most_bytes: int) -> dict[str, tuple[Part, ...]]:
    """What one iteration of each loop touches of the parameters, where that differs from iteration to iteration.

    Constants are left out, which lie in the order in which they are read, and loops over what is reduced, whose
    iterations read the same rows again, unless they go along an axis that is streamed.

    Args:
        func: a legal program.
        loops: candidates, outer ones before those inside them.
        most_bytes: of one parameter; a larger part is looked at in a loop further inside.

    Returns:
        Parts by loop name. A parameter belongs to one loop of each nest.
    """
    outputs = {b.name for b in func.outputs}
    writing = [loop for loop in loops if any(b.write.buffer in outputs for b in blocks(loop.body))]
    streaming = [loop for loop in loops if all(loop is not w for w in writing) and _streams(loop)]
    found: dict[str, tuple[Part, ...]] = {}
    # Tiles of a streamed axis first: a whole row of them would be gone before its use, since all of them pass through.
    for loop, ways in (*((s, _STREAMED_WAYS) for s in streaming), *((w, _WAYS) for w in writing)):
        nest = [w.name for w in loops if w is loop or _inside(w, loop) or _inside(loop, w)]
        known = {p.buffer for name in nest for p in found.get(name, ())}
        if parts := tuple(_parts(func, loop, most_bytes, ways, known)):
            found[loop.name] = parts
    return found


def _inside(inner: For, outer: For) -> bool:
    return any(s is inner for s in walk(outer.body))


def _streams(loop: For) -> bool:
    """Whether something is made of sums that begin and end inside: scores, not partial sums of what goes on."""
    inside = list(blocks(loop.body))
    plain = [b for b in inside if b.monoid is None]
    whole = {b.write.buffer for b in inside if b.monoid is not None} & {b.write.buffer for b in plain}
    return any(r.buffer in whole for b in plain for r in reads(b.value))


def _parts(func: LoopFunc, loop: For, most_bytes: int, ways: int, known: set[str]) -> Iterator[Part]:
    outer = frozenset(s.name for s in path_to(func.body, loop) or () if isinstance(s, For)) | {loop.name}
    for buffer in func.params:
        if buffer.name in known or buffer.scope != "global":
            continue
        try:
            part = _part(buffer, footprint(loop.body, buffer.name, outer))
        except ScheduleError:  # not touched, or at places that no box describes
            continue
        if part is not None and _fits(part, most_bytes, ways) and any(loop.name in e.variables() for e in part.index):
            yield part


def _fits(part: Part, most_bytes: int, ways: int) -> bool:
    """Whether a cache holds the part beside others: rows some power of two apart compete for the same lines."""
    distinct = most_bytes // math.gcd(part.stride_bytes, most_bytes)
    return part.rows * part.row_bytes <= most_bytes and part.rows <= ways * distinct


def _part(buffer: Buffer, box: tuple[Extent, ...]) -> Part | None:
    """A box as rows at equal distances; None if there are several axes of rows."""
    size = dtypes.itemsize(buffer.dtype)
    axis, length = len(box), 1
    while axis > 0 and (axis == len(box) or box[axis].size == buffer.shape[axis]):
        axis -= 1
        length *= min(box[axis].size, buffer.shape[axis])
    rows = [n for n in range(axis) if box[n].size > 1]
    if len(rows) > 1 or not box:
        return None
    count = box[rows[0]].size if rows else 1
    stride = size * (math.prod(buffer.shape[rows[0] + 1 :]) if rows else length)
    return Part(buffer.name, tuple(e.lower for e in box), count, size * length, stride)
