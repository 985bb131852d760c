"""Small random loop functions for property tests: chains of the operations that models are made of.

Values are small integers, also in float32, so that sums don't round and results can be compared exactly in whatever
order they were computed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from tilewright.ir.affine import AffineExpr, constant, delinearize, linearize, var
from tilewright.ir.loop import (
    Access,
    Alloc,
    Apply,
    Block,
    Buffer,
    Const,
    Expr,
    For,
    IndexValue,
    Iter,
    LoopFunc,
    Read,
    Stmt,
    blocks,
    rewrite,
    seq,
)

MAX_RANK = 3
MAX_EXTENT = 6
# Finite, so that an empty maximum times zero is not NaN.
START = {"sum": 0, "max": -4, "min": 4}
Place = tuple[AffineExpr, ...]


def random_program(rng: np.random.Generator, stages: int = 3) -> LoopFunc:
    """A valid, unscheduled function of ``stages`` random operations with one output."""
    return _Builder(rng).build(stages)


def tile(func: LoopFunc, rng: np.random.Generator) -> LoopFunc:
    """The same function with a random iterator of a random Block made a loop over tiles, the last one cut."""
    choices = [(b, i) for b in blocks(func.body) for i in b.iters if i.extent > 1 and i.limit is None]
    if not choices:
        return func
    block, it = choices[rng.integers(len(choices))]
    factor = int(rng.integers(1, it.extent + 1))
    loops = {s.name for s in _loops(func.body)}
    name = next(n for n in (f"{block.name}.{it.name}.{count}" for count in range(100)) if n not in loops)
    inner = replace(it, lower=it.lower + var(name) * factor, extent=factor, limit=it.lower + it.extent)
    new = replace(block, iters=tuple(inner if i is it else i for i in block.iters))
    loop = For(name, (constant(0),), (constant(-(-it.extent // factor)),), new)
    body = rewrite(func.body, lambda s: loop if s is block else s)
    assert body is not None
    return replace(func, body=body)


def random_inputs(func: LoopFunc, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Small integers for every input and constant."""
    return {b.name: rng.integers(-2, 3, b.shape).astype(b.dtype) for b in func.inputs}


def programs(stages: int = 3, tiles: int = 0) -> st.SearchStrategy[LoopFunc]:
    """Hypothesis strategy for `random_program`, tiled ``tiles`` times."""

    def make(seed: int) -> LoopFunc:
        rng = np.random.default_rng(seed)
        func = random_program(rng, stages)
        for _ in range(tiles):
            func = tile(func, rng)
        return func

    return st.integers(0, 2**32 - 1).map(make)


def _loops(stmt: Stmt) -> list[For]:
    found: list[For] = []
    rewrite(stmt, lambda s: found.append(s) or s if isinstance(s, For) else s)
    return found


class _Builder:
    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.params: list[Buffer] = []
        self.made: list[Buffer] = []
        self.blocks: list[Block] = []
        self.names = 0

    def build(self, stages: int) -> LoopFunc:
        dtype = "float32" if self.chance(0.7) else "int32"
        for _ in range(int(self.rng.integers(1, 3))):
            rank = int(self.rng.integers(1, MAX_RANK + 1))
            self.parameter(tuple(self.extent() for _ in range(rank)), dtype, "x")
        current = self.params[0]
        kinds = [self.elementwise, self.broadcast, self.reduce, self.matmul, self.window, self.transpose, self.flatten]
        for _ in range(stages):
            kind = kinds[self.rng.integers(len(kinds))]
            current = kind(current) if current.shape else self.scalar(current)
        output = current
        body = seq(*self.blocks)
        for buffer in reversed(self.made):
            if buffer is not output:
                body = Alloc(buffer, body)
        return LoopFunc("random", (*self.params, output), 1, body)

    # ---- pieces

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def extent(self) -> int:
        return 0 if self.chance(0.02) else int(self.rng.integers(1, MAX_EXTENT + 1))

    def fresh(self, prefix: str) -> str:
        self.names += 1
        return f"{prefix}{self.names}"

    def parameter(self, shape: tuple[int, ...], dtype: str, prefix: str) -> Buffer:
        buffer = Buffer(self.fresh(prefix), shape, dtype, "constant" if prefix == "w" else "global")
        self.params.append(buffer)
        return buffer

    def result(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        buffer = Buffer(self.fresh("t"), shape, dtype)
        self.made.append(buffer)
        return buffer

    def box(self, shape: tuple[int, ...]) -> tuple[tuple[Iter, ...], Place]:
        iters = tuple(Iter(f"i{n}", constant(0), extent) for n, extent in enumerate(shape))
        return iters, tuple(var(i.name) for i in iters)

    def store(self, shape: tuple[int, ...], iters: tuple[Iter, ...], place: Place, value: Expr) -> Buffer:
        out = self.result(shape, value.dtype)
        self.blocks.append(Block(self.fresh("b"), iters, Access(out.name, place), value))
        return out

    def accumulate(self, shape: tuple[int, ...], monoid: str, reduced: Iter, value: Expr) -> Buffer:
        iters, place = self.box(shape)
        out = self.store(shape, iters, place, Const(START[monoid], value.dtype))
        order = [*iters, reduced]
        self.rng.shuffle(order)  # pyright: ignore[reportArgumentType]
        self.blocks.append(Block(self.fresh("b"), tuple(order), Access(out.name, place), value, monoid))
        return out

    # ---- operations

    def elementwise(self, x: Buffer) -> Buffer:
        iters, place = self.box(x.shape)
        value: Expr = Read(x.name, place, x.dtype)
        match int(self.rng.integers(4)):
            case 0:
                value = Apply("max", (value, Const(0, x.dtype)), x.dtype)
            case 1:
                value = Apply("neg", (value,), x.dtype)
            case 2:
                value = Apply("sub", (Const(1, x.dtype), Apply("abs", (value,), x.dtype)), x.dtype)
            case _:
                count = IndexValue(place[0] * 2 - 3, "int32")
                small = Apply("lt", (count, Const(2, "int32")), "bool")
                value = Apply("select_n", (small, value, Apply("convert_element_type", (count,), x.dtype)), x.dtype)
        return self.store(x.shape, iters, place, value)

    def scalar(self, x: Buffer) -> Buffer:
        return self.store((), (), (), Apply("neg", (Read(x.name, (), x.dtype),), x.dtype))

    def broadcast(self, x: Buffer) -> Buffer:
        iters, place = self.box(x.shape)
        fitting = [b for b in (*self.params, *self.made) if len(b.shape) <= len(x.shape) and b.dtype == x.dtype]
        fitting = [b for b in fitting if b.shape == x.shape[len(x.shape) - len(b.shape) :]]
        other = fitting[self.rng.integers(len(fitting))]
        read = Read(other.name, place[len(place) - len(other.shape) :], other.dtype)
        op = ("add", "min", "sub")[self.rng.integers(3)]
        return self.store(x.shape, iters, place, Apply(op, (Read(x.name, place, x.dtype), read), x.dtype))

    def reduce(self, x: Buffer) -> Buffer:
        axis = int(self.rng.integers(len(x.shape)))
        rest = x.shape[:axis] + x.shape[axis + 1 :]
        _, place = self.box(rest)
        reduced = Iter("r", constant(0), x.shape[axis], "reduce")
        monoid = ("sum", "max", "min")[self.rng.integers(3)]
        index = (*place[:axis], var("r"), *place[axis:])
        return self.accumulate(rest, monoid, reduced, Read(x.name, index, x.dtype))

    def matmul(self, x: Buffer) -> Buffer:
        depth, width = x.shape[-1], self.extent()
        w = self.parameter((depth, width), x.dtype, "w")
        shape = (*x.shape[:-1], width)
        _, place = self.box(shape)
        reads = (
            Read(x.name, (*place[:-1], var("r")), x.dtype),
            Read(w.name, (var("r"), place[-1]), x.dtype),
        )
        return self.accumulate(shape, "sum", Iter("r", constant(0), depth, "reduce"), Apply("mul", reads, x.dtype))

    def window(self, x: Buffer) -> Buffer:
        taps, stride, pad = (int(self.rng.integers(a, b)) for a, b in ((1, 4), (1, 3), (0, 3)))
        extent = max(0, (x.shape[-1] + 2 * pad - taps) // stride + 1)
        shape = (*x.shape[:-1], extent)
        _, place = self.box(shape)
        at = place[-1] * stride + var("r") - pad
        monoid = ("sum", "max")[self.rng.integers(2)]
        guard = (at, constant(x.shape[-1] - 1) - at) if pad else ()
        value = Read(x.name, (*place[:-1], at), x.dtype, guard, START[monoid])
        return self.accumulate(shape, monoid, Iter("r", constant(0), taps, "reduce"), value)

    def transpose(self, x: Buffer) -> Buffer:
        order = [int(n) for n in self.rng.permutation(len(x.shape))]
        iters, place = self.box(x.shape)
        value = Read(x.name, place, x.dtype)
        return self.store(tuple(x.shape[n] for n in order), iters, tuple(place[n] for n in order), value)

    def flatten(self, x: Buffer) -> Buffer:
        if len(x.shape) < 2:
            return self.elementwise(x)
        size = int(np.prod(x.shape))
        if self.chance(0.5):
            iters, place = self.box((size,))
            return self.store((size,), iters, place, Read(x.name, delinearize(place[0], x.shape), x.dtype))
        iters, place = self.box(x.shape)
        return self.store((size,), iters, (linearize(place, x.shape),), Read(x.name, place, x.dtype))
