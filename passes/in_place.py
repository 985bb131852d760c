"""The primitive that stores a result where what it is made of was: in_place."""

from __future__ import annotations

from dataclasses import replace

from ..ir.loop import Access, Alloc, Block, Expr, LoopFunc, Read, Seq, Stmt, blocks, map_expr, reads, rewrite
from .edit import find_alloc, path_to, with_body
from .schedule import ScheduleError, primitive


@primitive
def in_place(func: LoopFunc, buffer: str, source: str) -> LoopFunc:
    """Store an allocated buffer over another one, of which each element is needed for one element only.

    Before ``alloc s; alloc p: s[j] = ..; m = max(s[j]); p[j] = exp(s[j] - m); .. p[j] ..``; after ``alloc s: s[j] = ..;
    m = max(s[j]); s[j] = exp(s[j] - m); .. s[j] ..``. So that less memory is in use, and stays in the nearest cache.

    Refuses: buffers of different kinds; one that several Blocks write, or one with a guard or inside a loop; a Block
    that reads other elements of the source than it writes; a source that is used afterwards.
    """
    new, old = find_alloc(func, buffer), find_alloc(func, source)
    if new is old or replace(new.buffer, name=source) != old.buffer:
        raise ScheduleError(f"expected another buffer like {buffer}, found {source}")
    writers = [b for b in blocks(func.body) if b.write.buffer == buffer]
    if len(writers) != 1 or writers[0].monoid is not None or writers[0].guard:
        raise ScheduleError(f"expected one Block that writes {buffer}, for all elements, found {len(writers)}")
    writer = writers[0]
    used = [r for r in reads(writer.value) if r.buffer == source]
    if not used or any(r.index != writer.write.index or r.guard for r in used):
        raise ScheduleError(f"expected {writer.name} to read of {source} the element that it writes")
    outer, inner = (new, old) if path_to(new, old) is not None else (old, new)
    _check_order(outer, inner, writer, buffer, source)

    def renamed(e: Expr) -> Expr:
        return replace(e, buffer=source) if isinstance(e, Read) and e.buffer == buffer else e

    def visit(s: Stmt) -> Stmt:
        if isinstance(s, Block):
            write = Access(source, s.write.index) if s.write.buffer == buffer else s.write
            return replace(s, write=write, value=map_expr(s.value, renamed))
        if isinstance(s, Alloc) and s.buffer is outer.buffer:
            return replace(s, buffer=old.buffer)
        return s.body if isinstance(s, Alloc) and s.buffer is inner.buffer else s

    return with_body(func, rewrite(func.body, visit))


def _check_order(outer: Alloc, inner: Alloc, writer: Block, buffer: str, source: str) -> None:
    """The source is used before the Block, the buffer after it, and the Block runs once."""
    path = path_to(outer, writer) or []
    if inner not in path or any(not isinstance(s, Seq | Alloc) for s in path):
        raise ScheduleError(f"expected {writer.name} in no loop inside of {buffer} and {source}")
    behind = False
    for block in blocks(outer.body):
        touched = {block.write.buffer, *(r.buffer for r in reads(block.value))}
        if block is writer:
            behind = True
        elif touched & {source if behind else buffer}:
            raise ScheduleError(f"expected {source} to be used before {writer.name} and {buffer} after it")
