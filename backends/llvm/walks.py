"""Walks over memory: loops that multiply and add fetch what the next iterations around them will touch.

A walk goes line by line over rows at equal distances (`passes.next_parts`). Walks stand in a table on the stack, those
of inner loops first, and behind them what the caller asks for (`read_ahead`); each iteration of a busy loop takes one
step of the first walk that is not over. A loop sets its walks anew when an iteration begins. Nothing branches: the
step is a handful of scalar instructions beside the vectors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ...ir import dtypes
from ...ir.affine import linearize, var
from ...ir.loop import For, LoopFunc, Stmt, children
from ...ir.target import Target
from ...passes.next_parts import Part, next_parts
from .access import I64, Scopes
from .builder import Builder
from .memory import Memory
from .read_ahead import LINE_BYTES, fetch, work

_FIELDS = ("line", "row_end", "end", "gap", "stride")
"""Next line, end of its row, end of all rows, and from row to row: bytes between and distance."""
_WALK_BYTES = 8 * len(_FIELDS)
_SHARE_OF_L2 = 8
"""A walk covers at most this part of the second-level cache, which also holds what is in use."""
_RARELY = (1, 1000)
_BUSY = 12
"""Vector multiply-adds in an iteration from which a step costs nothing: it hides behind them."""


def walked_parts(func: LoopFunc, lanes: int, target: Target) -> dict[str, tuple[Part, ...]]:
    """What each loop around a busy one fetches for its next iteration.

    Args:
        func: a legal program.
        lanes: values per vector.
        target: the CPU; a program all of whose parameters its second-level cache holds fetches nothing.

    Returns:
        Parts by loop name, inner loops first.
    """
    if sum(math.prod(b.shape) * dtypes.itemsize(b.dtype) for b in func.params) <= target.l2_bytes:
        return {}
    loops = [loop for loop in _around_busy(func.body, lanes) if _counted(loop)]
    found = next_parts(func, loops, target.l2_bytes // _SHARE_OF_L2)
    return {loop.name: found[loop.name] for loop in reversed(loops) if loop.name in found}


def steps(loop: For, lanes: int) -> bool:
    """Whether each iteration of a loop takes a step of a walk."""
    return loop.kind == "serial" and work(loop.body, lanes) >= _BUSY


def _counted(loop: For) -> bool:
    bounds = (*loop.lower, *loop.upper)
    return loop.kind in ("serial", "parallel") and len(bounds) == 2 and all(e.is_constant for e in bounds)


def _around_busy(stmt: Stmt, lanes: int) -> list[For]:
    """Loops with a busy one inside, outer ones first."""
    inner = [loop for child in children(stmt) for loop in _around_busy(child, lanes)]
    around = isinstance(stmt, For) and (bool(inner) or any(_has_step(c, lanes) for c in children(stmt)))
    return [stmt, *inner] if around and isinstance(stmt, For) else inner


def _has_step(stmt: Stmt, lanes: int) -> bool:
    """Whether a busy loop is inside, with none around it."""
    if isinstance(stmt, For):
        return steps(stmt, lanes)
    return any(_has_step(child, lanes) for child in children(stmt))


@dataclass(slots=True)
class Walks:
    """The table of walks of one function.

    Args:
        builder: gets the instructions.
        parts: what loops fetch, by name, in the order of the table (`walked_parts`).
    """

    builder: Builder
    parts: dict[str, tuple[Part, ...]]
    _table: str = ""
    _current: str = ""
    _state: dict[str, str] = field(default_factory=dict)
    _places: dict[str, int] = field(default_factory=dict)

    def begin(self) -> None:
        """Lay out the table, in a function with the parameters ``%next`` and ``%last``: all walks but the last over."""
        b, count = self.builder, 0
        for name, parts in self.parts.items():
            self._places[name] = count
            count += len(parts)
        self._table = b.alloca(f"[{(count + 1) * len(_FIELDS)} x i64]", 64)
        self._current = b.alloca("ptr", 8)
        self._state = {name: b.alloca("i64", 8) for name in _FIELDS}
        begin, last = (b.value(f"ptrtoint ptr {p} to i64") for p in ("%next", "%last"))
        for number in range(count):
            self._set(number, {"line": begin, "row_end": begin, "end": begin, "gap": "0", "stride": "0"})
        # At the end of what the caller asks for, the last line is fetched again and again.
        row_end = b.op("add", I64, last, "1")
        self._set(count, {"line": begin, "row_end": row_end, "end": "-1", "gap": "-1", "stride": "0"})
        self._enter(self._table)

    def iteration(self, loop: For, scopes: Scopes, memory: Memory) -> None:
        """At the begin of an iteration of a loop: walk over what the next one touches, the first one after the last."""
        b = self.builder
        self._leave()
        counter, first = scopes.registers[loop.name], loop.lower[0].const
        after = b.op("add", I64, counter, "1", "nsw")
        more = b.compare("lt", I64, after, str(loop.upper[0].const))
        following = f"{loop.name}+"
        scopes.registers[following] = b.select(I64, more, after, str(first))
        for number, part in enumerate(self.parts[loop.name], self._places[loop.name]):
            place = memory.places[part.buffer]
            index = tuple(scopes.resolve(e).substitute({loop.name: var(following)}) for e in part.index)
            offset = linearize(index, place.buffer.shape) * dtypes.itemsize(place.buffer.dtype)
            line = b.op("add", I64, b.value(f"ptrtoint ptr {place.base} to i64"), scopes.value(offset))
            row_end = b.op("add", I64, line, str(part.row_bytes))
            end = b.op("add", I64, row_end, str((part.rows - 1) * part.stride_bytes))
            gap, stride = str(part.stride_bytes - part.row_bytes), str(part.stride_bytes)
            self._set(number, {"line": line, "row_end": row_end, "end": end, "gap": gap, "stride": stride})
        self._enter(self._table)

    def step(self) -> None:
        """Fetch a line and go on to the next one; where a walk is over, to the next walk."""
        b = self.builder
        line, row_end, end, gap, stride = (b.effect(f"load i64, ptr {self._state[name]}") for name in _FIELDS)
        fetch(b, b.effect(f"inttoptr i64 {line} to ptr"))
        following = b.effect(f"add i64 {line}, {LINE_BYTES}")
        more = b.effect(f"icmp ult i64 {following}, {row_end}")
        next_row, next_end = b.effect(f"add i64 {row_end}, {gap}"), b.effect(f"add i64 {row_end}, {stride}")
        following = b.effect(f"select i1 {more}, i64 {following}, i64 {next_row}")
        row_end = b.effect(f"select i1 {more}, i64 {row_end}, i64 {next_end}")
        b.emit(f"store i64 {following}, ptr {self._state['line']}")
        b.emit(f"store i64 {row_end}, ptr {self._state['row_end']}")
        over, rest = b.fresh_label("over"), b.fresh_label("rest")
        b.cond_br(b.effect(f"icmp uge i64 {following}, {end}"), over, rest, _RARELY)
        b.label(over)
        self._leave()
        current = b.effect(f"load ptr, ptr {self._current}")
        self._enter(b.effect(f"getelementptr i8, ptr {current}, i64 {_WALK_BYTES}"))
        b.br(rest)
        b.label(rest)

    def _leave(self) -> None:
        """Note in the table how far the current walk went."""
        b = self.builder
        current = b.effect(f"load ptr, ptr {self._current}")
        for number, name in enumerate(_FIELDS[:2]):
            value = b.effect(f"load i64, ptr {self._state[name]}")
            b.emit(f"store i64 {value}, ptr {b.effect(f'getelementptr i64, ptr {current}, i64 {number}')}")

    def _enter(self, walk: str) -> None:
        """Go on with a walk of the table: in registers, as code generation sees it."""
        b = self.builder
        b.emit(f"store ptr {walk}, ptr {self._current}")
        for number, name in enumerate(_FIELDS):
            value = b.effect(f"load i64, ptr {b.effect(f'getelementptr i64, ptr {walk}, i64 {number}')}")
            b.emit(f"store i64 {value}, ptr {self._state[name]}")

    def _set(self, number: int, values: dict[str, str]) -> None:
        for position, name in enumerate(_FIELDS):
            place = self.builder.gep("i64", self._table, number * len(_FIELDS) + position)
            self.builder.emit(f"store i64 {values[name]}, ptr {place}")
