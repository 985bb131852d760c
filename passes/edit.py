"""What primitives share: finding things by name, replacing them, and fresh names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..ir.affine import AffineExpr, Range, var
from ..ir.loop import (
    Access,
    Alloc,
    Block,
    Buffer,
    Expr,
    For,
    If,
    Index,
    Iter,
    LoopFunc,
    Read,
    Stmt,
    children,
    loop_range,
    map_expr,
    rewrite,
    seq,
    walk,
)
from ..ir.sites import program
from ..ir.verify_memory import no_races
from .schedule import ScheduleError


def find_block(func: LoopFunc, name: str) -> Block:
    """The Block of that name.

    Raises:
        ScheduleError: there is none.
    """
    found = [s for s in walk(func.body) if isinstance(s, Block)]
    for block in found:
        if block.name == name:
            return block
    raise ScheduleError(f"expected a Block, one of {[b.name for b in found]}, found {name!r}")


def find_iter(block: Block, name: str) -> Iter:
    """The iterator of that name.

    Raises:
        ScheduleError: the Block has none.
    """
    it = block.iterator(name)
    if it is None:
        names = [i.name for i in block.iters]
        raise ScheduleError(f"expected an iterator of {block.name}, one of {names}, found {name!r}")
    return it


def find_loop(func: LoopFunc, name: str) -> For:
    """The loop of that name.

    Raises:
        ScheduleError: there is none.
    """
    found = [s for s in walk(func.body) if isinstance(s, For)]
    for loop in found:
        if loop.name == name:
            return loop
    raise ScheduleError(f"expected a loop, one of {[f.name for f in found]}, found {name!r}")


def find_alloc(func: LoopFunc, name: str) -> Alloc:
    """The allocation of the buffer of that name.

    Raises:
        ScheduleError: no buffer of that name is allocated inside the function.
    """
    found = [s for s in walk(func.body) if isinstance(s, Alloc)]
    for alloc in found:
        if alloc.buffer.name == name:
            return alloc
    raise ScheduleError(f"expected an allocated buffer, one of {[a.buffer.name for a in found]}, found {name!r}")


def find_buffer(func: LoopFunc, name: str) -> Buffer:
    """The parameter or allocated buffer of that name.

    Raises:
        ScheduleError: there is none.
    """
    found = next((b for b in func.params if b.name == name), None)
    return found or find_alloc(func, name).buffer


def with_body(func: LoopFunc, body: Stmt | None) -> LoopFunc:
    """The function with another body."""
    return replace(func, body=seq() if body is None else body)


def replace_stmt(func: LoopFunc, old: Stmt, new: Stmt | None) -> LoopFunc:
    """The function with one statement (by identity) replaced or removed."""
    return with_body(func, replace_in(func.body, old, new))


def replace_in(stmt: Stmt, old: Stmt, new: Stmt | None) -> Stmt | None:
    """``stmt`` with one statement inside it (by identity) replaced or removed."""
    if stmt is old:
        return new
    path = path_to(stmt, old)
    if path is None:
        return stmt
    out: Stmt | None = new
    for parent, child in zip(reversed(path), [old, *reversed(path[1:])], strict=True):
        out = _with_child(parent, child, out)
    return out


def _with_child(parent: Stmt, child: Stmt, new: Stmt | None) -> Stmt | None:
    def swap(s: Stmt) -> Stmt | None:
        return new if s is child else s

    match parent:
        case For() | Alloc():
            return None if new is None else replace(parent, body=new)
        case If():
            then = swap(parent.then)
            orelse = None if parent.orelse is None else swap(parent.orelse)
            return None if then is None and orelse is None else If(parent.conditions, then or seq(), orelse)
        case Block():
            raise AssertionError("a Block has no children")
        case _:
            kept = [s for s in map(swap, parent.body) if s is not None]
            return seq(*kept) if kept else None


def path_to(root: Stmt, target: Stmt) -> list[Stmt] | None:
    """Statements from ``root`` down to the parent of ``target`` (by identity), or None if it is not inside."""
    for child in children(root):
        if child is target:
            return [root]
        below = path_to(child, target)
        if below is not None:
            return [root, *below]
    return None


def ranges_at(func: LoopFunc, target: Stmt) -> dict[str, Range]:
    """Interval of every loop variable in scope at ``target``."""
    if target is func.body:
        return {}
    path = path_to(func.body, target)
    if path is None:
        raise ScheduleError("expected a statement of the program")
    ranges: dict[str, Range] = {}
    for stmt in path:
        if isinstance(stmt, For):
            ranges[stmt.name] = loop_range(stmt, ranges)
    return ranges


def used_names(func: LoopFunc) -> set[str]:
    """All names of loops, iterators, Blocks and buffers."""
    names = {b.name for b in func.params}
    for stmt in walk(func.body):
        match stmt:
            case For():
                names.add(stmt.name)
            case Block():
                names.add(stmt.name)
                names.update(i.name for i in stmt.iters)
            case Alloc():
                names.add(stmt.buffer.name)
    return names


def fresh(name: str, used: set[str]) -> str:
    """``name``, or the first of ``name.1``, ``name.2``, ... that is not used."""
    if name not in used:
        return name
    count = 1
    while f"{name}.{count}" in used:
        count += 1
    return f"{name}.{count}"


def written_axes(block: Block) -> list[tuple[Iter, AffineExpr]] | None:
    """For each axis of what a Block writes its own iterator, and what is added to it; None if it is not just that."""
    found: list[tuple[Iter, AffineExpr]] = []
    for index in block.write.index:
        own = [i for i in block.iters if index.coefficient(i.name) == 1]
        rest = index - var(own[0].name) if own else index
        if len(own) != 1 or any(block.iterator(n) is not None for n in rest.variables()):
            return None
        found.append((own[0], rest))
    return found if len({it.name for it, _ in found}) == len(found) else None


def solve(block: Block, wanted: Index) -> dict[str, AffineExpr] | None:
    """What a Block's data iterators have to be for it to write a given element; None if that can't be told."""
    axes = written_axes(block)
    if axes is None or {it.name for it, _ in axes} != {i.name for i in block.iters if i.kind == "data"}:
        return None
    return {it.name: target - rest for (it, rest), target in zip(axes, wanted, strict=True)}


def relaid(func: LoopFunc, new: Buffer, index: Callable[[Index], Index]) -> LoopFunc:
    """The function with another layout of a buffer.

    Args:
        func: any function.
        new: the buffer, under the same name.
        index: maps the indices of an element to those that it has in the new layout.
    """

    def visit_expr(e: Expr) -> Expr:
        return replace(e, index=index(e.index)) if isinstance(e, Read) and e.buffer == new.name else e

    def visit(s: Stmt) -> Stmt:
        if isinstance(s, Alloc) and s.buffer.name == new.name:
            return replace(s, buffer=new)
        if isinstance(s, Block):
            write = Access(new.name, index(s.write.index)) if s.write.buffer == new.name else s.write
            return replace(s, write=write, value=map_expr(s.value, visit_expr))
        return s

    params = tuple(new if b.name == new.name else b for b in func.params)
    return replace(with_body(func, rewrite(func.body, visit)), params=params)


def map_blocks(stmt: Stmt, f: Callable[[Block], Stmt | None]) -> Stmt | None:
    """Rebuild with every Block mapped."""
    return rewrite(stmt, lambda s: f(s) if isinstance(s, Block) else s)


def threads_apart(func: LoopFunc) -> LoopFunc:
    """The function itself, if the iterations of its parallel loop provably don't disturb each other.

    Raises:
        ScheduleError: they may.
    """
    if any(isinstance(s, For) and s.kind == "parallel" for s in walk(func.body)):
        for _, message in no_races(program(func)):
            raise ScheduleError(message)
    return func
