"""The interpreter: runs a loop function in NumPy, slowly and plainly. It is the oracle of every rewrite and backend.

A Block's box is evaluated as flat arrays of points, in the order of its iterators. It shares no code with the passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import dtypes, interp_ops
from .affine import AffineExpr
from .interp_ops import Array
from .loop import (
    Access,
    Alloc,
    Apply,
    Block,
    Buffer,
    Const,
    Expr,
    For,
    If,
    Index,
    IndexValue,
    Let,
    LoopFunc,
    Pack,
    Read,
    Seq,
    Stmt,
    Where,
)
from .monoid import MONOIDS

# Every byte of an integer that was never written, so that reading one shows.
_POISON = 0xA5

Points = dict[str, Any]
"""Values of all variables in scope: a number for a loop, one number per point of the box for an iterator."""


class InterpError(RuntimeError):
    """A program that does something undefined, such as reading outside of a buffer."""


def interpret(func: LoopFunc, arrays: Mapping[str, Array] | Sequence[Array]) -> tuple[Array, ...]:
    """Run a function.

    Args:
        func: the function. Memory that it never wrote reads as NaN, true or an odd integer.
        arrays: inputs and constants, by name or in the order of the parameters. A constant may be given as it was
            before packing.

    Returns:
        The outputs.

    Raises:
        InterpError: the arrays don't fit, or an access is outside of its buffer, or an input is written.
    """
    given = _by_name(func, arrays)
    memory = {b.name: _input(b, np.asarray(given[b.name])) for b in func.inputs}
    memory.update({b.name: _poisoned(b) for b in func.outputs})
    _Machine(memory, frozenset(memory) - {b.name for b in func.outputs}).run(func.body, {})
    return tuple(memory[b.name] for b in func.outputs)


def pack_array(array: Array, packing: Sequence[Pack]) -> Array:
    """Lay an array out in panels (see `ir.loop.Pack`), the last panel of each axis padded with zeros."""
    for pack in packing:
        panels = -(-pack.extent // pack.factor)
        widths = [(0, 0)] * array.ndim
        widths[pack.axis] = (0, panels * pack.factor - pack.extent)
        padded = np.pad(array, widths)
        shape = padded.shape
        cut = padded.reshape(*shape[: pack.axis], panels, pack.factor, *shape[pack.axis + 1 :])
        array = np.moveaxis(cut, (pack.axis, pack.axis + 1), (0, -1))
    return array.copy(order="C")


def _by_name(func: LoopFunc, arrays: Mapping[str, Array] | Sequence[Array]) -> Mapping[str, Array]:
    names = [b.name for b in func.inputs]
    if not isinstance(arrays, Mapping):
        if len(arrays) != len(names):
            raise InterpError(f"expected {len(names)} arrays ({', '.join(names)}), found {len(arrays)}")
        return dict(zip(names, arrays, strict=True))
    missing = [n for n in names if n not in arrays]
    if missing:
        raise InterpError(f"expected arrays for {', '.join(names)}, found none for {', '.join(missing)}")
    return arrays


def _input(buffer: Buffer, array: Array) -> Array:
    if buffer.packing and array.ndim == len(buffer.shape) - len(buffer.packing):
        array = pack_array(array, buffer.packing)
    if array.shape != buffer.shape or array.dtype != dtypes.to_numpy(buffer.dtype):
        found = f"{array.dtype}{list(array.shape)}"
        raise InterpError(f"expected {buffer.dtype}{list(buffer.shape)} for {buffer.name}, found {found}")
    return array


def _poisoned(buffer: Buffer) -> Array:
    dtype = dtypes.to_numpy(buffer.dtype)
    if dtype.kind in "iu":
        count = int(np.prod(buffer.shape))
        return np.frombuffer(bytes([_POISON]) * (count * dtype.itemsize), dtype).reshape(buffer.shape).copy()
    return np.full(buffer.shape, np.nan if dtype.kind != "b" else True, dtype)


class _Machine:
    """Memory and the statements that change it."""

    def __init__(self, memory: dict[str, Array], read_only: frozenset[str]) -> None:
        self.memory = memory
        self.read_only = read_only

    def run(self, stmt: Stmt, env: Mapping[str, int]) -> None:
        match stmt:
            case Seq():
                for item in stmt.body:
                    self.run(item, env)
            case For():
                values = range(max(e.evaluate(env) for e in stmt.lower), min(e.evaluate(env) for e in stmt.upper))
                # A parallel loop may run in any order: backwards shows what depends on it.
                for value in reversed(values) if stmt.kind == "parallel" else values:
                    self.run(stmt.body, {**env, stmt.name: value})
            case If():
                if all(c.evaluate(env) >= 0 for c in stmt.conditions):
                    self.run(stmt.then, env)
                elif stmt.orelse is not None:
                    self.run(stmt.orelse, env)
            case Alloc():
                self.memory[stmt.buffer.name] = _poisoned(stmt.buffer)
                self.run(stmt.body, env)
                del self.memory[stmt.buffer.name]
            case Block():
                self.block(stmt, env)

    def block(self, block: Block, env: Mapping[str, int]) -> None:
        points, count = _box(block, env)
        holds = _all_hold(block.guard, points, count)
        if block.guard_mode == "zero":
            self.store_zeros(block, _select(points, ~holds), int(count - holds.sum()))
        points, count = _select(points, holds), int(holds.sum())
        if count == 0:
            return
        place = self.offsets(block, block.write, points, np.ones(count, bool))
        value = self.value(block, block.value, points, count)
        if block.monoid is None:
            self.target(block)[place] = value
        else:
            self.combine(block, place, value)

    def store_zeros(self, block: Block, points: Points, count: int) -> None:
        if count:
            place = self.offsets(block, block.write, points, np.ones(count, bool))
            self.target(block)[place] = 0

    def target(self, block: Block) -> Array:
        """The written buffer as one axis."""
        if block.write.buffer in self.read_only:
            raise InterpError(f"expected {block.name} to leave the input {block.write.buffer} alone")
        return self.memory[block.write.buffer].reshape(-1)

    def combine(self, block: Block, place: Array, value: Array) -> None:
        """Combine values into elements, one after the other where several go to the same element.

        Round ``r`` takes the ``r``-th value of every element.
        """
        target = self.target(block)
        op = MONOIDS[block.monoid or ""].combine
        order = np.argsort(place, kind="stable")
        grouped = place[order]
        turn = np.arange(len(place)) - np.searchsorted(grouped, grouped)
        rounds = np.split(order[np.argsort(turn, kind="stable")], np.cumsum(np.bincount(turn))[:-1])
        for now in rounds:
            at = place[now]
            target[at] = interp_ops.apply(op, [target[at], value[now]], block.value.dtype)

    def offsets(self, block: Block, access: Access | Read, points: Points, active: Array) -> Array:
        """Row-major places of an access at each point; 0 where it is not active."""
        if access.buffer not in self.memory:
            raise InterpError(f"expected {access.buffer} to be alive in {block.name}")
        shape = self.memory[access.buffer].shape
        if len(access.index) != len(shape):
            raise InterpError(f"expected {len(shape)} indices of {access.buffer} in {block.name}")
        offset = np.zeros(len(active), np.int64)
        for axis, (expr, extent) in enumerate(zip(access.index, shape, strict=True)):
            index = _values(expr, points, len(active))
            outside = active & ((index < 0) | (index >= extent))
            if outside.any():
                at = int(np.argmax(outside))
                where = ", ".join(f"{n}={int(np.broadcast_to(v, len(active))[at])}" for n, v in points.items())
                raise InterpError(
                    f"expected index {axis} of {access.buffer} in 0..{extent - 1}, found {expr} = {index[at]} "
                    f"in {block.name} at {where}"
                )
            offset = offset * extent + index
        return np.where(active, offset, 0)

    def value(self, block: Block, expr: Expr, points: Points, count: int) -> Array:
        """The expression at each point."""
        match expr:
            case Const():
                return np.full(count, expr.value, dtypes.to_numpy(expr.dtype))
            case IndexValue():
                return interp_ops.convert(_values(expr.expr, points, count), dtypes.to_numpy(expr.dtype))
            case Read():
                active = _all_hold(expr.guard, points, count)
                place = self.offsets(block, expr, points, active)
                found = np.full(count, expr.otherwise, dtypes.to_numpy(expr.dtype))
                found[active] = self.memory[expr.buffer].reshape(-1)[place[active]]
                return found
            case Apply():
                args = [self.value(block, a, points, count) for a in expr.args]
                if expr.op not in interp_ops.NAMES:
                    raise InterpError(f"expected a known function in {block.name}, found {expr.op}")
                return interp_ops.apply(expr.op, args, expr.dtype, expr.params)
            case Where():
                holds = _all_hold((expr.condition,), points, count)
                found = np.empty(count, dtypes.to_numpy(expr.dtype))
                for part, chosen in ((expr.then, holds), (expr.orelse, ~holds)):
                    found[chosen] = self.value(block, part, _select(points, chosen), int(chosen.sum()))
                return found
            case Let():
                value = self.value(block, expr.value, points, count)
                bound = np.array([min(max(int(v), 0), expr.extent - 1) for v in value], np.int64)
                return self.value(block, expr.body, {**points, expr.name: bound}, count)


def _box(block: Block, env: Mapping[str, int]) -> tuple[Points, int]:
    """All points of a box that its limits leave, in order."""
    axes = []
    for it in block.iters:
        first = it.lower.evaluate(env)
        end = first + it.extent if it.limit is None else min(first + it.extent, it.limit.evaluate(env))
        axes.append(np.arange(first, end))
    grid = [a.reshape(-1) for a in np.meshgrid(*axes, indexing="ij")]
    count = len(grid[0]) if grid else 1
    return {**env, **{it.name: a for it, a in zip(block.iters, grid, strict=True)}}, count


def _select(points: Points, chosen: Array) -> Points:
    return {n: v[chosen] if isinstance(v, np.ndarray) else v for n, v in points.items()}


def _values(expr: AffineExpr, points: Points, count: int) -> Array:
    return np.broadcast_to(np.asarray(expr.evaluate(points), np.int64), (count,))


def _all_hold(conditions: Index, points: Points, count: int) -> Array:
    holds = np.ones(count, bool)
    for condition in conditions:
        holds = holds & (_values(condition, points, count) >= 0)
    return holds
