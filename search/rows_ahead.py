"""What a schedule of rows fetches ahead: the memory delivers the next rows while the processor computes with these."""

from __future__ import annotations

from ..ir import dtypes
from ..ir.loop import Block, Iter, Read, reads
from ..ir.target import Target
from ..passes.schedule import Step
from .anatomy import Anatomy
from .steps import buffer_bytes

_AHEAD_BYTES = 8192
"""Bytes of rows between what is fetched and what is read: several times what arrives within the memory's latency."""
_SHORTEST_ROW = 1024
"""Bytes of a row from which its lines are worth asking for one by one."""


def rows_ahead(parts: Anatomy, leading: list[Iter], target: Target) -> int:
    """How many rows ahead inputs are fetched; 0 where the caches may hold them."""
    found = _rereads(parts, leading, target)
    if not found:
        return 0
    row = sum(size for _, _, size in found)
    distance = -(-_AHEAD_BYTES // row)
    return distance if distance * row <= target.l2_bytes // 2 else 0


def fetch_rows(parts: Anatomy, leading: list[Iter], distance: int, steps: list[Step], target: Target) -> list[Step]:
    """The steps that fetch inputs ahead, behind the others of a trace."""
    loop = _row_loop(parts, leading, steps)
    partial = {s.target for s in steps if s.primitive == "rfactor"}
    return [
        Step("prefetch", f"{block.name}.p" if block.name in partial else block.name, (buffer, loop, distance))
        for block, buffer, _ in _rereads(parts, leading, target)
    ]


def _rereads(parts: Anatomy, leading: list[Iter], target: Target) -> list[tuple[Block, str, int]]:
    """The last Block that reads each input too large for the caches row by row, and bytes of a row of it.

    The first Block that reads a row waits for the memory, so that nothing is gained there. Of what one Block alone
    reads, the processor sees by itself what comes next.
    """
    found: list[tuple[Block, str, int]] = []
    for name, buffer in parts.found.items():
        readers = [b for b in parts.all_blocks for r in reads(b.value) if r.buffer == name and _row(b, r, leading)]
        if name in parts.temporaries or buffer_bytes(buffer) <= target.l2_bytes * target.threads:
            continue
        row = buffer.shape[-1] * dtypes.itemsize(buffer.dtype)
        if len(set(readers)) > 1 and row >= _SHORTEST_ROW:
            found.append((readers[-1], name, row))
    return found


def _row(block: Block, read: Read, leading: list[Iter]) -> bool:
    """Whether a Block reads a row of neighbours in memory, which the innermost loop over rows moves."""
    own = [i for i in block.iters if i not in leading]
    if not own or not leading or read.guard or not read.index:
        return False
    moved = any(leading[-1].name in e.variables() for e in read.index[:-1])
    return moved and read.index[-1].single_variable() == own[-1].name


def _row_loop(parts: Anatomy, leading: list[Iter], steps: list[Step]) -> str:
    """Name of the loop over rows, which may have been fused with those around it."""
    name = f"{parts.root.name}.{leading[-1].name}"
    for step in steps:
        if step.primitive == "fuse" and step.args[0] == name:
            name = f"{step.target}_{name}"
    return name
