"""Which lanes of a vector are in use: the ends of tails, and guards that differ between lanes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from ...ir.affine import AffineExpr, constant, var
from .access import I64, Scopes
from .builder import Builder, vtype


@dataclass(frozen=True, slots=True)
class Mask:
    """The lanes in use.

    Args:
        lanes: what is known when code is generated.
        value: a register of booleans that narrows them further; empty if there is nothing else to know.
    """

    lanes: tuple[bool, ...]
    value: str = ""

    @property
    def full(self) -> bool:
        """Whether all lanes are surely in use."""
        return not self.value and all(self.lanes)

    @property
    def empty(self) -> bool:
        """Whether surely none is."""
        return not any(self.lanes)

    @property
    def first(self) -> int:
        """The first lane that may be in use."""
        return self.lanes.index(True)

    @property
    def last(self) -> int:
        """The last lane that may be in use."""
        return len(self.lanes) - 1 - self.lanes[::-1].index(True)

    def text(self, builder: Builder) -> str:
        """The mask as an operand."""
        t = vtype("bool", len(self.lanes))
        if not self.value:
            return builder.lanes(self.lanes, t)
        return self.value if all(self.lanes) else builder.op("and", t, self.value, builder.lanes(self.lanes, t))

    def both(self, other: Mask, builder: Builder) -> Mask:
        """The lanes that are in use in both."""
        lanes = tuple(a and b for a, b in zip(self.lanes, other.lanes, strict=True))
        if not self.value or not other.value or self.value == other.value:
            return Mask(lanes, self.value or other.value)
        return Mask(lanes, builder.op("and", vtype("bool", len(lanes)), self.value, other.value))

    def negated(self, builder: Builder) -> Mask:
        """The lanes that are not in use."""
        if not self.value:
            return Mask(tuple(not used for used in self.lanes))
        t = vtype("bool", len(self.lanes))
        every = builder.lanes((True,) * len(self.lanes), t)
        return Mask((True,) * len(self.lanes), builder.op("xor", t, self.text(builder), every))

    def any(self, builder: Builder) -> str:
        """Whether some lane is in use, as a scalar."""
        return builder.reduce("or", vtype("bool", len(self.lanes)), self.text(builder))


@cache
def prefix(active: int, lanes: int) -> Mask:
    """The first ``active`` lanes."""
    return Mask(tuple(lane < active for lane in range(lanes)))


def guarded_lanes(
    builder: Builder, scopes: Scopes, conditions: Iterable[AffineExpr], wide: str, first: int, lanes: int
) -> Mask:
    """The lanes in which every condition holds.

    Args:
        builder: gets the instructions.
        scopes: values of loop variables.
        conditions: each ``expression >= 0``, over loop variables and the vectorised iterator.
        wide: the vectorised iterator.
        first: its value in lane 0.
        lanes: values per vector.
    """
    mask = prefix(lanes, lanes)
    for condition in conditions:
        mask = mask.both(_condition(builder, scopes, scopes.resolve(condition), wide, first, lanes), builder)
    return mask


def _condition(builder: Builder, scopes: Scopes, expr: AffineExpr, wide: str, first: int, lanes: int) -> Mask:
    step = expr.coefficient(wide)
    base = (expr - var(wide) * step).substitute({wide: constant(first)}) + step * first
    linear = wide not in (expr - var(wide) * step).variables()
    if linear and not base.is_constant:
        return Mask((True,) * lanes, _compared(builder, scopes.value(base), step, lanes))
    each = [expr.substitute({wide: constant(first + lane)}) for lane in range(lanes)]
    if all(e.is_constant for e in each):
        return Mask(tuple(e.const >= 0 for e in each))
    t, value = vtype("bool", lanes), "zeroinitializer"
    for lane, e in enumerate(each):
        value = builder.insert(t, value, builder.compare("ge", I64, scopes.value(e), "0"), lane)
    return Mask((True,) * lanes, value)


def _compared(builder: Builder, base: str, step: int, lanes: int) -> str:
    """Whether ``base + step * lane >= 0``, per lane; beyond ``lanes`` steps the base makes no difference any more."""
    t, most = vtype("int32", lanes), abs(step) * lanes
    near = builder.intrinsic("smin", I64, builder.intrinsic("smax", I64, base, str(-most)), str(most))
    narrow = builder.value(f"trunc i64 {near} to i32")
    return builder.compare("ge", t, builder.splat(narrow, t), builder.lanes([-step * i for i in range(lanes)], t))
