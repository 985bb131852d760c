"""Tiles that a mask makes one constant: what they add is known without computing them.

A causal mask puts the same value ``c`` in place of all scores beyond the diagonal. Equal scores combine in closed form:
``n`` of them have the maximum ``c``, and a sum of ``exp(x - m) * v`` over them is ``exp(c - m) * sum(v)``. So a tile
that is masked as a whole only adds up ``v`` and counts, and one more partial result, with all that was skipped, is
joined behind the loop. That is exact whatever ``c`` is: a row that is masked as a whole is still the average of all
``v`` where ``c`` is finite and NaN where it is minus infinity, and what is not finite in ``v`` counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..ir.affine import AffineExpr, constant, var
from ..ir.loop import Access, Apply, Block, Buffer, Const, Expr, Index, IndexValue, Iter, Read, Stmt, map_indices, seq
from .edit import solve
from .stream_blocks import Joining
from .stream_parts import SHIFT, Streamed

MASKED = ".masked"
"""Suffix of everything that is made for tiles that are masked as a whole."""
_COMPARE: dict[str, tuple[int, int]] = {"ge": (1, 0), "gt": (1, -1), "le": (-1, 0), "lt": (-1, -1)}
_MOST, _MOST_STEP = 1 << 30, 1 << 16
_NEGATED = {"ge": "lt", "gt": "le", "le": "gt", "lt": "ge"}


@dataclass(frozen=True, slots=True)
class Masked:
    """What becomes of tiles that are masked as a whole.

    Args:
        conditions: each ``expression >= 0``; where one fails, the tile is masked.
        instead: what such a tile adds up.
        before: Blocks that initialise it.
        after: Blocks that join it with the rest, behind the loop.
        buffers: allocated around the loop.
    """

    conditions: Index
    instead: Stmt
    before: list[Block]
    after: list[Block]
    buffers: list[Buffer]


def masked(parts: Streamed, narrow: Callable[[Block], Block], used: set[str]) -> Masked | None:
    """What to do with masked tiles; None if `skips` says that there are none.

    Args:
        parts: what is streamed.
        narrow: cuts a Block down to a tile of the axis.
        used: names that are taken; grows.
    """
    found = _mask(parts)
    if found is None or not skips(parts):
        return None
    owner, kept, value = found
    box = narrow(owner).iters
    conditions = tuple(_largest(condition, box) for condition in kept)
    return _Skipped(parts, narrow, used, value).whole(conditions)


def skips(parts: Streamed) -> bool:
    """Whether a mask may make whole tiles constant, and everything that is reduced depends on the maximum."""
    return _mask(parts) is not None and all(b is parts.key or b.write.buffer in parts.scaled for b in parts.reductions)


# ---- the mask


def _mask(parts: Streamed) -> tuple[Block, list[AffineExpr], float] | None:
    """The Block that masks the scores, conditions without which they are masked, and what with."""
    owner, scores = parts.key, parts.key.value
    if isinstance(scores, Read):
        writers = [b for b in parts.items if isinstance(b, Block) and b.write.buffer == scores.buffer]
        if len(writers) != 1 or writers[0].monoid is not None or writers[0].guard or scores.guard:
            return None
        owner, scores = writers[0], writers[0].value
    if not isinstance(scores, Apply) or scores.op != "select_n":
        return None
    test, *cases = scores.args
    for number, case in enumerate(cases):
        if isinstance(case, Const) and (math.isfinite(case.value) or case.value == -math.inf):
            kept = _conditions(test, holds=number == 0)
            return (owner, kept, float(case.value)) if kept else None
    return None


def _conditions(test: Expr, holds: bool) -> list[AffineExpr]:
    """Conditions on indices that follow from a test that holds, or fails."""
    if not isinstance(test, Apply):
        return []
    if test.op == "not":
        return _conditions(test.args[0], not holds)
    if test.op == ("and" if holds else "or"):
        return [c for a in test.args for c in _conditions(a, holds)]
    op = test.op if holds else _NEGATED.get(test.op, "")
    sides = [_index(a) for a in test.args] if op in _COMPARE else []
    if len(sides) != 2 or sides[0] is None or sides[1] is None:
        return []
    sign, shift = _COMPARE[op]
    return [(sides[0] - sides[1]) * sign + shift]


def _index(e: Expr) -> AffineExpr | None:
    """An integer expression of indices."""
    if isinstance(e, IndexValue):
        return e.expr if e.dtype == "int32" else None
    if isinstance(e, Const):
        return constant(int(e.value)) if e.dtype == "int32" else None
    if not isinstance(e, Apply) or e.op not in ("add", "sub") or e.dtype != "int32":
        return None
    left, right = (_index(a) for a in e.args)
    if left is None or right is None:
        return None
    found = left + right if e.op == "add" else left - right
    return found if _is_small(found) else None


def _is_small(index: AffineExpr) -> bool:
    """Whether an expression of places in arrays surely stays an int32, where it would wrap around."""
    return abs(index.const) < _MOST and all(abs(k) < _MOST_STEP for _, k in index.terms)


def _largest(condition: AffineExpr, box: tuple[Iter, ...]) -> AffineExpr:
    """The largest value of an expression in a box, in terms of the loops around; limits are passed over."""
    for it in box:
        step = condition.coefficient(it.name)
        rest = condition - var(it.name) * step
        if it.name in rest.variables():
            return constant(0)
        condition = rest + it.lower * step + max(step, 0) * (it.extent - 1)
    return condition


# ---- what is skipped


class _Skipped:
    """Adds up what masked tiles hold, and joins it with the rest."""

    def __init__(self, parts: Streamed, narrow: Callable[[Block], Block], used: set[str], value: float) -> None:
        self.parts = parts
        self.narrow = narrow
        self.value = value
        self.join = Joining(parts, used, MASKED)
        self.dtype = self.join.safe.dtype
        self.unit = 2.0 ** -math.ceil(math.log2(max(parts.extent, 1)))
        """Sums are kept this much smaller, so that they overflow no sooner than averages do."""
        self.weight = self.join.private(f"{parts.key.write.buffer}.weight", self.join.safe)
        self.count = Buffer(self.join.name(f"{parts.key.write.buffer}.count"), (1,), self.dtype, "cache")

    def whole(self, conditions: Index) -> Masked:
        """Everything that is made of the skipped tiles."""
        one = Const(1.0, self.dtype)
        key = self.narrow(self.parts.key)
        along = tuple(i for i in key.iters if i.name == self.parts.along[key.name])
        place = Access(self.count.name, (constant(0),))
        before = [Block(self.join.name(f"{key.name}.count_init"), (), place, Const(0.0, self.dtype))]
        instead = [Block(self.join.name(f"{key.name}.count"), along, place, one, "sum")]
        after = self._weights()
        buffers = [self.count, self.weight, *self.join.buffers]
        for block in self.parts.reductions:
            if block is not self.parts.key:
                init, update, total = self._sum(block)
                before.append(init)
                instead.append(update)
                buffers.append(total)
                after.append(
                    self.join.joined(block, self._term(block, Read(total.name, update.write.index, self.dtype)))
                )
        return Masked(conditions, seq(*instead), before, after, buffers)

    def _weights(self) -> list[Block]:
        """The maximum with that of what was skipped, and the weight of each of its elements."""
        none = Const(-math.inf, self.dtype)
        masked = Const(self.value, self.dtype)
        some = Apply("gt", (Read(self.count.name, (constant(0),), self.dtype), Const(0.0, self.dtype)), "bool")
        maximum = self.join.maximum(Apply("select_n", (some, none, masked), self.dtype))
        gap = Apply("sub", (masked, Read(self.join.safe.name, self.parts.key.write.index, self.dtype)), self.dtype)
        weight = Apply("select_n", (some, Const(0.0, self.dtype), Apply("exp", (gap,), self.dtype)), self.dtype)
        return [*maximum, self.join.row("weight", self.weight, weight)]

    def _sum(self, block: Block) -> tuple[Block, Block, Buffer]:
        """Adds up what the weight of masked elements is multiplied by, once for all rows that have it in common."""
        factor = self._factor(self.parts.values[block.name], block)
        tile = self.narrow(replace(block, value=factor))
        names = {n for e in _indices(factor) for n in e.variables()}
        along = self.parts.along[block.name]
        iters = tuple(i for i in tile.iters if i.name in names or i.name == along)
        index: list[AffineExpr] = []
        shape: list[int] = []
        for expr, extent in zip(block.write.index, self.parts.buffers[block.write.buffer].shape, strict=True):
            own = {n for n in expr.variables() if block.iterator(n) is not None}
            index.append(expr if own & names else constant(0))
            shape.append(extent if own & names else 1)
        total = Buffer(self.join.name(f"{block.write.buffer}.sum"), tuple(shape), self.dtype, "cache")
        write = Access(total.name, tuple(index))
        value = Apply("mul", (factor, Const(self.unit, self.dtype)), self.dtype)
        data = tuple(i for i in iters if i.kind == "data")
        init = Block(self.join.name(f"{block.name}.sum_init"), data, write, Const(0.0, self.dtype))
        return init, Block(self.join.name(f"{block.name}.sum"), iters, write, value, "sum"), total

    def _term(self, block: Block, total: Read) -> Expr:
        scaled = self.parts.scaled[block.write.buffer]
        weighed = Apply("mul", (total, Read(self.weight.name, scaled.row, self.dtype)), self.dtype)
        return Apply("mul", (weighed, Const(1 / self.unit, self.dtype)), self.dtype)

    def _factor(self, e: Expr, block: Block) -> Expr:
        """What multiplies ``exp(x - shift)`` in an expression that holds it."""
        if isinstance(e, Read) and e.buffer in self.parts.scaled:
            writer = next(b for b in self.parts.items if isinstance(b, Block) and b.write.buffer == e.buffer)
            env = solve(writer, e.index)
            assert env is not None
            value = map_indices(self.parts.values[writer.name], lambda i: i.substitute(env))
            return self._factor(value, block)
        if not isinstance(e, Apply) or not self._holds(e):
            return e
        if e.op == "exp":
            return Const(1.0, self.dtype)
        args = tuple(self._factor(a, block) for a in e.args)
        if e.op == "mul":
            for one, other in (args, args[::-1]):
                if isinstance(one, Const) and one.value == 1.0:
                    return other
        return replace(e, args=args)

    def _holds(self, e: Expr) -> bool:
        """Whether an expression has the factor."""
        if isinstance(e, Read):
            return e.buffer == SHIFT or e.buffer in self.parts.scaled
        return isinstance(e, Apply) and any(self._holds(a) for a in e.args)


def _indices(e: Expr) -> list[AffineExpr]:
    found: list[AffineExpr] = []
    map_indices(e, lambda i: (found.append(i), i)[1])
    return found
