"""Reading ahead: while a kernel computes, what a later one will read is fetched into the cache, a line at a time.

The weights of a large network are not in the cache when their kernel starts, and the memory is idle while the kernels
before it compute. So a caller tells a kernel where memory begins and ends that will be read soon (`kernel` has the
convention), and loops that mostly multiply and add ask for one line of it per iteration. Fetching is a hint to the
processor: it never faults and changes no result.
"""

from __future__ import annotations

import math

from ...ir.loop import Block, For, Stmt, children
from .access import I64
from .builder import Builder

LINE_BYTES = 64
_BUSY = 8
"""Vector multiply-adds in an iteration from which a loop has time to fetch a line."""
_SECOND_LEVEL = 2


def busy(loop: For, lanes: int) -> bool:
    """Whether a loop is an innermost one whose iterations take many multiply-adds."""
    return loop.kind == "serial" and work(loop.body, lanes) >= _BUSY


def any_busy(stmt: Stmt, lanes: int) -> bool:
    """Whether a program has a loop that reads ahead."""
    if isinstance(stmt, For) and busy(stmt, lanes):
        return True
    return any(any_busy(child, lanes) for child in children(stmt))


def work(stmt: Stmt, lanes: int) -> int:
    """Vector multiply-adds of straight-line code; loops in it do not count."""
    if isinstance(stmt, For):
        return 0
    if isinstance(stmt, Block):
        wide = any(i.vectorized for i in stmt.iters)
        return math.prod(i.extent for i in stmt.iters) // lanes if wide and stmt.monoid == "sum" else 0
    return sum(work(child, lanes) for child in children(stmt))


def part(b: Builder, position: int, extent: int) -> tuple[str, str]:
    """The first and the last line of what the range ``[%lo, %hi)`` of a kernel shall fetch.

    Args:
        b: the builder, in the kernel's entry function.
        position: where in ``%bufs`` the begin of the memory stands, followed by its end.
        extent: of the kernel's parallel range.
    """
    begin = b.value(f"load ptr, ptr {b.gep('ptr', '%bufs', position)}")
    end = b.value(f"load ptr, ptr {b.gep('ptr', '%bufs', position + 1)}")
    size = b.op("sub", I64, b.value(f"ptrtoint ptr {end} to i64"), b.value(f"ptrtoint ptr {begin} to i64"))
    bounds = [b.op("udiv", I64, b.op("mul", I64, size, at), str(extent)) for at in ("%lo", "%hi")]
    first = b.op("and", I64, bounds[0], str(-LINE_BYTES))
    last = b.intrinsic("smax", I64, b.op("sub", I64, bounds[1], str(LINE_BYTES)), first)
    return b.gep("i8", begin, first), b.gep("i8", begin, last)


def fetch(b: Builder, line: str) -> None:
    """Fetch the line at an address into the second-level cache."""
    b.call("llvm.prefetch.p0", "void", (("ptr", line), ("i32", "0"), ("i32", str(_SECOND_LEVEL)), ("i32", "1")))


def start(b: Builder) -> str:
    """The place that holds what is fetched next, in a function with the parameters ``%next`` and ``%last``."""
    place = b.alloca("ptr", 8)
    b.emit(f"store ptr %next, ptr {place}")
    return place


def step(b: Builder, place: str) -> None:
    """Fetch a line into the second-level cache and go on to the next one, up to the last."""
    line = b.effect(f"load ptr, ptr {place}")
    fetch(b, line)
    following = b.gep("i8", line, LINE_BYTES)
    more = b.effect(f"icmp ult ptr {following}, %last")
    b.emit(f"store ptr {b.effect(f'select i1 {more}, ptr {following}, ptr %last')}, ptr {place}")
