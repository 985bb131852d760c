"""One cell of a kernel's grid: the statements that run in it, and what they keep."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from ...ir.affine import Range
from ...ir.loop import Alloc, Block, For, Seq, Stmt, blocks
from .blocks import run_block
from .errors import PallasError
from .nest import Kernel, Phase
from .prepare import loop_ranges
from .routes import Route
from .storage import Storage, Value
from .windows import dims_of, private_ends


def loop_value(loop: For, number: Any) -> Any:
    """The value of a grid loop in the cell of a number."""
    first = loop.lower[0].const
    return number + first if first else number


class Cell:
    """Emits the code of one cell.

    Args:
        kernel: what runs.
        memory: storage of buffers from outside and of those that are kept from cell to cell.
        route: the compiler that the code is meant for.
    """

    def __init__(self, kernel: Kernel, memory: Mapping[str, Storage], route: Route) -> None:
        self._kernel = kernel
        self._memory = dict(memory)
        self._route = route
        self._ranges: dict[str, Range] = loop_ranges(kernel.grid)
        self._numbers = [pl.program_id(n) for n in range(len(kernel.grid))]
        self._loops: dict[str, Any] = {
            loop.name: loop_value(loop, number) for loop, number in zip(kernel.grid, self._numbers, strict=True)
        }

    def run(self) -> None:
        """Emit every phase, those of first and last cells under their condition."""
        for phase in self._kernel.phases:
            conditions = self._conditions(phase)
            if conditions:
                pl.when(reduce(jnp.logical_and, conditions))(lambda phase=phase: self._run(phase.stmt))
            else:
                self._run(phase.stmt)

    def _conditions(self, phase: Phase) -> list[Any]:
        if phase.when == "every":
            return []
        inner = list(zip(self._numbers, self._kernel.trips, strict=True))[phase.depth :]
        return [number == (0 if phase.when == "first" else trips - 1) for number, trips in inner if trips > 1]

    def _run(self, stmt: Stmt) -> None:
        match stmt:
            case Seq():
                for inner in stmt.body:
                    self._run(inner)
            case Alloc():
                dims, ends = dims_of(stmt.buffer, stmt.body), private_ends(stmt.body, stmt.buffer)
                self._memory[stmt.buffer.name] = Value(stmt.buffer, dims, ends)
                self._run(stmt.body)
                del self._memory[stmt.buffer.name]
            case Block():
                run_block(stmt, self._loops, self._ranges, self._memory, self._route)
            case For():
                self._loop(stmt)
            case _:
                raise PallasError(f"expected loops and Blocks, found a {type(stmt).__name__}")

    def _loop(self, loop: For) -> None:
        first, end = loop.lower[0].const, loop.upper[0].const
        if loop.kind == "unroll" or end - first == 1:
            for value in range(first, end):
                self._iteration(loop, value, (value, value))
            return
        carried = self._carried(loop)

        def body(number: Any, tiles: tuple[Any, ...]) -> tuple[Any, ...]:
            _hand_over(carried, tiles)
            self._iteration(loop, lax.convert_element_type(number, jnp.int32), (first, end - 1))
            return tuple(value.settled() for value in carried)

        start = tuple(value.settled() for value in carried)
        _hand_over(carried, lax.fori_loop(first, end, body, start))

    def _iteration(self, loop: For, value: Any, interval: Range) -> None:
        self._loops[loop.name], self._ranges[loop.name] = value, interval
        self._run(loop.body)
        del self._loops[loop.name], self._ranges[loop.name]

    def _carried(self, loop: For) -> list[Value]:
        """The values from outside of a loop that its iterations hand on."""
        written = dict.fromkeys(b.write.buffer for b in blocks(loop.body))
        found = (self._memory.get(name) for name in written)
        return [value for value in found if isinstance(value, Value)]


def _hand_over(carried: list[Value], tiles: tuple[Any, ...]) -> None:
    for value, tile in zip(carried, tiles, strict=True):
        value.tile = tile
