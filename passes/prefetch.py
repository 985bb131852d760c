"""The primitive that fetches inputs into the cache before they are read: prefetch."""

from __future__ import annotations

from dataclasses import replace

from ..ir.loop import Block, Fetch, For, LoopFunc, reads
from .edit import find_block, path_to, replace_stmt
from .schedule import ScheduleError, primitive


@primitive
def prefetch(func: LoopFunc, block: str, buffer: str, loop: str, distance: int) -> LoopFunc:
    """Fetch what a Block will read of an input or constant ``distance`` iterations of a loop later.

    Before ``for i: t += x[i, r]; y[i, j] = exp(x[i, j])``; after the same with a hint at the second Block, whose
    vectors ask the memory for ``x[i + 1, j]``: it works while the processor computes. Only vectors that are neighbours
    in memory are fetched. Where the loop is copied, so is the hint; it follows no other rewrite of it.

    Refuses: anything but a parameter that the Block reads inside that loop; a distance below 1; the same twice.
    """
    found = find_block(func, block)
    if buffer not in {b.name for b in func.inputs} or all(r.buffer != buffer for r in reads(found.value)):
        raise ScheduleError(f"expected an input that {block} reads, found {buffer}")
    if not any(isinstance(s, For) and s.name == loop for s in path_to(func.body, found) or ()):
        raise ScheduleError(f"expected a loop around {block}, found {loop}")
    if distance < 1 or any((f.buffer, f.loop) == (buffer, loop) for f in found.fetches):
        raise ScheduleError(f"expected a distance of at least 1, once for {buffer} in {block}, found {distance}")
    hinted: Block = replace(found, fetches=(*found.fetches, Fetch(buffer, loop, distance)))
    return replace_stmt(func, found, hinted)
