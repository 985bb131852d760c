"""Copies of a subtree under new names, for primitives and passes that clone code."""

from __future__ import annotations

from dataclasses import replace

from ..ir.affine import var
from ..ir.loop import Access, Alloc, Block, For, Read, Stmt, map_expr, rewrite, substitute, walk


def copy_stmt(stmt: Stmt, suffix: str) -> Stmt:
    """A copy whose own loops, Blocks and buffers carry a suffix."""
    loops = {s.name: var(s.name + suffix) for s in walk(stmt) if isinstance(s, For)}
    own = {s.buffer.name for s in walk(stmt) if isinstance(s, Alloc)}

    def buffer(name: str) -> str:
        return name + suffix if name in own else name

    def visit(s: Stmt) -> Stmt:
        match s:
            case For():
                return replace(s, name=s.name + suffix)
            case Alloc():
                return replace(s, buffer=replace(s.buffer, name=s.buffer.name + suffix))
            case Block():
                value = map_expr(s.value, lambda e: replace(e, buffer=buffer(e.buffer)) if isinstance(e, Read) else e)
                write = Access(buffer(s.write.buffer), s.write.index)
                fetches = tuple(replace(f, loop=f.loop + suffix) if f.loop in loops else f for f in s.fetches)
                return replace(s, name=s.name + suffix, value=value, write=write, fetches=fetches)
            case _:
                return s

    copied = rewrite(stmt, visit)
    assert copied is not None
    return substitute(copied, loops)
